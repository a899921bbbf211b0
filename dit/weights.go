package dit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/checkpoint/namemap"
	"github.com/ditrun/ditrun/torch/nn"
)

// Weights are an open checkpoint of any of the families that [Read] knows: what it is, and its tensors
// under the published names in their order. Nothing is in memory but names and sizes.
type Weights struct {
	Info
	checkpoint.Source

	Path   string // of the weight file
	Format string // of the weight file: safetensors, PyTorch, ...
	// Layout is whose names the file has: ditrun, DiT, diffusers, SiT or REPA.
	Layout string
	// Part says which of several sets of weights was taken, such as "ema".
	Part string
	// Notes say what was assumed or computed because the file does not hold it.
	Notes []string

	// Kept are tensors that the model does not have but its family's programs do, which are written with it: the
	// projectors of REPA.
	Kept []checkpoint.Tensor

	file *checkpoint.File
}

// Ours is the layout of a file that this program wrote in the published names.
const Ours = "ditrun"

// Families of Info.Family: models of flows, see [Process].
const (
	SiT  = "SiT"
	REPA = "REPA"
)

// projectors begins the names of what REPA aligned the model with in training.
const projectors = "projectors."

// firstProjector is what tells a file of REPA.
const firstProjector = projectors + "0.0.weight"

// stableDiffusionScale is the scaling factor of the latents that published models were trained on, and
// downsampling the pixels of a side that become one of the latent.
const (
	stableDiffusionScale = 0.18215
	downsampling         = 8
)

// Close closes the file.
func (w *Weights) Close() error { return w.file.Close() }

// String says in one line what was found.
func (w *Weights) String() string {
	kind := w.Layout
	if w.Part != "" {
		kind += " " + w.Part
	}
	vae := w.VAEName
	if vae == "" {
		vae = "VAE"
	}
	after := ""
	if w.Step > 0 {
		after = " after " + names.Plural(w.Step, "step")
	}
	pixels := fmt.Sprint(w.ImageSize)
	if c := w.Config; c.Width() != c.InputSize && c.InputSize > 0 {
		pixels = fmt.Sprintf("%dx%d", w.ImageSize, w.ImageSize/c.InputSize*c.Width())
	}
	return fmt.Sprintf("%s%s (%s, %s), %s-pixel images, %s, %s with scaling factor %.5g", w.Config.Design(), after,
		kind, w.Format, pixels, w.Config.Conditions(), vae, w.ScalingFactor)
}

// Load makes the model on the scope's device. Its parameters are persistent until nn.Close(model). Weights that have
// not the checksum that stands beside them, in the state.json of a run, are an error.
func (w *Weights) Load(s *torch.Scope) (*DiT, error) {
	m, err := New(s, w.Config)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", w.Path, err)
	}
	if err := nn.Load(s, m, w.Source, false); err != nil {
		nn.Close(m)
		if damage := w.file.Verify(); damage != nil {
			return nil, damage
		}
		return nil, fmt.Errorf("open %s: %w", w.Path, err)
	}
	return m, nil
}

// Read opens path: a run or checkpoint folder or weight file of ditrun train; a checkpoint of
// facebookresearch/DiT, plain or of its training script, as .pt or safetensors; a pipeline or transformer
// folder of diffusers; files of SiT and REPA. Of several sets of weights the averaged one is taken.
// Published files do not hold the number of heads: it follows from the width where that is the paper's;
// for other widths model names the sizes as [Named] reads them, "" otherwise.
func Read(path, model string) (*Weights, error) {
	file, note, err := weightsOf(path)
	if err != nil {
		return nil, err
	}
	w := &Weights{Path: file}
	if w.file, err = checkpoint.Open(file); err != nil {
		return nil, err
	}
	w.Format = w.file.Format()
	if note != "" {
		w.note("%s", note)
	}
	if err := w.recognise(model); err != nil {
		if damage := w.file.Verify(); damage != nil { // the cause of whatever was found
			err = damage
		} else {
			err = fmt.Errorf("open %s: %w", file, err)
		}
		w.Close()
		return nil, err
	}
	return w, nil
}

// Signed names the file beside the weights that holds their checksum, which Load and the savers compare with, "" where
// there is none.
func (w *Weights) Signed() string { return w.file.Signed() }

// SignedSHA256 returns the hex SHA-256 of the weight file where Signed names a file that holds it, else "".
func (w *Weights) SignedSHA256() string {
	if w.file.Signed() == "" {
		return ""
	}
	sum, _ := w.file.SHA256()
	return sum
}

