package tokens

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/latents/latentstest"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// flipBit turns one bit of a file.
func flipBit(t *testing.T, path string, bit int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[bit/8] ^= 1 << (bit % 8)
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
}

// placeOf is the first byte of a tensor in a shard.
func placeOf(t *testing.T, path, tensor string) int64 {
	t.Helper()
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, ok := f.Lookup(tensor)
	if !ok {
		t.Fatalf("%s: no tensor %s", path, tensor)
	}
	return info.Offset
}

// What is wrong with captions is found when they are opened where they are small, and beside the reading where not.
func TestTextIsCompared(t *testing.T) {
	dir := latentstest.Make(t, latentstest.Plan(10))
	if _, err := Write(context.Background(), dir, captionsOfIDs(t, 10), &wordEncoder{sum: "s1"},
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
	flipBit(t, states, 8*placeOf(t, states, tensorStates)+3)
	if err := compare(); err == nil || !strings.Contains(err.Error(), "states-00000-of-") {
		t.Errorf("states: error %v", err)
	}
	captions := filepath.Join(text.dir, textCaptions)
	flipBit(t, captions, 8*8)
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
	at := placeOf(t, index, tensorRows)
	flipBit(t, index, 8*at)
	if err := open(); err == nil || !strings.Contains(err.Error(), textIndex+": damaged: sha256") {
		t.Errorf("index: error %v", err)
	}
	flipBit(t, index, 8*at)
	manifest := filepath.Join(text.dir, textManifest)
	b, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	flipBit(t, manifest, 8*int64(strings.Index(string(b), `"captions": `)+len(`"captions": `))+1)
	if err := open(); err == nil || !strings.Contains(err.Error(), textManifest+": sha256") {
		t.Errorf("text.json: error %v", err)
	}
}
