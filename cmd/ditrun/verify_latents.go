package main

import (
	"os"
	"path/filepath"
	"time"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/tokens"
)

// verifyLatents reads the finished set in the folder out and compares it with its manifest.
func verifyLatents(e *env, out string) error {
	l, err := latents.Open(out)
	if err != nil {
		return err
	}
	defer l.Close()
	began := time.Now()
	defer e.waiting("comparing checksums")()
	if err := l.Verify(e.ctx, "sha256"); err != nil {
		return err
	}
	bytes := int64(0)
	for _, s := range l.Manifest().Shards {
		bytes += s.Bytes
	}
	text, err := verifyText(e, l, out)
	if err != nil {
		return err
	}
	bytes += text
	seconds := time.Since(began).Seconds()
	e.printf("%s: %s in %s, %s: every checksum is right", out, plural(l.Len(), "latent"),
		plural(len(l.Manifest().Shards), "shard"), format.Bytes(bytes))
	return e.result(map[string]any{"out": out, "samples": l.Len(), "shards": len(l.Manifest().Shards), "bytes": bytes,
		"seconds": seconds})
}

// verifyText compares the checksums of the captions, if the set has some, and returns their bytes.
func verifyText(e *env, l *latents.Set, out string) (int64, error) {
	t, err := tokens.Of(l)
	if err != nil || t == nil {
		return 0, err
	}
	if err := t.Verify(e.ctx); err != nil {
		return 0, err
	}
	entries, err := os.ReadDir(filepath.Join(out, tokens.FolderName))
	if err != nil {
		return 0, err
	}
	bytes := int64(0)
	for _, f := range entries {
		info, err := f.Info()
		if err != nil {
			return 0, err
		}
		bytes += info.Size()
	}
	return bytes, nil
}
