package stream

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/latents/latentstest"
)

// A shard cut short while batches are made of it ends them with an error, and does not kill the program.
func TestShardShrinksWhileStreamed(t *testing.T) {
	dir := latentstest.Make(t, latentstest.Plan(10))
	l, err := latents.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Truncate(filepath.Join(dir, "latents-00001-of-00003.safetensors"), 0); err != nil {
		t.Fatal(err)
	}
	var last error
	for _, err := range Batches(context.Background(), l, Options{GlobalBatch: 2, MaxSteps: 50}) {
		last = err
	}
	if last == nil || !strings.Contains(last.Error(), "cut short") {
		t.Errorf("batches: error %v", last)
	}
}
