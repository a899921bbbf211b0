package main

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/tokens"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// writeStates writes token states as another program would, called "toy" unless encoder says otherwise: row i holds 2
// tokens of the number i.
func writeStates(t *testing.T, texts []string, encoder ...string) string {
	t.Helper()
	const length, width = 3, 4
	var states, lengths []byte
	for i := range texts {
		for range length * width {
			states = binary.LittleEndian.AppendUint16(states, uint16(0x3c00+i))
		}
		lengths = binary.LittleEndian.AppendUint32(lengths, 2)
	}
	list, err := json.Marshal(texts)
	if err != nil {
		t.Fatal(err)
	}
	n := int64(len(texts))
	path := filepath.Join(t.TempDir(), "states.safetensors")
	err = checkpoint.Write(path, []checkpoint.Tensor{
		{Info: checkpoint.Info{Name: "states", DType: checkpoint.F16, Shape: []int64{n, length, width}}, Data: states},
		{Info: checkpoint.Info{Name: "lengths", DType: checkpoint.I32, Shape: []int64{n}}, Data: lengths},
	}, map[string]string{"encoder": append(encoder, "toy")[0], "captions": string(list)})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestEncodeCaptions: captions are listed for another program, whose states are then kept beside the latents; a file of
// states for other captions is refused and what was there stays.
func TestEncodeCaptions(t *testing.T) {
	r := theRoad(t)
	pictures, out := writeTree(t, 4), filepath.Join(t.TempDir(), "latents")
	table := filepath.Join(t.TempDir(), "captions.csv")
	hostile := "00.png,\"a cat,\nasleep\"\n01.png,   \n02.png,\xff\xfe\x00 \u202ereversed\n03.png," +
		strings.Repeat("long ", 1000) + "\nother.png,nobody\n"
	write(t, table, []byte(hostile))
	args := []string{"encode-latents", "--data", pictures, "--vae", r.vae, "--out", out, "--image-size", "8",
		"--captions", table}
	o := ditrun(t, args...)
	if o.code != 0 {
		t.Fatalf("code %d: %s", o.code, o.stderr)
	}
	for _, want := range []string{`captions of pictures that are not here, such as "other.png": 1`,
		"empty captions, which count as none: 1",
		"captions that are not UTF-8, whose bad bytes became U+FFFD: 1", "captions cut to 4096 bytes: 1"} {
		if !strings.Contains(o.stderr, want) {
			t.Errorf("errors\n%swant %q", o.stderr, want)
		}
	}
	texts := strings.Split(strings.TrimSuffix(string(read(t, filepath.Join(out, captionsName))), "\n"), "\n")
	if len(texts) != 4 || texts[0] != "" || !slices.Contains(texts, "a cat, asleep") ||
		!slices.Contains(texts, "\uFFFD\x00 \u202ereversed") {
		t.Fatalf("listed %.60q", texts)
	}

	states := writeStates(t, texts)
	o = ditrun(t, append(args, "--text-states", states, "--json")...)
	var result struct {
		Captions    int
		Distinct    int    `json:"distinct_captions"`
		Without     int    `json:"without_caption"`
		TextEncoder string `json:"text_encoder"`
		Width       int    `json:"text_width"`
	}
	if err := json.Unmarshal([]byte(o.stdout), &result); err != nil || o.code != 0 || result.Captions != 3 ||
		result.Distinct != 4 || result.Without != 1 || result.TextEncoder != "toy" || result.Width != 4 {
		t.Fatalf("code %d, result %+v (%v): %s", o.code, result, err, o.stderr)
	}
	l, err := latents.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	text, err := tokens.Of(l)
	if err != nil || text == nil {
		t.Fatalf("no captions: %v", err)
	}
	got := make([]float32, 12)
	row := text.Captions(0)[0]
	if n, err := text.Read(int(row), got); err != nil || n != 2 || got[0] != 1+float32(row)/1024 {
		t.Errorf("row %d: %d tokens of %v, %v", row, n, got[0], err)
	}

	// A model trains on them, with any block; without captions it says how to get some.
	args = []string{"train", "--data", out, "--model", "DiT-16x1x2/2", "--global-batch-size", "4", "--max-steps", "2",
		"--ema-decay", "0.5", "--condition", "text+class"}
	run := filepath.Join(t.TempDir(), "run")
	if o := ditrun(t, append(args, "--block", "cross-attention", "--sample-every", "2", "--vae", r.vae, "--run-dir",
		run)...); o.code != 0 {
		t.Errorf("train: code %d: %s", o.code, o.stderr)
	}
	checkLog(t, run, 2)
	size(t, filepath.Join(run, "samples", "0000002.png"))
	// The checkpoint knows its encoder, is sampled by prompt, and brings its condition to another run.
	sample := []string{"sample", "--ckpt", run, "--vae", r.vae, "--num-sampling-steps", "3", "--text-states", states,
		"--prompt", "a cat, asleep", "--class-labels", "0"}
	mustRun(t, append(sample, "--out", filepath.Join(t.TempDir(), "cat.png"))...)
	others := writeStates(t, []string{"", "a cat, asleep"}, "another")
	ditrun(t, append(sample, "--text-states", others, "--out", filepath.Join(t.TempDir(), "cat.png"))...).refused(t, 1,
		"is another (", "the model was trained with toy (")
	mustRun(t, "train", "--data", out, "--global-batch-size", "4", "--max-steps", "2", "--ema-decay", "0.5",
		"--init-from", run, "--run-dir", run+"3")
	ditrun(t, append(args, "--data", r.latents, "--run-dir", run+"2")...).refused(t, 1,
		"has no captions, for --condition text+class", "hint: encode-latents --captions adds them to latents")
	ditrun(t, append(args, "--condition", "smell", "--run-dir", run+"2")...).refused(t, 2, "smell")

	before := read(t, filepath.Join(out, tokens.FolderName, "text.json"))
	ditrun(t, "encode-latents", "--out", out, "--captions", "class:a photo of a {}", "--text-states", states).refused(t,
		1, "lacks 2 of 3 captions", "hint: --captions without --text-states")
	ditrun(t, "encode-latents", "--out", out, "--captions", "class:a photo", "--text-states", states).refused(t, 1,
		"want {} in the place of the class name")
	ditrun(t, "encode-latents", "--out", out, "--captions", "class:{}", "--text-encoder",
		filepath.Join(out, "none")).refused(t, 1, "none: no such file")
	if string(read(t, filepath.Join(out, tokens.FolderName, "text.json"))) != string(before) {
		t.Error("a refused command changed the captions")
	}

	// A damaged state is found by --verify.
	file := filepath.Join(out, tokens.FolderName, "states-00000-of-00001.safetensors")
	b := read(t, file)
	b[len(b)-20] ^= 1
	if err := os.WriteFile(file, b, 0o666); err != nil {
		t.Fatal(err)
	}
	ditrun(t, "encode-latents", "--out", out, "--verify").refused(t, 1,
		"states-00000-of-00001.safetensors: damaged: sha256")
}
