package dit

import (
	"encoding/json"
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

func writeFile(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// saved writes a new tiny model and returns what was written.
func saved(t *testing.T, path string, seed uint64) (Info, []checkpoint.Tensor) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	info := Info{Config: tiny(t), ImageSize: 64, Classes: []string{"T-shirt/top", "\u00e9t\u00e9"}, ScalingFactor: 0.75,
		VAE: "abc", Step: 1234, EMA: true}
	var state []checkpoint.Tensor
	torchtest.Run(t, func(s *torch.Scope) error {
		m := initialised(t, s, info.Config, seed)
		state = nn.State(m)
		return Save(path, nn.Snapshot(nn.List(m)), info)
	})
	return info, state
}

func TestSaveThenOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w.safetensors")
	info, state := saved(t, path, 1)
	torchtest.Run(t, func(s *torch.Scope) error {
		before := torch.Live()
		m, got, err := Open(s, path)
		if err != nil {
			return err
		}
		if !reflect.DeepEqual(got, info) {
			t.Errorf("Open gives %+v, Save was given %+v", got, info)
		}
		for i, p := range nn.State(m) {
			if p.Name != state[i].Name || !slices.Equal(p.Data, state[i].Data) {
				t.Errorf("%s is not %s as it was saved", p.Name, state[i].Name)
			}
		}
		nn.Close(m)
		if after := torch.Live(); after != before {
			t.Errorf("%d tensors live after closing the model, %d before", after, before)
		}
		return nil
	})
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Metadata()["format"] != "pt" {
		t.Errorf("metadata %v, want format pt for readers of other programs", f.Metadata())
	}
}

