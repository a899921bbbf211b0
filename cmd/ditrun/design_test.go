package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/png"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// TestBlocksOnTheRoad: each kind of block is trained, looked at, converted there and back, sampled and trained further.
func TestBlocksOnTheRoad(t *testing.T) {
	r := theRoad(t)
	for _, block := range dit.BlockKinds() {
		dir := t.TempDir()
		run := filepath.Join(dir, "run")
		o := mustRun(t, r.train("--block", block.String(), "--run-dir", run, "--max-steps", "2", "--log-every", "1")...)
		if block != dit.AdaLNZero &&
			!strings.Contains(o.stdout, "DiT-16x1x2/2 with "+block.String()+" blocks on 4 classes, 4 tokens") {
			t.Errorf("printed\n%s", o.stdout)
		}
		checkLog(t, run, 1, 2)
		var seen struct{ Block, Condition string }
		if err := json.Unmarshal([]byte(mustRun(t, "inspect", "--json", run).stdout), &seen); err != nil ||
			seen.Block != block.String() || seen.Condition != "class" {
			t.Errorf("inspect says %+v (%v)", seen, err)
		}
		pt, back := filepath.Join(dir, "a.pt"), filepath.Join(dir, "b.safetensors")
		o = mustRun(t, "convert", "--ckpt", run, "--to", "official", "--out", pt)
		if block != dit.AdaLNZero == !strings.Contains(o.stdout,
			"the original knows only adaln-zero blocks conditioned on classes") {
			t.Errorf("%s: convert printed\n%s", block, o.stdout)
		}
		mustRun(t, "convert", "--ckpt", pt, "--model", "DiT-16x1x2/2", "--to", "ditrun", "--out", back)
		sheet := filepath.Join(dir, "sheet.png")
		mustRun(t, "sample", "--ckpt", run, "--vae", r.vae, "--num-sampling-steps", "3", "--out", sheet)
		size(t, sheet)
		// Weights bring their blocks with them.
		mustRun(t, r.train("--init-from", run, "--run-dir", filepath.Join(dir, "more"), "--max-steps", "2",
			"--log-every", "1")...)
		if config := string(read(t, filepath.Join(dir, "more", "config.yaml"))); !strings.Contains(config,
			"block: "+block.String()+"\n") {
			t.Errorf("config.yaml lacks the block %s:\n%s", block, config)
		}
		mustRun(t, r.train("--block", block.String(), "--run-dir", run, "--max-steps", "3", "--log-every", "1",
			"--resume", "auto")...)
		if block == dit.InContext {
			ditrun(t, "convert", "--ckpt", run, "--to", "diffusers", "--vae", r.vae, "--out",
				filepath.Join(dir, "c")).refused(t, 1,
				"DiT-16x1x2/2 with in-context blocks on 4 classes: diffusers only has DiT with adaln-zero blocks on "+
					"classes")
			ditrun(t, r.train("--init-from", run, "--block", "adaln", "--run-dir",
				filepath.Join(dir, "no"))...).refused(t, 2, "holds a model of block in-context, --block asks for adaln")
		}
	}
}

// TestNoCondition: without labels, there is nothing to guide by and nothing to name pictures by.
func TestNoCondition(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	run := filepath.Join(dir, "run")
	o := mustRun(t, r.train("--unconditional", "--run-dir", run, "--max-steps", "2", "--sample-every", "2", "--vae",
		r.vae)...)
	if !strings.Contains(o.stdout, "DiT-16x1x2/2 on no condition, 4 tokens") {
		t.Errorf("printed\n%s", o.stdout)
	}
	size(t, filepath.Join(run, "samples", "0000002.png"))
	folder := filepath.Join(dir, "folder")
	sample := []string{"sample", "--ckpt", run, "--vae", r.vae, "--num-sampling-steps", "3"}
	mustRun(t, append(sample, "--num-samples", "2", "--out", folder)...)
	if got := string(read(t, filepath.Join(folder, "labels.csv"))); got != "file\n000000.png\n000001.png\n" {
		t.Errorf("labels.csv is\n%s", got)
	}
	mustRun(t, append(sample, "--out", filepath.Join(dir, "a.npz"))...)
	mustRun(t, r.train("--init-from", run, "--run-dir", filepath.Join(dir, "more"), "--max-steps", "2")...)
	ditrun(t, append(sample, "--class-labels", "1", "--out", filepath.Join(dir, "a.png"))...).refused(t, 2,
		"--class-labels: the model has no classes, it is a model of no condition")
	ditrun(t, append(sample, "--cfg-scale", "2", "--out", filepath.Join(dir, "a.png"))...).refused(t, 1,
		"there is nothing to steer away from")
	ditrun(t, r.train("--unconditional", "--condition", "class", "--run-dir", filepath.Join(dir, "no"))...).refused(t,
		2, "--unconditional and --condition class exclude each other")
}

