package checkpoint

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// smallest is the reference writer's file for one F32 tensor "a" = [1.0].
const smallest = "8\x00\x00\x00\x00\x00\x00\x00" + `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}` + "  " +
	"\x00\x00\x80\x3f"

// file joins a header and data into a safetensors file.
func file(header, data string) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), data...)
}

func parse(b []byte) (*File, error) { return NewFile(bytes.NewReader(b), int64(len(b)), "x") }

// tensor is one header entry.
func tensor(name, dtype, shape string, begin, end int) string {
	return fmt.Sprintf(`%q:{"dtype":%q,"shape":%s,"data_offsets":[%d,%d]}`, name, dtype, shape, begin, end)
}

func TestSmallest(t *testing.T) {
	f, err := parse([]byte(smallest))
	if err != nil {
		t.Fatal(err)
	}
	want := Info{Name: "a", DType: F32, Shape: []int64{1}, Offset: 64, Size: 4}
	got, ok := f.Lookup("a")
	if !ok || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("Lookup: %v %v, want %v", got, ok, want)
	}
	data, err := f.Read("a")
	if err != nil || string(data) != "\x00\x00\x80\x3f" {
		t.Errorf("Read: % x, %v", data, err)
	}
	if f.Metadata() != nil {
		t.Errorf("Metadata: %v, want nil", f.Metadata())
	}
	if n := got.NumElements(); n != 1 {
		t.Errorf("NumElements %d, want 1", n)
	}
}

