package main

import (
	"bytes"
	"image/png"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/disintegration/imaging"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/hub/hubtest"
	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/torch"
)

// readmeCommands are the three commands of the README, with a model and pictures of the size of the road.
func readmeCommands(t *testing.T) (encode, train, sample []string) {
	t.Helper()
	text := string(read(t, filepath.Join("..", "..", "README.md")))
	small := strings.NewReplacer("DiT-XL/2", "DiT-16x1x2/2", "DiT-XL-2", "DiT-16x1x2-2", "--image-size 256",
		"--image-size 8", "--sample-every 5000", "--sample-every 4")
	find := func(start string, more ...string) []string {
		line := regexp.MustCompile(`(?m)^ditrun ` + start + ` .*$`).FindString(text)
		if line == "" {
			t.Fatalf("the README has no ditrun %s", start)
		}
		return append(strings.Fields(small.Replace(line))[1:], more...)
	}
	return find("encode-latents"), find("train", "--global-batch-size", "16", "--max-steps", "4", "--ema-decay", "0.5"),
		find("sample --ckpt results/000-DiT-XL-2", "--num-sampling-steps", "5")
}

// addVAE puts an autoencoder on the hub, with the names that the files of stabilityai's have there.
func addVAE(t *testing.T, h *hubtest.Server, repo, dir string) {
	t.Helper()
	other := []byte("not for this program")
	h.Repos[repo] = hubtest.Repo{License: "mit", Files: map[string][]byte{
		"config.json":                         read(t, filepath.Join(dir, "config.json")),
		"diffusion_pytorch_model.safetensors": read(t, filepath.Join(dir, vaeWeights)),
		"diffusion_pytorch_model.bin":         other, "README.md": other, ".gitattributes": other}}
}

// TestReadme runs the three commands as the README writes them: after `ditrun fetch`, and with --fetch alone.
func TestReadme(t *testing.T) {
	r := theRoad(t)
	encode, train, sample := readmeCommands(t)
	h := hubtest.New(t)
	addVAE(t, h, "stabilityai/sd-vae-ft-ema", r.vae)
	snapshot := filepath.Join("hub", "models--stabilityai--sd-vae-ft-ema", "snapshots", hubtest.Commit)
	var sheets [][]byte
	for _, fetch := range []bool{false, true} {
		hubtest.EmptyCache(t)
		dir := t.TempDir()
		t.Chdir(dir)
		if err := os.CopyFS("pictures", os.DirFS(r.pictures)); err != nil {
			t.Fatal(err)
		}
		more := []string{}
		if fetch {
			more = append(more, "--fetch")
		} else {
			o := mustRun(t, "fetch", "sd-vae-ft-ema")
			if !strings.Contains(o.stdout, "licence mit\n") {
				t.Errorf("fetch says\n%s", o.stdout)
			}
		}
		before := h.Requests()
		o := mustRun(t, append(encode, more...)...)
		if fetched := strings.Contains(o.stdout, "licence mit\n") && h.Requests() > before; fetched != fetch {
			t.Errorf("--fetch %v: %d requests, and it says\n%s", fetch, h.Requests()-before, o.stdout)
		}
		if !strings.Contains(o.stdout, "vae     sd-vae-ft-ema is "+filepath.Join(os.Getenv("HF_HOME"), snapshot)) {
			t.Errorf("--fetch %v says\n%s", fetch, o.stdout)
		}
		if m := string(read(t, "latents/manifest.json")); !strings.Contains(m, `"name": "sd-vae-ft-ema"`) {
			t.Errorf("the manifest names another autoencoder:\n%s", m)
		}
		before = h.Requests()
		mustRun(t, append(train, more...)...)
		run := filepath.Join(dir, "results", "000-DiT-16x1x2-2")
		if got, err := runs.Autoencoder(run); err != nil ||
			got != filepath.Join(os.Getenv("HF_HOME"), snapshot) {
			t.Errorf("config.yaml names %s (%v)", got, err)
		}
		with := slices.Concat(sample, []string{"--vae", "sd-vae-ft-ema"})
		for _, args := range [][]string{sample, with} {
			mustRun(t, append(args, more...)...)
			sheets = append(sheets, pixels(t, "sample.png"))
		}
		if h.Requests() != before {
			t.Errorf("%d requests for what the cache has", h.Requests()-before)
		}
		p, err := sampling.Open(torch.CPU, "results/000-DiT-16x1x2-2", sampling.Options{})
		if err != nil {
			t.Fatal(err)
		}
		p.Close()
	}
	for i, s := range sheets {
		if !bytes.Equal(s, sheets[0]) {
			t.Errorf("sheet %d is another than the first", i)
		}
	}
}

