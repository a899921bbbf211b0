package latents

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

func TestLatentsRead(t *testing.T) {
	for _, dtype := range []checkpoint.DType{checkpoint.F16, checkpoint.F32} {
		for _, flips := range []bool{true, false} {
			p := testPlan(10)
			p.DType, p.Flip = dtype, flips
			l, err := Open(testLatents(t, p))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if l.Len() != 10 || l.RecordLen() != 36 || len(l.Classes()) != 3 ||
				l.Manifest().VAE.ScalingFactor != 0.18215 {
				t.Errorf("%s: %d records of %d", dtype, l.Len(), l.RecordLen())
			}
			dst := make([]float32, 36)
			for i := range 10 {
				for _, flip := range []bool{false, true} {
					err := l.Read(i, flip, dst)
					if flip && !flips {
						if err == nil {
							t.Error("mirrored latents that are not there were read")
						}
						continue
					}
					if err != nil {
						t.Fatal(err)
					}
					for j, v := range dst {
						if want := testMoment(i, j, flip); v != want {
							t.Fatalf("%s record %d flip %v moment %d: %v, want %v", dtype, i, flip, j, v, want)
						}
					}
				}
				if l.Label(i) != int64(i%3) || l.ID(i) != i {
					t.Errorf("record %d: label %d, id %d", i, l.Label(i), l.ID(i))
				}
			}
			for _, i := range []int{-1, 10} {
				if l.Read(i, false, dst) == nil {
					t.Errorf("record %d was read", i)
				}
			}
			stored := make([]byte, l.RecordBytes())
			if err := l.ReadRecord(9, flips, stored); err != nil {
				t.Error(err)
			}
			size := dtype.Size()
			last := checkpoint.FromFloat16(binary.LittleEndian.Uint16(stored[35*size:]))
			if dtype == checkpoint.F32 {
				last = math.Float32frombits(binary.LittleEndian.Uint32(stored[35*size:]))
			}
			if last != testMoment(9, 35, flips) {
				t.Errorf("%s record 9 as stored: it ends with %v", dtype, last)
			}
			if l.ReadRecord(0, false, stored[size:]) == nil {
				t.Error("a stored record was read into too little room")
			}
			if l.Read(0, false, dst[1:]) == nil {
				t.Error("a record was read into too little room")
			}
			for _, mode := range []string{"crc", "sha256", "none"} {
				if err := l.Verify(context.Background(), mode); err != nil {
					t.Error(err)
				}
			}
			if l.Verify(context.Background(), "md5") == nil {
				t.Error("verify mode md5 was accepted")
			}
		}
	}
}

