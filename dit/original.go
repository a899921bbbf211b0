package dit

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/checkpoint/namemap"
)

// A Training is all that the training script of facebookresearch/DiT saves of a run. Its Weights are the averages.
type Training struct {
	*Weights
	// Trained are the weights that are trained, under the published names in their order.
	Trained checkpoint.Source
	// Optimizer is the state of AdamW in the form of package optim: step, exp_avg.NAME and exp_avg_sq.NAME.
	Optimizer checkpoint.Source
	// Args is the command line of the script and Group what the optimizer was made with, such as lr, in words.
	Args, Group map[string]string
}

// A NoTrainingError says what a file lacks of a training checkpoint of facebookresearch/DiT.
type NoTrainingError struct {
	Missing []string
	Family  string  // whose checkpoint it is instead, "" where something is missing
	Process Process // of the model in it
}

func (e *NoTrainingError) Error() string {
	if e.Family != "" {
		return fmt.Sprintf("a checkpoint of %s: only training checkpoints of facebookresearch/DiT are continued",
			e.Family)
	}
	return fmt.Sprintf("it holds no %s: want a training checkpoint of facebookresearch/DiT, with model, ema and opt",
		strings.Join(e.Missing, ", no "))
}

// optState is where the script keeps the state of its optimizer, by the number of the parameter.
const optState = "opt.state."

// Training reads what the file, a .pt of the training script of facebookresearch/DiT, holds beside the averages.
// Closing w closes it.
func (w *Weights) Training() (*Training, error) {
	t := &Training{Weights: w, Args: w.arguments(), Group: map[string]string{}}
	return t, t.read()
}

func (t *Training) read() error {
	switch {
	case t.Family != "":
		return &NoTrainingError{Family: t.Family, Process: t.Process}
	case t.Layout == "diffusers":
		return &NoTrainingError{Missing: []string{"opt"}}
	}
	var trained *namemap.Model
	averaged := false
	for _, m := range namemap.Models(t.file, patches) {
		if averaged = averaged || m.Averaged; !m.Averaged && trained == nil {
			trained = &m
		}
	}
	wrong := NoTrainingError{Process: t.Process}
	if trained == nil {
		wrong.Missing = append(wrong.Missing, "model")
	}
	if !averaged {
		wrong.Missing = append(wrong.Missing, "ema")
	}
	state := namemap.Section(t.file, optState)
	if len(state.Tensors()) == 0 {
		wrong.Missing = append(wrong.Missing, "opt")
	}
	if len(wrong.Missing) > 0 {
		return &wrong
	}
	own, _, err := trained.Tensors(t.file)
	if err != nil {
		return err
	}
	if t.Trained, err = namemap.Map(own, t.Config.official(own), t.leftOver); err != nil {
		return trained.InFile(err)
	}
	return t.readOptimizer(state)
}

// readOptimizer maps the state of the optimizer. PyTorch numbers the parameters as the model lists them, which is the
// order of the layout; positions are one of them, and have no state, since they are not trained.
func (t *Training) readOptimizer(state checkpoint.Source) error {
	numbered := 0
	for _, v := range t.file.Values() {
		name, ok := strings.CutPrefix(v.Name, "opt.param_groups.")
		if !ok {
			continue
		}
		group, name, _ := strings.Cut(name, ".")
		if group != "0" {
			return fmt.Errorf("its optimizer has several groups of parameters: want one, as in DiT")
		}
		if strings.HasPrefix(name, "params.") {
			if v.Value != int64(numbered) {
				return fmt.Errorf("its optimizer calls parameter %d %v: want the numbers from 0 up", numbered, v.Value)
			}
			numbered++
			continue
		}
		t.Group[name] = fmt.Sprint(v.Value)
	}
	if t.Group["amsgrad"] == "true" {
		return fmt.Errorf("its optimizer is AdamW with amsgrad, which this program does not have")
	}
	params := t.Config.layout()
	if numbered == len(params)-1 { // an optimizer of the trained parameters alone
		params = params[1:]
	}
	if numbered != len(params) {
		return fmt.Errorf("its optimizer has %s, the model %d", names.Plural(numbered, "parameter"), len(params))
	}
	var entries []namemap.Entry
	step := 0.0
	for i, p := range params {
		if p.name == posEmbed {
			continue
		}
		for _, moment := range []string{"exp_avg", "exp_avg_sq"} {
			part := namemap.Whole(fmt.Sprintf("%d.%s", i, moment), p.shape...)
			entries = append(entries, namemap.Entry{Name: moment + "." + p.name, Shape: p.shape,
				Parts: []namemap.Part{part}})
		}
		n, err := t.optimizerStep(i)
		if err != nil {
			return err
		}
		if step == 0 {
			step = n
		}
		if n != step || n < 1 || n != math.Trunc(n) || n > 1e9 {
			return fmt.Errorf("its optimizer counts %v steps of %s, %v of others: want one number from 1 up", n,
				p.name, step)
		}
	}
	t.Step = int(step)
	count := namemap.Entry{Name: "step", Shape: []int64{},
		Parts: []namemap.Part{namemap.Values([]float32{float32(step)})}}
	var err error
	t.Optimizer, err = namemap.Map(state, append(entries, count),
		func(name string) bool { return strings.HasSuffix(name, ".step") })
	return namemap.Model{Prefix: optState}.InFile(err)
}

// optimizerStep reads the count that the optimizer has of a parameter: a tensor, or a number from PyTorch before 1.12.
func (w *Weights) optimizerStep(param int) (float64, error) {
	name := fmt.Sprintf("%s%d.step", optState, param)
	info, ok := w.file.Lookup(name)
	if !ok {
		for _, v := range w.file.Values() {
			if n, is := v.Value.(int64); is && v.Name == name {
				return float64(n), nil
			}
		}
		return 0, fmt.Errorf("its optimizer has no %s: want the state of AdamW", name)
	}
	if info.Size > 8 {
		return 0, fmt.Errorf("%s is %s %v: want one number", name, info.DType, info.Shape)
	}
	data, err := w.file.Read(name)
	if err != nil {
		return 0, err
	}
	switch {
	case info.DType == checkpoint.F32 && len(data) == 4:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(data))), nil
	case info.DType == checkpoint.F64 && len(data) == 8:
		return math.Float64frombits(binary.LittleEndian.Uint64(data)), nil
	case info.DType == checkpoint.I64 && len(data) == 8:
		return float64(int64(binary.LittleEndian.Uint64(data))), nil
	}
	return 0, fmt.Errorf("%s is %s %v: want one number", name, info.DType, info.Shape)
}
