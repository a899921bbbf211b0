package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch/checkpoint"
)

// truncated cuts the file at path to a share of its bytes.
func truncated(t *testing.T, path string, share float64) {
	t.Helper()
	b := read(t, path)
	write(t, path, b[:int(float64(len(b))*share)])
}

// edit changes the JSON object in the file at path.
func edit(t *testing.T, path string, change func(m map[string]any)) {
	t.Helper()
	m := map[string]any{}
	if err := json.Unmarshal(read(t, path), &m); err != nil {
		t.Fatal(err)
	}
	change(m)
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, b)
}

// poison writes NaN over the first element of a tensor.
func poison(t *testing.T, path, tensor string) {
	t.Helper()
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, ok := f.Lookup(tensor)
	if !ok {
		t.Fatalf("%s has no %s", path, tensor)
	}
	nan := map[checkpoint.DType][]byte{checkpoint.F16: {0, 0x7e},
		checkpoint.F32: binary.LittleEndian.AppendUint32(nil, 0x7fc00000)}[info.DType]
	b := read(t, path)
	copy(b[info.Offset:], nan)
	write(t, path, b)
}

// unchanged runs f and wants everything below the folders as it was.
func unchanged(t *testing.T, f func(), dirs ...string) {
	t.Helper()
	look := func() map[string]string {
		m := map[string]string{}
		for _, dir := range dirs {
			for _, name := range list(t, dir) {
				if path := filepath.Join(dir, name); !isDir(path) {
					m[path] = string(read(t, path))
				}
			}
		}
		return m
	}
	before := look()
	f()
	after := look()
	for path, b := range after {
		if a, there := before[path]; !there {
			t.Errorf("%s is left behind", path)
		} else if a != b {
			t.Errorf("%s was changed", path)
		}
	}
	for path := range before {
		if _, there := after[path]; !there {
			t.Errorf("%s was removed", path)
		}
	}
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// TestBadPictures: both commands that read pictures refuse the same things in the same words, and
// leave nothing.
func TestBadPictures(t *testing.T) {
	r := theRoad(t)
	empty, cut, short, tree := t.TempDir(), copyOf(t, r.pictures), copyOf(t, r.pictures), t.TempDir()
	truncated(t, filepath.Join(cut, "train-images-idx3-ubyte"), 0.5)
	write(t, filepath.Join(short, "classes.txt"), []byte("ramp\nslope\n"))
	write(t, filepath.Join(tree, "cats", "1.png"), []byte("no picture"))
	nolabels := copyOf(t, r.pictures)
	os.Remove(filepath.Join(nolabels, "train-labels-idx1-ubyte"))
	for data, texts := range map[string][]string{
		filepath.Join(empty, "nothing"):          {"nothing: no such file or folder"},
		empty:                                    {": empty: want a folder of pictures"},
		filepath.Join(r.pictures, "classes.txt"): {"classes.txt: an unknown kind of file: want a folder of pictures"},
		cut:                                      {"train-images-idx3-ubyte", "truncated"},
		short:                                    {"classes.txt: 2 names, labels go up to 3"},
		nolabels:                                 {"has no labels beside it: want train-labels-idx1-ubyte"},
		r.latents:                                {"holds encoded latents (manifest.json), want pictures"},
		r.vae:                                    {r.vae},
		tree:                                     {"1.png"},
		filepath.Join(r.pictures, "x", "y"):      {"no such file or folder"},
		filepath.Join(r.vae, "config.json", "no"): {"config.json/no"},
	} {
		out := filepath.Join(t.TempDir(), "out")
		batch := slices.Concat([]string{"train-vae", "--data", data, "--out", out}, vaeFlags)
		if data == tree {
			batch = append(batch, "--batch-size", "1")
		}
		unchanged(t, func() {
			ditrun(t, batch...).refused(t, 1, texts...)
			ditrun(t, "encode-latents", "--data", data, "--vae", r.vae, "--out", out).refused(t, 1, texts...)
		}, out, r.pictures, r.latents, r.vae)
	}
}

// TestBadOutput: where nothing can be written, a command says so before it works.
func TestBadOutput(t *testing.T) {
	r := theRoad(t)
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, []byte("mine"))
	unchanged(t, func() {
		for _, out := range []string{file, filepath.Join(file, "below")} {
			ditrun(t, slices.Concat([]string{"train-vae", "--data", r.pictures, "--out", out}, vaeFlags)...).refused(t,
				1, "--out "+out+": "+file+" is a file, want a folder")
			ditrun(t, "encode-latents", "--data", r.pictures, "--vae", r.vae, "--out", out).refused(t, 1,
				"is a file, want a folder")
			ditrun(t, r.train("--max-steps", "1", "--run-dir", out)...).refused(t, 1, file)
			ditrun(t, r.train("--max-steps", "1", "--results-dir", out)...).refused(t, 1, file)
		}
		ditrun(t, slices.Concat([]string{"train-vae", "--data", r.pictures, "--out", r.vae}, vaeFlags)...).refused(t, 1,
			"there is a model already", "hint: choose another folder")
		ditrun(t, "encode-latents", "--data", r.pictures, "--vae", r.vae, "--out", r.pictures).refused(t, 2,
			"holds the pictures")
		ditrun(t, r.train("--max-steps", "1", "--run-dir", r.pictures)...).refused(t, 1,
			"it holds classes.txt, want a new or empty folder")
		ditrun(t, r.train("--max-steps", "1", "--run-dir", r.run)...).refused(t, 1, "holds a run",
			"hint: --resume auto continues it")
		for out, texts := range map[string][]string{
			file:                         {"exists and is not a folder", "hint: ", ".png"},
			r.vae:                        {"the folder is not empty"},
			file + "/x.png":              {"the folder " + file + " does not exist"},
			filepath.Dir(file) + "/no/x": {"does not exist"},
		} {
			ditrun(t, r.sample(out)...).refused(t, 1, append(texts, "--out "+out)...)
		}
		ditrun(t, r.sample(filepath.Dir(file)+"/x.jpg")...).refused(t, 2, "want a name that ends in .png, .npz or .tar")
	}, filepath.Dir(file), r.pictures, r.vae, r.run)
}

