package checkpoint

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ditrun/ditrun/torch/checkpoint/internal/pickle"
)

// A hostile file and what its error must say ("" for anything).
type hostile struct {
	name string
	data []byte
	want string
}

// zipOf makes an archive of stored records: name, data, name, data, ...
func zipOf(method uint16, records ...string) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i := 0; i < len(records); i += 2 {
		w, err := z.CreateHeader(&zip.FileHeader{Name: records[i], Method: method})
		if err != nil {
			panic(err)
		}
		w.Write([]byte(records[i+1]))
	}
	z.Close()
	return b.Bytes()
}

// ptOf makes a .pt file of a pickle and one storage "0" of 24 bytes.
func ptOf(pickle string) []byte {
	return zipOf(zip.Store, "a/data.pkl", pickle, "a/data/0", strings.Repeat("x", 24), "a/version", "3\n")
}

// tensorPickle is a state dict {"w": tensor} with the parts of the tensor as pickle code.
func tensorPickle(storage, numel, offset, shape, strides string) string {
	return "\x80\x02}X\x01\x00\x00\x00w" + "ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage" + storage +
		"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + numel + "tQ" + offset + shape + strides +
		"\x89ccollections\nOrderedDict\n)RtRs."
}

func long(v int64) string {
	return "\x8a\x08" + string(binary.LittleEndian.AppendUint64(nil, uint64(v)))
}

