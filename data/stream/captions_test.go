package stream

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/captions"
	"github.com/ditrun/ditrun/data/latents/latentstest"
	"github.com/ditrun/ditrun/data/tokens"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/philox"
)

var words = tokens.EncoderInfo{Name: "words", SHA256: "s", Length: 4, Width: 3}

// wordEncoder encodes by [latentstest.EncodeWords].
type wordEncoder struct{}

func (wordEncoder) Info() tokens.EncoderInfo { return words }

func (wordEncoder) Encode(texts []string, states []float32, lengths []int32) error {
	latentstest.EncodeWords(texts, states, lengths)
	return nil
}

// addCaptionsOfIDs adds captions to the set of n samples in dir.
func addCaptionsOfIDs(t testing.TB, dir string, n int) *captions.Set {
	t.Helper()
	c := latentstest.CaptionsOfIDs(t, n)
	o := tokens.Options{BatchSize: 2, FileRows: 3}
	if _, err := tokens.Write(context.Background(), dir, c, wordEncoder{}, o); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTextBatches(t *testing.T) {
	dir := latentstest.Make(t, latentstest.Plan(10))
	l := latentstest.Open(t, dir)
	o := Options{GlobalBatch: 2, MaxSteps: 1, Captions: true}
	for _, err := range Batches(context.Background(), l, o) {
		if err == nil || !strings.Contains(err.Error(), "no captions in this set") {
			t.Error(err)
		}
	}
	c := addCaptionsOfIDs(t, dir, 10)
	l = latentstest.Open(t, dir)
	const batch, seed = 4, 11
	plain := collect(t, l, Options{Seed: seed, GlobalBatch: batch, Epochs: 40})
	step := 0
	seen := map[[2]int]int{}
	o = Options{Seed: seed, GlobalBatch: batch, Epochs: 40, Captions: true, Workers: 3}
	for b, err := range Batches(context.Background(), l, o) {
		if err != nil {
			t.Fatal(err)
		}
		if !equalBatch(*b, plain[step]) || plain[step].Tokens != nil {
			t.Fatalf("step %d: captions change the rest of the batch", step)
		}
		for slot, id := range b.IDs {
			rows := c.Of(id)
			want := 0
			if len(rows) > 0 {
				want = int(rows[philox.Intn(len(rows), seed, 8, 0, uint64(step*batch+slot))])
			}
			size := len(c.Texts[want])
			first := checkpoint.FromFloat16(binary.LittleEndian.Uint16(b.Tokens[slot*24:]))
			if b.CaptionRows[slot] != want || b.TokenLengths[slot] != 1+size%4 || first != float32(size) {
				t.Fatalf("step %d slot %d: row %d, want %d", step, slot, b.CaptionRows[slot], want)
			}
			seen[[2]int{id, want}]++
		}
		step++
	}
	if want := 3 + 3 + 4 + 6; step != 80 || len(seen) != want {
		t.Errorf("%d steps, %d captions of samples were used, want %d", step, len(seen), want)
	}
}

// TestDamagedCaptions makes the damage of TestOpenTextRefuses of package tokens: batches say what opening says.
func TestDamagedCaptions(t *testing.T) {
	base := latentstest.Make(t, latentstest.Plan(10))
	addCaptionsOfIDs(t, base, 10)
	found, err := filepath.Glob(filepath.Join(base, tokens.FolderName, "states-00001-of-*.safetensors"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	for _, c := range latentstest.TextDamages(filepath.Base(found[0])) {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(base)); err != nil {
			t.Fatal(err)
		}
		if err := c.Do(filepath.Join(dir, tokens.FolderName)); err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		l := latentstest.Open(t, dir)
		_, err := tokens.Of(l)
		if err == nil || !strings.Contains(err.Error(), c.Want) {
			t.Errorf("%s: %v, want %q", c.Name, err, c.Want)
		}
		n := 0
		for _, err2 := range Batches(context.Background(), l, Options{GlobalBatch: 2, MaxSteps: 1, Captions: true}) {
			if fmt.Sprint(err2) != fmt.Sprint(err) {
				t.Errorf("%s: batches: %v", c.Name, err2)
			}
			n++
		}
		if n != 1 {
			t.Errorf("%s: %d items, want one error", c.Name, n)
		}
	}
}
