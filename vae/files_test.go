package vae

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/internal/saves"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

func TestSaveOpenIsBitEqual(t *testing.T) {
	m := openTestModel(t, "tiny")
	m.SetScalingFactor(0.75)
	dir := filepath.Join(t.TempDir(), "new", "vae")
	if err := m.Save(dir); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, filepath.Join(dir, WeightsName)} {
		again, err := Open(path, torchtest.Device(t))
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if !bytes.Equal(weights(m), weights(again)) {
			t.Errorf("%s: other weights", path)
		}
		if a, b := asJSON(t, m.Config()), asJSON(t, again.Config()); a != b || again.Config().ScalingFactor != 0.75 {
			t.Errorf("%s: configuration %s, saved was %s", path, b, a)
		}
		if m.WeightsSHA256() == "" || m.WeightsSHA256() != again.WeightsSHA256() {
			t.Errorf("%s: sha256 %q, saved was %q", path, again.WeightsSHA256(), m.WeightsSHA256())
		}
	}
	// The file of diffusers holds the same tensors, so it is the same file.
	original, err := os.ReadFile(filepath.Join("testdata", "tiny", WeightsName))
	if err != nil {
		t.Fatal(err)
	}
	saved, err := os.ReadFile(filepath.Join(dir, WeightsName))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(original, saved) {
		t.Error("the saved file differs from the one that diffusers wrote")
	}
}

func TestScalingFactorDefaultsWhereAbsent(t *testing.T) {
	for text, want := range map[string]float64{"": 0.18215, `,"scaling_factor": null`: 0.18215,
		`,"scaling_factor": 0.13025`: 0.13025} {
		path := filepath.Join(t.TempDir(), ConfigName)
		if err := os.WriteFile(path, []byte(`{"_class_name": "AutoencoderKL", "something_new": [1, {}]`+text+`}`),
			0o666); err != nil {
			t.Fatal(err)
		}
		cfg, _, err := readConfig(path)
		if err != nil {
			t.Fatal(err)
		}
		if cfg.ScalingFactor != want || len(cfg.BlockOutChannels) != 1 || cfg.BlockOutChannels[0] != 64 {
			t.Errorf("%s: %+v, want scaling factor %v and the other defaults", text, cfg, want)
		}
	}
}

// readTensors returns the tensors of a weights file by name.
func readTensors(t *testing.T, path string) map[string]checkpoint.Tensor {
	t.Helper()
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string]checkpoint.Tensor{}
	for _, info := range f.Tensors() {
		data, err := f.Read(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		out[info.Name] = checkpoint.Tensor{Info: info, Data: data}
	}
	return out
}

// writeFolder writes a model folder out of tensors, which are named by their keys.
func writeFolder(t *testing.T, config string, tensors map[string]checkpoint.Tensor) string {
	t.Helper()
	dir := t.TempDir()
	var list []checkpoint.Tensor
	for name, v := range tensors {
		v.Name = name
		list = append(list, v)
	}
	if err := checkpoint.Write(filepath.Join(dir, WeightsName), list, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ConfigName), []byte(config), 0o666); err != nil {
		t.Fatal(err)
	}
	return dir
}