func hostileFiles(t *testing.T, sentinel string) []hostile {
	var out []hostile
	add := func(name string, data []byte, want string) { out = append(out, hostile{name, data, want}) }
	read := func(path string) []byte {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}

	// Whole files cut off at every section and at many other places.
	for _, path := range []string{"pytorch/every_dtype.pt", "pytorch/training.pt", "pytorch/views.legacy.pt",
		"pytorch/training.legacy.pt", "golden.safetensors"} {
		whole := read("testdata/" + path)
		for i := range 16 {
			add(fmt.Sprintf("%s cut %d", path, i), whole[:len(whole)*i/16], "")
		}
		add(path+" less one", whole[:len(whole)-1], "")
		add(path+" and one", append(bytes.Clone(whole), 'x'), "")
	}

	// Pickles that would act, by every operation that calls or names something.
	attack := "touch " + sentinel
	arg := "(X" + string(binary.LittleEndian.AppendUint32(nil, uint32(len(attack)))) + attack + "t"
	short := func(s string) string { return "\x8c" + string(rune(len(s))) + s }
	for _, f := range []string{"os\nsystem", "posix\nsystem", "nt\nsystem", "subprocess\nPopen",
		"subprocess\ncheck_output", "builtins\neval", "builtins\nexec", "__builtin__\neval",
		"builtins\n__import__", "builtins\ngetattr", "builtins\nopen", "__builtin__\nopen", "sys\nexit",
		"runpy\nrun_path", "importlib\nimport_module", "shutil\nrmtree", "socket\ncreate_connection",
		"pty\nspawn", "ctypes\nCDLL", "pickle\nloads", "_pickle\nloads", "code\ninteract", "webbrowser\nopen",
		"io\nopen", "types\nFunctionType", "functools\npartial", "operator\nattrgetter",
		"os.path\njoin", "multiprocessing.util\nspawnv_passfds", "asyncio.unix_events\n_UnixSubprocessTransport"} {
		module, name, _ := strings.Cut(f, "\n")
		add("reduce "+f, ptOf("\x80\x02c"+f+"\n"+arg+"R."), "attack")
		add("stack global "+f, ptOf("\x80\x04"+short(module)+short(name)+"\x93"+arg+"R."), "attack")
		add("inside a dict "+f, ptOf("\x80\x02}X\x01\x00\x00\x00wc"+f+"\n"+arg+"Rs."), "attack")
	}
	add("newobj", ptOf("\x80\x02cos\nsystem\n"+arg+"\x81."), "attack")
	add("build setstate", ptOf("\x80\x02ccollections\nOrderedDict\n)Rcos\nsystem\nb."), "attack")
	add("inst", ptOf("\x80\x02("+arg+"ios\nsystem\n."), "0x69")
	add("obj", ptOf("\x80\x02(cargparse\nNamespace\n"+arg+"o."), "0x6f")
	add("ext", ptOf("\x80\x02\x82\x01)R."), "0x82")
	add("newobj_ex", ptOf("\x80\x04cargparse\nNamespace\n)}\x92."), "0x92")
	add("legacy attack", []byte("\x80\x02cos\nsystem\n"+arg+"R."), "attack")
	add("unknown reducer", ptOf("\x80\x02ctorch._utils\n_rebuild_wrapper_subclass\n)R."), "not supported")
	add("call of a number", ptOf("\x80\x02K\x01)R."), "a call of a number")

	// Pickles that are broken, or would grow.
	for name, p := range map[string]string{
		"empty": "", "stop alone": ".", "nothing on the stack": "\x80\x020.", "no stop": "\x80\x02}",
		"protocol 9": "\x80\x09}.", "left over": "\x80\x02}}.",
		"memo missing": "\x80\x02h\x07.", "memo far": "\x80\x02j\xff\xff\xff\x7f.", "mark as value": "\x80\x02(.",
		"no mark": "\x80\x02}u.", "odd items": "\x80\x02}(K\x01u.",
		"key twice":       "\x80\x02}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00aK\x02u.",
		"string too long": "\x80\x02X\xff\xff\xff\x7fa.",
		"string 2^64":     "\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffa.",
		"long cut":        "\x80\x02\x8a\xffa.", "bad UTF-8": "\x80\x02X\x02\x00\x00\x00\xff\xfe.",
		"append to a number": "\x80\x02K\x01K\x02a.", "a bare number": "\x80\x02K\x01.",
		"a bare string":    "\x80\x02X\x01\x00\x00\x00a.",
		"name without end": "\x80\x02cos", "persistent number": "\x80\x02K\x01Q.", "persistent empty": "\x80\x02)Q.",
		"persistent other": "\x80\x02(X\x06\x00\x00\x00moduleNNNNtQ.", "bytes after": "\x80\x02}.x",
		"dict of itself": "\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", "list of itself": "\x80\x02]q\x00h\x00a.",
		"tensor of a dict": "\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(}K\x00))tR.",
		"marks":            "\x80\x02" + strings.Repeat("(", 1<<21) + ".",
		"numbers": "\x80\x02" + strings.Repeat("K\x01", 1<<21) +
			".", "dicts": "\x80\x02" + strings.Repeat("}0", 1<<21) + "}.",
		"deep tuple": "\x80\x02)" + strings.Repeat("\x85", 1<<19) + ".",
		"deep list":  "\x80\x02" + strings.Repeat("]", 1<<18) + strings.Repeat("a", 1<<18-1) + ".",
		// Each tuple holds the one before twice: 2^60 leaves if read as a tree.
		"laughs": "\x80\x02X\x01\x00\x00\x00a" + strings.Repeat("2\x86", 60) + ".",
		"dict laughs": "\x80\x02}" + strings.Repeat("q\x00}X\x01\x00\x00\x00ah\x00sX\x01\x00\x00\x00bh\x00s", 28) +
			".",
		"memo filling": "\x80\x02N" + strings.Repeat("\x94", 1<<20) + ".",
		"long names": "\x80\x02}" +
			strings.Repeat("q\x00}X\x00\x40\x00\x00"+strings.Repeat("n", 1<<14)+"h\x00sX\x01\x00\x00\x00bh\x00s", 25) +
			".",
	} {
		add("pickle: "+name, ptOf(p), "")
	}
	add("pickle too large", ptOf("\x80\x02"+strings.Repeat("N0", pickle.MaxSize/2+1)), "at most")

	// Tensors that do not fit their storage.
	const float, six, none, two3, str3 = "ctorch\nFloatStorage\n", "K\x06", "K\x00", "K\x02K\x03\x86", "K\x03K\x01\x86"
	huge := long(math.MaxInt64)
	tensor := strings.TrimSuffix(strings.TrimPrefix(tensorPickle(float, six, none, two3, str3),
		"\x80\x02}X\x01\x00\x00\x00w"), "s.")
	for name, p := range map[string]string{
		"offset":          tensorPickle(float, six, "K\x01", two3, str3),
		"offset negative": tensorPickle(float, six, "J\xff\xff\xff\xff", two3, str3),
		"offset huge":     tensorPickle(float, six, huge, two3, str3),
		"shape":           tensorPickle(float, six, none, "K\x03K\x03\x86", str3),
		"shape 2^63":      tensorPickle(float, six, none, huge+huge+"\x86", str3),
		"shape negative":  tensorPickle(float, six, none, "J\xff\xff\xff\xffK\x03\x86", str3),
		"shape large": tensorPickle(float, six, none, "("+strings.Repeat("K\x01", 65)+"t",
			"("+strings.Repeat("K\x01", 65)+"t"),
		"shape of strings":  tensorPickle(float, six, none, "X\x01\x00\x00\x002\x85", "K\x01\x85"),
		"shape list":        tensorPickle(float, six, none, "]", "]"),
		"stride":            tensorPickle(float, six, none, two3, "K\x04K\x01\x86"),
		"stride negative":   tensorPickle(float, six, none, two3, "J\xfd\xff\xff\xffK\x01\x86"),
		"stride huge":       tensorPickle(float, six, none, two3, huge+"K\x01\x86"),
		"strides few":       tensorPickle(float, six, none, two3, "K\x01\x85"),
		"repeated":          tensorPickle(float, six, none, long(1<<40)+"\x85", "K\x00\x85"),
		"storage longer":    tensorPickle(float, "K\x07", none, two3, str3),
		"storage shorter":   tensorPickle(float, "K\x05", none, two3, str3),
		"storage negative":  tensorPickle(float, "J\xff\xff\xff\xff", none, two3, str3),
		"storage 2^63":      tensorPickle(float, huge, none, two3, str3),
		"storage wider":     tensorPickle("ctorch\nDoubleStorage\n", six, none, two3, str3),
		"storage quantised": tensorPickle("ctorch\nQInt8Storage\n", six, none, two3, str3),
		"storage os":        tensorPickle("cos\nsystem\n", six, none, two3, str3),
		"storage untyped":   tensorPickle("ctorch\nUntypedStorage\n", "K\x18", none, two3, str3),
		"storage None":      tensorPickle("N", six, none, two3, str3),
		"two storages": "\x80\x02]((X\x07\x00\x00\x00storage" + float +
			"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ" +
			"(X\x07\x00\x00\x00storagectorch\nIntStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQe.",
		"flattened twice": "\x80\x02}K\x01" + tensor + "sX\x01\x00\x00\x001" + tensor + "s.",
	} {
		add("tensor: "+name, ptOf(p), "")
	}

	// Archives.
	good := tensorPickle(float, six, none, two3, str3)
	x24 := strings.Repeat("x", 24)
	add("zip: no pickle", zipOf(zip.Store, "a/data/0", x24), "data.pkl")
	add("zip: no storage", zipOf(zip.Store, "a/data.pkl", good), "data/0 is missing")
	add("zip: two folders", zipOf(zip.Store, "a/data.pkl", good, "a/data/0", x24, "b/data/0", x24),
		"outside the folder")
	outside := []string{"a/data.pkl", good, "a/data/0", x24}
	for i := 99; i >= 0; i-- {
		outside = append(outside, fmt.Sprintf("b/%02d", i), "")
	}
	add("zip: many outside", zipOf(zip.Store, outside...), `record "b/00" lies outside`)
	add("zip: two pickles", zipOf(zip.Store, "a/data.pkl", good, "b/data.pkl", good), "two records")
	add("zip: the same name", zipOf(zip.Store, "a/data.pkl", good, "a/data/0", x24, "a/data/0", x24), "two records")
	add("zip: dots", zipOf(zip.Store, "../data.pkl", good), "record name")
	add("zip: absolute", zipOf(zip.Store, "/a/data.pkl", good), "record name")
	add("zip: backslash", zipOf(zip.Store, "a\\data.pkl", good), "record name")
	add("zip: big-endian", zipOf(zip.Store, "a/data.pkl", good, "a/data/0", x24, "a/byteorder", "big"), "byte order")
	add("zip: long byte order",
		zipOf(zip.Store, "a/data.pkl", good, "a/data/0", x24, "a/byteorder", strings.Repeat("l", 99)), "byteorder")
	add("zip: TorchScript", zipOf(zip.Store, "a/data.pkl", good, "a/constants.pkl", "x"), "TorchScript")
	add("zip: code", zipOf(zip.Store, "a/data.pkl", good, "a/code/x.py", "x"), "TorchScript")
	add("zip: compressed", zipOf(zip.Deflate, "a/data.pkl", good, "a/data/0", x24), "compressed")
	add("zip: a bomb", zipOf(zip.Deflate, "a/data.pkl", good, "a/data/0", strings.Repeat("\x00", 64<<20)), "compressed")
	add("zip: in a zip", zipOf(zip.Store, "a/data.pkl", string(ptOf(good))), "pickle")
	add("zip: nothing", zipOf(zip.Store), "")
	archive := ptOf(good)
	dir := bytes.Index(archive, []byte("PK\x01\x02"))
	end := bytes.LastIndex(archive, []byte("PK\x05\x06"))
	patch := func(at int, data string) []byte {
		b := bytes.Clone(archive)
		copy(b[at:], data)
		return b
	}
	for name, b := range map[string][]byte{
		"encrypted": patch(dir+8, "\x01"), "local offset": patch(dir+42, "\xff\xff\xff\x7f"),
		"local offset inside": patch(dir+42, "\x01"), "size": patch(dir+24, "\xff\xff\xff\x7f"),
		"packed size": patch(dir+20, "\x01"), "both sizes": patch(dir+20, "\xff\xff\xff\x7f\xff\xff\xff\x7f"),
		"name length": patch(dir+28, "\xff\xff"), "extra length": patch(dir+30, "\xff\xff"),
		"no local header": patch(0, "XXXX"), "local name length": patch(26, "\xff\xff"),
		"entries": patch(end+10, "\xff\xff"), "directory size": patch(end+12, "\xff\xff\xff\x7f"),
		"directory offset": patch(end+16, "\xff\xff\xff\x7f"), "directory before": patch(end+16, "\x00\x00\x00\x00"),
		"no directory": patch(dir, "XXXX"), "disk": patch(end+4, "\x01"), "comment": patch(end+20, "\x07"),
	} {
		add("directory: "+name, b, "")
	}
	overlap := bytes.Clone(archive)
	second := dir + 46 + len("a/data.pkl") + int(binary.LittleEndian.Uint16(archive[dir+30:]))
	copy(overlap[second+42:], archive[dir+42:dir+46]) // the second record lies where the first does
	add("directory: overlap", overlap, "")

	// Safetensors.
	st := func(header string, data int) []byte {
		b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
		return append(append(b, header...), make([]byte, data)...)
	}
	for name, b := range map[string][]byte{
		"length huge":   append(binary.LittleEndian.AppendUint64(nil, math.MaxUint64), '{', '}'),
		"length 100 MB": append(binary.LittleEndian.AppendUint64(nil, 100_000_000), '{', '}'),
		"overlap": st(
			`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}`,
			6),
		"gap": st(
			`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[5,9]}}`,
			9), "negative": st(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[-4,0]}}`, 4),
		"reversed": st(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}}`, 4),
		"2^63":     st(`{"a":{"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,4]}}`, 4),
		"2^64":     st(`{"a":{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,4]}}`, 4),
		"product":  st(`{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`, 0),
		"fraction": st(`{"a":{"dtype":"U8","shape":[4.0],"data_offsets":[0,4]}}`, 4),
		"exponent": st(`{"a":{"dtype":"U8","shape":[4e0],"data_offsets":[0,4]}}`, 4),
		"NaN":      st(`{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,4]}}`, 4),
		"twice": st(
			`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`,
			4), "dtype": st(`{"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}`, 4),
		"field":    st(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1}}`, 4),
		"metadata": st(`{"__metadata__":{"a":1}}`, 0), "nested metadata": st(`{"__metadata__":{"a":{"b":"c"}}}`, 0),
		"array": st(`[1,2]`, 0), "not UTF-8": st("{\"\xff\":{}}", 0),
		"surrogate": st(`{"\ud800":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 4),
		"control":   st("{\"a\x01\":{}}", 0),
		"deep":      st(`{"a":`+strings.Repeat("[", 1<<20), 0), "deep objects": st(strings.Repeat(`{"a":`, 1<<18), 0),
		"rank": st(`{"a":{"dtype":"U8","shape":[`+strings.Repeat("1,", 64)+`1],"data_offsets":[0,1]}}`,
			1),
		"data missing":        st(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 3),
		"data over":           st(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 5),
		"data behind nothing": st(`{}`, 1), "text": []byte("hello, world: no weights"),
		"many":  st("{"+strings.Repeat(`"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},`, 1000)+"}", 0),
		"zeros": make([]byte, 64), "half bytes": st(`{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}`, 1),
	} {
		add("safetensors: "+name, b, "")
	}

	// Other files.
	tar := make([]byte, 1024)
	copy(tar[257:], "ustar")
	add("tar", tar, "tar file")
	add("a pickle of something", []byte("\x80\x04K\x01."), "none of torch.save")
	for name, text := range map[string]string{
		"empty object": `{}`, "no map": `{"metadata":{}}`, "list": `{"weight_map":[]}`,
		"number": `{"weight_map":{"a":1}}`, "twice": `{"weight_map":{"a":"x","a":"y"}}`,
		"two maps": `{"weight_map":{"a":"x"},"weight_map":{"b":"x"}}`,
		"dots":     `{"weight_map":{"a":"../x"}}`, "absolute": `{"weight_map":{"a":"/etc/passwd"}}`,
		"nul": `{"weight_map":{"a":"x\u0000"}}`, "itself": `{"weight_map":{"a":"hostile.json"}}`,
		"missing file": `{"weight_map":{"a":"gone.safetensors"}}`,
		"cut":          `{"weight_map":{"a":`, "after": `{"weight_map":{"a":"gone"}}{`,
		"deep": `{"x":` + strings.Repeat("[", 1<<20),
	} {
		add("index: "+name, []byte(text), "")
	}
	return out
}

