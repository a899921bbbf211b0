package tokens

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ditrun/ditrun/data/captions"
	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/latents/latentstest"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// wordEncoder encodes by [latentstest.EncodeWords].
type wordEncoder struct {
	sum   string
	calls int
	fail  int // the call that fails, from 1
}

var errEncoder = errors.New("the encoder failed")

func (e *wordEncoder) Info() EncoderInfo { return EncoderInfo{"words", e.sum, 4, 3} }

func (e *wordEncoder) Encode(texts []string, states []float32, lengths []int32) error {
	if e.calls++; e.calls == e.fail {
		return errEncoder
	}
	latentstest.EncodeWords(texts, states, lengths)
	return nil
}

var textOptions = Options{BatchSize: 2, FileRows: 3}

func textOf(t testing.TB, dir string) *Set {
	t.Helper()
	text, err := Of(latentstest.Open(t, dir))
	if err != nil || text == nil {
		t.Fatalf("%v %v", text, err)
	}
	return text
}

func TestTextRoundTrip(t *testing.T) {
	ctx := context.Background()
	dir := latentstest.Make(t, latentstest.Plan(10))
	before := datatest.Contents(t, dir)
	if text, err := Of(latentstest.Open(t, dir)); text != nil || err != nil {
		t.Fatalf("%v %v", text, err)
	}
	c := latentstest.CaptionsOfIDs(t, 10)
	enc := &wordEncoder{sum: "s1"}
	s, err := Write(ctx, dir, c, enc, textOptions)
	if err != nil {
		t.Fatal(err)
	}
	if s.Rows != len(c.Texts) || s.Captions != 0+1+2+3+0+1+2+3+0+1 || s.Without != 3 || s.Kept {
		t.Errorf("%+v", s)
	}
	text := textOf(t, dir)
	texts, err := text.Texts()
	if err != nil || !slices.Equal(texts, c.Texts) || text.Encoder() != enc.Info() || text.Rows() != len(texts) {
		t.Errorf("%v %q %+v", err, texts, text.Encoder())
	}
	state := make([]float32, 12)
	for row, want := range texts {
		n, err := text.Read(row, state)
		if err != nil || n != 1+len(want)%4 || state[0] != float32(len(want)) ||
			state[11] != float32(len(want))+11.0/16 {
			t.Errorf("row %d %q: %v, %d tokens, %v", row, want, err, n, state)
		}
	}
	for id := range 10 {
		if got, want := text.Captions(id), c.Of(id); !slices.Equal(got, want) &&
			!(len(want) == 0 && slices.Equal(got, []int32{0})) {
			t.Errorf("record %d: rows %v, want %v", id, got, want)
		}
	}
	stored := make([]byte, text.RowBytes())
	if n, err := text.ReadStored(0, stored); err != nil || n != 1 ||
		checkpoint.FromFloat16(binary.LittleEndian.Uint16(stored[2:])) != 1.0/16 {
		t.Errorf("stored: %v %d %v", err, n, stored)
	}
	if _, err := text.ReadStored(0, stored[2:]); err == nil {
		t.Error("read into too little room")
	}
	if err := text.Verify(ctx); err != nil {
		t.Error(err)
	}
	if text.CheckEncoder("s1") != nil ||
		!strings.Contains(fmt.Sprint(text.CheckEncoder("s2")), "made with text encoder words") {
		t.Error(text.CheckEncoder("s1"), text.CheckEncoder("s2"))
	}
	for _, row := range []int{-1, text.Rows()} {
		if _, err := text.Read(row, state); err == nil {
			t.Errorf("read row %d", row)
		}
	}
	if _, err := text.Read(0, state[1:]); err == nil {
		t.Error("read into too little room")
	}
	// Nothing else changed, and nothing is left over.
	after := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != FolderName {
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			after[e.Name()] = string(b)
		}
	}
	datatest.SameContents(t, after, before)
	// The same again does no work; other captions or another encoder replace what is there.
	calls := enc.calls
	if s, err = Write(ctx, dir, c, enc, textOptions); err != nil || !s.Kept || enc.calls != calls {
		t.Errorf("%v %+v, %d calls", err, s, enc.calls-calls)
	}
	if s, err = Write(ctx, dir, c, &wordEncoder{sum: "s2"}, textOptions); err != nil || s.Kept ||
		textOf(t, dir).Encoder().SHA256 != "s2" {
		t.Errorf("%v %+v", err, s)
	}
	l := latentstest.Open(t, dir)
	if c, err = captions.OfClasses([]string{"class:one {}"}, l.Classes(), l.LabelsByID()); err != nil {
		t.Fatal(err)
	}
	if s, err = Write(ctx, dir, c, enc, textOptions); err != nil || s.Rows != 4 || s.Without != 0 ||
		textOf(t, dir).Rows() != 4 {
		t.Errorf("%v %+v", err, s)
	}
}

