package stream

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/captions"
	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/latents/latentstest"
	"github.com/ditrun/ditrun/data/tokens"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/philox"
)

var words = tokens.EncoderInfo{Name: "words", SHA256: "s", Length: 4, Width: 3}

// wordEncoder is a text encoder of 4 tokens of width 3: a state is the length of the text, the token and the place.
type wordEncoder struct{}

func (wordEncoder) Info() tokens.EncoderInfo { return words }

func (wordEncoder) Encode(texts []string, states []float32, lengths []int32) error {
	for i, text := range texts {
		lengths[i] = int32(1 + len(text)%4)
		for j := range 12 {
			states[i*12+j] = float32(len(text)) + float32(j)/16
		}
	}
	return nil
}

// numbered is a source of n samples of one class, named by their ids.
type numbered struct {
	catalog.Source // of which no more is asked
	n              int
}

func (s numbered) Len() int          { return s.n }
func (s numbered) Classes() []string { return []string{"a"} }
func (s numbered) Sample(id int) catalog.Sample {
	return catalog.Sample{Name: fmt.Sprintf("%d.png", id)}
}

// addCaptionsOfIDs adds captions to the set of n samples in dir, by their ids: id % 4 captions each.
func addCaptionsOfIDs(t testing.TB, dir string, n int) *captions.Set {
	t.Helper()
	var table strings.Builder
	for id := range n {
		for k := range id % 4 {
			fmt.Fprintf(&table, "a/%d.png,%s%s\n", id, strings.Repeat("x", id%5+1), strings.Repeat("y", k))
		}
	}
	file := filepath.Join(t.TempDir(), "captions.csv")
	if err := os.WriteFile(file, []byte(table.String()), 0o666); err != nil {
		t.Fatal(err)
	}
	c, err := captions.Read(context.Background(), []string{file}, numbered{n: n})
	if err != nil {
		t.Fatal(err)
	}
	o := tokens.Options{BatchSize: 2, FileRows: 3}
	if _, err := tokens.Write(context.Background(), dir, c, wordEncoder{}, o); err != nil {
		t.Fatal(err)
	}
	return c
}

