package dit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// small has the paper's width of DiT-S, from which the number of heads follows.
func small() Config {
	c := XL2
	c.InputSize, c.PatchSize, c.HiddenSize, c.Depth, c.NumHeads, c.NumClasses = 8, 4, 384, 2, 6, 10
	return c
}

// numbered returns tensors of c that are all different, in memory.
func numbered(c Config) []checkpoint.Tensor {
	var out []checkpoint.Tensor
	next := uint32(0x3c000000)
	for _, p := range c.layout() {
		n := int64(1)
		for _, d := range p.shape {
			n *= d
		}
		data := make([]byte, 0, 4*n)
		for range n {
			next++
			data = append(data, byte(next), byte(next>>8), byte(next>>16), byte(next>>24))
		}
		out = append(out, checkpoint.Tensor{Info: checkpoint.Info{Name: p.name, DType: checkpoint.F32, Shape: p.shape,
			Size: 4 * n}, Data: data})
	}
	return out
}

func write(t *testing.T, path string, tensors []checkpoint.Tensor, meta map[string]string) string {
	t.Helper()
	if err := checkpoint.Write(path, tensors, meta); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path, model string) *Weights {
	t.Helper()
	w, err := Read(path, model)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// sameTensors compares a source with tensors, byte for byte.
func sameTensors(t *testing.T, got checkpoint.Source, want []checkpoint.Tensor, except ...string) {
	t.Helper()
	var names []string
	for _, info := range got.Tensors() {
		names = append(names, info.Name)
	}
	for i, w := range want {
		if i >= len(names) || names[i] != w.Name {
			t.Fatalf("tensors are %v, want %s at place %d", names, w.Name, i)
		}
		data, err := checkpoint.Read(got, w.Name)
		if err != nil {
			t.Fatal(err)
		}
		info, _ := got.Lookup(w.Name)
		if !slices.Equal(info.Shape, w.Shape) || info.DType != w.DType || !slices.Contains(except, w.Name) &&
			!bytes.Equal(data, w.Data) {
			t.Errorf("%s differs", w.Name)
		}
	}
	if len(names) != len(want) {
		t.Errorf("%d tensors, want %d", len(names), len(want))
	}
}

func TestLayoutEqualsOriginal(t *testing.T) {
	text, err := os.ReadFile("testdata/models.json")
	if err != nil {
		t.Fatal(err)
	}
	var models map[string]struct{ Keys [][2]any }
	if err := json.Unmarshal(text, &models); err != nil {
		t.Fatal(err)
	}
	for name, m := range models {
		base, size, _ := strings.Cut(name, "@")
		c, err := Named(base)
		if err != nil {
			t.Fatal(err)
		}
		if size == "512" {
			c.InputSize = 64
		}
		var got, want []string
		for _, p := range c.layout() {
			got = append(got, fmt.Sprint(p.name, p.shape))
		}
		for _, k := range m.Keys {
			want = append(want, fmt.Sprint(k[0], k[1]))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: layout %v, want %v", name, got, want)
		}
	}
}

func TestReadInfersFromTheTensors(t *testing.T) {
	dir := t.TempDir()
	for name, change := range map[string]func(*Config){
		"plain":       func(*Config) {},
		"patch":       func(c *Config) { c.PatchSize = 2 },
		"no variance": func(c *Config) { c.LearnSigma = false },
		"deeper":      func(c *Config) { c.Depth = 3 },
		"channels":    func(c *Config) { c.InChannels = 16 },
		"size":        func(c *Config) { c.InputSize = 16 },
		"classes":     func(c *Config) { c.NumClasses = 1000 },
		"MLP":         func(c *Config) { c.MLPRatio = 2 },
	} {
		c := small()
		change(&c)
		tensors := numbered(c)
		w := read(t, write(t, filepath.Join(dir, name+".safetensors"), tensors, nil), "")
		if w.Config != c {
			t.Errorf("%s: inferred %+v, want %+v", name, w.Config, c)
		}
		if w.ImageSize != 8*c.InputSize || w.ScalingFactor != 0.18215 || w.Layout != "DiT" || w.EMA {
			t.Errorf("%s: %+v", name, w)
		}
		sameTensors(t, w, tensors)
	}
}

// A model of a width that is not the paper's says so and can be named.
func TestReadAsksForTheHeads(t *testing.T) {
	c := small()
	c.HiddenSize, c.NumHeads = 48, 3
	path := write(t, filepath.Join(t.TempDir(), "odd.safetensors"), numbered(c), nil)
	if _, err := Read(path, ""); err == nil || !strings.Contains(err.Error(), "--model DiT-48x2xHEADS/4") {
		t.Errorf("error %v, want one that says how to name the model", err)
	}
	if w := read(t, path, "DiT-48x2x3/4"); w.Config != c {
		t.Errorf("got %+v, want %+v", w.Config, c)
	}
	if _, err := Read(path, "DiT-48x3x3/4"); err == nil || !strings.Contains(err.Error(), "depth 3") {
		t.Errorf("error %v, want one about the depth", err)
	}
}

func prefixed(prefix string, tensors []checkpoint.Tensor) []checkpoint.Tensor {
	out := slices.Clone(tensors)
	for i := range out {
		out[i].Name = prefix + out[i].Name
	}
	return out
}

func TestReadTakesTheAveragedWeights(t *testing.T) {
	dir := t.TempDir()
	c := small()
	raw := numbered(c)
	ema := slices.Clone(raw)
	for i := range ema {
		ema[i].Data = bytes.Clone(ema[i].Data)
		ema[i].Data[0] ^= 1
	}
	w := read(t, write(t, filepath.Join(dir, "a.safetensors"),
		append(prefixed("model.", raw), prefixed("ema.", ema)...), nil), "")
	sameTensors(t, w, ema)
	if !w.EMA || w.Part != "ema" || !strings.Contains(w.String(), "DiT ema, ") {
		t.Errorf("%v: want the averaged weights", w)
	}
	w = read(t, write(t, filepath.Join(dir, "b.safetensors"), prefixed("model.module.", raw), nil), "")
	sameTensors(t, w, raw)
	if w.EMA || w.Part != "model" {
		t.Errorf("%v: want the raw weights", w)
	}
}

// Names come out the same under whatever torch.compile, DataParallel, FSDP and training scripts wrote before and into
// them, with diffusers' names too, and a converted file has clean ones.
func TestReadTakesNamesUnderWrappers(t *testing.T) {
	dir := t.TempDir()
	c := small()
	raw := numbered(c)
	inside := slices.Clone(raw)
	for i := range inside {
		inside[i].Name = strings.Replace(inside[i].Name, "blocks.1.", "blocks.1._orig_mod.", 1)
		inside[i].Name = strings.Replace(inside[i].Name, "attn.", "_checkpoint_wrapped_module.attn.", 1)
	}
	for i, f := range []struct {
		tensors []checkpoint.Tensor
		part    string
		note    string
	}{
		{prefixed("_orig_mod.", raw), "", "left out of the names of tensors: _orig_mod."},
		{prefixed("module._orig_mod.", raw), "", "left out of the names of tensors: module., _orig_mod."},
		{prefixed("_orig_mod.module.", raw), "", "left out of the names of tensors: module., _orig_mod."},
		{prefixed("model.model.", raw), "model.model", ""},
		{prefixed("state_dict.net._orig_mod.", raw), "state_dict.net", "left out of the names of tensors: _orig_mod."},
		{prefixed("denoiser.", raw), "denoiser", "the tensors are those whose names begin with denoiser."},
		{inside, "", "left out of the names of tensors: _orig_mod., _checkpoint_wrapped_module."},
		{prefixed("_fsdp_wrapped_module.", inside), "",
			"left out of the names of tensors: _orig_mod., _fsdp_wrapped_module., _checkpoint_wrapped_module."},
	} {
		w := read(t, write(t, filepath.Join(dir, fmt.Sprint(i, ".safetensors")), f.tensors, nil), "")
		sameTensors(t, w, raw)
		if w.Part != f.part || w.EMA || f.note != "" && !slices.Contains(w.Notes, f.note) || f.note == "" &&
			len(w.Notes) > 0 {
			t.Errorf("%s: part %q, notes %q; want %q, %q", f.tensors[1].Name, w.Part, w.Notes, f.part, f.note)
		}
		out := filepath.Join(dir, "converted.safetensors")
		if err := w.Save(out); err != nil {
			t.Fatal(err)
		}
		f, err := checkpoint.Open(out)
		if err != nil {
			t.Fatal(err)
		}
		sameNames(t, f, raw)
		f.Close()
	}
	for name, again := range map[string]checkpoint.Tensor{
		"_orig_mod." + patches: raw[1], "blocks.0._orig_mod.attn.proj.bias": raw[slices.IndexFunc(raw,
			func(p checkpoint.Tensor) bool {
				return p.Name == "blocks.0.attn.proj.bias"
			})],
	} {
		first := again.Name
		again.Name = name
		path := write(t, filepath.Join(dir, "twice.safetensors"), append(slices.Clone(raw), again), nil)
		if _, err := Read(path, ""); err == nil || !strings.Contains(err.Error(), name) ||
			!strings.Contains(err.Error(), first) {
			t.Errorf("two tensors of one name: error %v, want one that names %s and %s", err, first, name)
		}
	}
	moments := append(prefixed("exp_avg.", raw), prefixed("exp_avg_sq.", raw)...)
	path := write(t, filepath.Join(dir, "optimizer.safetensors"), moments, nil)
	if _, err := Read(path, ""); err == nil || !strings.Contains(err.Error(), "want the tensors of a DiT") {
		t.Errorf("an optimizer: error %v, want one that says it is no model", err)
	}

	folder := filepath.Join(dir, "diffusers")
	if err := read(t, write(t, filepath.Join(dir, "raw.safetensors"), raw, nil), "").SaveDiffusers(folder); err != nil {
		t.Fatal(err)
	}
	weights := filepath.Join(folder, "transformer", "diffusion_pytorch_model.safetensors")
	f, err := checkpoint.Open(weights)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, meta := prefixed("_orig_mod.", readAll(t, f)), f.Metadata()
	f.Close()
	write(t, weights, wrapped, meta)
	w := read(t, folder, "")
	sameTensors(t, w, raw, posEmbed)
	if w.Layout != "diffusers" {
		t.Errorf("taken for %s, want diffusers", w.Layout)
	}
}

// sameNames holds the names of a source, in any order, against those of tensors.
func sameNames(t *testing.T, got checkpoint.Source, want []checkpoint.Tensor) {
	t.Helper()
	for _, tensor := range want {
		if _, ok := got.Lookup(tensor.Name); !ok {
			t.Errorf("there is no %s", tensor.Name)
		}
	}
	if n := len(got.Tensors()); n != len(want) {
		t.Errorf("%d tensors, want %d", n, len(want))
	}
}

// readAll reads all tensors of src into memory.
func readAll(t *testing.T, src checkpoint.Source) (out []checkpoint.Tensor) {
	t.Helper()
	for _, info := range src.Tensors() {
		data, err := checkpoint.Read(src, info.Name)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, checkpoint.Tensor{Info: info, Data: data})
	}
	return out
}

