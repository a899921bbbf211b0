package latentstest

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
	"github.com/ditrun/ditrun/torch/checkpoint"
)

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

// CaptionsOfIDs captions n samples by their ids: id % 4 captions each.
func CaptionsOfIDs(t testing.TB, n int) *captions.Set {
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
	return c
}

// EncodeWords is a text encoder of 4 tokens of width 3: a state is the length of the text, the token and the place.
func EncodeWords(texts []string, states []float32, lengths []int32) {
	for i, text := range texts {
		lengths[i] = int32(1 + len(text)%4)
		for j := range 12 {
			states[i*12+j] = float32(len(text)) + float32(j)/16
		}
	}
}

// TextDamage is one way to damage the folder of captions in a set of latents, and what opening it then says.
type TextDamage struct {
	Name, Want string
	Do         func(dir string) error
}

// TextDamages damage the captions of [CaptionsOfIDs] of 10 samples, as [EncodeWords] encodes them, in files of 3 rows.
// States is the name of the second file of states.
func TextDamages(states string) []TextDamage {
	const manifest, index = "text.json", "index.safetensors"
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
	poke := func(file, tensor string, element int, value uint64, size int) func(string) error {
		return func(dir string) error { return Poke(filepath.Join(dir, file), tensor, element, value, size) }
	}
	write := func(file, text string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, file), []byte(text), 0o666) }
	}
	remove := func(file string) func(string) error {
		return func(dir string) error { return os.Remove(filepath.Join(dir, file)) }
	}
	return []TextDamage{
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
	}
}

// Poke writes a number of the given bytes into a tensor at an element.
func Poke(path, tensor string, element int, value uint64, size int) error {
	f, err := checkpoint.OpenSafetensors(path)
	if err != nil {
		return err
	}
	info, ok := f.Lookup(tensor)
	f.Close()
	if !ok {
		return fmt.Errorf("no tensor %s", tensor)
	}
	return overwrite(path, info.Offset+int64(size*element), binary.LittleEndian.AppendUint64(nil, value)[:size])
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