// recognise finds out what the file is and maps its tensors.
func (w *Weights) recognise(model string) error {
	w.ScalingFactor = stableDiffusionScale
	m, err := findModel(w.file)
	if err != nil {
		return err
	}
	diffusers := m.Anchor == diffusersPatches
	tensors, notes, err := m.Tensors(w.file)
	if err != nil {
		return err
	}
	w.Notes = append(w.Notes, notes...)
	w.Part, w.EMA = m.Part, m.Averaged
	text, ours := w.file.Metadata()[infoKey]
	tableClasses := 0
	switch {
	case ours:
		if err := json.Unmarshal([]byte(text), &w.Info); err != nil {
			return fmt.Errorf("metadata entry %q: %w", infoKey, err)
		}
		w.Layout = Ours
		if err := w.Config.Validate(); err != nil {
			return err
		}
		if w.Process == (Process{}) { // of a SiT or REPA that an earlier version wrote
			w.Process = processOf(w.Family)
		}
		if err := w.Process.Validate(); err != nil {
			return fmt.Errorf("metadata entry %q: %w", infoKey, err)
		}
		tableClasses = w.Config.diffusersTableClasses()
	case diffusers:
		if tableClasses, err = w.readDiffusersConfig(); err != nil {
			return err
		}
	default:
		if err := w.infer(tensors, model); err != nil {
			return err
		}
	}
	if diffusers {
		w.Layout = "diffusers"
		if err := w.Config.fitsDiffusers(); err != nil {
			return err
		}
	}
	if err := fits(w.Config, tensors); err != nil {
		return err
	}
	entries := w.Config.official(tensors)
	if diffusers {
		entries = w.Config.fromDiffusers(tableClasses)
	} else if _, ok := tensors.Lookup(posEmbed); !ok {
		w.note("positions computed: the file holds none")
	}
	if w.Family == REPA {
		for _, t := range checkpoint.From(tensors) {
			if strings.HasPrefix(t.Name, projectors) {
				w.Kept = append(w.Kept, t)
			}
		}
	}
	w.Source, err = namemap.Map(tensors, entries, w.leftOver)
	if err != nil {
		return m.InFile(err)
	}
	if diffusers {
		return w.sameInEveryBlock(tensors)
	}
	return nil
}

func (w *Weights) note(format string, args ...any) {
	w.Notes = append(w.Notes, fmt.Sprintf(format, args...))
}

// leftOver reports whether a tensor may be in the file though the model has no parameter of that name.
func (w *Weights) leftOver(name string) bool {
	switch {
	case w.Layout == "diffusers": // the copies of other blocks; sameInEveryBlock looks at them
		return strings.HasPrefix(name, "transformer_blocks.") && strings.Contains(name, ".norm1.emb.")
	case w.Family == REPA: // see Kept
		return strings.HasPrefix(name, projectors)
	}
	return false
}

// The tensors that every model has, under the published name and under that of diffusers.
const (
	patches          = "x_embedder.proj.weight"
	diffusersPatches = "pos_embed.proj.weight"
)

// findModel says where in a file the model is.
func findModel(f *checkpoint.File) (namemap.Model, error) {
	if found := namemap.Models(f, patches, diffusersPatches); len(found) > 0 {
		return namemap.First(found)
	}
	some := []string{}
	for _, t := range f.Tensors() {
		if len(some) == 3 {
			break
		}
		some = append(some, fmt.Sprintf("%.60s", t.Name))
	}
	found := "no tensors"
	if len(some) > 0 {
		found = fmt.Sprintf("%s such as %s", names.Plural(len(f.Tensors()), "tensor"), strings.Join(some, ", "))
	}
	return namemap.Model{}, fmt.Errorf("found %s: want the tensors of a DiT, such as %s (diffusers: %s)", found,
		patches,
		diffusersPatches)
}

// sameInEveryBlock returns an error unless the layers that diffusers keeps in every block are equal
// there: training with diffusers lets them part, and the published layout has one of each.
func (w *Weights) sameInEveryBlock(src checkpoint.Source) error {
	for _, p := range w.Config.layout() {
		copies := inDiffusers(p.name, w.Config.Depth)
		if len(copies) < 2 {
			continue
		}
		first, err := checkpoint.Read(src, copies[0][0])
		if err != nil {
			return err
		}
		for _, c := range copies[1:] {
			other, err := checkpoint.Read(src, c[0])
			if err != nil {
				return err
			}
			if !bytes.Equal(first, other) {
				return fmt.Errorf("%s is not %s: a model trained further by diffusers, whose blocks embed timestep "+
					"and class each in its own way; the model of the paper embeds them once", c[0], copies[0][0])
			}
		}
	}
	return nil
}

// maxJSON is far above the size of any of the json files of a model.
const maxJSON = 8 << 20

func readJSON(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is missing", filepath.Base(path))
		}
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxJSON+1))
	if err != nil {
		return err
	}
	if len(text) > maxJSON {
		return fmt.Errorf("%s: more than %d bytes", filepath.Base(path), maxJSON)
	}
	if text, err = disk.PlainText(text); err == nil {
		err = json.Unmarshal(text, v)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return nil
}