func TestAccepted(t *testing.T) {
	for name, b := range map[string][]byte{
		"no tensors":     file(`{}`, ""),
		"scalar":         file(`{`+tensor("s", "I64", "[]", 0, 8)+`}`, "12345678"),
		"zero dimension": file(`{`+tensor("z", "F32", "[3,0]", 0, 0)+`}`, ""),
		"empty in between": file(`{`+tensor("z", "F32", "[0]", 4, 4)+`,`+tensor("b", "U8", "[2]", 4, 6)+`,`+
			tensor("a", "F32", "[1]", 0, 4)+`}`, "123456"),
		"packed floats": file(`{`+tensor("p", "F4", "[2,3]", 0, 3)+`}`, "123"),
		"other field order": file(`{"a" : {"data_offsets":[ 0 , 1 ],
			"shape":[1],"dtype":"U8"} }`+"\n ", "1"),
		"metadata only":    file(`{"__metadata__":{"format":"pt","":"\u00e9\ud83d\ude00\n"}}`, ""),
		"empty metadata":   file(`{"__metadata__":{}}`, ""),
		"reserved in data": file(`{`+tensor("../../etc/passwd", "U8", "[1]", 0, 1)+`}`, "1"),
	} {
		if _, err := parse(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	f, err := parse(file(`{"__metadata__":{"k":"\u00e9\ud83d\ude00\n\/"},`+tensor("b", "U8", "[1]", 1, 2)+","+
		tensor("a", "U8", "[1]", 0, 1)+`}`, "xy"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := f.Metadata()["k"], "\u00e9\U0001F600\n/"; got != want {
		t.Errorf("metadata %q, want %q", got, want)
	}
	if ts := f.Tensors(); len(ts) != 2 || ts[0].Name != "a" || ts[1].Name != "b" {
		t.Errorf("tensors %v, want a then b: the order of the data", ts)
	}
}

// refused holds every kind of file Open must refuse, and a part of the message.
var refused = []struct {
	name string
	file []byte
	want string
}{
	{"empty file", nil, "file of 0 bytes is too short"},
	{"seven bytes", make([]byte, 7), "file of 7 bytes is too short"},
	{"length zero", make([]byte, 8), "does not start with '{'"},
	{"length huge", []byte("\xff\xff\xff\xff\xff\xff\xff\xff{}"),
		"header of 18446744073709551615 bytes, at most 100000000"},
	{"length just too large", append(binary.LittleEndian.AppendUint64(nil, maxHeader+1), "{}"...), "at most 100000000"},
	{"length beyond the file", append(binary.LittleEndian.AppendUint64(nil, 3), "{}"...),
		"header of 3 bytes in a file of 10"},
	{"invalid UTF-8", file("{\"\xff\":1}", ""), "not valid UTF-8"},
	{"not an object", file(`[]`, ""), "does not start with '{'"},
	{"leading space", file(` {}`, ""), "does not start with '{'"},
	{"unclosed", file(`{`, ""), "found the end"},
	{"text behind", file(`{}x`, ""), "only spaces after the object, found 'x'"},
	{"trailing comma", file(`{`+tensor("a", "U8", "[1]", 0, 1)+`,}`, "1"), "expected a string"},
	{"empty header, data behind", file(`{}`, "1"), "1 bytes of data, the tensors hold 0"},
	{"trailing byte", append([]byte(smallest), 0), "5 bytes of data, the tensors hold 4"},
	{"one byte missing", []byte(smallest)[:67], `tensor "a": data ends at 4, the file holds 3`},
	{"begin after end", file(`{`+tensor("a", "U8", "[1]", 1, 0)+`}`, "1"),
		`tensor "a": data ends at 0, before its start 1`},
	{"shared range", file(`{`+tensor("a", "U8", "[2]", 0, 2)+`,`+tensor("b", "U8", "[2]", 0, 2)+`}`, "12"),
		`tensor "b": data starts at 0, inside`},
	{"overlap", file(`{`+tensor("a", "U8", "[2]", 0, 2)+`,`+tensor("b", "U8", "[2]", 1, 3)+`}`, "123"),
		`tensor "b": data starts at 1, inside`},
	{"gap", file(`{`+tensor("a", "U8", "[1]", 0, 1)+`,`+tensor("b", "U8", "[1]", 2, 3)+`}`, "123"),
		`leaving a gap after 1`},
	{"gap at the start", file(`{`+tensor("a", "U8", "[1]", 1, 2)+`}`, "12"), `leaving a gap after 0`},
	{"shape overflow", file(`{`+tensor("a", "F32", "[2,9223372036854775807,2]", 0, 4)+`}`, "1234"), "overflows"},
	{"dimension of 64 bits", file(`{`+tensor("a", "F32", "[2,18446744073709551614]", 0, 4)+`}`, "1234"),
		"dimension 18446744073709551614 is too large"},
	{"overflow before a zero", file(`{`+tensor("a", "U8", "[4294967296,4294967296,0]", 0, 0)+`}`, ""), "overflows"},
	{"shape times dtype overflow", file(`{`+tensor("a", "F64", "[2305843009213693952]", 0, 0)+`}`, ""), "overflows"},
	{"not whole bytes", file(`{`+tensor("a", "F4", "[3]", 0, 2)+`}`, "12"), "12 bits, not whole bytes"},
	{"size does not fit", file(`{`+tensor("a", "F32", "[2,3]", 0, 12)+`}`, "123456789012"),
		`tensor "a": 12 bytes for shape [2 3] F32, want 24`},
	{"unknown dtype", file(`{`+tensor("a", "F31", "[1]", 0, 4)+`}`, "1234"), `unknown dtype "F31"`},
	{"empty dtype", file(`{`+tensor("a", "", "[1]", 0, 4)+`}`, "1234"), `unknown dtype ""`},
	{"negative dimension", file(`{`+tensor("a", "U8", "[-1]", 0, 1)+`}`, "1"),
		"expected a non-negative integer, found '-'"},
	{"fraction", file(`{`+tensor("a", "U8", "[1.0]", 0, 1)+`}`, "1"), "expected an integer, found '.'"},
	{"exponent", file(`{`+tensor("a", "U8", "[1e0]", 0, 1)+`}`, "1"), "expected an integer, found 'e'"},
	{"leading zero", file(`{`+tensor("a", "U8", "[01]", 0, 1)+`}`, "1"), "leading zero"},
	{"number of 65 bits", file(`{`+tensor("a", "U8", "[18446744073709551616]", 0, 1)+`}`, "1"), "does not fit 64 bits"},
	{"number of 30 digits", file(`{`+tensor("a", "U8", "["+strings.Repeat("9", 30)+"]", 0, 1)+`}`, "1"),
		"does not fit 64 bits"},
	{"string for a number", file(`{`+tensor("a", "U8", `["1"]`, 0, 1)+`}`, "1"), "expected a non-negative integer"},
	{"null shape", file(`{`+tensor("a", "U8", `null`, 0, 1)+`}`, "1"), "expected '['"},
	{"too many dimensions", file(`{`+tensor("a", "U8", `[1`+strings.Repeat(",1", 64)+`]`, 0, 1)+`}`, "1"),
		"more than 64 dimensions"},
	{"one offset", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}}`, "1"),
		"data_offsets has 1 numbers, want 2"},
	{"three offsets", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}}`, "1"),
		"data_offsets has more than 2"},
	{"deep nesting", file(strings.Repeat(`{"a":`, 100000), ""), `unknown field "a"`},
	{"deep arrays", file(`{"a":{"shape":`+strings.Repeat(`[`, 100000), ""), "expected a non-negative integer"},
	{"metadata number", file(`{"__metadata__":{"a":1}}`, ""), `__metadata__: key "a": `},
	{"metadata list", file(`{"__metadata__":[]}`, ""), `__metadata__: `},
	{"duplicate metadata", file(`{"__metadata__":{},"__metadata__":{}}`, ""), `duplicate name "__metadata__"`},
	{"duplicate metadata key", file(`{"__metadata__":{"a":"1","a":"2"}}`, ""), `duplicate key "a"`},
	{"duplicate name", file(`{`+tensor("a", "U8", "[1]", 0, 1)+`,`+tensor("a", "U8", "[1]", 1, 2)+`}`, "12"),
		`duplicate name "a"`},
	{"duplicate name, escaped",
		file(`{`+tensor("a", "U8", "[1]", 0, 1)+`,"\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, "12"),
		`duplicate name "a"`},
	{"duplicate dtype", file(`{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, "1"),
		`duplicate field "dtype"`},
	{"duplicate shape", file(`{"a":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}}`, "1"),
		`duplicate field "shape"`},
	{"duplicate offsets", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"data_offsets":[0,1]}}`, "1"),
		`duplicate field "data_offsets"`},
	{"unknown field", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"extra":1}}`, "1"),
		`unknown field "extra"`},
	{"no dtype", file(`{"a":{"shape":[1],"data_offsets":[0,1]}}`, "1"), `field "dtype" is missing`},
	{"no shape", file(`{"a":{"dtype":"U8","data_offsets":[0,1]}}`, "1"), `field "shape" is missing`},
	{"no offsets", file(`{"a":{"dtype":"U8","shape":[1]}}`, "1"), `field "data_offsets" is missing`},
	{"unpaired surrogate", file(`{"\ud800":{}}`, ""), "unpaired surrogate"},
	{"surrogates in the wrong order", file(`{"\udc00\ud800":{}}`, ""), "unpaired surrogate"},
	{"bad escape", file(`{"\x":{}}`, ""), "expected an escape"},
	{"bad hex", file(`{"\u12g4":{}}`, ""), "four hexadecimal digits"},
	{"signed hex", file(`{"\u+123":{}}`, ""), "four hexadecimal digits"},
	{"short hex", file(`{"\u12`, ""), "four hexadecimal digits"},
	{"escape at the end", file(`{"\`, ""), "expected an escape"},
	{"raw control character", file("{\"\n\":{}}", ""), "no control character"},
	{"unclosed string", file(`{"a`, ""), "the end of a string"},
	{"zip archive", []byte("PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00\x00\x00"), "not a safetensors file?"},
}

func TestRefused(t *testing.T) {
	for _, c := range refused {
		f, err := parse(c.file)
		if err == nil {
			t.Errorf("%s: accepted, tensors %v", c.name, f.Tensors())
			continue
		}
		if !strings.HasPrefix(err.Error(), "load x: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %q, want load x: ... %q", c.name, err, c.want)
		}
	}
}

func TestTooManyTensors(t *testing.T) {
	var b strings.Builder
	b.WriteByte('{')
	for i := range maxEntries + 1 {
		fmt.Fprintf(&b, `"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},`, i)
	}
	if _, err := parse(file(strings.TrimSuffix(b.String(), ",")+"}", "")); err == nil ||
		!strings.Contains(err.Error(), "more than 131072 tensors") {
		t.Errorf("error %v, want more than 131072 tensors", err)
	}
}

// Nothing may be allocated for a header that the file cannot hold.
func TestHugeLengthAllocatesNothing(t *testing.T) {
	b := append(binary.LittleEndian.AppendUint64(nil, maxHeader), "{}"...)
	allocated := allocatedBy(func() {
		if _, err := parse(b); err == nil {
			t.Error("accepted")
		}
	})
	if allocated > 1<<14 {
		t.Errorf("%d bytes allocated for a file of 10 bytes", allocated)
	}
}

// allocatedBy is how many bytes f allocates.
func allocatedBy(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestReadAt(t *testing.T) {
	f, err := parse(file(`{`+tensor("a", "U8", "[3]", 0, 3)+`,`+tensor("b", "U8", "[4]", 3, 7)+`}`, "abcDEFG"))
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 2)
	if err := f.ReadAt(p, "b", 1); err != nil || string(p) != "EF" {
		t.Errorf("ReadAt b 1: %q, %v", p, err)
	}
	if err := f.ReadAt(nil, "b", 4); err != nil {
		t.Errorf("empty read at the end: %v", err)
	}
	for _, off := range []int64{-1, 3, 4, 5, 1<<63 - 1} {
		if err := f.ReadAt(p, "b", off); err == nil {
			t.Errorf("2 bytes at %d of 4: no error", off)
		}
	}
	if err := f.ReadAt(p, "c", 0); err == nil || err.Error() != `load x: no tensor "c"` {
		t.Errorf("unknown tensor: %v", err)
	}
	if _, err := f.Read("c"); err == nil {
		t.Error("unknown tensor: no error")
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "m.safetensors")
	if _, err := Open(path); err == nil || strings.Count(err.Error(), path) != 1 || !os.IsNotExist(unwrapAll(err)) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("directory: %v", err)
	}
	if err := os.WriteFile(path, []byte(smallest), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if f.Path() != path {
		t.Errorf("Path %q", f.Path())
	}
	if data, err := f.Read("a"); err != nil || len(data) != 4 {
		t.Errorf("Read: % x, %v", data, err)
	}
	// A file cut short after it was opened gives an error, never a crash.
	if err := os.Truncate(path, 66); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Read("a"); err == nil || !strings.Contains(err.Error(), "ends at byte 66") {
		t.Errorf("truncated file: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func unwrapAll(err error) error {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			return err
		}
		err = u.Unwrap()
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(smallest))
	f.Add(file(`{"__metadata__":{"k":"\u00e9\ud83d\ude00"},`+tensor("b", "F16", "[2,1]", 4, 8)+","+
		tensor("a", "F32", "[]", 0, 4)+`}`, "12345678"))
	for _, c := range refused {
		if len(c.file) < 1<<12 {
			f.Add(c.file)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := parse(b)
		if err != nil {
			return
		}
		// What is accepted survives a round trip.
		var tensors []Tensor
		for _, info := range in.Tensors() {
			data, err := in.Read(info.Name)
			if err != nil {
				t.Fatal(err)
			}
			if int64(len(data)) != info.Size || info.DType.Size() > 0 &&
				info.NumElements()*int64(info.DType.Size()) != info.Size {
				t.Fatalf("%v: %d bytes", info, len(data))
			}
			tensors = append(tensors, Tensor{Info: info, Data: data})
		}
		var w bytes.Buffer
		if err := Encode(&w, tensors, in.Metadata(), Options{KeepOrder: true}); err != nil {
			t.Fatal(err)
		}
		out, err := parse(w.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		for i, info := range out.Tensors() {
			data, err := out.Read(info.Name)
			if err != nil || info.Name != tensors[i].Name || !bytes.Equal(data, tensors[i].Data) ||
				fmt.Sprint(info.Shape) != fmt.Sprint(tensors[i].Shape) {
				t.Fatalf("tensor %d: %v %v, want %v", i, info, err, tensors[i].Info)
			}
		}
		if len(in.Metadata()) != len(out.Metadata()) {
			t.Fatalf("metadata %v, want %v", out.Metadata(), in.Metadata())
		}
		for k, v := range in.Metadata() {
			if out.Metadata()[k] != v {
				t.Fatalf("metadata %q: %q, want %q", k, out.Metadata()[k], v)
			}
		}
	})
}