// TestTextSkippedSamples: captions go by record where samples were left out.
func TestTextSkippedSamples(t *testing.T) {
	dir, plan := t.TempDir(), latentstest.Plan(6)
	w, err := latents.NewWriter(dir, plan)
	if err != nil {
		t.Fatal(err)
	}
	for c, err := range w.Claims(context.Background(), 0, 1) {
		if err != nil {
			t.Fatal(err)
		}
		for id := c.Lo; id < c.Hi; id++ {
			if id == 3 {
				err = c.Skip(id, catalog.Sample{Name: "3"}, "bad")
			} else {
				err = c.Add([]int{id}, latentstest.Records(&plan, id, id+1, false),
					latentstest.Records(&plan, id, id+1, true), latentstest.Labels(id, id+1))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(context.Background()); err != nil {
		t.Fatal(err)
	}
	c := latentstest.CaptionsOfIDs(t, 6)
	s, err := Write(context.Background(), dir, c, &wordEncoder{sum: "s"}, textOptions)
	if err != nil || s.Captions != 1+2+1 || s.Without != 2 || s.Rows != 5 {
		t.Errorf("%v %+v", err, s)
	}
	l := latentstest.Open(t, dir)
	text, err := Of(l)
	if err != nil {
		t.Fatal(err)
	}
	texts, err := text.Texts()
	if err != nil {
		t.Fatal(err)
	}
	for r := range l.Len() {
		for k, row := range text.Captions(r) {
			if of := c.Of(l.ID(r)); len(of) > 0 && texts[row] != c.Texts[of[k]] || len(of) == 0 && row != 0 {
				t.Errorf("record %d: %q", r, texts[row])
			}
		}
	}
	if c, err = captions.OfClasses([]string{"class:{}"}, l.Classes(), l.LabelsByID()); err != nil ||
		c.Stats.Without != 0 || len(c.Of(3)) != 0 {
		t.Errorf("%v %+v", err, c)
	}
}

// TestTextResume: a call that was stopped at any batch is continued with the same bytes, and what was there stays
// in use.
func TestTextResume(t *testing.T) {
	ctx := context.Background()
	dir := latentstest.Make(t, latentstest.Plan(10))
	c := latentstest.CaptionsOfIDs(t, 10)
	set := latentstest.Open(t, dir)
	first, err := captions.OfClasses([]string{"class:{}"}, set.Classes(), set.LabelsByID())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Write(ctx, dir, first, &wordEncoder{sum: "s"}, textOptions); err != nil {
		t.Fatal(err)
	}
	whole := latentstest.Make(t, latentstest.Plan(10))
	full := &wordEncoder{sum: "s"}
	if _, err := Write(ctx, whole, c, full, textOptions); err != nil {
		t.Fatal(err)
	}
	most := 0
	for fail := 1; fail <= full.calls; fail++ {
		enc := &wordEncoder{sum: "s", fail: fail}
		if _, err := Write(ctx, dir, c, enc, textOptions); !errors.Is(err, errEncoder) {
			// Finished files are kept, so later calls are not reached.
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		most = max(most, enc.calls)
		if rows := textOf(t, dir).Rows(); rows != 4 {
			t.Fatalf("%d rows of the old captions", rows)
		}
	}
	if most >= full.calls {
		t.Errorf("%d batches after all files but one were kept, %d in all", most, full.calls)
	}
	datatest.SameContents(t, datatest.Contents(t, filepath.Join(dir, FolderName)),
		datatest.Contents(t, filepath.Join(whole, FolderName)))

	// Killed between the two renames.
	text, old := filepath.Join(dir, FolderName), filepath.Join(dir, textOld)
	if err := os.Rename(text, old); err != nil {
		t.Fatal(err)
	}
	if s, err := Write(ctx, dir, c, &wordEncoder{sum: "s", fail: 1}, textOptions); err != nil || !s.Kept {
		t.Errorf("%v %+v", err, s)
	}
	// Killed after them.
	if err := os.CopyFS(old, os.DirFS(text)); err != nil {
		t.Fatal(err)
	}
	if s, err := Write(ctx, dir, c, &wordEncoder{sum: "s", fail: 1}, textOptions); err != nil || !s.Kept {
		t.Errorf("%v %+v", err, s)
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("the old folder is still there")
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := Write(ctx, dir, first, &wordEncoder{sum: "s"}, textOptions); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// Two at once: one works, the other finds it done.
	var wg sync.WaitGroup
	encoders := [2]wordEncoder{{sum: "t"}, {sum: "t"}}
	for i := range encoders {
		wg.Go(func() {
			if _, err := Write(context.Background(), dir, c, &encoders[i], textOptions); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if encoders[0].calls+encoders[1].calls != full.calls {
		t.Errorf("%d and %d batches, want %d by one of them", encoders[0].calls, encoders[1].calls, full.calls)
	}
}

// badEncoder gives states that cannot be stored.
type badEncoder struct {
	info  EncoderInfo
	state float32
	count int32
}

func (e badEncoder) Info() EncoderInfo { return e.info }
func (e badEncoder) Encode(texts []string, states []float32, lengths []int32) error {
	for i := range states {
		states[i] = e.state
	}
	for i := range lengths {
		lengths[i] = e.count
	}
	return nil
}

func TestWriteTextRefuses(t *testing.T) {
	dir := latentstest.Make(t, latentstest.Plan(5))
	ok := EncoderInfo{"e", "s", 2, 2}
	for _, c := range []struct {
		enc     badEncoder
		samples int
		want    string
	}{
		{badEncoder{ok, 0, 1}, 6, "captions of 6 samples, the latents were made from 5"},
		{badEncoder{ok, float32(math.NaN()), 1}, 5, `caption "": state NaN cannot be stored`},
		{badEncoder{ok, 70000, 1}, 5, "state 70000 cannot be stored as float16"},
		{badEncoder{ok, 0, 0}, 5, "0 tokens, want 1 to 2"},
		{badEncoder{ok, 0, 3}, 5, "3 tokens, want 1 to 2"},
		{badEncoder{EncoderInfo{"e", "", 2, 2}, 0, 1}, 5, "no name or sha256"},
		{badEncoder{EncoderInfo{"e", "s", 0, 2}, 0, 1}, 5, "0 tokens of width 2"},
		{badEncoder{EncoderInfo{"e", "s", 1 << 16, 1 << 16}, 0, 1}, 5, "at most"},
	} {
		if _, err := Write(context.Background(), dir, latentstest.CaptionsOfIDs(t, c.samples), c.enc,
			textOptions); err == nil ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.enc, err, c.want)
		}
	}
	if _, err := Write(context.Background(), t.TempDir(), latentstest.CaptionsOfIDs(t, 5), &wordEncoder{sum: "s"},
		textOptions); err == nil || !strings.Contains(err.Error(), "not a folder of latents") {
		t.Error(err)
	}
}

// TestOpenTextRefuses damages each part of the folder; TestDamagedCaptions of package stream does so for batches.
func TestOpenTextRefuses(t *testing.T) {
	base := latentstest.Make(t, latentstest.Plan(10))
	if _, err := Write(context.Background(), base, latentstest.CaptionsOfIDs(t, 10), &wordEncoder{sum: "s"},
		textOptions); err != nil {
		t.Fatal(err)
	}
	info, err := readText(filepath.Join(base, FolderName))
	if err != nil {
		t.Fatal(err)
	}
	states := info.names()[3] // the second file of states
	for _, c := range latentstest.TextDamages(states) {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(base)); err != nil {
			t.Fatal(err)
		}
		if err := c.Do(filepath.Join(dir, FolderName)); err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		_, err := Of(latentstest.Open(t, dir))
		if err == nil || !strings.Contains(err.Error(), c.Want) || !strings.Contains(err.Error(), textWayOut) {
			t.Errorf("%s: %v, want %q", c.Name, err, c.Want)
		}
		if _, err := Write(context.Background(), dir, latentstest.CaptionsOfIDs(t, 10), &wordEncoder{sum: "s2"},
			textOptions); err != nil {
			t.Errorf("%s: the way out: %v", c.Name, err)
		} else {
			textOf(t, dir)
		}
	}
	// What opening does not see Verify finds.
	if err := latentstest.Poke(filepath.Join(base, FolderName, states), tensorStates, 5, 7, 2); err != nil {
		t.Fatal(err)
	}
	if err := textOf(t, base).Verify(context.Background()); err == nil ||
		!strings.Contains(err.Error(), states+": damaged: sha256") {
		t.Error(err)
	}
}

// statesFile writes token states as another program would.
func statesFile(t testing.TB, dtype checkpoint.DType, rows int, lengths []int32, meta map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "states.safetensors")
	var states, counts []byte
	for i := range rows * 6 {
		if dtype == checkpoint.F16 {
			states = binary.LittleEndian.AppendUint16(states, checkpoint.Float16(float32(i)/4))
		} else {
			states = binary.LittleEndian.AppendUint32(states, math.Float32bits(float32(i)/4))
		}
	}
	for _, n := range lengths {
		counts = binary.LittleEndian.AppendUint32(counts, uint32(n))
	}
	err := checkpoint.Write(path, []checkpoint.Tensor{
		{Info: checkpoint.Info{Name: "states", DType: dtype, Shape: []int64{int64(rows), 2, 3}}, Data: states},
		{Info: checkpoint.Info{Name: "lengths", DType: checkpoint.I32, Shape: []int64{int64(len(lengths))}},
			Data: counts},
	}, meta)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTokenStates(t *testing.T) {
	meta := map[string]string{"encoder": "other", "captions": `["","a c","unused","a a","a b"]`}
	dir := latentstest.Make(t, latentstest.Plan(5))
	set := latentstest.Open(t, dir)
	c, err := captions.OfClasses([]string{"class:a {}"}, set.Classes(), set.LabelsByID())
	if err != nil {
		t.Fatal(err)
	}
	for _, dtype := range []checkpoint.DType{checkpoint.F16, checkpoint.F32} {
		path := statesFile(t, dtype, 5, []int32{1, 2, 1, 1, 2}, meta)
		states, err := OpenStates(path)
		if err != nil {
			t.Fatal(err)
		}
		sum, err := disk.SHA256(path)
		if err != nil || states.Info() != (EncoderInfo{"other", sum, 2, 3}) {
			t.Errorf("%v %+v", err, states.Info())
		}
		if _, err := Write(context.Background(), dir, c, states, Options{}); err != nil {
			t.Fatal(err)
		}
		text := textOf(t, dir)
		got := make([]float32, 6)
		for id, want := range []struct {
			first  float32
			tokens int
		}{{18. / 4, 1}, {24. / 4, 2}, {6. / 4, 2}, {18. / 4, 1}} {
			if n, err := text.Read(text.Draw(id, 1, 1), got); err != nil || got[0] != want.first || n != want.tokens {
				t.Errorf("%s record %d: %v, %d tokens, %v", dtype, id, err, n, got)
			}
		}
		err = states.Check([]string{"", "m1", "a c", "m2", "m3", "m4", "m5", "m6"})
		if want := `lacks 6 of 8 captions: "m1", "m2", "m3", "m4", "m5", ...`; err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if states.Encode([]string{"m1"}, got, []int32{0}) == nil {
			t.Error("encoded a caption that is not there")
		}
		states.Close()
	}
	for want, path := range map[string]string{
		"no such file": filepath.Join(dir, "nowhere.safetensors"),
		`metadata lacks "encoder"`: statesFile(t, checkpoint.F16, 1, []int32{1},
			map[string]string{"captions": `[""]`}),
		"want a JSON array": statesFile(t, checkpoint.F16, 1, []int32{1},
			map[string]string{"encoder": "e", "captions": `{}`}),
		"2 texts for 1 row": statesFile(t, checkpoint.F16, 1, []int32{1},
			map[string]string{"encoder": "e", "captions": `["","a"]`}),
		`the first is the empty one`: statesFile(t, checkpoint.F16, 1, []int32{1},
			map[string]string{"encoder": "e", "captions": `["a"]`}),
		`"a" twice, rows 1 and 2`: statesFile(t, checkpoint.F16, 3, []int32{1, 1, 1},
			map[string]string{"encoder": "e", "captions": `["","a","a"]`}),
		"lengths I32 [2], want I32 [1]":    statesFile(t, checkpoint.F16, 1, []int32{1, 1}, meta),
		"lengths: 3 of row 0: want 1 to 2": statesFile(t, checkpoint.F16, 5, []int32{3, 1, 1, 1, 1}, meta),
		"states: BF16, want F16 or F32":    statesFile(t, checkpoint.BF16, 0, nil, meta),
		"want tensors states":              filepath.Join(dir, "latents-00000-of-00002.safetensors"),
	} {
		if s, err := OpenStates(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v %v, want %q", s, err, want)
		}
	}
}

func FuzzText(f *testing.F) {
	dir := latentstest.Make(f, latentstest.Plan(10))
	if _, err := Write(context.Background(), dir, latentstest.CaptionsOfIDs(f, 10), &wordEncoder{sum: "s"},
		textOptions); err != nil {
		f.Fatal(err)
	}
	var names []string
	for name, b := range datatest.Contents(f, filepath.Join(dir, FolderName)) {
		names = append(names, name)
		f.Add(name, []byte(b))
	}
	l := latentstest.Open(f, dir)
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		if !slices.Contains(names, name) {
			return
		}
		if name == textManifest {
			if info, err := parseText(b); err == nil && (len(info.names()) != len(info.Files) || info.Rows < 1) {
				t.Errorf("%+v", info)
			}
			return
		}
		text := &Set{dir: t.TempDir()}
		info, err := readText(filepath.Join(dir, FolderName))
		if err != nil {
			t.Fatal(err)
		}
		text.info = *info
		for i, file := range info.Files {
			path := filepath.Join(text.dir, file.File)
			if file.File == name {
				text.info.Files[i].Bytes = int64(len(b))
				err = os.WriteFile(path, b, 0o666)
			} else {
				err = os.Symlink(filepath.Join(dir, FolderName, file.File), path)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		defer text.Close()
		if text.open() != nil {
			return
		}
		state := make([]float32, 12)
		for r := range l.Len() {
			for _, row := range text.Captions(r) {
				if n, err := text.Read(int(row), state); err != nil || n < 1 || n > 4 {
					t.Errorf("record %d row %d: %d, %v", r, row, n, err)
				}
			}
		}
	})
}
