package encode

import (
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/latents"
)

// TestCaptionsOfFinishedLatents: without the pictures there are captions of classes, with them those of their samples
// too; other pictures are refused.
func TestCaptionsOfFinishedLatents(t *testing.T) {
	o := testOptions(t, t.TempDir())
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	set, err := latents.Open(o.OutDir)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	specs := []string{"class:a {}"}
	for _, src := range []catalog.Source{nil, pictures{n: 21}} {
		texts, err := Captions(t.Context(), set, specs, src)
		if err != nil || !slices.Equal(texts.Texts, []string{"", "a cat", "a dog"}) || texts.Len() != 21 {
			t.Errorf("%+v: captions %+v, error %v", src, texts, err)
		}
	}
	if _, err := Captions(t.Context(), set, specs, pictures{n: 20}); err == nil ||
		!strings.Contains(err.Error(), "not the pictures that the latents in "+o.OutDir+" were made from") {
		t.Errorf("other pictures: error %v", err)
	}
}
