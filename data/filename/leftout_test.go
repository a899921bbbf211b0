package filename

import "testing"

func TestWhyLeftOut(t *testing.T) {
	for name, want := range map[string]string{
		"cat/1.jpg":                           "",
		"cat/1.JPG":                           "",
		"cat/1.gif":                           "",
		"cat.old/1.jpg":                       "",
		"cat/1.HEIC":                          ".heic",
		"cat/readme":                          "without extension",
		"cat/._1.jpg":                         "hidden",
		"cat/.1.jpg":                          "hidden",
		".ipynb_checkpoints/1.jpg":            "in .ipynb_checkpoints",
		"cat/.ipynb_checkpoints/1.jpg":        "in .ipynb_checkpoints",
		"__MACOSX/cat/._1.jpg":                "in __MACOSX",
		"cat/@eaDir/1.jpg/THUMB_M.jpg":        "in @eaDir",
		"cat/System Volume Information/a.png": "in System Volume Information",
	} {
		if got := WhyLeftOut(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestLeftOut(t *testing.T) {
	l := LeftOut{}
	for _, kind := range []string{".txt", ".heic", "hidden", ".heic"} {
		l.Count(kind)
	}
	if got, want := l.String(), "left out: 2 .heic, 1 .txt, 1 hidden"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, kind := range []string{".a", ".b", ".c", ".d", ".e", ".f", ".g", ".h"} {
		l.Count(kind)
	}
	if got, want := l.String(), "left out: 2 .heic, 1 .a, 1 .b, 1 .c, 1 .d, 1 .e, 1 .f, 1 .g, 3 others"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