func TestReadTellsFlowModels(t *testing.T) {
	dir := t.TempDir()
	c := small()
	w := read(t, write(t, filepath.Join(dir, "SiT-S-4.safetensors"), numbered(c), nil), "")
	if w.Family != SiT || !strings.Contains(strings.Join(w.Notes, " "), "by its name") {
		t.Errorf("%v, notes %q: want a SiT, and the reason", w, w.Notes)
	}
	c.LearnSigma = false
	projector := checkpoint.Tensor{Info: checkpoint.Info{Name: "projectors.0.0.weight", DType: checkpoint.F32,
		Shape: []int64{1}}, Data: make([]byte, 4)}
	w = read(t, write(t, filepath.Join(dir, "last.safetensors"), append(numbered(c), projector), nil), "")
	if w.Family != REPA {
		t.Errorf("%v: want REPA", w)
	}
	sameTensors(t, w, numbered(c))
}

func TestReadComputesMissingPositions(t *testing.T) {
	c := small()
	c.InputSize = 32
	w := read(t, write(t, filepath.Join(t.TempDir(), "w.safetensors"), numbered(c)[1:], nil), "")
	got, err := checkpoint.Read(w, posEmbed)
	if err != nil {
		t.Fatal(err)
	}
	want, err := checkpoint.Read(checkpointOf(t, c), posEmbed)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) || !strings.Contains(strings.Join(w.Notes, " "), "positions computed") {
		t.Errorf("positions are not the model's, or it is not said: %q", w.Notes)
	}
}