func TestBadVAE(t *testing.T) {
	r := theRoad(t)
	other := filepath.Join(t.TempDir(), "other")
	mustRun(t, slices.Concat([]string{"train-vae", "--data", r.pictures, "--out", other, "--global-seed", "1"},
		vaeFlags)...)
	wide := filepath.Join(t.TempDir(), "wide")
	mustRun(t, slices.Concat([]string{"train-vae", "--data", r.pictures, "--out", wide, "--latent-channels", "6"},
		vaeFlags)...)
	cut := copyOf(t, r.vae)
	truncated(t, filepath.Join(cut, vaeWeights), 0.9)
	noise := copyOf(t, r.vae)
	write(t, filepath.Join(noise, vaeWeights), bytes.Repeat([]byte("noise "), 1000))
	noConfig := copyOf(t, r.vae)
	os.Remove(filepath.Join(noConfig, "config.json"))
	nan := copyOf(t, r.vae)
	poison(t, filepath.Join(nan, vaeWeights), "encoder.conv_in.weight")

	out := filepath.Join(t.TempDir(), "out")
	preview := func(vae string) outcome {
		return ditrun(t, r.train("--max-steps", "1", "--results-dir", out, "--sample-every", "1", "--vae", vae)...)
	}
	sample := func(vae string) outcome {
		return ditrun(t, "sample", "--ckpt", r.run, "--vae", vae, "--num-sampling-steps", "2", "--out", out+".png")
	}
	encode := func(vae string) outcome {
		return ditrun(t, "encode-latents", "--data", r.pictures, "--vae", vae, "--out", out, "--image-size", "8")
	}
	// One VAE too many is told from the right one, with what to do.
	preview(other).refused(t, 1, "made with VAE vae", "hint: give the --vae that encode-latents was given")
	sample(other).refused(t, 1, "vae "+other+" is not the one that made the latents of "+r.run)
	sample(wide).refused(t, 1, "has 6 latent channels, the model in "+r.run+" wants 4")
	preview(wide).refused(t, 1, "made with VAE vae")
	ditrun(t, "encode-latents", "--data", r.pictures, "--vae", other, "--out", r.latents).refused(t, 1,
		"it holds latents made with")
	ditrun(t, "encode-latents", "--data", r.pictures, "--vae", r.vae, "--out", out, "--image-size", "9").refused(t, 2,
		"--image-size 9: want a multiple of 2")
	for vae, texts := range map[string][]string{
		filepath.Join(out, "none"):               {"none: no such file or directory"},
		r.pictures:                               {"no " + vaeWeights + " in the folder"},
		cut:                                      {vaeWeights},
		noise:                                    {"neither safetensors nor a file of torch.save"},
		noConfig:                                 {"config.json: no such file"},
		filepath.Join(r.pictures, "classes.txt"): {"neither safetensors nor a file of torch.save"},
		filepath.Join(r.vae, "config.json", "sub"): {"not a directory"},
	} {
		for _, o := range []outcome{preview(vae), sample(vae), encode(vae)} {
			o.refused(t, 1, texts...)
		}
	}
	if got := list(t, filepath.Dir(out)); len(got) > 0 {
		t.Errorf("refused commands leave %q", got)
	}
	// Weights that are not what was written are that; signed anew, they are an autoencoder that makes no numbers.
	encode(nan).refused(t, 1, vaeWeights+": sha256 ", "when it was written (SHA256SUMS): damaged",
		"delete "+filepath.Join(nan, "SHA256SUMS"))
	sample(nan).refused(t, 1, "when it was written (SHA256SUMS): damaged")
	preview(nan).refused(t, 1, "when it was written (SHA256SUMS): damaged")
	os.Remove(filepath.Join(nan, "SHA256SUMS"))
	encode(nan).refused(t, 1, "the latents of all 32 pictures from ",
		" are not finite numbers (NaN): the autoencoder is damaged")
	if got := list(t, out); len(got) > 0 {
		t.Errorf("a VAE that gives NaN leaves %q", got)
	}
}