func tinyConfig(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "tiny", ConfigName))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestOpenOldAttentionNames(t *testing.T) {
	m := openTestModel(t, "tiny")
	renames := strings.NewReplacer(".to_q.", ".query.", ".to_k.", ".key.", ".to_v.", ".value.", ".to_out.0.",
		".proj_attn.")
	tensors := readTensors(t, filepath.Join("testdata", "tiny", WeightsName))
	for _, rank := range []int{2, 4} {
		old := map[string]checkpoint.Tensor{}
		for name, v := range tensors {
			if rank == 4 && strings.Contains(name, ".attentions.") && len(v.Shape) == 2 {
				v.Shape = append(v.Shape[:2:2], 1, 1)
			}
			old[renames.Replace(name)] = v
		}
		dir := writeFolder(t, tinyConfig(t), old)
		again, err := Open(dir, torchtest.Device(t))
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if !bytes.Equal(weights(m), weights(again)) {
			t.Errorf("attention weights of rank %d: other weights than under today's names", rank)
		}
		const both = "encoder.mid_block.attentions.0.to_q.bias"
		old[both] = tensors[both]
		if _, err := Open(writeFolder(t, tinyConfig(t), old), torchtest.Device(t)); err == nil ||
			!strings.Contains(err.Error(), "1 unexpected: "+both) {
			t.Errorf("a file with old and new names: error %v", err)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	config := tinyConfig(t)
	good := readTensors(t, filepath.Join("testdata", "tiny", WeightsName))
	with := func(change func(map[string]checkpoint.Tensor)) string {
		tensors := maps.Clone(good)
		change(tensors)
		return writeFolder(t, config, tensors)
	}
	configured := func(old, new string) string {
		if !strings.Contains(config, old) {
			t.Fatalf("no %s in the configuration", old)
		}
		return writeFolder(t, strings.Replace(config, old, new, 1), good)
	}
	noConfig := writeFolder(t, config, good)
	if err := os.Remove(filepath.Join(noConfig, ConfigName)); err != nil {
		t.Fatal(err)
	}
	truncated := writeFolder(t, config, good)
	if err := os.Truncate(filepath.Join(truncated, WeightsName), 100_000); err != nil {
		t.Fatal(err)
	}
	onlyBin := t.TempDir()
	if err := os.WriteFile(filepath.Join(onlyBin, "diffusion_pytorch_model.bin"), []byte("PK"), 0o666); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ path, want string }{
		"no folder":         {"testdata/nowhere", "open VAE testdata/nowhere: no such file or directory"},
		"empty folder":      {t.TempDir(), "no diffusion_pytorch_model.safetensors in the folder"},
		"only a .bin":       {onlyBin, "diffusion_pytorch_model.bin: zip archive without an end"},
		"no config":         {noConfig, "config.json: no such file or directory"},
		"truncated weights": {truncated, "load " + filepath.Join(truncated, WeightsName)},
		"not JSON":          {writeFolder(t, "{", good), "config.json: unexpected end of JSON input"},
		"a list":            {writeFolder(t, "[]", good), "config.json: json: cannot unmarshal"},
		"UTF-16":            {writeFolder(t, "\xff\xfe{\x00", good), "config.json: text in UTF-16: want UTF-8"},
		"huge config":       {writeFolder(t, strings.Repeat(" ", maxConfigSize+1), good), "more than 1048576 bytes"},
		"other class": {configured(`"AutoencoderKL"`, `"VQModel"`),
			`_class_name "VQModel": want "AutoencoderKL"`},
		"other activation": {configured(`"silu"`, `"mish"`), `act_fn "mish"`},
		"other blocks": {configured(`"DownEncoderBlock2D"`, `"AttnDownEncoderBlock2D"`),
			`"AttnDownEncoderBlock2D": want "DownEncoderBlock2D"`},
		"without quant conv": {configured(`"use_quant_conv": true`, `"use_quant_conv": false`), "use_quant_conv false"},
		"shifted latents":    {configured(`"shift_factor": null`, `"shift_factor": 0.1`), "shift_factor"},
		"no groups": {configured(`"norm_num_groups": 4`, `"norm_num_groups": 0`),
			"norm_num_groups 0: want 1 to"},
		"groups do not fit": {configured(`"norm_num_groups": 4`, `"norm_num_groups": 3`),
			"8 is not divisible by norm_num_groups 3"},
		"negative latents": {configured(`"latent_channels": 4`, `"latent_channels": -4`),
			"latent_channels -4: want 1 to"},
		"endless layers": {configured(`"layers_per_block": 1`, `"layers_per_block": 1000000000`),
			"layers_per_block 1000000000: want 1 to"},
		"huge width": {configured("    8,", "    4000000000,"), "want each from 1 to"},
		"huge model": {writeFolder(t,
			`{"_class_name":"AutoencoderKL","block_out_channels":[8192],"layers_per_block":64}`, good),
			"parameters: want at most"},
		"zero scale": {configured(`"scaling_factor": 0.18215`, `"scaling_factor": 0`),
			"scaling_factor 0: want a positive number"},
		"number too big": {configured(`"latent_channels": 4`, `"latent_channels": 1e30`),
			"config.json: json: cannot unmarshal"},
		"other width": {configured("    16\n", "    24\n"), "weights do not fit the model"},
		"wrong shape": {with(func(m map[string]checkpoint.Tensor) {
			v := m["quant_conv.weight"]
			v.Shape = []int64{4, 16, 1, 1}
			m["quant_conv.weight"] = v
		}), "quant_conv.weight (have [4 16 1 1], want [8 8 1 1])"},
		"missing tensor": {with(func(m map[string]checkpoint.Tensor) { delete(m, "decoder.conv_in.bias") }),
			"1 missing: decoder.conv_in.bias"},
		"extra tensor": {with(
			func(m map[string]checkpoint.Tensor) { m["decoder.extra"] = m["decoder.conv_in.bias"] }),
			"1 unexpected: decoder.extra"},
	} {
		live := torch.Live()
		m, err := Open(tc.path, torchtest.Device(t))
		if err == nil || !strings.Contains(err.Error(), tc.want) || m != nil {
			t.Errorf("%s: error %v, want %q", name, err, tc.want)
		}
		if n := torch.Live(); n != live {
			t.Errorf("%s: %d tensors leaked", name, n-live)
		}
	}
}

// A configuration that an editor saved with a byte order mark is the same.
func TestOpenMarkedConfig(t *testing.T) {
	marked := writeFolder(t, "\ufeff"+tinyConfig(t), readTensors(t, filepath.Join("testdata", "tiny", WeightsName)))
	m, err := Open(marked, torchtest.Device(t))
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
}

func TestSaveErrors(t *testing.T) {
	m := openTestModel(t, "tiny")
	sum := m.WeightsSHA256()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := m.Save(file); err == nil || !strings.Contains(err.Error(), "save VAE: ") {
		t.Errorf("saved into a file: %v", err)
	}
	dir := t.TempDir()
	m.SetScalingFactor(0)
	if err := m.Save(dir); err == nil {
		t.Error("saved a scaling factor of 0")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("a failed save left %v, %v", entries, err)
	}
	if m.WeightsSHA256() != sum {
		t.Error("a failed save changed the checksum")
	}
}

func TestSmallConfig(t *testing.T) {
	for _, d := range []int{1, 2, 4, 8, 16} {
		cfg, err := SmallConfig(64, 4, d)
		if err != nil {
			t.Fatal(err)
		}
		torchtest.Run(t, func(s *torch.Scope) error {
			m, err := New(s, cfg)
			if err != nil {
				return err
			}
			defer m.Close()
			if cfg.Downsample() != d || nn.NumParams(m) != cfg.NumParams() {
				t.Errorf("downsampling %d: configured %d; %d parameters, computed %d", d, cfg.Downsample(),
					nn.NumParams(m), cfg.NumParams())
			}
			x := s.NoGrad().Zeros(torch.Float32, 1, 3, 64, 64)
			mean, _ := m.Encode(s.NoGrad(), x)
			if mean.Dim(1) != 4 || mean.Dim(2) != 64/d || mean.Dim(3) != 64/d {
				t.Errorf("downsampling %d: latents %v", d, mean.Shape())
			}
			if y := m.Decode(s.NoGrad(), mean); !slices.Equal(x.Shape(), y.Shape()) {
				t.Errorf("downsampling %d: images %v", d, y.Shape())
			}
			return nil
		})
	}
	for _, bad := range [][3]int{{32, 4, 3}, {32, 4, 0}, {32, 4, 128}, {30, 4, 4}, {0, 4, 4}, {32, 0, 4}, {-4, 4, 4}} {
		if _, err := SmallConfig(bad[0], bad[1], bad[2]); err == nil {
			t.Errorf("SmallConfig%v gave no error", bad)
		}
	}
}

// TestConfigKeysAreThoseOfDiffusers reads a config.json that diffusers wrote and writes it again.
func TestConfigKeysAreThoseOfDiffusers(t *testing.T) {
	var want, got map[string]any
	if err := json.Unmarshal([]byte(tinyConfig(t)), &want); err != nil {
		t.Fatal(err)
	}
	delete(want, "_diffusers_version")
	cfg, _, err := readConfig(filepath.Join("testdata", "tiny", ConfigName))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(asJSON(t, cfg)), &got); err != nil {
		t.Fatal(err)
	}
	if a, b := asJSON(t, want), asJSON(t, got); a != b {
		t.Errorf("wrote %s, diffusers has %s", b, a)
	}
}