// checkpointOf returns the tensors of a new model.
func checkpointOf(t *testing.T, c Config) checkpoint.Source {
	var src checkpoint.Source
	torchtest.Run(t, func(s *torch.Scope) error {
		m, err := New(s, c)
		if err != nil {
			return err
		}
		defer nn.Close(m)
		src = checkpoint.Memory(nn.State(m))
		return nil
	})
	return src
}

// Through a diffusers folder and back every tensor is what it was, the positions excepted.
func TestDiffusersRoundTrip(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"10 classes":    func(*Config) {},
		"1000 classes":  func(c *Config) { c.NumClasses = 1000 },
		"1200 classes":  func(c *Config) { c.NumClasses = 1200 },
		"no variance":   func(c *Config) { c.LearnSigma = false },
		"no null class": func(c *Config) { c.ClassDropoutProb = 0 },
		"1000, no null": func(c *Config) { c.ClassDropoutProb, c.NumClasses = 0, 1000 },
		"diffusers'":    func(c *Config) { *c = c.WithDiffusersArithmetic(1e-5) },
	} {
		c := small()
		change(&c)
		tensors := numbered(c)
		meta, err := Info{Config: c, ImageSize: 64, ScalingFactor: 0.5, Classes: []string{"a"}, VAE: "abc", Step: 7,
			EMA: true}.metadata()
		if err != nil {
			t.Fatal(err)
		}
		first := read(t, write(t, filepath.Join(t.TempDir(), "w.safetensors"), tensors, meta), "")
		dir := t.TempDir()
		if err := first.SaveDiffusers(dir); err != nil {
			t.Fatal(err)
		}
		back := read(t, dir, "")
		sameTensors(t, back, tensors, posEmbed)
		if !reflect.DeepEqual(back.Info, first.Info) || back.Layout != "diffusers" {
			t.Errorf("%s: came back as %+v, was %+v", name, back.Info, first.Info)
		}
		// Without our metadata, as diffusers would save it again.
		f, err := checkpoint.Open(filepath.Join(dir, "transformer", "diffusion_pytorch_model.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		again := filepath.Join(t.TempDir(), "again")
		if err := os.CopyFS(again, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(again, "transformer", "diffusion_pytorch_model.safetensors"), checkpoint.From(f), nil)
		f.Close()
		bare := read(t, again, "")
		want := c
		want.NumClasses, want.ClassDropoutProb = c.diffusersTableClasses(), 0.1
		if bare.Config != want {
			t.Errorf("%s: without metadata it is %+v, want %+v", name, bare.Config, want)
		}
	}
}

// A pipeline says what its classes are called, how its latents are scaled, and whether its process is
// another.
func TestReadPipeline(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "transformer"), os.DirFS("testdata/diffusers_tiny")); err != nil {
		t.Fatal(err)
	}
	var labels []string
	for i := range 10 {
		labels = append(labels, fmt.Sprintf(`"%d": "class %d"`, i, i))
	}
	writeFile(t, filepath.Join(dir, "model_index.json"), `{"_class_name": "DiTPipeline", "id2label": {`+
		strings.Join(labels, ", ")+`}}`)
	writeFile(t, filepath.Join(dir, "vae", "config.json"),
		`{"scaling_factor": 0.5, "_name_or_path": "stabilityai/sd-vae-ft-mse"}`)
	writeFile(t, filepath.Join(dir, "scheduler", "scheduler_config.json"),
		`{"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02, "prediction_type": "epsilon"}`)
	w := read(t, dir, "")
	if len(w.Classes) != 10 || w.Classes[3] != "class 3" || w.ScalingFactor != 0.5 || w.VAEName != "sd-vae-ft-mse" ||
		w.PipelineVAE() != filepath.Join(dir, "vae") || len(w.Notes) != 1 {
		t.Errorf("%+v, VAE %q, notes %q", w.Info, w.VAEName, w.Notes)
	}
	// An editor may have put byte order marks before the files, or made UTF-16 of one, which is worth a note.
	for _, name := range []string{"model_index.json", "transformer/config.json", "vae/config.json"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, name), "\ufeff"+string(text))
	}
	if marked := read(t, dir, ""); !slices.Equal(marked.Classes, w.Classes) || marked.ScalingFactor != 0.5 {
		t.Errorf("with byte order marks: %+v", marked.Info)
	}
	writeFile(t, filepath.Join(dir, "scheduler", "scheduler_config.json"),
		`{"beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}`)
	if w := read(t, dir, ""); !strings.Contains(strings.Join(w.Notes, " "),
		"scaled_linear betas 0.0001 to 0.02, v_prediction") {
		t.Errorf("notes %q do not name the other process", w.Notes)
	}
	writeFile(t, filepath.Join(dir, "model_index.json"), "\xff\xfe{\x00}\x00")
	if w := read(t, dir, ""); !strings.Contains(strings.Join(w.Notes, "\n"),
		"no names of classes: model_index.json: text in UTF-16") {
		t.Errorf("notes %q do not name the index", w.Notes)
	}
}