// pixels are those of a picture without the recipe in its file.
func pixels(t *testing.T, path string) []byte {
	t.Helper()
	m, err := png.Decode(bytes.NewReader(read(t, path)))
	if err != nil {
		t.Fatal(err)
	}
	return imaging.Clone(m).Pix
}

// TestNames gives names to all that takes paths of weights.
func TestNames(t *testing.T) {
	r := theRoad(t)
	clip, err := filepath.Abs("../../dit/text/testdata/tiny")
	if err != nil {
		t.Fatal(err)
	}
	h := hubtest.New(t)
	t.Chdir(t.TempDir())
	mustRun(t, "convert", "--ckpt", r.run, "--to", "official", "--out", "dit.pt")
	h.Files["https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-256x256.pt"] = read(t, "dit.pt")
	addVAE(t, h, "stabilityai/sd-vae-ft-mse", r.vae)
	h.Repos["org/vae"] = hubtest.Repo{Files: map[string][]byte{
		"config.json":                 read(t, filepath.Join(r.vae, "config.json")),
		"diffusion_pytorch_model.bin": read(t, filepath.Join(r.vae, vaeWeights))}}
	h.Repos["org/clip"] = hubtest.Repo{Files: map[string][]byte{}}
	for _, name := range list(t, clip) {
		if path := filepath.Join(clip, name); !isDir(path) {
			h.Repos["org/clip"].Files[name] = read(t, path)
		}
	}
	const dit = "dit-xl-2-256"
	sample := []string{"sample", "--model", "DiT-16x1x2/2", "--num-sampling-steps", "2", "--num-samples", "1"}

	o := mustRun(t, append(sample, "--ckpt", dit, "--vae", "mse", "--fetch")...)
	file := filepath.Join(os.Getenv("XDG_CACHE_HOME"), "ditrun", "DiT-XL-2-256x256.pt")
	for _, want := range []string{"licence CC-BY-NC 4.0\n", "file    DiT-XL-2-256x256.pt, ", "ckpt    " + dit + " is " +
		file,
		"licence mit\n", "file    diffusion_pytorch_model.safetensors, ", "vae     mse is "} {
		if !strings.Contains(o.stdout, want) {
			t.Errorf("sample --fetch does not say %q:\n%s", want, o.stdout)
		}
	}
	before := h.Requests()
	mustRun(t, append(sample, "--ckpt", dit, "--vae", "hf:stabilityai/sd-vae-ft-mse", "--fetch")...)
	mustRun(t, append(sample, "--ckpt", dit, "--vae", "stabilityai/sd-vae-ft-mse@"+hubtest.Commit)...)
	mustRun(t, append(sample, "--ckpt", dit, "--vae",
		"hf:stabilityai/sd-vae-ft-mse@main/diffusion_pytorch_model.safetensors")...)
	if o := mustRun(t, "inspect", dit, "--model", "DiT-16x1x2/2"); !strings.HasPrefix(o.stdout, "file     "+file) {
		t.Errorf("inspect says\n%s", o.stdout)
	}
	mustRun(t, "convert", "--ckpt", dit, "--model", "DiT-16x1x2/2", "--to", "diffusers", "--vae", "mse", "--out",
		"pipe")
	train := r.train("--init-from", dit, "--max-steps", "2", "--ckpt-every", "1")
	mustRun(t, train...)
	if h.Requests() != before {
		t.Errorf("%d requests for what the cache has", h.Requests()-before)
	}
	if config := string(read(t, "results/000-DiT-16x1x2-2/config.yaml")); !strings.Contains(config,
		"init-from: "+file+"\n") || strings.Contains(config, "fetch") {
		t.Errorf("config.yaml:\n%s", config)
	}
	mustRun(t, append(train, "--resume", "auto", "--max-steps", "3")...)
	mustRun(t, "train", "--resume", "results/000-DiT-16x1x2-2", "--max-steps", "4", "--fetch")
	mustRun(t, append(train, "--resume", "auto", "--max-steps", "5", "--init-from", file)...)
	if got := list(t, "results"); strings.Contains(strings.Join(got, " "), "001-") {
		t.Errorf("--resume auto began another run: %q", got)
	}

	mustRun(t, "encode-latents", "--data", r.pictures, "--vae", "org/vae", "--out", "latents", "--captions",
		"class:a {}", "--text-encoder", "org/clip", "--fetch")
	ditrun(t, "convert", "--latents", "latents", "--to", "fast-dit", "--out", "features")
	if o := ditrun(t, "convert", "--latents", "features", "--to", "ditrun", "--out", "back", "--vae",
		"org/vae"); o.code != 0 {
		t.Errorf("convert --latents: %s", o.stderr)
	}
	if m := string(read(t, "back/manifest.json")); !strings.Contains(m, `"name": "org/vae"`) {
		t.Errorf("the manifest names another autoencoder:\n%s", m)
	}
}

