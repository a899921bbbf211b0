package data

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

const (
	composed   = "caf\u00e9"  // as Linux and Windows write it
	decomposed = "cafe\u0301" // as macOS does
)

// Folders whose names are not UTF-8 stay two classes in all that is written of them, and the same set is the same
// again, also out of an archive whose index is kept.
func TestNamesOfBytes(t *testing.T) {
	picture := pngOf(t, 8, 8)
	classes := []string{"a\xffb", "caf\xe8", "caf\xe9", `d\xe9`} // the last one has a backslash in its name
	want := []string{`a\xffb`, `caf\xe8`, `caf\xe9`, `d\x5cxe9`}
	var members []tarFile
	files := map[string][]byte{}
	for _, class := range classes {
		files[class+"/p\xe9.png"] = picture
		members = append(members, tarFile{class + "/p\xe9.png", picture})
	}
	folder := writeFiles(t, files)
	archive := writeFiles(t, map[string][]byte{"set.tar": tarOf(t, members)})
	cache := t.TempDir()
	hash := ""
	for _, location := range []string{folder, archive, archive} {
		src, err := Open(t.Context(), location, Options{CacheDir: cache})
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		if !slices.Equal(src.Classes(), want) {
			t.Errorf("%s: classes %q, want %q", location, src.Classes(), want)
		}
		if notes := src.Notes(); len(notes) > 0 {
			t.Errorf("%s: notes %q about names that nothing is wrong with", location, notes)
		}
		if hash == "" {
			hash = src.Hash()
		}
		if src.Hash() != hash || src.Sample(0).Name != "p\xe9.png" {
			t.Errorf("%s: hash %.12s, first sample %q: want %.12s and its bytes", location, src.Hash(),
				src.Sample(0).Name, hash)
		}
		plan := testPlan(src.Len())
		plan.ShardSize = 4
		plan.Dataset = DatasetOf(src)
		dir := filepath.Join(t.TempDir(), "set")
		w, err := NewShardWriter(dir, plan)
		if err != nil {
			t.Fatal(err)
		}
		for c, err := range w.Claims(t.Context(), 0, 1) {
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Skip(0, src.Sample(0), "torn"); err != nil {
				t.Fatal(err)
			}
			var flip []float32
			if plan.Flip {
				flip = testRecords(&plan, 1, c.Hi, true)
			}
			records := testRecords(&plan, 1, c.Hi, false)
			if err := c.Add(idsFrom(1, c.Hi), records, flip, testLabels(1, c.Hi)); err != nil {
				t.Fatal(err)
			}
			if err := c.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Finish(t.Context()); err != nil {
			t.Fatal(err)
		}
		m, err := ReadManifest(dir)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(m.Dataset.Classes, want) || m.Skipped[0].Name != `p\xe9.png` {
			t.Errorf("%s: the manifest has classes %q, first skipped %q", location, m.Dataset.Classes,
				m.Skipped[0].Name)
		}
		if d := plan.differs(&m.Plan); d != "" {
			t.Errorf("%s: the same set again is %s", location, d)
		}
	}
}

// The names of a set that was made before bytes were escaped open, and sets of a name with a backslash are the same.
func TestOldNames(t *testing.T) {
	old, now := testPlan(10), testPlan(10)
	old.Dataset.Classes = []string{"caf\ufffd", "caf\ufffd", "b"}
	if l, err := OpenLatents(testLatents(t, old)); err != nil || !slices.Equal(l.Classes(), old.Dataset.Classes) {
		t.Errorf("%v", err)
	}
	old.Dataset.Classes, now.Dataset.Classes = []string{`a\xe9`, "b", "c"}, []string{`a\x5cxe9`, "b", "c"}
	if d := now.differs(&old); d != "" {
		t.Error(d)
	}
}

// A set that was begun where names are decomposed goes on where they are not, with the names that it has.
func TestPlanOfTheOtherForm(t *testing.T) {
	mac, linux := testPlan(10), testPlan(10)
	mac.Dataset.Classes = []string{"ant", decomposed, "dog"}
	linux.Dataset.Classes = []string{"ant", composed, "dog"}
	dir := t.TempDir()
	w, err := NewShardWriter(dir, mac)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := encodeAll(context.Background(), dir, linux); err != nil {
		t.Fatal(err)
	}
	before := contents(t, dir)
	if _, err := encodeAll(context.Background(), dir, mac); err != nil {
		t.Error(err)
	}
	sameContents(t, contents(t, dir), before)
	linux.Dataset.Classes = []string{"ant", "cafe", "dog"}
	const want = "made with other class names: class 1 was called \"caf\u00e9\", and is now \"cafe\""
	if _, err := NewShardWriter(dir, linux); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
}

// Captions and labels find pictures whatever form their names have.
func TestFilesOfTheOtherForm(t *testing.T) {
	set := named{[]string{"ant", composed, decomposed + "s", `caf\xe9`}, []Sample{{"1.jpg", 0}, {"1.jpg", 1},
		{composed + "/2.jpg", 1}, {"u\u0308.jpg", 1}, {decomposed + ".jpg", 2}, {composed + ".jpg", 2}, {"1.jpg", 3},
		{"\xe9.jpg", 3}}}
	b := newCaptionBuilder(set)
	err := b.addText(context.Background(), strings.NewReader(strings.Join([]string{
		decomposed + "/1.jpg,class",
		"x/" + decomposed + "/" + decomposed + "/2.jpg,folder",
		"\u00fc.jpg,name alone",
		composed + "s/" + composed + ".jpg,composed",
		composed + "s/" + decomposed + ".jpg,decomposed",
		"caf\xe9/1.jpg,bytes",
		"caf\xe9/\xe9.jpg,bytes twice",
		"fu\u0308r/x.jpg,none",
	}, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	c, err := b.finish()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{composed + "/1.jpg=class", composed + "/" + composed + "/2.jpg=folder",
		composed + "/u\u0308.jpg=name alone", decomposed + "s/" + decomposed + ".jpg=decomposed",
		decomposed + "s/" + composed + ".jpg=composed", `caf\xe9/1.jpg=bytes`, "caf\\xe9/\xe9.jpg=bytes twice"}
	if got := byName(c, set); !slices.Equal(got, want) || c.Stats.Unmatched != 1 {
		t.Errorf("got  %q\nwant %q\n%+v", got, want, c.Stats)
	}

	// Two classes of one name, one of them with the picture.
	set = named{[]string{composed, decomposed}, []Sample{{"1.jpg", 0}, {"2.jpg", 1}, {"3.jpg", 0}, {"3.jpg", 1}}}
	b = newCaptionBuilder(set)
	if err := b.addText(context.Background(),
		strings.NewReader(composed+"/1.jpg,a\n"+composed+"/2.jpg,b\n")); err != nil {
		t.Fatal(err)
	}
	if c, err = b.finish(); err != nil || len(byName(c, set)) != 2 {
		t.Errorf("%v", err)
	}
	b = newCaptionBuilder(set)
	if err := b.addText(context.Background(), strings.NewReader(composed+"/3.jpg,a\n")); err == nil {
		t.Error("a caption for one of two pictures was given to one of them in silence")
	}

	picture := pngOf(t, 8, 8)
	dir := writeFiles(t, map[string][]byte{composed + ".png": picture, "u\u0308.png": picture})
	labels := filepath.Join(t.TempDir(), "labels.csv")
	if err := os.WriteFile(labels, []byte(decomposed+".png,x\n\u00fc.png,y\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	src, err := Open(t.Context(), dir, Options{Labels: labels, CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if src.Sample(0) != (Sample{composed + ".png", 0}) || src.Sample(1) != (Sample{"u\u0308.png", 1}) {
		t.Errorf("%+q, %+q", src.Sample(0).Name, src.Sample(1).Name)
	}
}

// The states of a caption are those of the same text in the other form, unless the file has both.
func TestStatesOfTheOtherForm(t *testing.T) {
	states, err := OpenTokenStates(statesFile(t, checkpoint.F32, 4, []int32{1, 1, 1, 1},
		map[string]string{"encoder": "e",
			"captions": `["","` + decomposed + `","u\u0308","\u00fc"]`}))
	if err != nil {
		t.Fatal(err)
	}
	defer states.Close()
	got, lengths := make([]float32, 4*6), make([]int32, 4)
	if err := states.Encode([]string{composed, decomposed, "\u00fc", "u\u0308"}, got, lengths); err != nil {
		t.Fatal(err)
	}
	if rows := []float32{got[0], got[6], got[12], got[18]}; !slices.Equal(rows, []float32{1.5, 1.5, 4.5, 3}) {
		t.Errorf("states %v, want those of rows 1, 1, 3 and 2", rows)
	}
	if err := states.Check([]string{"cafe"}); err == nil {
		t.Error("a caption without its accent is in the file")
	}
}

// Files that an editor saved with a byte order mark are read without it, and UTF-16 is named.
func TestByteOrderMarks(t *testing.T) {
	utf16 := func(text string) []byte {
		b := []byte{0xff, 0xfe}
		for _, c := range []byte(text) {
			b = append(b, c, 0)
		}
		return b
	}
	picture := pngOf(t, 8, 8)
	dir := writeFiles(t, map[string][]byte{"1.png": picture, "2.png": picture})
	idxDir := writeFiles(t, map[string][]byte{"train-images-idx3-ubyte": idxFour,
		"train-labels-idx1-ubyte": idxFourLab})
	set := testLatents(t, testPlan(10))
	manifest, err := os.ReadFile(filepath.Join(set, ManifestName))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	labelled := func() (Source, error) { return Open(t.Context(), dir, Options{Labels: file, CacheDir: t.TempDir()}) }
	for name, c := range map[string]struct {
		path, text string
		open       func() ([]string, error)
		want       []string
	}{
		"labels by line": {file, "ant\r\nbee\r\n", func() ([]string, error) { return classesOf(labelled()) },
			[]string{"ant", "bee"}},
		"labels by name": {file, "1.png,ant\n2.png,bee\n", func() ([]string, error) { return classesOf(labelled()) },
			[]string{"ant", "bee"}},
		"classes.txt": {filepath.Join(idxDir, ClassesName), "zero\none\ntwo\n",
			func() ([]string, error) { return classesOf(Open(t.Context(), idxDir, Options{})) }, []string{"zero",
				"one", "two"}},
		"templates": {file, "a {}\n", func() ([]string, error) {
			c, err := ReadCaptions(t.Context(), []string{"class:@" + file}, nothing{pets})
			if err != nil {
				return nil, err
			}
			return c.Texts[1:], nil
		}, []string{"a cat", "a dog"}},
		"CSV": {file, "file,caption\ncat/1.jpg,x\n", func() ([]string, error) { return textsIn(t, file) },
			[]string{"x"}},
		"JSON lines": {file, `{"file":"cat/1.jpg","text":"x"}`, func() ([]string, error) { return textsIn(t, file) },
			[]string{"x"}},
		"COCO": {file, `{"images":[{"id":1,"file_name":"cat/1.jpg"}],"annotations":[{"image_id":1,"caption":"x"}]}`,
			func() ([]string, error) { return textsIn(t, file) }, []string{"x"}},
		"manifest": {filepath.Join(set, ManifestName), string(manifest), func() ([]string, error) {
			m, err := ReadManifest(set)
			if err != nil {
				return nil, err
			}
			return m.Dataset.Classes, nil
		}, []string{"a", "b", "c"}},
	} {
		for _, text := range []string{c.text, "\ufeff" + c.text} {
			if err := os.WriteFile(c.path, []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
			if got, err := c.open(); err != nil || !slices.Equal(got, c.want) {
				t.Errorf("%s: %q, %v, want %q", name, got, err, c.want)
			}
		}
		if err := os.WriteFile(c.path, utf16(c.text), 0o666); err != nil {
			t.Fatal(err)
		}
		if got, err := c.open(); err == nil || !strings.Contains(err.Error(), "text in UTF-16: want UTF-8") {
			t.Errorf("%s in UTF-16: %q, error %v", name, got, err)
		}
	}
}

// The text of a member of an archive may have a mark too.
func TestMarkedCaption(t *testing.T) {
	b := newCaptionBuilder(pets)
	for text, want := range map[string]string{"\ufeffa cat\r\n": "a cat", "\ufeff": "", "a\ufeffb": "a\ufeffb"} {
		n, err := b.intern(text)
		if err != nil || b.texts[n] != want {
			t.Errorf("%+q became %+q, %v, want %+q", text, b.texts[n], err, want)
		}
	}
}

// nothing is a source without pictures.
type nothing struct{ named }

func (nothing) Image(int) (*picture.Image, error) { return nil, nil }
func (nothing) Order() string                     { return "" }
func (nothing) Hash() string                      { return "" }
func (nothing) Notes() []string                   { return nil }
func (nothing) Close() error                      { return nil }

func classesOf(src Source, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	defer src.Close()
	return src.Classes(), nil
}

func textsIn(t *testing.T, file string) ([]string, error) {
	t.Helper()
	c, err := ReadCaptions(t.Context(), []string{file}, nothing{pets})
	if err != nil {
		return nil, err
	}
	return c.Texts[1:], nil
}