func TestPixels(t *testing.T) {
	rgb := make([]uint8, 2*16*16*3)
	for i := range rgb {
		rgb[i] = uint8(i)
	}
	torchtest.Run(t, func(s *torch.Scope) error {
		x := Pixels(s, rgb, 2, 16, 16)
		got := torch.Data[float32](x)
		for i, v := range got {
			image, rest := i/768, i%768
			channel, pixel := rest/256, rest%256
			u := rgb[image*768+pixel*3+channel]
			if want := (float32(u)/255 - 0.5) / 0.5; v != want {
				t.Fatalf("element %d is %v, want %v for %d", i, v, want, u)
			}
		}
		return nil
	})
}

// A model that was saved is compared with its checksums by whoever opens it, weights and configuration; one without
// them opens as ever.
func TestOpenCompares(t *testing.T) {
	m := openTestModel(t, "tiny")
	dir := t.TempDir()
	if err := m.Save(dir); err != nil {
		t.Fatal(err)
	}
	sums := filepath.Join(dir, saves.SumsName)
	for _, name := range []string{WeightsName, ConfigName} {
		path := filepath.Join(dir, name)
		was, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		now := bytes.Clone(was)
		if name == ConfigName {
			now = bytes.Replace(now, []byte("0.18215"), []byte("0.18225"), 1)
		} else {
			now[len(now)-1] ^= 1
		}
		if bytes.Equal(was, now) {
			t.Fatal("nothing was changed")
		}
		if err := os.WriteFile(path, now, 0o666); err != nil {
			t.Fatal(err)
		}
		for _, open := range []string{dir, filepath.Join(dir, WeightsName)} {
			_, err := Open(open, torchtest.Device(t))
			if err == nil || !strings.HasPrefix(err.Error(), "open VAE "+open+": ") ||
				!strings.Contains(err.Error(), name+": sha256 ") || !strings.HasSuffix(err.Error(),
				"damaged: copy it again, or delete "+sums+" if it was changed on purpose") {
				t.Errorf("%s of %s: error %v", name, open, err)
			}
		}
		if err := os.Rename(sums, sums+".away"); err != nil {
			t.Fatal(err)
		}
		again, err := Open(dir, torchtest.Device(t))
		if err != nil {
			t.Fatal(err)
		}
		again.Close()
		if err := os.Rename(sums+".away", sums); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, was, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	// Saving another model over it replaces them.
	m.SetScalingFactor(0.5)
	if err := m.Save(dir); err != nil {
		t.Fatal(err)
	}
	again, err := Open(dir, torchtest.Device(t))
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	// So does a conversion into the folder, which signs nothing.
	w, err := Read(filepath.Join("testdata", "tiny"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Save(dir); err != nil {
		t.Fatal(err)
	}
	if again, err = Open(dir, torchtest.Device(t)); err != nil {
		t.Fatal(err)
	}
	again.Close()
}
