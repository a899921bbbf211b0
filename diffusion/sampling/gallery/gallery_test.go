package gallery

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"image"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch/checkpoint/numpy"
)

const height, width = 2, 3

// pictures are those numbered first to last-1, which differ in every byte.
func pictures(first, last int) sampling.Pictures {
	p := sampling.Pictures{Height: height, Width: width}
	for i := first; i < last; i++ {
		for k := range 3 * height * width {
			p.Pix = append(p.Pix, uint8(20*i+k))
		}
	}
	return p
}

func setOf(key string) Set {
	return Set{Count: 8, Height: height, Width: width, BatchSize: 3, Labels: []int{0, 0, 1, 1, 2, 2, 3, 3},
		Classes: []string{"cat", "dog, small"}, Key: func() (string, error) { return strings.Repeat(key, 64), nil }}
}

func open(t *testing.T, path, key string) Output {
	t.Helper()
	if err := Check(path); err != nil {
		t.Fatal(err)
	}
	out, err := Open(context.Background(), path, setOf(key))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// add adds the batches from picture first on, all or so many.
func add(t *testing.T, out Output, batches int) {
	t.Helper()
	for first := out.Done(); first < 8 && batches > 0; first, batches = first+3, batches-1 {
		if err := out.Add(pictures(first, min(first+3, 8))); err != nil {
			t.Fatal(err)
		}
	}
}

// content returns the bytes of an output, of a folder those of all its files.
func content(t *testing.T, path string) []byte {
	t.Helper()
	files := []string{path}
	if kindOf(path) == folderKind {
		files, _ = filepath.Glob(filepath.Join(path, "*"))
	}
	var all []byte
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(append(all, filepath.Base(name)...), b...)
	}
	return all
}

// What was cut short after any batch is continued, and has the bytes of what was not.
func TestContinue(t *testing.T) {
	for _, name := range []string{"x.npz", "folder"} {
		whole := filepath.Join(t.TempDir(), name)
		out := open(t, whole, "a")
		add(t, out, 3)
		if err := out.Finish(); err != nil || out.Close() != 0 {
			t.Fatalf("%s: %v", name, err)
		}
		for batches := range 4 {
			path := filepath.Join(t.TempDir(), name)
			out := open(t, path, "a")
			add(t, out, batches)
			if n := out.Close(); n != min(3*batches, 8) {
				t.Errorf("%s: %d pictures are kept after %d batches", name, n, batches)
			}
			out = open(t, path, "a")
			if n := out.Done(); n != min(3*batches, 8) {
				t.Errorf("%s: %d pictures are found after %d batches", name, n, batches)
			}
			add(t, out, 3)
			if err := out.Finish(); err != nil || out.Close() != 0 {
				t.Fatalf("%s: %v", name, err)
			}
			if !bytes.Equal(content(t, path), content(t, whole)) {
				t.Errorf("%s: continued after %d batches it has other bytes", name, batches)
			}
			if left := Partials(path); len(left) > 0 {
				t.Errorf("%s: %+v", name, left)
			}
		}
	}
}

func TestOtherRequests(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.npz")
	first := open(t, path, "a")
	add(t, first, 1)
	if _, err := Open(context.Background(), path, setOf("a")); !lockHolds(t) || err == nil ||
		!strings.Contains(err.Error(), "another process is drawing these pictures") {
		t.Errorf("opened twice: %v", err)
	}
	first.Close()
	for _, change := range []func(*Set){func(s *Set) { s.Count = 0 }, func(s *Set) { s.Width = 0 },
		func(s *Set) { s.Labels = s.Labels[1:] }, func(s *Set) { s.Prompts = []string{"one"} }} {
		set := setOf("a")
		change(&set)
		if _, err := Open(context.Background(), path, set); err == nil {
			t.Errorf("opened for %+v", set)
		}
	}
	out := open(t, path, "b")
	if others := out.Others(); out.Done() != 0 || len(others) != 1 || others[0].Done != 3 || others[0].Total != 8 {
		t.Errorf("%d pictures are there, others %+v", out.Done(), others)
	}
	add(t, out, 3)
	if err := out.Finish(); err != nil || out.Close() != 0 {
		t.Fatal(err)
	}
	if left := Partials(path); len(left) > 0 {
		t.Errorf("%+v", left)
	}
}