// reopened opens the set anew, as its captions are read once.
func reopened(t testing.TB, dir string) *latents.Set {
	t.Helper()
	l, err := latents.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestTextBatches(t *testing.T) {
	dir := latentstest.Make(t, latentstest.Plan(10))
	l := reopened(t, dir)
	o := Options{GlobalBatch: 2, MaxSteps: 1, Captions: true}
	for _, err := range Batches(context.Background(), l, o) {
		if err == nil || !strings.Contains(err.Error(), "no captions in this set") {
			t.Error(err)
		}
	}
	c := addCaptionsOfIDs(t, dir, 10)
	l = reopened(t, dir)
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
			if b.CaptionRows[slot] != want || b.TokenLengths[slot] != 1+size%4 || b.Tokens[slot*12] != float32(size) {
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

// TestDamagedCaptions makes the damage of TestOpenTextRefuses of package tokens: batches tell of it as opening does.
func TestDamagedCaptions(t *testing.T) {
	base := latentstest.Make(t, latentstest.Plan(10))
	addCaptionsOfIDs(t, base, 10)
	const manifest, index = "text.json", "index.safetensors"
	found, err := filepath.Glob(filepath.Join(base, tokens.FolderName, "states-00001-of-*.safetensors"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	states := filepath.Base(found[0])
	edit := func(change func(i map[string]any)) func(string) error {
		return func(dir string) error {
			file := filepath.Join(dir, manifest)
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			var info map[string]any
			if err := json.Unmarshal(b, &info); err != nil {
				return err
			}
			delete(info, "sha256") // the sum of the file itself
			change(info)
			if b, err = json.Marshal(info); err != nil {
				return err
			}
			return os.WriteFile(file, b, 0o666)
		}
	}
	set := func(key string, value any) func(string) error {
		return edit(func(i map[string]any) { i[key] = value })
	}
	setEncoder := func(key string, value any) func(string) error {
		return edit(func(i map[string]any) { i["encoder"].(map[string]any)[key] = value })
	}
	// poke writes a number of the given bytes into a tensor at an element.
	poke := func(file, tensor string, element int, value uint64, size int) func(string) error {
		return func(dir string) error {
			f, err := checkpoint.OpenSafetensors(filepath.Join(dir, file))
			if err != nil {
				return err
			}
			info, ok := f.Lookup(tensor)
			f.Close()
			if !ok {
				return fmt.Errorf("no tensor %s", tensor)
			}
			return overwrite(filepath.Join(dir, file), info.Offset+int64(size*element),
				binary.LittleEndian.AppendUint64(nil, value)[:size])
		}
	}
	write := func(file, text string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, file), []byte(text), 0o666) }
	}
	remove := func(file string) func(string) error {
		return func(dir string) error { return os.Remove(filepath.Join(dir, file)) }
	}
	for _, c := range []struct {
		name, want string
		damage     func(dir string) error
	}{
		{"no text.json", "no text.json", remove(manifest)},
		{"not JSON", "text.json: invalid", write(manifest, "x")},
		{"other format", `format "y", version 1`, write(manifest, `{"format":"y","version":1}`)},
		{"other version", "version 2: this program reads ditrun-text, version 1", set("version", 2)},
		{"other data set", "made for other latents (10 of data set other...", set("dataset", "other")},
		{"other records", "made for other latents", set("records", "0")},
		{"other number of records", "made for other latents (9 of", set("samples", 9)},
		{"no rows", "0 rows", set("rows", 0)},
		{"many rows", "files, want", edit(func(i map[string]any) { i["rows"], i["file_rows"] = 1<<31-1, 1 })},
		{"absurd shape", "states of 1099511627776 tokens", setEncoder("length", 1<<40)},
		{"dtype", `dtype "F64"`, set("dtype", "F64")},
		{"path", `file 1 is called "../x"`,
			edit(func(i map[string]any) { i["files"].([]any)[1].(map[string]any)["file"] = "../x" })},
		{"other width", "states [3 4 3], want [n, 4, 2]", setEncoder("width", 2)},
		{"file missing", states + ": missing", remove(states)},
		{"file truncated", states + ": 100 bytes, text.json says",
			func(dir string) error { return os.Truncate(filepath.Join(dir, states), 100) }},
		{"length 0", "lengths: 0 of row 2: want 1 to 4", poke(states, "lengths", 2, 0, 4)},
		{"length 5", "lengths: 5 of row 0: want 1 to 4", poke(states, "lengths", 0, 5, 4)},
		{"row out of range", "rows: 99 at 3: want 0 to", poke(index, "rows", 3, 99, 4)},
		{"row negative", "rows: -1 at 3", poke(index, "rows", 3, 1<<32-1, 4)},
		{"offsets descend", "offsets: 0 at 4: want them to ascend", poke(index, "offsets", 4, 0, 8)},
		{"offsets begin late", "offsets: 1 at 0", poke(index, "offsets", 0, 1, 8)},
		{"offsets end late", "offsets: 99 at 10", poke(index, "offsets", 10, 99, 8)},
		{"header", states + ": ",
			func(dir string) error {
				return overwrite(filepath.Join(dir, states), 0, []byte(strings.Repeat("\xff", 8)))
			}},
	} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(base)); err != nil {
			t.Fatal(err)
		}
		if err := c.damage(filepath.Join(dir, tokens.FolderName)); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		l := reopened(t, dir)
		_, err := tokens.Of(l)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		n := 0
		for _, err2 := range Batches(context.Background(), l, Options{GlobalBatch: 2, MaxSteps: 1, Captions: true}) {
			if fmt.Sprint(err2) != fmt.Sprint(err) {
				t.Errorf("%s: batches: %v", c.name, err2)
			}
			n++
		}
		if n != 1 {
			t.Errorf("%s: %d items, want one error", c.name, n)
		}
	}
}

// overwrite changes the bytes of a file at an offset.
func overwrite(path string, at int64, b []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(b, at)
	return err
}
