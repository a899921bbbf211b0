package checkpoint

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// slowFiles are small, and cost a reader that does not count what it makes or visits minutes or gigabytes.
func slowFiles() []hostile {
	const storage = "(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06t"
	many := func(op string) string { return strings.Repeat(op, 1<<20) + "}." }
	var out []hostile
	for _, c := range []struct{ name, pickle, want string }{
		{"names", "\x80\x02" + many("ca\nb\n0"), "too many"},
		{"names of strings", "\x80\x04\x8c\x01aq\x000" + many("h\x00h\x00\x930"), "too many"},
		{"objects", "\x80\x02cargparse\nNamespace\nq\x000)q\x010" + many("h\x00h\x01R0"), "too many"},
		{"storages", "\x80\x02" + storage + "q\x000" + many("h\x00Q0"), "too many"},
		{"tensors", "\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x000(" + storage +
			"QK\x00K\x02K\x03\x86K\x03K\x01\x86tq\x010" + many("h\x00h\x01R0"), "too many"},
		{"dictionaries of a long list", "\x80\x02ccollections\nOrderedDict\nq\x000NN\x86q\x01](" +
			strings.Repeat("h\x01", 1e5) + "e\x85q\x020" + many("h\x00h\x02R0"), "too many"},
		{"items without a name", "\x80\x02}q\x01(" + strings.Repeat("NN", 1e5) + "u0](" + strings.Repeat("h\x01", 1e5) +
			"e.", "too many"},
	} {
		out = append(out, hostile{"slow: " + c.name, ptOf(c.pickle), c.want})
	}
	return append(out,
		hostile{"index: large", []byte(`{"metadata":"` + strings.Repeat("x", 15<<20) + `","weight_map":{"a":"gone"}}`),
			"no such file"},
		hostile{"index: a long name", []byte(`{"weight_map":{"` + strings.Repeat("x", 15<<20) + `":"gone"}}`),
			"no such file"},
		hostile{"index: too large", append([]byte(`{"weight_map":{`), make([]byte, maxIndex)...), "at most"},
		hostile{"index: metadata twice", []byte(`{"metadata":{},"metadata":{},"weight_map":{"a":"gone"}}`),
			"two entries"},
		hostile{"index: an empty map and another", []byte(`{"weight_map":{},"weight_map":{"a":"gone"}}`),
			"two entries"},
		hostile{"index: not UTF-8", []byte("{\"weight_map\":{\"\xff\":\"gone\"}}"), "UTF-8"},
	)
}

// A shard that is an index again would be opened without end.
func TestIndexOfItself(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	path := filepath.Join(dir, "x.bin")
	if err := os.WriteFile(path, []byte(`{"weight_map":{"a":"x.bin"}}`), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "an index, where") {
		t.Errorf("error %v", err)
	}
}

// The length at the head of a safetensors file may look like the mark of another format.
func TestHeadersLikeOtherFormats(t *testing.T) {
	text := `{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`
	for _, n := range []int{'P' | 'K'<<8, 0x80 | 2<<8, '{' | '"'<<8, '{'} {
		header := text + strings.Repeat(" ", n-len(text))
		path := filepath.Join(t.TempDir(), "m")
		if err := os.WriteFile(path, append(append(binary.LittleEndian.AppendUint64(nil, uint64(n)), header...), 'x'),
			0o666); err != nil {
			t.Fatal(err)
		}
		if f := openFile(t, path); f.Format() != "safetensors" {
			t.Errorf("header of %#x bytes: format %q", n, f.Format())
		}
	}
}

// legacyOf makes a legacy file of an object's pickle and one storage "0" of count elements.
func legacyOf(pickle string, count int, data string) []byte {
	head := "\x80\x02\x8a\x0a" + string(legacyMagic) +
		".\x80\x02M\xe9\x03.\x80\x02}X\x0d\x00\x00\x00little_endian\x88s."
	return append(binary.LittleEndian.AppendUint64([]byte(head+pickle+"\x80\x02]X\x01\x00\x00\x000a."), uint64(count)),
		data...)
}