// processorTime is what this process has used, which does not depend on what else the machine does.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// Every hostile file gives an error that names it, in less than a second of processor time and 100 MB, and runs
// nothing.
func TestHostileFiles(t *testing.T) {
	dir := t.TempDir()
	sentinel := filepath.Join(dir, "was-run")
	files := append(hostileFiles(t, sentinel), slowFiles()...)
	if len(files) < 200 {
		t.Fatalf("%d files, want at least 200", len(files))
	}
	for _, h := range files {
		path := filepath.Join(dir, "hostile.json")
		if err := os.WriteFile(path, h.data, 0o666); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		began := processorTime(t)
		f, err := Open(path)
		took := processorTime(t) - began
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: opens, with %d tensors", h.name, len(f.Tensors()))
			f.Close()
			continue
		}
		if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), h.want) || len(err.Error()) > 2000 {
			t.Errorf("%s: error %.300q, want one with the path and %q", h.name, err, h.want)
		}
		// What stays in use or is in use at once cannot be more than what was allocated in all.
		if got := after.TotalAlloc - before.TotalAlloc; got > 100e6 {
			t.Errorf("%s: %d bytes allocated", h.name, got)
		}
		if took > time.Second && !raceEnabled {
			t.Errorf("%s: took %v", h.name, took)
		}
	}
	if _, err := os.Stat(sentinel); err == nil {
		t.Error("something was run")
	}
	t.Logf("%d files", len(files))
}
