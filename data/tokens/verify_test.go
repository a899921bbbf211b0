package tokens

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/latents/latentstest"
)

// What is wrong with captions is found when they are opened where they are small, and beside the reading where not.
func TestTextIsCompared(t *testing.T) {
	dir := latentstest.Make(t, latentstest.Plan(10))
	if _, err := Write(context.Background(), dir, latentstest.CaptionsOfIDs(t, 10), &wordEncoder{sum: "s1"},
		textOptions); err != nil {
		t.Fatal(err)
	}
	l, err := latents.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	text, err := Of(l)
	if err != nil {
		t.Fatal(err)
	}
	compare := func() error {
		c := l.Compare(0, 1)
		defer c.Stop()
		return c.Wait(context.Background())
	}
	if err := compare(); err != nil {
		t.Fatal(err)
	}
	states := filepath.Join(text.dir, text.info.Files[firstStates].File)
	datatest.FlipBit(t, states, 8*datatest.PlaceOf(t, states, tensorStates)+3)
	if err := compare(); err == nil || !strings.Contains(err.Error(), "states-00000-of-") {
		t.Errorf("states: error %v", err)
	}
	captions := filepath.Join(text.dir, textCaptions)
	datatest.FlipBit(t, captions, 8*8)
	if _, err := text.Texts(); err == nil || !strings.Contains(err.Error(), textCaptions+": damaged: sha256") {
		t.Errorf("captions: error %v", err)
	}
	open := func() error {
		l, err := latents.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, err = Of(l)
		return err
	}
	index := filepath.Join(text.dir, textIndex)
	at := datatest.PlaceOf(t, index, tensorRows)
	datatest.FlipBit(t, index, 8*at)
	if err := open(); err == nil || !strings.Contains(err.Error(), textIndex+": damaged: sha256") {
		t.Errorf("index: error %v", err)
	}
	datatest.FlipBit(t, index, 8*at)
	manifest := filepath.Join(text.dir, textManifest)
	b, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	datatest.FlipBit(t, manifest, 8*int64(strings.Index(string(b), `"captions": `)+len(`"captions": `))+1)
	if err := open(); err == nil || !strings.Contains(err.Error(), textManifest+": sha256") {
		t.Errorf("text.json: error %v", err)
	}
}
