package text

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/dit/text/bpe"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/checkpoint/namemap"
	"github.com/ditrun/ditrun/torch/nn"
)

const configName = "config.json"

// weightFiles are the names that transformers gives weights in a folder, the one to take first.
var weightFiles = []string{"model.safetensors", "model.safetensors.index.json", "model.fp16.safetensors",
	"pytorch_model.bin", "pytorch_model.bin.index.json"}

// An Encoder is a text encoder with its tokenizer.
type Encoder struct {
	Model     *Model
	Tokenizer *bpe.Tokenizer

	cfg    Config
	length int
	sha256 string
}

// Open loads an encoder onto dev: from a folder with the subfolders text_encoder and tokenizer, as diffusers has
// them, or from one that holds the files of both, as transformers has them. The weights are those of a
// CLIPTextModel or of a whole CLIPModel, whose other parts are not read; they become Float32. The caller
// closes the encoder.
func Open(dir string, dev torch.Device) (*Encoder, error) {
	e, err := open(dir, dev)
	if err != nil {
		return nil, fmt.Errorf("open text encoder %s: %w", dir, err)
	}
	return e, nil
}

func open(dir string, dev torch.Device) (*Encoder, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, disk.Bare(err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("a file: want a folder with a text encoder and its tokenizer")
	}
	tokenizer, err := bpe.Open(subfolder(dir, "tokenizer"))
	if err != nil {
		return nil, err
	}
	model := subfolder(dir, "text_encoder")
	cfg, config, err := readConfig(model)
	if err != nil {
		return nil, err
	}
	if tokenizer.Size() > cfg.VocabSize {
		return nil, fmt.Errorf("the tokenizer has %d ids, vocab_size in %s is %d: want the tokenizer of this encoder",
			tokenizer.Size(), configName, cfg.VocabSize)
	}
	path, err := findWeights(model)
	if err != nil {
		return nil, err
	}
	e := &Encoder{Tokenizer: tokenizer, cfg: cfg, length: cfg.MaxPositionEmbeddings}
	if m := tokenizer.MaxLength(); m > 1 {
		e.length = min(e.length, m)
	}
	if e.Model, err = loadFile(path, cfg, dev); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	weights, err := disk.SHA256(path) // of a model in several files that of the file that lists them
	if err != nil {
		e.Close()
		return nil, err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %x %s", weights, sha256.Sum256(config), tokenizer.SHA256()))
	e.sha256 = hex.EncodeToString(sum[:])
	return e, nil
}

// subfolder returns the subfolder of dir called name, or dir if there is none.
func subfolder(dir, name string) string {
	sub := filepath.Join(dir, name)
	if info, err := os.Stat(sub); err == nil && info.IsDir() {
		return sub
	}
	return dir
}

func findWeights(dir string) (string, error) {
	for _, name := range weightFiles {
		path := filepath.Join(dir, name)
		switch _, err := os.Stat(path); {
		case err == nil:
			return path, nil
		case !errors.Is(err, fs.ErrNotExist):
			return "", err
		}
	}
	return "", fmt.Errorf("no weights in the folder of %s: want %s", configName, strings.Join(weightFiles, " or "))
}

func loadFile(path string, cfg Config, dev torch.Device) (m *Model, err error) {
	file, err := checkpoint.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	const table = "embeddings.token_embedding.weight"
	models := namemap.Models(file, table)
	if len(models) == 0 {
		return nil, fmt.Errorf("found %s, but no text_model.%s: want the text encoder of CLIP in transformers' names",
			names.Plural(len(file.Tensors()), "tensor"), table)
	}
	part, err := namemap.First(models)
	if err != nil {
		return nil, err
	}
	tensors, _, err := part.Tensors(file)
	if err != nil {
		return nil, err
	}
	if info, ok := tensors.Lookup(table); ok {
		if want := []int64{int64(cfg.VocabSize), int64(cfg.HiddenSize)}; !slices.Equal(info.Shape, want) {
			return nil, fmt.Errorf("tensor %s has the shape %v, %s says %v: want weights and config of one model",
				part.Prefix+table, info.Shape, configName, want)
		}
	}
	var elements int64
	for _, info := range tensors.Tensors() {
		elements += info.NumElements()
	}
	if n := int64(cfg.NumParams()); elements < n {
		return nil, fmt.Errorf("%d parameters, %s describes %d: want weights and config of one model", elements,
			configName, n)
	}
	err = torch.Run(dev, func(s *torch.Scope) error {
		if m, err = NewModel(s, cfg); err != nil {
			return err
		}
		var entries []namemap.Entry
		for _, p := range nn.List(m) {
			p.Tensor.SetRequiresGrad(false)
			shape := nn.Shape(p.Tensor)
			entries = append(entries, namemap.Entry{Name: p.Name, Shape: shape,
				Parts: []namemap.Part{namemap.Whole(p.Name, shape...)}})
		}
		src, err := namemap.Map(tensors, entries, func(name string) bool {
			return !strings.HasPrefix(name, "encoder.layers.") // more of them than the config says are a mistake
		})
		if err = part.InFile(err); err == nil {
			err = nn.Load(s, m, src, false)
		}
		if err != nil {
			nn.Close(m)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Encode returns the states of captions, [N, L, W] with L = [Encoder.Length], after the last norm, and how many
// tokens of each are its own: start, content and end. The others are padding, whose states Stable Diffusion
// uses too. Longer captions lose their end. Whoever has many captions encodes them in batches; memory for one
// layer of one caption is about 14 L W + 3 H L L numbers.
func (e *Encoder) Encode(s *torch.Scope, captions []string) (states *torch.Tensor, lengths []int) {
	var ids []int64
	for _, c := range captions {
		one, n := e.Tokenizer.Encode(c, e.length)
		ids, lengths = append(ids, one...), append(lengths, n)
	}
	g := s.NoGrad()
	return g.Sub(func(s *torch.Scope) *torch.Tensor {
		return e.Model.Forward(s, torch.From(s, ids, len(captions), e.length))
	}), lengths
}

// Config returns what the model was made with.
func (e *Encoder) Config() Config { return e.cfg }

// Length is the number of tokens of every caption, L.
func (e *Encoder) Length() int { return e.length }

// Width is the size of a token's state, W.
func (e *Encoder) Width() int { return e.cfg.HiddenSize }

// Name says what kind of encoder this is; [Encoder.SHA256] which one.
func (e *Encoder) Name() string {
	return fmt.Sprintf("CLIP text, width %d, %s", e.cfg.HiddenSize, names.Plural(e.cfg.NumHiddenLayers, "layer"))
}

// SHA256 returns a hex checksum of the weights, the config and the tokenizer's files, for manifests.
func (e *Encoder) SHA256() string { return e.sha256 }

// Device returns where the weights are.
func (e *Encoder) Device() torch.Device { return e.Model.Norm.Weight.Device() }

// Close frees the weights.
func (e *Encoder) Close() { nn.Close(e.Model) }