// The forward pass of diffusers, with its arithmetic and its own names.
func TestForwardEqualsDiffusers(t *testing.T) {
	g := torchtest.Open(t, "testdata/diffusers_tiny_golden.safetensors")
	torchtest.Run(t, func(s *torch.Scope) error {
		w := read(t, "testdata/diffusers_tiny", "")
		if w.Config.TimestepFrequencyShift != 0 {
			t.Errorf("a file of diffusers says nothing of its training, so the arithmetic is the original's: %+v",
				w.Config)
		}
		out := func() *torch.Tensor {
			m, err := w.Load(s)
			if err != nil {
				t.Fatal(err)
			}
			defer nn.Close(m)
			return m.Forward(s, g.Tensor(s, "hidden_states"), g.Tensor(s, "timestep"),
				Condition{Labels: g.Tensor(s, "class_labels")})
		}
		want := g.Tensor(s, "sample")
		if d := torchtest.Relative(s, out(), want); d < 1e-3 {
			t.Errorf("the original's arithmetic is %g from diffusers': too near to tell the two apart", d)
		}
		w.Config = w.Config.WithDiffusersArithmetic(DiffusersNormEps)
		if d := torchtest.Relative(s, out(), want); !(d < tolerance) {
			t.Errorf("diffusers' arithmetic: %g from the golden", d)
		}
		return nil
	})
}

// Blocks that were trained apart are no model of the paper.
func TestDiffusersBlocksThatDiffer(t *testing.T) {
	c := small()
	meta, _ := Info{Config: c}.metadata()
	w := read(t, write(t, filepath.Join(t.TempDir(), "w.safetensors"), numbered(c), meta), "")
	dir := t.TempDir()
	if err := w.SaveDiffusers(dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "transformer", "diffusion_pytorch_model.safetensors")
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	var tensors []checkpoint.Tensor
	for _, info := range f.Tensors() {
		data, err := f.Read(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Name == "transformer_blocks.1.norm1.emb.timestep_embedder.linear_2.bias" {
			data[5] ^= 1
		}
		tensors = append(tensors, checkpoint.Tensor{Info: info, Data: data})
	}
	f.Close()
	write(t, path, tensors, nil)
	if _, err := Read(dir, ""); err == nil ||
		!strings.Contains(err.Error(), "transformer_blocks.1.norm1.emb.timestep_embedder.linear_2.bias is not") {
		t.Errorf("error %v, want one that names the copy", err)
	}
}