// A run folder, its checkpoints and their files are all names of the averaged weights.
func TestOpenResolves(t *testing.T) {
	run := t.TempDir()
	_, first := saved(t, filepath.Join(run, "checkpoints/0000010/ema.safetensors"), 1)
	_, last := saved(t, filepath.Join(run, "checkpoints/0000020/ema.safetensors"), 2)
	_, raw := saved(t, filepath.Join(run, "checkpoints/0000020/model.safetensors"), 3)
	if err := os.Symlink("0000020", filepath.Join(run, "checkpoints/latest")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]checkpoint.Tensor{
		"":                                      last,
		"checkpoints":                           last,
		"checkpoints/latest":                    last,
		"checkpoints/0000020":                   last,
		"checkpoints/0000010":                   first,
		"checkpoints/0000010/ema.safetensors":   first,
		"checkpoints/0000020/model.safetensors": raw,
	} {
		torchtest.Run(t, func(s *torch.Scope) error {
			m, _, err := Open(s, filepath.Join(run, path))
			if err != nil {
				t.Errorf("%q: %v", path, err)
				return nil
			}
			defer nn.Close(m)
			same := func(name string) bool {
				i := slices.IndexFunc(want, func(p checkpoint.Tensor) bool { return p.Name == name })
				for _, p := range nn.State(m) {
					if p.Name == name {
						return slices.Equal(p.Data, want[i].Data)
					}
				}
				return false
			}
			if !same("blocks.0.attn.qkv.weight") {
				t.Errorf("%q is not the weights meant", path)
			}
			return nil
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.safetensors")
	info, state := saved(t, good, 1)
	bytes, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	// with writes the tensors under metadata that says something else.
	with := func(name string, tensors []checkpoint.Tensor, change func(*Info)) string {
		i := info
		change(&i)
		text, err := json.Marshal(i)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := checkpoint.Write(path, tensors, map[string]string{infoKey: string(text)}); err != nil {
			t.Fatal(err)
		}
		return path
	}
	same := func(*Info) {}
	meta := func(name string, m map[string]string) string {
		path := filepath.Join(dir, name)
		if err := checkpoint.Write(path, state, m); err != nil {
			t.Fatal(err)
		}
		return path
	}
	without := slices.DeleteFunc(slices.Clone(state), func(p checkpoint.Tensor) bool {
		return p.Name == "blocks.1.mlp.fc2.bias" || p.Name == "final_layer.linear.bias"
	})
	reshaped := slices.Clone(state)
	for i, p := range reshaped {
		if p.Name == "blocks.0.attn.qkv.weight" {
			reshaped[i].Shape = []int64{p.Shape[1], p.Shape[0]}
		}
	}
	extra := append(slices.Clone(state),
		checkpoint.Tensor{Info: checkpoint.Info{Name: "projectors.0.weight", DType: "F32", Shape: []int64{1}},
			Data: make([]byte, 4)})
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, path string
		want       []string
	}{
		{"nothing there", filepath.Join(dir, "none"), []string{"none", "no such file or folder"}},
		{"an empty folder", empty, []string{"empty", "neither ema.safetensors", "diffusion_pytorch_model"}},
		{"a text", writeFile(t, filepath.Join(dir, "text.safetensors"), "hello, this is no weight file"),
			[]string{"text.safetensors"}},
		{"an empty file", writeFile(t, filepath.Join(dir, "zero.safetensors"), ""), []string{"zero.safetensors"}},
		{"half a file", writeFile(t, filepath.Join(dir, "half.safetensors"), string(bytes[:len(bytes)/2])),
			[]string{"half.safetensors"}},
		{"no metadata", meta("plain.safetensors", nil),
			[]string{"plain.safetensors", "number of heads", "--model DiT-48x2xHEADS/2"}},
		{"metadata that is no JSON", meta("json.safetensors", map[string]string{infoKey: "{"}),
			[]string{"json.safetensors", `"ditrun"`}},
		{"metadata of another type", meta("type.safetensors", map[string]string{infoKey: `{"config":{"depth":"2"}}`}),
			[]string{"type.safetensors", "depth"}},
		{"an empty configuration", meta("void.safetensors", map[string]string{infoKey: `{}`}),
			[]string{"void.safetensors", "input size 0"}},
		{"an unknown process", with("process.safetensors", state, func(i *Info) { i.Process.Objective = "flow" }),
			[]string{"process.safetensors", `"ditrun"`, `objective "flow": want eps, velocity`}},
		{"a path of DiT's objective", with("path.safetensors", state, func(i *Info) { i.Process.Path = "linear" }),
			[]string{`objective "" on path "linear"`}},
		{"a negative depth", with("neg.safetensors", state, func(i *Info) { i.Config.Depth = -1 }),
			[]string{"depth -1"}},
		{"a huge depth", with("deep.safetensors", state, func(i *Info) { i.Config.Depth = 1 << 20 }),
			[]string{"parameters", "numbers"}},
		{"a huge width", with("wide.safetensors", state,
			func(i *Info) { i.Config.HiddenSize, i.Config.NumHeads, i.Config.MLPRatio = 1<<20, 1, 1e-6 }),
			[]string{"parameters"}},
		{"a huge patch", with("patch.safetensors", state,
			func(i *Info) { i.Config.InputSize, i.Config.PatchSize = 1<<20, 1<<20 }), []string{"parameters"}},
		{"a huge table", with("classes.safetensors", state, func(i *Info) { i.Config.NumClasses = 1 << 20 }),
			[]string{"parameters"}},
		{"many tokens", with("tokens.safetensors", state, func(i *Info) { i.Config.InputSize = 1 << 20 }),
			[]string{"parameters"}},
		{"many channels", with("channels.safetensors", state, func(i *Info) { i.Config.InChannels = 1 << 20 }),
			[]string{"parameters"}},
		{"other sizes", with("other.safetensors", state, func(i *Info) { i.Config.NumClasses = 11 }),
			[]string{"y_embedder.embedding_table.weight (have [11 48], want [12 48])"}},
		{"missing tensors", with("missing.safetensors", without, same),
			[]string{"2 missing: ", "blocks.1.mlp.fc2.bias", "final_layer.linear.bias"}},
		{"a tensor of another shape", with("shape.safetensors", reshaped, same),
			[]string{"blocks.0.attn.qkv.weight (have [48 144], want [144 48])"}},
		{"a tensor too many", with("extra.safetensors", extra, same), []string{"1 unexpected: projectors.0.weight"}},
	} {
		torchtest.Run(t, func(s *torch.Scope) error {
			before := torch.Live()
			m, _, err := Open(s, c.path)
			if err == nil {
				nn.Close(m)
				t.Errorf("%s: no error", c.what)
				return nil
			}
			for _, w := range append(c.want, filepath.Base(c.path)) {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%s: error %q, want one with %q", c.what, err, w)
				}
			}
			if m != nil {
				t.Errorf("%s: a model beside the error", c.what)
			}
			if after := torch.Live(); after != before {
				t.Errorf("%s: %d tensors more than before", c.what, after-before)
			}
			return nil
		})
	}
}

func TestSaveReportsAnUnwritableFolder(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		m := initialised(t, s, tiny(t), 1)
		path := filepath.Join(t.TempDir(), "none", "w.safetensors")
		if err := Save(path, nn.Snapshot(nn.List(m)), Info{Config: m.Config()}); err == nil ||
			!strings.Contains(err.Error(), "none") {
			t.Errorf("error %v, want one that names the path", err)
		}
		return nil
	})
}