// A second count for a storage would undo the check of the tensors before it.
func TestLegacyStorageOfTwoSizes(t *testing.T) {
	tensor := func(numel string) string {
		p := tensorPickle("ctorch\nFloatStorage\n", numel, "K\x00", "K\x01\x85", "K\x01\x85")
		return strings.TrimSuffix(strings.TrimPrefix(p, "\x80\x02}X\x01\x00\x00\x00w"), "s.")
	}
	for second, want := range map[string]string{"K\x06": "", "K\x01": "has both 6 and 1 elements"} {
		data := legacyOf("\x80\x02]("+tensor("K\x06")+tensor(second)+"e.", 6, strings.Repeat("x", 24))
		_, err := newLegacy(bytes.NewReader(data), int64(len(data)))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// Many tensors that each are small enough do not add up to more than the file may give.
func TestSharedStorageIsBounded(t *testing.T) {
	shape, strides := "J\x00\x00\x04\x00\x85", "K\x00\x85" // 2^18 elements, all the same one: 1 MiB
	p := tensorPickle("ctorch\nFloatStorage\n", "K\x06", "K\x00", shape, strides)
	tensor := strings.TrimSuffix(strings.TrimPrefix(p, "\x80\x02}X\x01\x00\x00\x00w"), "s.")
	for n, ok := range map[int]bool{1: true, 2: false} {
		data := ptOf("\x80\x02](" + strings.Repeat(tensor, n) + "e.")
		f, err := newPyTorch(bytes.NewReader(data), int64(len(data)))
		if (err == nil) != ok {
			t.Errorf("%d tensors: %v", n, err)
		}
		if err == nil {
			if got, err := f.Read("0"); err != nil || !slices.Equal(got, bytes.Repeat([]byte("x"), 1<<20)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		}
	}
}

// Elements far apart in a large file are not read with all that lies between them.
func TestGatherFarApart(t *testing.T) {
	const stride = 1 << 28
	storage := &storage{key: "0", dtype: F32, size: 4 * (stride + 4)}
	far := &strided{storage: storage, dtype: F32, shape: []int64{2, 3}, strides: []int64{stride, 1}}
	if err := far.check(); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 24)
	allocated := allocatedBy(func() {
		err := far.gather(p, 0, func(p []byte, at int64) error {
			for i := range p {
				p[i] = byte(at + int64(i) + at/stride)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	want := []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	if !bytes.Equal(p, want) || allocated > 1<<16 {
		t.Errorf("%v, %d bytes allocated; want %v", p, allocated, want)
	}
}

func TestZipLocalNames(t *testing.T) {
	data := ptOf("\x80\x02}.")
	data[bytes.Index(data, []byte("a/data/0"))] = 'b'
	if _, err := newPyTorch(bytes.NewReader(data), int64(len(data))); err == nil ||
		!strings.Contains(err.Error(), "another name") {
		t.Errorf("error %v", err)
	}
}

// FuzzIndex reads whatever it is given as an index; no file that it names lies outside the folder.
func FuzzIndex(f *testing.F) {
	for _, s := range []string{`{"metadata":{"total_size":1},"weight_map":{"a":"m-1.safetensors","b":"m-2.bin"}}`,
		`{"weight_map":{"a":"../x"}}`, `{"weight_map":{"\u0061":"x","a":"y"}}`, `[]`, `{"weight_map":{}}{`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		names, where, err := weightMap(text)
		if err != nil {
			return
		}
		if len(names) == 0 || len(names) != len(where) || !slices.IsSorted(names) {
			t.Fatalf("names %q, files %q", names, where)
		}
		for _, file := range where {
			if !filepath.IsLocal(file) || filepath.Dir(file) != "." || file == "." {
				t.Fatalf("file %q", file)
			}
		}
	})
}
