package catalog

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ditrun/ditrun/data/internal/datatest"
)

const (
	composed   = "caf\u00e9"  // as Linux and Windows write it
	decomposed = "cafe\u0301" // as macOS does
)

// Labels find pictures whatever form their names have.
func TestLabelsOfTheOtherForm(t *testing.T) {
	picture := datatest.PNG(t, 8, 8)
	dir := datatest.WriteFiles(t, map[string][]byte{composed + ".png": picture, "u\u0308.png": picture})
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

// Files that an editor saved with a byte order mark are read without it, and UTF-16 is named.
func TestByteOrderMarks(t *testing.T) {
	picture := datatest.PNG(t, 8, 8)
	dir := datatest.WriteFiles(t, map[string][]byte{"1.png": picture, "2.png": picture})
	idxDir := datatest.WriteFiles(t, map[string][]byte{"train-images-idx3-ubyte": idxFour,
		"train-labels-idx1-ubyte": idxFourLab})
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
	} {
		datatest.CheckMarks(t, name, c.path, c.text, c.open, c.want)
	}
}

func classesOf(src Source, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	defer src.Close()
	return src.Classes(), nil
}
