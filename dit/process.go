package dit

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// A Process says what diffusion a model was trained on, in the words of flags. The zero value is the Gaussian diffusion
// of DiT, whose model predicts noise at 1000 steps. A process with a path is a flow, whose time runs from 0 to 1.
type Process struct {
	Objective string `json:"objective,omitempty"` // what the model predicts: eps, or "", velocity, noise, score, data
	Path      string `json:"path,omitempty"`      // of a flow: linear, gvp or vp; "" for DiT's betas
	// NoiseAtOne says that a flow's noise is at t = 1 and its data at 0, as in REPA. SiT has noise at 0.
	NoiseAtOne bool    `json:"noise_at_one,omitempty"`
	Shift      float64 `json:"shift,omitempty"` // of a flow's times, see schedule.Shift; 0 stands for none
}

// IsFlow says whether the model follows a path of continuous time.
func (p Process) IsFlow() bool { return p.Path != "" }

// AnswersLike says whether models of both processes answer a question alike: the shift of times is of training and
// drawing alone.
func (p Process) AnswersLike(q Process) bool {
	for _, v := range []*Process{&p, &q} {
		if v.Shift = 0; v.Objective == "" {
			v.Objective = "eps"
		}
	}
	return p == q
}

// String says in a few words what it is, as in "velocity on the linear path, noise at 0, data at 1".
func (p Process) String() string {
	if !p.IsFlow() {
		return "noise at DiT's 1000 steps"
	}
	noise, data := 0, 1
	if p.NoiseAtOne {
		noise, data = 1, 0
	}
	path := p.Path
	if path != "linear" {
		path = strings.ToUpper(path)
	}
	text := fmt.Sprintf("%s on the %s path, noise at %d, data at %d", p.Objective, path, noise, data)
	if p.Shift != 0 && p.Shift != 1 {
		text += fmt.Sprintf(", shift %g", p.Shift)
	}
	return text
}

// Validate returns an error for words that it does not know.
func (p Process) Validate() error {
	switch p.Objective {
	case "", "eps":
		if p.IsFlow() {
			return fmt.Errorf("objective %q on path %q: want velocity, noise, score or data", p.Objective, p.Path)
		}
	case "velocity", "noise", "score", "data":
		if !p.IsFlow() {
			return fmt.Errorf("objective %s without a path: want linear, gvp or vp", p.Objective)
		}
	default:
		return fmt.Errorf("objective %q: want eps, velocity, noise, score or data", p.Objective)
	}
	switch p.Path {
	case "", "linear", "gvp", "vp":
	default:
		return fmt.Errorf("path %q: want linear, gvp or vp", p.Path)
	}
	if p.Shift == 0 {
		return nil
	}
	return schedule.CheckShift(p.Shift)
}

// inferProcess tells the process of a SiT or REPA by the arguments of its training script, where the file keeps them:
// else it is the script's default, which is that of the released files.
func (w *Weights) inferProcess(args map[string]string) error {
	w.Process = processOf(w.Family)
	if w.Family == "" {
		return nil
	}
	if v, ok := args["path_type"]; ok {
		names := map[string]string{"linear": "linear", "gvp": "gvp", "vp": "vp", "cosine": "gvp"}
		path, known := names[strings.ToLower(v)]
		if !known {
			return fmt.Errorf("trained with path_type %q: want Linear, GVP, VP or cosine", v)
		}
		w.Process.Path = path
	}
	if v, ok := args["prediction"]; ok {
		objective, known := map[string]string{"v": "velocity", "velocity": "velocity", "noise": "noise",
			"score": "score"}[v]
		if !known {
			return fmt.Errorf("trained with prediction %q: want velocity, noise or score", v)
		}
		w.Process.Objective = objective
	}
	return nil
}

// OfficialProcess is what a file that [Weights.SaveOfficial] writes to path is taken for: it says nothing of its own.
func (w *Weights) OfficialProcess(path string) Process {
	projectors := slices.ContainsFunc(w.Kept, func(t checkpoint.Tensor) bool { return t.Name == firstProjector })
	return processOf(familyOf(path, projectors, nil))
}

// processOf is what the released files of a family were trained on.
func processOf(family string) Process {
	switch family {
	case SiT:
		return Process{Objective: "velocity", Path: "linear"}
	case REPA:
		return Process{Objective: "velocity", Path: "linear", NoiseAtOne: true}
	}
	return Process{}
}