// TestUnlisted: of a repository that another program fetched, a command says that files may be missing.
func TestUnlisted(t *testing.T) {
	r := theRoad(t)
	hubtest.EmptyCache(t)
	base := filepath.Join(os.Getenv("HF_HOME"), "hub", "models--org--vae")
	write(t, filepath.Join(base, "refs", "main"), []byte(hubtest.Commit))
	if err := os.CopyFS(filepath.Join(base, "snapshots", hubtest.Commit), os.DirFS(r.vae)); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	o := succeed(t, "encode-latents", "--data", r.pictures, "--vae", "org/vae", "--out", "latents")
	if want := "ditrun: warning: whether the cache has all files"; !strings.Contains(o.stderr, want) {
		t.Errorf("no %q:\n%s", want, o.stderr)
	}
}

// TestPathsWin: what is there is not looked for in the cache.
func TestPathsWin(t *testing.T) {
	r := theRoad(t)
	hubtest.EmptyCache(t)
	t.Chdir(t.TempDir())
	for _, name := range []string{"sd-vae-ft-ema", "ema", "org/vae"} {
		if err := os.CopyFS(name, os.DirFS(r.vae)); err != nil {
			t.Fatal(err)
		}
		o := mustRun(t, "encode-latents", "--data", r.pictures, "--vae", name, "--out", filepath.Join("latents", name))
		if strings.Contains(o.stdout, " is ") {
			t.Errorf("%s was not taken for a path:\n%s", name, o.stdout)
		}
		want := `"name": "` + filepath.Base(name) + `"`
		if m := string(read(t, filepath.Join("latents", name, "manifest.json"))); !strings.Contains(m, want) {
			t.Errorf("the manifest lacks %s:\n%s", want, m)
		}
	}
}