// TestHostileVAEConfig: no value in a config.json makes the program allocate, loop or die.
func TestHostileVAEConfig(t *testing.T) {
	r := theRoad(t)
	for key, values := range map[string][]any{
		"block_out_channels": {[]int{}, []int{0, 0}, []int{-8, 8}, []int{1 << 40, 1 << 40}, []int{1 << 30, 8},
			[]int{16, 16}, "8,8", slices.Repeat([]int{8}, 2), slices.Repeat([]int{8}, 100000)},
		"latent_channels":  {0, -1, 1 << 50, 5, "4", 4.5},
		"layers_per_block": {0, -1, 1 << 30, 2},
		"norm_num_groups":  {0, -4, 3, 1 << 40},
		"in_channels":      {0, 4, 1 << 40},
		"out_channels":     {0, 4},
		"scaling_factor":   {0, -1, "1e309", "one", nil},
		"down_block_types": {[]string{"AttnDownBlock2D", "x"}, []string{}},
		"act_fn":           {"relu"},
		"shift_factor":     {0.5},
		"use_quant_conv":   {false},
	} {
		for _, v := range values {
			dir := copyOf(t, r.vae)
			os.Remove(filepath.Join(dir, "SHA256SUMS")) // by which it would be found damaged
			text := read(t, filepath.Join(dir, "config.json"))
			if v == "1e309" { // no float64
				text = bytes.Replace(text, []byte(`"scaling_factor": `), []byte(`"scaling_factor": 1e309, "x": `), 1)
				write(t, filepath.Join(dir, "config.json"), text)
			} else {
				edit(t, filepath.Join(dir, "config.json"), func(m map[string]any) { m[key] = v })
			}
			out := filepath.Join(t.TempDir(), "out.png")
			o := ditrun(t, r.sample(out, "--vae", dir, "--num-sampling-steps", "1")...)
			if v == nil || key == "block_out_channels" &&
				strings.Contains(string(read(t, filepath.Join(dir, "config.json"))), `"block_out_channels":[8,8],`) {
				if o.code != 0 { // as the file is, or its default
					t.Errorf("%s %v: %s", key, v, o.stderr)
				}
				continue
			}
			t.Run(key, func(t *testing.T) { o.refused(t, 1, "open VAE "+dir) })
			if exists(out) {
				t.Errorf("%s %v: a picture was drawn", key, v)
			}
		}
	}
	dir := copyOf(t, r.vae)
	for _, text := range []string{"", "{", "[]", "null,", strings.Repeat(" ", 1<<20+1), strings.Repeat("[", 1<<19)} {
		write(t, filepath.Join(dir, "config.json"), []byte(text))
		ditrun(t, r.sample(filepath.Join(dir, "x.png"), "--vae", dir)...).refused(t, 1, "config.json: ")
	}
}

