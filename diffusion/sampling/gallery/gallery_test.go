package gallery

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch/checkpoint/numpy"
)

const height, width = 2, 3

// kinds are the names of outputs that are continued and shared.
var kinds = []string{"x.npz", "folder", "x.tar", "x.png"}

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
	return openSet(t, path, setOf(key))
}

func openSet(t *testing.T, path string, set Set) Output {
	t.Helper()
	if err := Check(path, set.Job); err != nil {
		t.Fatal(err)
	}
	out, err := Open(context.Background(), path, set)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// add draws the batches that are missing, all or so many, and returns them.
func add(t *testing.T, out Output, batches int) (drawn []int) {
	t.Helper()
	for len(drawn) < batches {
		b, ok, err := out.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		addBatch(t, out, b)
		drawn = append(drawn, b)
	}
	return drawn
}

func addBatch(t *testing.T, out Output, b int) {
	t.Helper()
	if err := out.Add(b, pictures(3*b, min(3*b+3, 8))); err != nil {
		t.Fatal(err)
	}
}

// finish finishes and closes an output.
func finish(t *testing.T, out Output) {
	t.Helper()
	if err := out.Finish(t.Context()); err != nil || out.Close() != 0 {
		t.Fatal(err)
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
	for _, name := range kinds {
		whole := filepath.Join(t.TempDir(), name)
		out := open(t, whole, "a")
		add(t, out, 3)
		finish(t, out)
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
			finish(t, out)
			if !bytes.Equal(content(t, path), content(t, whole)) {
				t.Errorf("%s: continued after %d batches it has other bytes", name, batches)
			}
			if left := Partials(path); len(left) > 0 {
				t.Errorf("%s: %+v", name, left)
			}
		}
	}
}

// Several outputs of one request, as of several processes, draw each batch once, whichever comes when, and the output
// is the one that one of them alone makes. The first that finishes joins it.
func TestShare(t *testing.T) {
	lockHolds(t)
	for _, name := range kinds {
		whole := filepath.Join(t.TempDir(), name)
		alone := open(t, whole, "a")
		add(t, alone, 3)
		finish(t, alone)

		path := filepath.Join(t.TempDir(), name)
		set := setOf("a")
		set.Job = Job{ID: "job", World: 3}
		outs := make([]Output, 3)
		var claimed []int
		for i := range outs {
			set.Job.Rank = i
			outs[i] = openSet(t, path, set)
			b, ok, err := outs[i].Next(t.Context())
			if err != nil || !ok {
				t.Fatal(err)
			}
			claimed = append(claimed, b)
		}
		if !slices.Equal(claimed, []int{0, 1, 2}) {
			t.Errorf("%s: claimed %v", name, claimed)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if _, ok, err := outs[0].Next(ctx); ok || err != context.DeadlineExceeded {
			t.Errorf("%s: there is a batch more, or nothing to wait for (%v)", name, err)
		}
		cancel()
		addBatch(t, outs[2], 2)
		addBatch(t, outs[1], 1) // both behind a gap
		addBatch(t, outs[0], 0)
		for i, out := range outs {
			if _, ok, err := out.Next(t.Context()); ok || err != nil {
				t.Errorf("%s: process %d draws more (%v)", name, i, err)
			}
			if n, own := out.Done(), []int{3, 3, 2}[i]; n != 8 || out.Elsewhere() != 8-own {
				t.Errorf("%s: process %d has %d pictures, %d from elsewhere", name, i, n, out.Elsewhere())
			}
		}
		finish(t, outs[1])
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		finish(t, outs[0])
		// One that comes late finds that all is done, and is the last to leave.
		set.Job.Rank = 2
		outs[2].Close() // died
		late := openSet(t, path, set)
		if _, ok, err := late.Next(t.Context()); ok || err != nil || late.Done() != 8 {
			t.Errorf("%s: there is more to draw (%v)", name, err)
		}
		finish(t, late)
		if now, err := os.Stat(path); err != nil || !os.SameFile(now, st) {
			t.Errorf("%s: it was made twice (%v)", name, err)
		}
		if !bytes.Equal(content(t, path), content(t, whole)) {
			t.Errorf("%s: of three processes it has other bytes", name)
		}
		if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
			t.Errorf("%s: left behind: %v (%v)", name, entries, err)
		}
	}
}

// The batches of a process that died are drawn by another, and those that it had put behind a gap are kept.
func TestGap(t *testing.T) {
	lockHolds(t)
	for _, name := range kinds {
		whole, path := filepath.Join(t.TempDir(), name), filepath.Join(t.TempDir(), name)
		alone := open(t, whole, "a")
		add(t, alone, 3)
		finish(t, alone)

		first, second := open(t, path, "a"), open(t, path, "a")
		if b, _, err := first.Next(t.Context()); b != 0 || err != nil {
			t.Fatal(b, err)
		}
		if drawn := add(t, second, 1); !slices.Equal(drawn, []int{1}) {
			t.Errorf("%s: drew %v", name, drawn)
		}
		if n := second.Close(); n != 3 {
			t.Errorf("%s: %d pictures are kept", name, n)
		}
		first.Close() // without its batch
		again := open(t, path, "a")
		if again.Done() != 3 {
			t.Errorf("%s: found %d pictures", name, again.Done())
		}
		if drawn := add(t, again, 3); !slices.Equal(drawn, []int{0, 2}) {
			t.Errorf("%s: drew %v", name, drawn)
		}
		finish(t, again)
		if !bytes.Equal(content(t, path), content(t, whole)) {
			t.Errorf("%s: it has other bytes", name)
		}
	}
}

// A batch behind a gap that was damaged is drawn again, also where that shows in the end alone.
func TestDamagedBatch(t *testing.T) {
	lockHolds(t)
	for _, name := range []string{"x.npz", "x.tar"} {
		path := filepath.Join(t.TempDir(), name)
		first, second := open(t, path, "a"), open(t, path, "a")
		if b, _, err := first.Next(t.Context()); b != 0 || err != nil {
			t.Fatal(b, err)
		}
		add(t, second, 2)
		part := filepath.Join(Partials(path)[0].Dir, "batch-000001")
		b, err := os.ReadFile(part)
		if err != nil {
			t.Fatal(err)
		}
		b[5]++
		if err := os.WriteFile(part, b, 0o666); err != nil {
			t.Fatal(err)
		}
		addBatch(t, first, 0)
		if err := first.Finish(t.Context()); !errors.Is(err, errMissing) {
			t.Errorf("%s: finished: %v", name, err)
		}
		if drawn := add(t, first, 3); !slices.Equal(drawn, []int{1}) {
			t.Errorf("%s: drew %v", name, drawn)
		}
		second.Close()
		finish(t, first)
		whole := filepath.Join(t.TempDir(), name)
		alone := open(t, whole, "a")
		add(t, alone, 3)
		finish(t, alone)
		if !bytes.Equal(content(t, path), content(t, whole)) {
			t.Errorf("%s: it has other bytes", name)
		}
	}
}

// An .npz that an older version has begun, which kept no checksum, is continued.
func TestContinueOlder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.npz")
	out := open(t, path, "a")
	add(t, out, 1)
	out.Close()
	state := filepath.Join(Partials(path)[0].Dir, partialFile)
	s, err := readState(filepath.Dir(state))
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`{"key":%q,"done":3,"total":8,"bytes":%d}`, s.Key, s.Bytes)
	if err := os.WriteFile(state, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	out = open(t, path, "a")
	if drawn := add(t, out, 3); !slices.Equal(drawn, []int{1, 2}) {
		t.Errorf("drew %v", drawn)
	}
	finish(t, out)
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for _, f := range z.File { // which compares the checksum
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Errorf("%s: %v", f.Name, err)
		}
	}
}

