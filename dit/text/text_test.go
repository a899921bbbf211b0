package text

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/dit/text/bpe"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// The goldens are float32 results of transformers, whose own distance from float64 is up to 1e-6; other
// kernels sum in another order.
const tolerance = 5e-6

func TestMain(m *testing.M) {
	torch.SetNumThreads(1) // the tensors are small, and other test binaries want the cores
	os.Exit(m.Run())
}

func openTest(t *testing.T, dir string) *Encoder {
	t.Helper()
	e, err := Open(dir, torchtest.Device(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func TestEncodeEqualsTransformers(t *testing.T) {
	g := torchtest.Open(t, "testdata/golden.safetensors")
	var captions []string
	g.Config("captions", &captions)
	for _, name := range []string{"tiny", "whole"} {
		t.Run(name, func(t *testing.T) {
			e := openTest(t, filepath.Join("testdata", name))
			torchtest.Run(t, func(s *torch.Scope) error {
				ids := torch.Data[int64](g.Tensor(s, name+".ids"))
				states, lengths := e.Encode(s, captions)
				for i, c := range captions {
					want := ids[i*e.Length():][:e.Length()]
					got, n := e.Tokenizer.Encode(c, e.Length())
					if !slices.Equal(got, want) || n != lengths[i] {
						t.Errorf("%.20q: %d of %v, want %v", c, n, got, want)
					}
				}
				if lengths[0] != 2 || lengths[len(lengths)-1] != 77 {
					t.Errorf("lengths %v", lengths)
				}
				d := torchtest.Relative(s, states, g.Tensor(s, name+".states"))
				if !(d < tolerance) {
					t.Errorf("states: %g from transformers", d)
				}
				t.Logf("states: %.1e", d)
				if states.RequiresGrad() {
					t.Error("the states are recorded for autograd")
				}
				alone, _ := e.Encode(s, captions[2:3])
				if d := torchtest.Relative(s, alone, s.Narrow(states, 0, 2, 1)); !(d < tolerance) {
					t.Errorf("alone: %g from the same caption in a batch", d)
				}
				return nil
			})
		})
	}
}

// vitL14 is the text encoder of CLIP ViT-L/14, which Stable Diffusion 1 uses.
func vitL14() Config {
	c := DefaultConfig()
	c.HiddenSize, c.IntermediateSize, c.NumAttentionHeads = 768, 3072, 12
	return c
}

// The text encoder of CLIP ViT-L/14 at its true size, with its true tokenizer and random weights.
func TestViTL14EqualsTransformers(t *testing.T) {
	if testing.Short() {
		t.Skip("123 million weights: not with -short")
	}
	g := torchtest.Open(t, "testdata/vit_l14.safetensors")
	tok, err := bpe.Open("bpe/testdata/clip.txt.gz")
	if err != nil {
		t.Fatal(err)
	}
	var captions []string
	g.Config("captions", &captions)
	torchtest.Run(t, func(s *torch.Scope) error {
		m, err := NewModel(s, vitL14())
		if err != nil {
			return err
		}
		defer nn.Close(m)
		params := nn.List(m)
		if n := nn.NumParams(m); n != 123_060_480 || n != vitL14().NumParams() || len(params) != 196 {
			t.Errorf("%d parameters in %d tensors, by the config %d", n, len(params), vitL14().NumParams())
		}
		for i, p := range params { // the order of the original's state dict
			centre := float32(0)
			if strings.Contains(p.Name, "norm") && strings.HasSuffix(p.Name, "weight") {
				centre = 1
			}
			if err := torchtest.PhiloxWeights(p.Tensor, i, 0, centre); err != nil {
				return err
			}
		}
		e := &Encoder{Model: m, Tokenizer: tok, cfg: vitL14(), length: 77}
		states, _ := e.Encode(s, captions)
		all, want := torch.Data[float32](states), g.Tensor(s, "states")
		var some []float32
		for row := range len(captions) * 77 {
			for col := 0; col < 768; col += 7 {
				some = append(some, all[row*768+col])
			}
		}
		d := torchtest.Relative(s, torch.From(s, some, want.Shape()...), want)
		if !(d < tolerance) {
			t.Errorf("states: %g from transformers", d)
		}
		t.Logf("states: %.1e", d)
		if norm, want := s.Norm(states).Item(), g.Tensor(s, "norm").Item(); math.Abs(norm-want) > 1e-5*want {
			t.Errorf("norm of the states %v, want %v", norm, want)
		}
		return nil
	})
}

// copyTiny makes a folder of the tiny encoder's files, in subfolders, that a test can spoil.
func copyTiny(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/tiny")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// One folder or two, and the names of every form, give the same states.
func TestFormsOfTheWeights(t *testing.T) {
	whole := openTest(t, "testdata/tiny")
	if whole.Width() != 16 || whole.Length() != 77 || whole.Name() != "CLIP text, width 16, 2 layers" ||
		len(whole.SHA256()) != 64 {
		t.Errorf("width %d, length %d, %q, %s", whole.Width(), whole.Length(), whole.Name(), whole.SHA256())
	}
	sums := map[string]string{whole.SHA256(): "as it is"}
	for name, rename := range map[string]func(string) string{
		"compiled":         func(n string) string { return "_orig_mod." + n },
		"compiled, nested": func(n string) string { return "module._orig_mod.text_encoder." + n },
		"no prefix":        func(n string) string { return strings.TrimPrefix(n, "text_model.") },
		"Stable Diffusion": func(n string) string { return "cond_stage_model.transformer." + n },
	} {
		dir := copyTiny(t)
		path := filepath.Join(dir, "text_encoder", "model.safetensors")
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
			info.Name = rename(info.Name)
			tensors = append(tensors, checkpoint.Tensor{Info: info, Data: data})
		}
		f.Close()
		ids := checkpoint.Info{Name: rename("text_model.embeddings.position_ids"), DType: "I64", Shape: []int64{1, 77}}
		tensors = append(tensors, checkpoint.Tensor{Info: ids, Data: make([]byte, 8*77)})
		if err := checkpoint.Write(path, tensors, nil); err != nil {
			t.Fatal(err)
		}
		e := openTest(t, dir)
		torchtest.Run(t, func(s *torch.Scope) error {
			a, _ := whole.Encode(s, []string{"a cat"})
			b, _ := e.Encode(s, []string{"a cat"})
			if d := torchtest.Relative(s, b, a); d != 0 {
				t.Errorf("%s: %g", name, d)
			}
			return nil
		})
		if other, ok := sums[e.SHA256()]; ok {
			t.Errorf("%s has the checksum of %s", name, other)
		}
		sums[e.SHA256()] = name
	}
	other := copyTiny(t)
	if err := change(filepath.Join("tokenizer", "tokenizer_config.json"), "model_max_length", 20)(other); err != nil {
		t.Fatal(err)
	}
	e := openTest(t, other)
	torchtest.Run(t, func(s *torch.Scope) error {
		states, lengths := e.Encode(s, []string{strings.Repeat("cat ", 30), ""})
		if !slices.Equal(states.Shape(), []int{2, 20, 16}) || !slices.Equal(lengths, []int{20, 2}) {
			t.Errorf("states %v, lengths %v", states.Shape(), lengths)
		}
		return nil
	})
	if name, ok := sums[e.SHA256()]; ok {
		t.Errorf("another tokenizer has the checksum of %s", name)
	}
}

// A configuration that an editor saved with a byte order mark is the same.
func TestMarkedConfig(t *testing.T) {
	dir := copyTiny(t)
	path := filepath.Join(dir, "text_encoder", "config.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append([]byte("\ufeff"), text...), 0o666); err != nil {
		t.Fatal(err)
	}
	openTest(t, dir)
}

func TestFoldersThatAreRefused(t *testing.T) {
	config, weights := filepath.Join("text_encoder", "config.json"), filepath.Join("text_encoder", "model.safetensors")
	for _, c := range []struct {
		name  string
		spoil func(dir string) error
		want  string
	}{
		{"no tokenizer", func(dir string) error { return os.RemoveAll(filepath.Join(dir, "tokenizer")) },
			"no tokenizer.json, merges.txt or"},
		{"no merges", func(dir string) error { return os.Remove(filepath.Join(dir, "tokenizer", "merges.txt")) },
			"no tokenizer.json, merges.txt or"},
		{"no vocabulary", func(dir string) error { return os.Remove(filepath.Join(dir, "tokenizer", "vocab.json")) },
			"no vocab.json beside merges.txt"},
		{"no config", func(dir string) error { return os.Remove(filepath.Join(dir, config)) },
			"config.json: no such file"},
		{"no weights", func(dir string) error { return os.Remove(filepath.Join(dir, weights)) },
			"no weights in the folder of config.json: want model.safetensors or"},
		{"torn weights", func(dir string) error { return os.Truncate(filepath.Join(dir, weights), 4000) },
			"model.safetensors: "},
		{"no folder", os.RemoveAll, "no such file"},
		{"another width", change(config, "hidden_size", 32),
			"text_model.embeddings.token_embedding.weight has the shape [814 16], config.json says [814 32]"},
		{"another tokenizer", change(config, "vocab_size", 500),
			"the tokenizer has 814 ids, vocab_size in config.json is 500"},
		{"more layers", change(config, "num_hidden_layers", 3), "parameters, config.json describes"},
		{"fewer layers", change(config, "num_hidden_layers", 1), "16 unexpected: text_model.encoder.layers.1."},
		{"another inner width", change(config, "intermediate_size", 39),
			"of another shape or type: text_model.encoder.layers.0.mlp.fc1.weight (have [40 16], want [39 16])"},
		{"too large", change(config, "hidden_size", 1<<14), "parameters: want at most"},
		{"overflow", change(config, "intermediate_size", 1<<40), "intermediate_size 1099511627776: want 1 to 65536"},
		{"heads", change(config, "num_attention_heads", 3), "hidden_size 16 is not divisible by num_attention_heads 3"},
		{"activation", change(config, "hidden_act", "relu"), `hidden_act "relu": want quick_gelu or gelu`},
		{"epsilon", change(config, "layer_norm_eps", 0), "layer_norm_eps 0"},
		{"positions", change(config, "max_position_embeddings", 1), "max_position_embeddings 1: want 2 to 4096"},
		{"another model", change(config, "model_type", "t5"), `model_type "t5": want clip_text_model or clip`},
		{"UTF-16", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, config), []byte("{\x00}\x00"), 0o666)
		}, "config.json: text in UTF-16: want UTF-8"},
		{"another type", change(config, "hidden_size", "wide"), "config.json: json: "},
		{"other weights", func(dir string) error {
			return checkpoint.Write(filepath.Join(dir, weights),
				[]checkpoint.Tensor{{Info: checkpoint.Info{Name: "x", DType: "F32", Shape: []int64{1}},
					Data: make([]byte, 4)}}, nil)
		}, "found 1 tensor, but no text_model.embeddings.token_embedding.weight"},
	} {
		dir := copyTiny(t)
		live := torch.Live()
		err := c.spoil(dir)
		if err == nil {
			var e *Encoder
			if e, err = Open(dir, torchtest.Device(t)); err == nil {
				e.Close()
				err = errors.New("it opens")
			}
		}
		if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "open text encoder "+dir) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if torch.Live() != live {
			t.Errorf("%s: left %d tensors", c.name, torch.Live()-live)
		}
	}
	_, err := Open("testdata/golden.safetensors", torch.CPU)
	if err == nil || !strings.Contains(err.Error(), "want a folder") {
		t.Errorf("a file: %v", err)
	}
}

// change returns what sets a key of a JSON file.
func change(name, key string, value any) func(dir string) error {
	return func(dir string) error {
		path := filepath.Join(dir, name)
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		all := map[string]any{}
		if err := json.Unmarshal(data, &all); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		all[key] = value
		if data, err = json.Marshal(all); err != nil {
			return err
		}
		return os.WriteFile(path, data, 0o666)
	}
}

func TestNoTensorsAreLeft(t *testing.T) {
	e := openTest(t, "testdata/tiny")
	live := torch.Live()
	torchtest.Run(t, func(s *torch.Scope) error {
		e.Encode(s, []string{"a", "b"})
		return nil
	})
	if torch.Live() != live {
		t.Errorf("%d tensors left", torch.Live()-live)
	}
}
