package latents

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// FuzzShard opens a shard of a set and reads it.
func FuzzShard(f *testing.F) {
	p := testPlan(4)
	dir := testLatents(f, p)
	name := p.file(0)
	good, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		f.Fatal(err)
	}
	header := 8 + binary.LittleEndian.Uint64(good)
	f.Add(good[:header])
	f.Add(bytes.Replace(good[:header], []byte("moments_flip"), []byte("moments_flop"), 1))
	f.Add(bytes.Replace(good[:header], []byte("[0,"), []byte("[9,"), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		// Only the header is tried; the samples follow it as they are.
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, append(bytes.Clone(b), good[header:]...), 0o666); err != nil {
			t.Fatal(err)
		}
		s, err := openShard(path, &p, 0)
		if err != nil {
			return
		}
		defer s.close()
		record := make([]float32, p.recordLen())
		for i := range s.n {
			s.read(i, false, record)
			s.read(i, true, record)
		}
		s.sha256()
	})
}