// TestRunKnowsItsAutoencoder: a run folder brings the autoencoder of its latents, and no other.
func TestRunKnowsItsAutoencoder(t *testing.T) {
	r := theRoad(t)
	hubtest.EmptyCache(t)
	run, vae := copyOf(t, r.run), copyOf(t, r.vae)
	config := filepath.Join(run, "config.yaml")
	names := func(path string) {
		t.Helper()
		text := regexp.MustCompile(`(?m)^vae: .*$`).ReplaceAll(read(t, config), []byte("vae: "+path))
		write(t, config, text)
	}
	names(vae)
	t.Chdir(t.TempDir())
	sample := func(ckpt string, more ...string) outcome {
		t.Helper()
		return ditrun(t, slices.Concat([]string{"sample", "--num-sampling-steps", "2", "--ckpt", ckpt}, more)...)
	}
	same := func(o outcome, what string) {
		t.Helper()
		if o.code != 0 || o.stderr != "" && strings.Contains(o.stderr, "ditrun:") {
			t.Errorf("%s: code %d: %s", what, o.code, o.stderr)
		}
	}
	for _, ckpt := range []string{"", "checkpoints", "checkpoints/latest", "checkpoints/0000004",
		"checkpoints/0000006/ema.safetensors"} {
		same(sample(filepath.Join(run, ckpt)), ckpt)
	}
	convert := []string{"convert", "--ckpt", run, "--to", "diffusers", "--out"}
	mustRun(t, append(convert, "pipe")...)
	resume := []string{"train", "--resume", run, "--max-steps"}
	mustRun(t, append(resume, "7")...)

	// The configuration may say it relative to itself.
	if err := os.Rename(vae, filepath.Join(run, "own")); err != nil {
		t.Fatal(err)
	}
	names("own")
	same(sample(run), "a relative path")
	names("own/" + vaeWeights)
	same(sample(run), "a file")

	// It is gone.
	gone := filepath.Join(run, "gone")
	names(gone)
	text := "its autoencoder " + gone + ", which " + config + " names: no such file or directory"
	hint := "hint: give the autoencoder that made the latents with --vae"
	sample(run).refused(t, 1, "sample from "+run+": "+text, hint)
	ditrun(t, append(convert, "pipe2")...).refused(t, 1, text, hint)
	ditrun(t, append(resume, "8")...).refused(t, 1, "resume "+run+": "+text, hint)
	same(sample(run, "--vae", r.vae), "with --vae")
	mustRun(t, append(resume, "8", "--sample-every", "0")...) // which needs none
	mustRun(t, append(resume, "9", "--sample-every", "3", "--vae", r.vae)...)
	if named, err := runs.Autoencoder(run); err != nil || named != r.vae {
		t.Errorf("the continued run names %s (%v), want %s", named, err, r.vae)
	}
	names("/cache/hub/models--stabilityai--sd-vae-ft-ema/snapshots/" + hubtest.Commit)
	sample(run).refused(t, 1, "no such file", "hint: it was in the cache: give --vae sd-vae-ft-ema --fetch")

	// It is another.
	other := filepath.Join(run, "other")
	mustRun(t, slices.Concat([]string{"train-vae", "--data", r.pictures, "--out", other, "--global-seed", "5"},
		vaeFlags)...)
	names(other)
	text = "its autoencoder " + other + ", which " + config + " names: not the one that made the latents of the run ("
	sample(run).refused(t, 1, text, hint)
	ditrun(t, append(convert, "pipe2")...).refused(t, 1, text, hint)
	ditrun(t, append(resume, "10")...).refused(t, 1, "its autoencoder "+other, "use the VAE that made them", hint)
	sample(run, "--vae", other).refused(t, 1, "vae "+other+" is not the one that made the latents")

	// There is none, or no run.
	names(`""`)
	made := ": its latents were made by vae (sha256 "
	sample(run).refused(t, 1, "no autoencoder came with it, and "+config+" names none"+made, hint)
	write(t, "copy.safetensors", read(t, filepath.Join(run, "checkpoints/0000006/ema.safetensors")))
	sample("copy.safetensors").refused(t, 1, "no autoencoder came with it"+made, hint)
	mustRun(t, "convert", "--ckpt", run, "--to", "official", "--out", "dit.pt")
	sample("dit.pt", "--model", "DiT-16x1x2/2").refused(t, 1, "no autoencoder came with it\n",
		"hint: give the autoencoder of its latents with --vae; `ditrun fetch sd-vae-ft-ema` gets that")

	// One of its name is here, and made the latents.
	if err := os.CopyFS("vae", os.DirFS(r.vae)); err != nil {
		t.Fatal(err)
	}
	same(sample(run), "one that is here")
	same(sample("copy.safetensors"), "one that is here, for a copy")
	mustRun(t, append(convert, "pipe2")...)
	names(gone)
	same(sample(run), "one that is here, for one that is gone")
	os.RemoveAll("vae")
	if err := os.CopyFS("vae", os.DirFS(other)); err != nil {
		t.Fatal(err)
	}
	sample("copy.safetensors").refused(t, 1, "no autoencoder came with it"+made, hint)
}