// A tar has a label, a description and a picture for each key.
func TestTar(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.tar")
	set := setOf("a")
	set.Prompts = slices.Repeat([]string{"a red shoe"}, 8)
	out := openSet(t, path, set)
	add(t, out, 3)
	finish(t, out)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := tar.NewReader(f)
	for i := range 8 {
		label := []int{0, 0, 1, 1, 2, 2, 3, 3}[i]
		class := []string{"cat", "dog, small", "2", "3"}[label]
		for _, want := range []struct{ ending, text string }{{"cls", fmt.Sprint(label)},
			{"json", fmt.Sprintf(`{"index":%d,"label":%d,"class":%q,"prompt":"a red shoe"}`, i, label, class)},
			{"png", ""}} {
			h, err := r.Next()
			if err != nil || h.Name != fmt.Sprintf("%06d.%s", i, want.ending) {
				t.Fatalf("%v (%v), want %d.%s", h, err, i, want.ending)
			}
			b, err := io.ReadAll(r)
			if err != nil || want.text != "" && string(b) != want.text {
				t.Errorf("%s holds %q (%v), want %q", h.Name, b, err, want.text)
			}
			if want.ending != "png" {
				continue
			}
			img, err := png.Decode(bytes.NewReader(b))
			if err != nil || img.Bounds() != image.Rect(0, 0, width, height) {
				t.Errorf("%s: %v", h.Name, err)
			}
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("there is more: %v", err)
	}
}

func TestOtherRequests(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.npz")
	first := open(t, path, "a")
	add(t, first, 1)
	alone := setOf("a")
	alone.Alone = true
	if _, err := Open(context.Background(), path, alone); !lockHolds(t) || err == nil ||
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
	finish(t, out)
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
	finish(t, out)
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
	if err := errors.Join(out.Add(0, pictures(0, 2)), out.Finish(t.Context())); err != nil || out.Close() != 0 {
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
	finish(t, out)
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
		if err := errors.Join(out.Add(0, pictures(0, 1)), out.Finish(t.Context())); err != nil {
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
		finish(t, out)
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

	// With flags it says what draws it again: those that choose pictures stand beside a single one.
	set.Recipe.Flags = []Flag{{"ckpt", "run"}, {"class-labels", "0-3"}, {"num-samples", "8"}, {"seed", "7"}}
	set.Recipe.VAESHA256, set.Recipe.GuideSHA256 = "fedcba", "abcdef"
	label := 3
	for path, want := range map[string]Drawn{
		filepath.Join(dir, "y.png"): {set.Recipe.Flags, "0123456789abcdef", "fedcba", "abcdef", nil},
		filepath.Join(dir, "again/000007.png"): {[]Flag{{"ckpt", "run"}, {"seed", "7"}}, "0123456789abcdef", "fedcba",
			"abcdef", &Picture{Index: 7, Count: 8, Batch: 3, Label: &label}},
	} {
		if want.Picture != nil {
			draw(filepath.Dir(path))
		} else {
			draw(path)
		}
		if got, err := ReadDrawn(path); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v (%v), want %+v", path, got, err, want)
		}
	}
	if _, err := ReadDrawn(filepath.Join(folder, "000007.png")); !errors.Is(err, ErrNotDrawn) {
		t.Errorf("of a picture without it: %v", err)
	}
	set.Recipe.Flags, set.Recipe.VAESHA256, set.Recipe.GuideSHA256 = nil, "", ""

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

// A picture cannot make its reader keep lists of any length.
func TestReadDrawnBounds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.png")
	const most = "want at most 10000000, in batches of"
	for of, want := range map[string]string{
		`{"index":0,"count":10000000,"batch_size":50}`:                             "",
		`{"index":0,"count":3,"batch_size":9000000000000000000}`:                   "",
		`{"index":0,"count":10000001,"batch_size":50}`:                             most,
		`{"index":0,"count":9000000000000000000,"batch_size":9000000000000000000}`: most,
		`{"index":0,"count":10000000,"batch_size":1048577}`:                        "in batches of 1048576",
		`{"index":3,"count":3,"batch_size":1}`:                                     "picture 3 of 3",
	} {
		text := sheet.Text{Keyword: drawnKey, Text: `{"flags":[],"picture":` + of + `}`}
		if err := sheet.WritePNG(path, image.NewNRGBA(image.Rect(0, 0, 1, 1)), text); err != nil {
			t.Fatal(err)
		}
		_, err := ReadDrawn(path)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", of, err, want)
		}
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
		"x.jpeg": ErrName.Error(), "x.tar": "", "a.npz": "is a folder, want a file", "file": ErrIsFile.Error(),
		"full":        "the folder is not empty, want a new one, or one that an interrupted command left",
		"none/folder": "none does not exist"} {
		path := filepath.Join(dir, name)
		err := Check(path, Job{})
		if err == nil && want != "" || err != nil &&
			(!strings.HasPrefix(err.Error(), "out "+path+": ") || !strings.HasSuffix(err.Error(), want)) {
			t.Errorf("%s: error %v, want %q", name, err, want)
		}
	}
}