// lockHolds says whether this file system has locks; without them the test has nothing to see.
func lockHolds(t *testing.T) bool {
	lock, err := disk.TryLock(filepath.Join(t.TempDir(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	if !lock.Held() {
		t.Skip("no locks here")
	}
	return true
}

func TestNPZ(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.npz")
	out := open(t, path, "a")
	add(t, out, 3)
	if err := out.Finish(); err != nil || out.Close() != 0 {
		t.Fatal(err)
	}
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for i, want := range []struct {
		name  string
		shape []int64
	}{{"arr_0.npy", []int64{8, height, width, 3}}, {"arr_1.npy", []int64{8}}} {
		r, err := z.File[i].Open()
		if err != nil {
			t.Fatal(err)
		}
		npy, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		a, err := numpy.ParseNPY(npy)
		if err != nil || z.File[i].Name != want.name || !slices.Equal(a.Shape, want.shape) {
			t.Errorf("array %d: %s %v (%v), want %s %v", i, z.File[i].Name, a.Shape, err, want.name, want.shape)
		}
		if pix := pictures(0, 8).Pix; i == 0 && !bytes.Equal(npy[len(npy)-len(pix):], pix) {
			t.Error("the pixels are others")
		}
	}
}

func TestLabels(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder")
	set := setOf("a")
	set.Count, set.Labels, set.Prompts = 2, []int{1, 7}, []string{"a red shoe", "boots"}
	out, err := Open(context.Background(), path, set)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(out.Add(pictures(0, 2)), out.Finish()); err != nil || out.Close() != 0 {
		t.Fatal(err)
	}
	want := "file,label,class,prompt\n000000.png,1,\"dog, small\",a red shoe\n000001.png,7,7,boots\n"
	if got, err := os.ReadFile(filepath.Join(path, "labels.csv")); err != nil || string(got) != want {
		t.Errorf("%q (%v), want %q", got, err, want)
	}
}

func TestSheet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.png")
	out := open(t, path, "a")
	add(t, out, 3)
	if err := out.Finish(); err != nil || out.Close() != 0 {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Size() == 0 {
		t.Error(err)
	}
	set := setOf("a")
	set.Count, set.Labels = 1e6, nil
	if _, err := Open(context.Background(), path, set); err == nil ||
		!strings.HasPrefix(err.Error(), "out "+path+": 1000000 pictures of 3x2: a sheet, of at most 4096 pixels a ") {
		t.Errorf("a million pictures: %v", err)
	}
}

// A single picture that has no name is written as it is, so that it is a picture and no sheet.
func TestSinglePicture(t *testing.T) {
	for _, c := range []struct {
		classes []string
		size    image.Point
	}{{nil, image.Pt(width, height)}, {[]string{"cat"}, image.Pt(164, 136)}} {
		path := filepath.Join(t.TempDir(), "x.png")
		set := setOf("a")
		set.Count, set.Labels, set.Classes = 1, []int{0}, c.classes
		out, err := Open(context.Background(), path, set)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(out.Add(pictures(0, 1)), out.Finish()); err != nil {
			t.Fatal(err)
		}
		if size, texts := texts(t, path); size != c.size || len(texts) > 0 {
			t.Errorf("of classes %q it is a picture of %v with the texts %q, want %v", c.classes, size, texts, c.size)
		}
	}
}

// texts reads the size and the texts of a PNG file.
func texts(t *testing.T, path string) (image.Point, []sheet.Text) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, texts, err := sheet.ReadTexts(f)
	if err != nil {
		t.Fatal(err)
	}
	return size, texts
}

func TestRecipe(t *testing.T) {
	set := setOf("a")
	set.Recipe = Recipe{Software: "ditrun v1.2.3", Command: "ditrun sample --ckpt run", NegativePrompt: "blur,\nnoise",
		Model: "run, the best", ModelSHA256: "0123456789abcdef", VAE: "vae", Precision: "bf16",
		Request: sampling.Request{CFGScale: 4, Steps: "10,15", Seed: 7}}
	draw := func(path string) {
		t.Helper()
		out, err := Open(context.Background(), path, set)
		if err != nil {
			t.Fatal(err)
		}
		add(t, out, 3)
		if err := out.Finish(); err != nil {
			t.Fatal(err)
		}
		out.Close()
	}
	want := func(path string, texts []sheet.Text, description, parameters string) {
		t.Helper()
		list := []sheet.Text{{Keyword: "Software", Text: "ditrun v1.2.3"}, {Keyword: "Description", Text: description},
			{Keyword: "parameters", Text: parameters}}
		if !slices.Equal(texts, list) {
			t.Errorf("%s: texts %q, want %q", filepath.Base(path), texts, list)
		}
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "x.png")
	draw(path)
	_, got := texts(t, path)
	const fields = `Steps: "10,15", Sampler: ddpm, CFG scale: 4, Seed: 7, Size: 3x2, Model hash: 0123456789, ` +
		`Model: "run, the best", VAE: vae, Precision: bf16, RNG: image, Batch size: 3, `
	want(path, got, "ditrun sample --ckpt run",
		"cat\ndog, small\nNegative prompt: blur, noise\n"+fields+"Pictures: 8, Version: ditrun v1.2.3")
	folder := filepath.Join(dir, "folder")
	draw(folder)
	path = filepath.Join(folder, "000003.png")
	_, got = texts(t, path)
	want(path, got, "ditrun sample --ckpt run # picture 3",
		"dog, small\nNegative prompt: blur, noise\n"+fields+"Class: 1, Picture: 3, Version: ditrun v1.2.3")
	path = filepath.Join(folder, "000007.png")
	_, got = texts(t, path)
	want(path, got, "ditrun sample --ckpt run # picture 7",
		"Negative prompt: blur, noise\n"+fields+"Class: 3, Picture: 7, Version: ditrun v1.2.3")

	// A grid is told where it is not the solver's own.
	for grid, told := range map[string]string{"": "", "linspace": "", "karras": ", Timesteps: karras"} {
		set.Recipe.Request = sampling.Request{CFGScale: 4, Steps: "20", Seed: 7, Solver: "dpm++2m", Timesteps: grid,
			GuidanceInterval: [2]float64{200, 999}}
		path = filepath.Join(dir, "grid-"+grid+".png")
		draw(path)
		_, got = texts(t, path)
		want(path, got, "ditrun sample --ckpt run", "cat\ndog, small\nNegative prompt: blur, noise\n"+
			"Steps: 20, Sampler: dpm++2m"+told+`, CFG scale: 4, Guidance interval: "200,999", Seed: 7, `+
			`Size: 3x2, Model hash: 0123456789, Model: "run, the best", VAE: vae, Precision: bf16, RNG: image, `+
			"Batch size: 3, Pictures: 8, Version: ditrun v1.2.3")
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"full/x": "", "a.npz/x": "", "file": ""} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777),
			os.WriteFile(path, []byte(content), 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"x.png": "", "x.npz": "", "folder": "", "x.PNG": ErrName.Error(),
		"x.jpeg": ErrName.Error(), "a.npz": "is a folder, want a file", "file": ErrIsFile.Error(),
		"full":        "the folder is not empty, want a new one, or one that an interrupted command left",
		"none/folder": "none does not exist"} {
		path := filepath.Join(dir, name)
		err := Check(path)
		if err == nil && want != "" || err != nil &&
			(!strings.HasPrefix(err.Error(), "out "+path+": ") || !strings.HasSuffix(err.Error(), want)) {
			t.Errorf("%s: error %v, want %q", name, err, want)
		}
	}
}
