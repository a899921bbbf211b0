package captions

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/picture"
)

const (
	composed   = "caf\u00e9"  // as Linux and Windows write it
	decomposed = "cafe\u0301" // as macOS does
)

// Captions find pictures whatever form their names have.
func TestFilesOfTheOtherForm(t *testing.T) {
	set := named{[]string{"ant", composed, decomposed + "s", `caf\xe9`}, []catalog.Sample{sample("1.jpg", 0),
		sample("1.jpg", 1), sample(composed+"/2.jpg", 1), sample("u\u0308.jpg", 1),
		sample(decomposed+".jpg", 2), sample(composed+".jpg", 2), sample("1.jpg", 3), sample("\xe9.jpg", 3)}}
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
	set = named{[]string{composed, decomposed},
		[]catalog.Sample{sample("1.jpg", 0), sample("2.jpg", 1), sample("3.jpg", 0), sample("3.jpg", 1)}}
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
}

// Files that an editor saved with a byte order mark are read without it, and UTF-16 is named.
func TestByteOrderMarks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	for name, c := range map[string]struct {
		text string
		open func() ([]string, error)
		want []string
	}{
		"templates": {"a {}\n", func() ([]string, error) {
			c, err := Read(t.Context(), []string{"class:@" + file}, nothing{pets})
			if err != nil {
				return nil, err
			}
			return c.Texts[1:], nil
		}, []string{"a cat", "a dog"}},
		"CSV": {"file,caption\ncat/1.jpg,x\n", func() ([]string, error) { return textsIn(t, file) }, []string{"x"}},
		"JSON lines": {`{"file":"cat/1.jpg","text":"x"}`, func() ([]string, error) { return textsIn(t, file) },
			[]string{"x"}},
		"COCO": {`{"images":[{"id":1,"file_name":"cat/1.jpg"}],"annotations":[{"image_id":1,"caption":"x"}]}`,
			func() ([]string, error) { return textsIn(t, file) }, []string{"x"}},
	} {
		datatest.CheckMarks(t, name, file, c.text, c.open, c.want)
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

func textsIn(t *testing.T, file string) ([]string, error) {
	t.Helper()
	c, err := Read(t.Context(), []string{file}, nothing{pets})
	if err != nil {
		return nil, err
	}
	return c.Texts[1:], nil
}