func TestCheckVAE(t *testing.T) {
	dir := testLatents(t, testPlan(4))
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.CheckVAE(strings.Repeat("ab", 32)); err != nil {
		t.Error(err)
	}
	err = l.CheckVAE(strings.Repeat("12", 32))
	want := "latents " + dir +
		": made with VAE test-vae (sha256 abababababab...), this one has sha256 121212121212...: use the VAE that " +
		"made them, or encode again with this one"
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

// editManifest changes the manifest of a set.
func editManifest(t *testing.T, dir string, edit func(m *Manifest)) {
	t.Helper()
	path := filepath.Join(dir, ManifestName)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	edit(&m)
	if b, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
}

func TestOpenLatentsRefuses(t *testing.T) {
	_, err := Open(t.TempDir())
	if err == nil || !strings.Contains(err.Error(),
		"no manifest.json: not a folder of latents, or encoding has not finished") || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no manifest: error %v", err)
	}
	if _, err := Open("data/x"); err == nil || err.Error() != "open data/x: no such file or folder" {
		t.Errorf("missing folder: error %v", err)
	}
	for name, c := range map[string]struct {
		edit func(m *Manifest)
		want string
	}{
		"version":      {func(m *Manifest) { m.Version = 2 }, "version 2, this program reads version 1"},
		"format":       {func(m *Manifest) { m.Format = "x" }, `format "x", want "ditrun-latents"`},
		"path in name": {func(m *Manifest) { m.Shards[1].File = "../" + m.Shards[1].File }, "shard 1 is called"},
		"shard lost":   {func(m *Manifest) { m.Shards = m.Shards[:2] }, "2 shards, want 3 for 10 samples"},
		"range":        {func(m *Manifest) { m.Shards[1].First = 3 }, "shard 1: 4 samples with ids 3-8"},
		"count":        {func(m *Manifest) { m.Shards[2].Samples = 3 }, "shard 2: 3 samples"},
		"fewer":        {func(m *Manifest) { m.Shards[2].Samples = 1 }, "0 samples, the manifest says 1"},
		"bytes":        {func(m *Manifest) { m.Shards[0].Bytes++ }, "bytes, the manifest says"},
		"VAE":          {func(m *Manifest) { m.VAE.SHA256 = "x" }, "vae_sha256 is abab"},
		"scale":        {func(m *Manifest) { m.VAE.ScalingFactor = -1 }, "scaling factor -1"},
		"shape":        {func(m *Manifest) { m.Height = 1 << 40 }, "height 1099511627776: want 1 to"},
		"product":      {func(m *Manifest) { m.Height, m.Width = 1<<14, 1<<14 }, "want at most 268435456 bytes"},
		"samples":      {func(m *Manifest) { m.Dataset.Samples = 1 << 62 }, "want 1 to"},
		"few classes":  {func(m *Manifest) { m.Dataset.Classes = m.Dataset.Classes[:2] }, "label 2, want 0 to 1"},
		"means":        {func(m *Manifest) { m.Mean = nil }, "0 means"},
	} {
		dir := testLatents(t, testPlan(10))
		editManifest(t, dir, c.edit)
		if _, err := Open(dir); err == nil || !strings.HasPrefix(err.Error(), "open "+dir+": ") ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
	for _, b := range []string{"", "{", "[]", "null", `{"format":"ditrun-latents","version":1}`,
		`{"format":"ditrun-latents","version":1,"shards":7}`} {
		if _, err := Open(datatest.WriteFiles(t, map[string][]byte{ManifestName: []byte(b)})); err == nil ||
			!strings.Contains(err.Error(), "manifest.json: ") {
			t.Errorf("manifest %q: error %v", b, err)
		}
	}
}

func TestTruncatedShard(t *testing.T) {
	dir := testLatents(t, testPlan(10))
	path := filepath.Join(dir, "latents-00001-of-00003.safetensors")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(whole); n += 1 + n/9 {
		if err := os.WriteFile(path, whole[:n], 0o666); err != nil {
			t.Fatal(err)
		}
		_, err := Open(dir)
		if err == nil || !strings.HasPrefix(err.Error(),
			"open "+dir+": latents-00001-of-00003.safetensors: truncated or damaged: ") ||
			!strings.HasSuffix(err.Error(), "encode again, finished shards are kept") {
			t.Fatalf("cut at %d: error %v", n, err)
		}
	}
	if err := os.WriteFile(path, append(whole, 0), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil {
		t.Error("a shard with a byte too many was opened")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "missing: encode again") {
		t.Errorf("missing shard: error %v", err)
	}
}

func TestVerifyFindsDamage(t *testing.T) {
	dir := testLatents(t, testPlan(10))
	path := filepath.Join(dir, "latents-00001-of-00003.safetensors")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	whole[4096+5] ^= 1 // in the moments
	if err := os.WriteFile(path, whole, 0o666); err != nil {
		t.Fatal(err)
	}
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for mode, want := range map[string]string{
		"crc": `latents-00001-of-00003.safetensors: damaged: tensor "moments": crc32c`, "sha256": "damaged: sha256"} {
		if err := l.Verify(context.Background(), mode); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", mode, err, want)
		}
	}
}

// A shard cut short while it is mapped must not kill the program.
func TestShardShrinksWhileOpen(t *testing.T) {
	dir := testLatents(t, testPlan(10))
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Truncate(filepath.Join(dir, "latents-00001-of-00003.safetensors"), 0); err != nil {
		t.Fatal(err)
	}
	dst := make([]float32, l.RecordLen())
	if err := l.Read(5, false, dst); err == nil || !strings.Contains(err.Error(), "cut short") {
		t.Errorf("error %v", err)
	}
	if err := l.Read(0, false, dst); err != nil {
		t.Error(err)
	}
}

func FuzzManifest(f *testing.F) {
	m := Manifest{Format: latentsFormat, Version: latentsVersion, Plan: testPlan(4), Mean: make([]float64, 2),
		Std: make([]float64, 2)}
	m.Shards = []ShardInfo{{File: m.file(0), Samples: 4, End: 4, Bytes: 9000,
		CRC32C: map[string]string{"moments": "00000000"}}}
	b, err := json.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := parseManifest(b); err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Add([]byte(`{"format":"ditrun-latents","version":1,"dataset":{"samples":-1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseManifest(b)
		if err != nil {
			return
		}
		for k, s := range m.Shards {
			if strings.ContainsAny(s.File, "/\\") || s.Samples < 0 || s.Samples > m.ShardSize ||
				k*m.ShardSize != s.First {
				t.Errorf("shard %d: %+v", k, s)
			}
		}
		if m.recordSize() < 1 || m.recordSize() > maxRecord {
			t.Errorf("record of %d bytes", m.recordSize())
		}
	})
}