// TestRunLearnsItsAutoencoder: without --vae, a run has the autoencoder that made its latents from them, where that is
// found: beside them or in the cache.
func TestRunLearnsItsAutoencoder(t *testing.T) {
	r := theRoad(t)
	h := hubtest.New(t)
	addVAE(t, h, "stabilityai/sd-vae-ft-ema", r.vae)
	dir := t.TempDir()
	t.Chdir(dir)
	train := func(data, run string, more ...string) []string {
		return slices.Concat([]string{"train", "--data", data, "--run-dir", run, "--max-steps", "2"}, trainFlags, more)
	}
	knows := func(run, want string) {
		t.Helper()
		if got, err := runs.Autoencoder(run); err != nil || got != want {
			t.Errorf("the config.yaml of %s names %q (%v), want %q", run, got, err, want)
		}
	}
	sample := []string{"sample", "--num-sampling-steps", "2", "--ckpt"}

	// Beside the latents, and with previews.
	o := mustRun(t, train(r.latents, "beside", "--sample-every", "2")...)
	if want := "vae     " + r.vae + ", which made the latents\n"; strings.Count(o.stdout, want) != 1 {
		t.Errorf("no line %q:\n%s", want, o.stdout)
	}
	knows("beside", r.vae)
	size(t, "beside/samples/0000002.png")
	mustRun(t, append(sample, "beside")...)

	// Nowhere.
	if err := os.CopyFS("data/latents", os.DirFS(r.latents)); err != nil {
		t.Fatal(err)
	}
	ditrun(t, train("data/latents", "no", "--sample-every", "2")...).refused(t, 2,
		"--sample-every: the autoencoder that made the latents, vae (sha256 ",
		"...), is not in this folder, beside the latents or in the cache",
		"hint: give the autoencoder that made the latents with --vae\n")
	mustRun(t, train("data/latents", "nowhere")...)
	knows("nowhere", "")
	ditrun(t, append(sample, "nowhere")...).refused(t, 1, "nowhere/config.yaml names none: its latents were made by "+
		"vae (sha256 ")

	// In the folder of the command, when the run goes on.
	if err := os.CopyFS("vae", os.DirFS(r.vae)); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "train", "--resume", "nowhere", "--max-steps", "3")
	knows("nowhere", filepath.Join(dir, "vae"))

	// In the cache; where it is gone from there, the error names it.
	mustRun(t, "encode-latents", "--data", r.pictures, "--vae", "ema", "--fetch", "--out", "latents")
	mustRun(t, train("latents", "cached")...)
	knows("cached", filepath.Join(os.Getenv("HF_HOME"), "hub", "models--stabilityai--sd-vae-ft-ema", "snapshots",
		hubtest.Commit))
	mustRun(t, append(sample, "cached")...)
	succeed(t, train(r.pictures, "encodes", "--vae", "ema", "--image-size", "8")...) // a run of pictures
	full := os.Getenv("HF_HOME")
	hubtest.EmptyCache(t)
	mustRun(t, train("latents", "uncached")...)
	knows("uncached", "")
	ditrun(t, train("latents", "no", "--sample-every", "2")...).refused(t, 2, "made the latents, sd-vae-ft-ema (",
		"hint: give --vae sd-vae-ft-ema, with --fetch where the cache lacks it\n")
	ditrun(t, append(sample, "uncached")...).refused(t, 1, "its latents were made by sd-vae-ft-ema (sha256 ",
		"hint: give --vae sd-vae-ft-ema, with --fetch where the cache lacks it")
	t.Setenv("HF_HOME", full)
	mustRun(t, append(sample, "uncached")...)
	mustRun(t, "convert", "--ckpt", "uncached", "--to", "diffusers", "--out", "pipe")
	write(t, "copy.safetensors", read(t, "encodes/checkpoints/latest/ema.safetensors"))
	mustRun(t, append(sample, "copy.safetensors")...)
}

// TestNameErrors runs the transcripts of names that lead nowhere.
func TestNameErrors(t *testing.T) {
	file, err := filepath.Abs("testdata/names/errors.txt")
	if err != nil {
		t.Fatal(err)
	}
	hubtest.EmptyCache(t)
	t.Setenv("HF_ENDPOINT", "http://127.0.0.1:1")
	t.Chdir(t.TempDir())
	write(t, "models/vae", []byte("no weights"))
	write(t, "dit-xl-2-512", []byte("no weights"))
	write(t, "stabilityai/other", []byte(""))
	write(t, "runs/000-DiT-XL-2/log.txt", []byte(""))
	checkTranscript(t, file)
	for _, k := range []string{"HOME", "HF_HOME", "XDG_CACHE_HOME"} {
		t.Setenv(k, "")
	}
	for name, variable := range map[string]string{"org/repo": "HF_HUB_CACHE", "dit-xl-2-256": "XDG_CACHE_HOME"} {
		hint := "hint: set " + variable + " to a folder for it\n"
		ditrun(t, "sample", "--ckpt", name).refused(t, 1, name+": no such file or folder, and there is no cache "+
			"folder: n", variable, " HOME is set\n", hint)
		ditrun(t, "fetch", name).refused(t, 1, "error: there is no cache folder: n", hint)
	}
	// The cache that a variable names needs no home folder.
	dir := t.TempDir()
	for variable, where := range map[string]string{"HF_HUB_CACHE": "", "HF_HOME": "hub",
		"XDG_CACHE_HOME": "huggingface/hub"} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv(variable, dir)
			ditrun(t, "sample", "--ckpt", "org/repo").refused(t, 1,
				"is not in the cache ("+filepath.Join(dir, where, "models--org--repo")+")")
		})
	}
}