// TestPrompts samples a model of text with the states that another program made of the prompts.
func TestPrompts(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	checkpointOf := func(name string, condition dit.ConditionKind, length int) string {
		path := filepath.Join(dir, name)
		err := torch.Run(torch.CPU, func(s *torch.Scope) error {
			cfg, err := dit.Named("DiT-16x1x2/2")
			if err != nil {
				return err
			}
			cfg.SetInput(4, 4)
			cfg.SetCondition(condition, 4, 4, length)
			m, err := dit.New(s, cfg)
			if err != nil {
				return err
			}
			defer nn.Close(m)
			gen, err := torch.NewGenerator(torch.CPU, 1)
			if err != nil {
				return err
			}
			for _, p := range nn.Params(m) { // nothing at zero, or text has no effect yet
				nn.Normal(s, gen, p, 0.3)
			}
			return dit.Save(path, nn.Snapshot(nn.List(m)),
				dit.Info{Config: cfg, ImageSize: 8, ScalingFactor: 1,
					TextEncoder: dit.TextEncoder{Name: "toy", SHA256: "of the captions"}})
		})
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	model, both := checkpointOf("text.safetensors", dit.OnText, 3),
		checkpointOf("both.safetensors", dit.OnTextAndClass, 3)
	states := writeStates(t, []string{"", "a red shoe, new", "boots", "blue"})
	sample := func(ckpt, out string, more ...string) []string {
		return slices.Concat([]string{"sample", "--ckpt", ckpt, "--vae", r.vae, "--num-sampling-steps", "3",
			"--text-states", states, "--out", filepath.Join(dir, out)}, more)
	}
	folder := func(name string, more ...string) (csv string, pictures []string) {
		mustRun(t, sample(model, name, more...)...)
		for _, f := range list(t, filepath.Join(dir, name)) {
			if strings.HasSuffix(f, ".png") {
				img, err := png.Decode(bytes.NewReader(read(t, filepath.Join(dir, name, f))))
				if err != nil {
					t.Fatal(err)
				}
				pictures = append(pictures, fmt.Sprint(img)) // without the recipe, which is another
			}
		}
		return string(read(t, filepath.Join(dir, name, "labels.csv"))), pictures
	}
	csv, pictures := folder("f", "--prompt", "a red shoe, new", "--prompt", "boots", "--num-samples", "4")
	if csv != "file,prompt\n000000.png,\"a red shoe, new\"\n000001.png,\"a red shoe, "+
		"new\"\n000002.png,boots\n000003.png,boots\n" {
		t.Errorf("labels.csv is\n%s", csv)
	}
	_, other := folder("g", "--prompt", "boots", "--num-samples", "4")
	if pictures[0] == other[0] || pictures[2] != other[2] || pictures[3] != other[3] {
		t.Error("pictures do not follow their prompts, or not theirs alone")
	}
	_, negative := folder("h", "--prompt", "boots", "--num-samples", "4", "--negative-prompt", "blue")
	if slices.Equal(negative, other) {
		t.Error("a negative prompt changes nothing")
	}
	mustRun(t, sample(model, "sheet.png", "--prompt", "boots", "--num-samples", "2")...)
	size(t, filepath.Join(dir, "sheet.png"))
	mustRun(t, sample(both, "k", "--prompt", "boots", "--prompt", "blue", "--class-labels", "3")...)
	if got := string(read(t,
		filepath.Join(dir, "k",
			"labels.csv"))); got != "file,label,class,prompt\n000000.png,3,3,boots\n000001.png,3,3,blue\n" {
		t.Errorf("labels.csv is\n%s", got)
	}

	// Prompts may be of fewer tokens than the captions were, not of more.
	mustRun(t, sample(checkpointOf("long.safetensors", dit.OnText, 5), "long.png", "--prompt", "boots")...)
	ditrun(t, sample(checkpointOf("short.safetensors", dit.OnText, 2), "n.png", "--prompt", "boots")...).refused(t, 1,
		"makes 3 tokens of width 4, the model takes up to 2 of width 4")

	ditrun(t, sample(model, "n.png")...).refused(t, 2,
		"--prompt is required: the model takes text of 3 tokens of width 4")
	ditrun(t, sample(model, "n.png", "--prompt", "boots", "--class-labels", "1")...).refused(t, 2,
		"the model has no classes")
	ditrun(t, sample(model, "n.png", "--prompt", "sandals")...).refused(t, 1, `lacks 1 of 2 captions: "sandals"`)
	ditrun(t, sample(model, "n.png", "--prompt", "boots", "--text-encoder", dir)...).refused(t, 2,
		"needs one of --text-encoder and --text-states",
		"hint: give the encoder of the captions that the model was trained with (toy)")
	ditrun(t, sample(model, "n.png", "--prompt", "boots", "--negative-prompt", "blue", "--cfg-scale", "1")...).refused(
		t, 2, "--negative-prompt: has no effect")
	ditrun(t, sample(both, "n.png", "--prompt", "boots")...).refused(t, 2, "--class-labels is required beside --prompt")
	ditrun(t, r.sample(filepath.Join(dir, "n.png"), "--prompt", "boots")...).refused(t, 2,
		"the model takes no text, it is a model of 4 classes")
	ditrun(t, r.train("--condition", "text", "--run-dir", filepath.Join(dir, "no"))...).refused(t, 1,
		"has no captions, for --condition text")
}

// TestRecomputing: less memory for the same bits, in a run that may be continued without.
func TestRecomputing(t *testing.T) {
	r := theRoad(t)
	plain, again := filepath.Join(t.TempDir(), "run"), filepath.Join(t.TempDir(), "run")
	mustRun(t, r.train("--run-dir", plain, "--max-steps", "3")...)
	mustRun(t, r.train("--run-dir", again, "--max-steps", "3", "--ckpt-every", "2", "--recompute-activations")...)
	equalFiles(t, filepath.Join(plain, "checkpoints", "latest"), filepath.Join(again, "checkpoints", "latest"),
		checkpointFiles...)
}

// TestMetricsAddr: what the log says can be fetched while the run goes on, and an address that is taken stops a run
// before anything is made.
func TestMetricsAddr(t *testing.T) {
	r := theRoad(t)
	p := start(t, r.train("--run-dir", filepath.Join(t.TempDir(), "run"), "--epochs", "1000000", "--max-steps",
		"1000000", "--log-every", "1", "--metrics-addr", "localhost:0")...)
	p.until("Metrics at http://")
	_, url, _ := strings.Cut(p.seen[len(p.seen)-1], "Metrics at ")
	p.until("(step=0000002)")
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || !regexp.MustCompile(`(?m)^ditrun_step \d+$`).Match(text) ||
		!regexp.MustCompile(`(?m)^ditrun_loss [0-9.]+$`).Match(text) {
		t.Errorf("%s answers\n%s (%v)", url, text, err)
	}
	other := filepath.Join(t.TempDir(), "other")
	ditrun(t, r.train("--run-dir", other, "--metrics-addr",
		strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/metrics"))...).refused(t, 1, "address already in use")
	if exists(other) {
		t.Error("a run without its address left a folder")
	}
	p.signal(os.Interrupt)
	p.wait().stopped(t)
}

// TestPresets: each is read by train, and what the command line says wins over it.
func TestPresets(t *testing.T) {
	r := theRoad(t)
	for _, size := range []string{"256", "512"} { // the latents here are of other pictures
		ditrun(t, "train", "--data", r.latents, "--config", "imagenet-"+size).refused(t, 1,
			"holds latents of 8-pixel images, --image-size asks for "+size)
	}
	run := filepath.Join(t.TempDir(), "run")
	mustRun(t, r.train("--config", "small-gpu", "--gradient-accumulation-steps", "2", "--run-dir", run, "--max-steps",
		"2")...)
	config := string(read(t, filepath.Join(run, "config.yaml")))
	for _, want := range []string{"model: DiT-16x1x2/2\n", "precision: bf16\n", "gradient-accumulation-steps: 2\n",
		"warmup-steps: 1000\n", "max-grad-norm: 1\n", "keep-last: 3\n"} {
		if !strings.Contains(config, want) {
			t.Errorf("config.yaml lacks %q:\n%s", want, config)
		}
	}
}

// TestNotSquare: pictures of any height and width are encoded, trained on, sampled and continued; here of 8 x 12, whose
// latents are 4 x 6.
func TestNotSquare(t *testing.T) {
	r := theRoad(t)
	latents := filepath.Join(t.TempDir(), "latents")
	o := mustRun(t, "encode-latents", "--data", r.pictures, "--vae", r.vae, "--out", latents, "--image-size", "8x12",
		"--preview", "4", "--dtype", "fp32")
	o.prints(t, "data    "+r.pictures+": 64 pictures in 4 classes, cropped to 8x12 pixels")
	if !strings.Contains(o.stdout, "latents of 4x4x6 in") {
		t.Errorf("printed\n%s", o.stdout)
	}
	for _, block := range dit.BlockKinds() {
		run := filepath.Join(t.TempDir(), "run")
		train := []string{"train", "--data", latents, "--model", "DiT-16x1x2/2", "--block", block.String(),
			"--global-batch-size", "4", "--ema-decay", "0.5", "--run-dir", run}
		o := mustRun(t, append(train, "--max-steps", "2", "--vae", r.vae, "--sample-every", "2")...)
		if !strings.Contains(o.stdout, "6 tokens") {
			t.Errorf("printed\n%s", o.stdout)
		}
		mustRun(t, append(train, "--max-steps", "3", "--resume", "auto")...)
		folder := filepath.Join(t.TempDir(), "pictures")
		mustRun(t, "sample", "--ckpt", run, "--vae", r.vae, "--num-sampling-steps", "3", "--out", folder)
		if w, h := size(t, filepath.Join(folder, "000000.png")); w != 12 || h != 8 {
			t.Errorf("pictures of %d x %d, want 12 x 8", w, h)
		}
	}
	small := []string{"--model", "DiT-16x1x2/2", "--global-batch-size", "4", "--max-steps", "2", "--ema-decay", "0.5"}
	ditrun(t, append([]string{"train", "--data", latents, "--image-size", "12x8"}, small...)...).refused(t, 1,
		"holds latents of 8x12-pixel images, --image-size asks for 12x8")

	// From pictures, with no latents kept: the same steps, to rounding, where there is no mirroring.
	losses := func(args ...string) []string {
		run := filepath.Join(t.TempDir(), "run")
		if o := ditrun(t, slices.Concat([]string{"train"}, args, small,
			[]string{"--run-dir", run, "--flip-prob", "0", "--log-every", "1"})...); o.code != 0 {
			t.Fatalf("code %d: %s", o.code, o.stderr)
		}
		return regexp.MustCompile(`Train Loss: [\d.]+`).FindAllString(string(read(t, filepath.Join(run, "log.txt"))),
			-1)
	}
	kept := losses("--data", latents, "--image-size", "8x12")
	if fresh := losses("--data", r.pictures, "--vae", r.vae, "--image-size", "8x12"); len(kept) != 2 ||
		!slices.Equal(kept, fresh) {
		t.Errorf("losses from latents %q, from pictures %q", kept, fresh)
	}

	// Weights of square pictures are taken to others.
	wide := filepath.Join(t.TempDir(), "wide.safetensors")
	mustRun(t, "convert", "--ckpt", r.run, "--to", "ditrun", "--image-size", "8x12", "--out", wide)
	folder := filepath.Join(t.TempDir(), "pictures")
	mustRun(t, "sample", "--ckpt", wide, "--vae", r.vae, "--num-sampling-steps", "3", "--out", folder)
	if w, h := size(t, filepath.Join(folder, "000000.png")); w != 12 || h != 8 {
		t.Errorf("pictures of %d x %d, want 12 x 8", w, h)
	}
}