func TestBadLatents(t *testing.T) {
	r := theRoad(t)
	cut, lost, none, nan, another := copyOf(t, r.latents), copyOf(t, r.latents), copyOf(t, r.latents),
		copyOf(t, r.latents), copyOf(t, r.latents)
	truncated(t, filepath.Join(cut, theShard), 0.9)
	os.Remove(filepath.Join(lost, theShard))
	os.Remove(filepath.Join(none, "manifest.json"))
	edit(t, filepath.Join(another, "manifest.json"), func(m map[string]any) { m["channels"] = 1 << 60 })
	garbled := copyOf(t, r.latents)
	truncated(t, filepath.Join(garbled, "manifest.json"), 0.5)
	out := filepath.Join(t.TempDir(), "results")
	train := func(data string, more ...string) outcome {
		return ditrun(t, slices.Concat([]string{"train", "--data", data, "--max-steps", "4", "--results-dir", out},
			trainFlags, more)...)
	}
	for data, texts := range map[string][]string{
		filepath.Join(out, "none"): {"no such file or folder",
			"hint: `ditrun encode-latents` makes latents"},
		t.TempDir(): {
			"no manifest.json: not a folder of latents, or encoding has not finished", "hint: "},
		r.pictures:                               {"no manifest.json"},
		filepath.Join(r.pictures, "classes.txt"): {"classes.txt"},
		cut:                                      {theShard, "truncated", "encode again"},
		lost:                                     {theShard + ": missing"},
		none:                                     {"no manifest.json"},
		another:                                  {"manifest.json"},
		garbled:                                  {"manifest.json"},
	} {
		train(data).refused(t, 1, texts...)
	}
	train(r.latents, "--image-size", "16").refused(t, 1, "holds latents of 8-pixel images, --image-size asks for 16")
	train(r.latents, "--num-classes", "3").refused(t, 1, "latents have 4 classes, the model has 3")
	train(r.latents, "--global-batch-size", "65").refused(t, 1,
		"--global-batch-size 65 is larger than the data set of 64 samples",
		"hint: give a smaller batch; --config pictures-50 has settings for so few pictures")
	train(r.latents, "--model", "DiT-16x1x2/3").refused(t, 2,
		"--model DiT-16x1x2/3: latent size 4 is not divisible by patch size 3")
	if exists(out) {
		t.Errorf("refused runs leave %q", list(t, out))
	}

	// NaN in the data is found at a log step, and before it would come into a checkpoint; where the file is not what
	// it was, that is what is wrong.
	poison(t, filepath.Join(nan, theShard), "moments")
	poison(t, filepath.Join(nan, theShard), "moments_flip")
	train(nan, "--results-dir", t.TempDir()).refused(t, 1, theShard+": damaged: tensor \"moments", "encode again")
	signShard(t, nan, theShard)
	for _, every := range [][]string{{"--log-every", "1"}, {"--log-every", "100", "--ckpt-every", "4"}} {
		o := train(nan, every...)
		o.refused(t, 1, "step ", "the latents of samples ", "are not finite numbers: encode them again")
	}
	// What was trained before is kept.
	kept := 0
	for _, name := range list(t, out) {
		if !strings.HasSuffix(name, ".safetensors") {
			continue
		}
		kept++
		f, err := checkpoint.Open(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, info := range f.Tensors() {
			b, err := f.Read(info.Name)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i+4 <= len(b); i += 4 {
				if v := math.Float32frombits(binary.LittleEndian.Uint32(b[i:])); v-v != 0 {
					t.Fatalf("a run on NaN left %v in %s of %s", v, info.Name, name)
				}
			}
		}
	}
	if kept != 6 {
		t.Errorf("two runs left %q", list(t, out))
	}
}

// signShard gives the manifest of a set the checksums of a shard as it is now.
func signShard(t *testing.T, dir, name string) {
	t.Helper()
	f, err := checkpoint.Open(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sums := map[string]any{}
	for _, info := range f.Tensors() {
		b, err := f.Read(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		sums[info.Name] = fmt.Sprintf("%08x", crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	}
	edit(t, filepath.Join(dir, "manifest.json"), func(m map[string]any) {
		delete(m, "sha256")
		for _, s := range m["shards"].([]any) {
			if s := s.(map[string]any); s["file"] == name {
				s["crc32c"] = sums
			}
		}
	})
}

func TestBadCheckpoint(t *testing.T) {
	r := theRoad(t)
	out := filepath.Join(t.TempDir(), "x.png")
	sample := func(ckpt string) outcome { return ditrun(t, r.sample(out, "--ckpt", ckpt)...) }
	step := filepath.Join(r.run, "checkpoints", "0000006")
	cut := copyOf(t, step)
	truncated(t, filepath.Join(cut, "ema.safetensors"), 0.9)
	damaged := copyOf(t, step)
	poison(t, filepath.Join(damaged, "ema.safetensors"), "blocks.0.mlp.fc1.weight")
	nan := copyOf(t, damaged)
	os.Remove(filepath.Join(nan, "state.json"))
	random := filepath.Join(t.TempDir(), "random.safetensors")
	if err := checkpoint.Write(random,
		[]checkpoint.Tensor{{Info: checkpoint.Info{Name: "a", DType: checkpoint.F32, Shape: []int64{2}, Size: 8},
			Data: make([]byte, 8)}}, nil); err != nil {
		t.Fatal(err)
	}
	hostile := copyOf(t, step)
	ema := filepath.Join(hostile, "ema.safetensors")
	write(t, ema, bytes.Replace(read(t, ema), []byte(`hidden_size\":16`), []byte(`hidden_size\":96`), 1))
	for ckpt, texts := range map[string][]string{
		filepath.Join(cut, "none"): {"none: no such file or folder"},
		cut:                        {"ema.safetensors", "data ends at"},
		damaged: {"ema.safetensors: sha256 ",
			"when it was written (state.json): damaged: no older checkpoint is beside it"},
		nan:                                      {"the latents are not finite numbers: the weights are damaged"},
		random:                                   {"found 1 tensor such as a: want the tensors of a DiT"},
		hostile:                                  {"ema.safetensors"},
		r.pictures:                               {"found neither ema.safetensors"},
		filepath.Join(r.vae, vaeWeights):         {"want the tensors of a DiT, such as x_embedder.proj.weight"},
		filepath.Join(r.pictures, "classes.txt"): {"neither safetensors nor a file of torch.save"},
		filepath.Join(r.vae, "config.json", "no"): {"no such file or folder"},
	} {
		sample(ckpt).refused(t, 1, texts...)
	}
	if exists(out) {
		t.Error("a picture was drawn")
	}
}

// TestBadResume: a run that cannot go on stays as it was, logs included.
func TestBadResume(t *testing.T) {
	r := theRoad(t)
	resume := func(run string, more ...string) outcome {
		return ditrun(t, r.train(
			append([]string{"--max-steps", "8", "--log-every", "2", "--resume", "auto", "--run-dir", run},
				more...)...)...)
	}
	good := copyOf(t, r.run)
	wide := copyOf(t, r.latents)
	edit(t, filepath.Join(wide, "manifest.json"),
		func(m map[string]any) { m["vae"].(map[string]any)["sha256"] = strings.Repeat("ab", 32) })
	for _, c := range []struct {
		flags []string
		text  string
	}{
		{[]string{"--model", "DiT-32x1x2/2"},
			"it holds DiT-16x1x2/2 (4 classes, latent size 4), this run is DiT-32x1x2/2"},
		{[]string{"--num-classes", "9"}, "(4 classes, latent size 4), this run is DiT-16x1x2/2 (9 classes"},
		{[]string{"--global-batch-size", "8"}, "global batch size 16, this run has 8"},
		{[]string{"--global-seed", "1"}, "seed 0, this run has 1"},
		{[]string{"--max-steps", "5"}, "it is at step 6, this run ends at 5"},
		{[]string{"--data", wide}, "open "}, // the shards name their VAE too
		{[]string{"--resume", r.latents}, "want a folder such as RUN/checkpoints/latest"},
		{[]string{"--resume", filepath.Join(good, "checkpoints", "0000099")}, "no state.json there"},
		{[]string{"--resume", filepath.Join(good, "nope"), "--run-dir", ""},
			"want a checkpoint in a run folder, such as results/"},
	} {
		unchanged(t, func() { resume(good, c.flags...).refused(t, 1, c.text) }, good)
	}
	// A damaged checkpoint that is named is refused.
	for _, name := range append(checkpointFiles, "state.json") {
		bad := copyOf(t, good)
		latest := filepath.Join(bad, "checkpoints", "latest")
		truncated(t, filepath.Join(latest, name), 0.8)
		unchanged(t, func() { resume(bad, "--resume", latest).refused(t, 1, name) }, bad)
		os.Remove(filepath.Join(latest, name))
		unchanged(t, func() { resume(bad, "--resume", latest).refused(t, 1, name) }, bad)
	}
	// Auto goes on from the one before, and says so; where none is whole it does not begin again by itself.
	bad := copyOf(t, good)
	poison(t, filepath.Join(bad, "checkpoints", "latest", "model.safetensors"), "blocks.0.mlp.fc1.weight")
	o := resume(bad)
	for _, want := range []string{"checkpoints/0000006: model.safetensors: sha256 ",
		"the run goes on from " + filepath.Join(bad, "checkpoints", "0000004")} {
		if o.code != 0 || !strings.Contains(o.stderr, want) {
			t.Errorf("code %d, errors\n%swant %q", o.code, o.stderr, want)
		}
	}
	checkLog(t, bad, 2, 4, 6, 8)
	for _, name := range list(t, filepath.Join(bad, "checkpoints")) {
		if strings.HasSuffix(name, "/ema.safetensors") {
			truncated(t, filepath.Join(bad, "checkpoints", name), 0.8)
		}
	}
	if o = resume(bad); o.code != 1 ||
		!strings.Contains(o.stderr, "error: no checkpoint in "+filepath.Join(bad, "checkpoints")+" is whole") {
		t.Errorf("code %d, errors\n%s", o.code, o.stderr)
	}
}

func TestBadClassLabels(t *testing.T) {
	r := theRoad(t)
	out := filepath.Join(t.TempDir(), "x.png")
	for list, texts := range map[string][]string{
		"rampe":  {`--class-labels: no class is named "rampe"`, "hint: did you mean ramp?"},
		"1,owl":  {`--class-labels: no class is named "owl"`, "hint: the classes are ramp, slope, stripes, valley"},
		"4":      {"--class-labels: 4: the model has classes 0 to 3"},
		"-1":     {"--class-labels: -1: the model has classes 0 to 3"},
		"ramp,,": {`--class-labels: "ramp,,": want numbers or names of classes, separated by commas`},
	} {
		ditrun(t, r.sample(out, "--class-labels", list)...).refused(t, 2, texts...)
	}
	ditrun(t, r.sample(out, "--rng", "torch", "--batch-size", "3")...).refused(t, 2,
		"--batch-size 3: with rng torch all 4 pictures are drawn at once")
	if exists(out) {
		t.Error("a picture was drawn")
	}
}
