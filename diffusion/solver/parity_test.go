package solver

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// The originals differ from themselves in float64 by up to 8e-7.
const tolerance = 2e-6

// toy is the network of the goldens of flows.
func toy(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
	wave := s.MulScalar(s.Cos(s.MulScalar(s.Reshape(t, -1, 1, 1, 1), 3)), 0.5)
	return s.Add(s.Add(s.MulScalar(x, -0.7), wave), s.MulScalar(s.Sin(s.MulScalar(x, 4)), 0.1))
}

func construct(t *testing.T, s *torch.Scope, c Config) diffusion.Solver {
	t.Helper()
	v, err := New(s, c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func linear(t *testing.T, s *torch.Scope, c Config) *Linear {
	t.Helper()
	return construct(t, s, c).(*Linear)
}

// counted counts the calls of a network.
func counted(model diffusion.Denoiser, calls *int) diffusion.Denoiser {
	return func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
		*calls++
		if x.DType() != torch.Float32 || t.DType() == torch.Float64 || t.Dim(0) != x.Dim(0) {
			panic(fmt.Sprintf("the network is asked about %v at %v", x, t))
		}
		return model(s, x, t)
	}
}

// draw runs a solver. The noises are for the steps that draw, in order.
func draw(t *testing.T, s *torch.Scope, v *Linear, model func(k int) diffusion.Denoiser, start *torch.Tensor,
	noises []*torch.Tensor) *torch.Tensor {
	t.Helper()
	state := v.Start(s, start)
	n := start.Dim(0)
	for k := range v.Steps() {
		noise := s.Zeros(start.DType(), start.Shape()...)
		if v.Draws(k) {
			noise, noises = noises[0], noises[1:]
		}
		at := s.To(s.Clamp(s.Full(float64(k), torch.Int64, n), 0, float64(v.Steps()-1)), torch.Int64)
		state = v.Step(s, model(k), state, noise, at)
	}
	return state.X()
}

func always(model diffusion.Denoiser) func(int) diffusion.Denoiser {
	return func(int) diffusion.Denoiser { return model }
}

func near(t *testing.T, s *torch.Scope, what string, got, want *torch.Tensor, limit float64) {
	t.Helper()
	if e := torchtest.Relative(s, s.To(got, want.DType()), want); !(e <= limit) {
		t.Errorf("%s: relative error %.2g, want at most %.0g", what, e, limit)
	}
}

// flowGoldens are those of bench/parity/gen_goldens_flow.py.
func flowGoldens(t *testing.T) (*torchtest.Goldens, map[string]int) {
	t.Helper()
	g := torchtest.Open(t, "testdata/flow.safetensors")
	var config struct{ Cases map[string]int }
	if err := json.Unmarshal([]byte(g.Metadata()["config"]), &config); err != nil {
		t.Fatal(err)
	}
	return g, config.Cases
}

// parse reads the number at the end of a golden's name.
func parse(t *testing.T, word string) int {
	t.Helper()
	n, err := strconv.Atoi(word)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestFlowsEqualSiT(t *testing.T) {
	g, cases := flowGoldens(t)
	compared := 0
	torchtest.Run(t, func(s *torch.Scope) error {
		z, noises := g.Tensor(s, "z"), s.Unbind(g.Tensor(s, "noise"), 19, 0)
		for name, calls := range cases {
			w := strings.Fields(name)
			if w[0] == "repa" {
				continue
			}
			compared++
			path := &schedule.Path{Kind: schedule.Kind(strings.ToLower(w[1]))}
			c := Config{Path: path, Prediction: schedule.Prediction(w[2])}
			n := parse(t, w[len(w)-1])
			c.Steps = n - 1
			switch {
			case w[0] == "sde":
				form := strings.Replace(w[4], "inccreasing", "increasing", 1)
				c.Name, c.Steps = "sde-"+strings.ToLower(w[3]), n
				c.SDE = SDE{Form: DiffusionForm(form), Last: LastStep(w[5])}
				if c.SDE.Last == LastNone {
					c.Steps--
				}
				calls = (calls + 1) / 2 // SiT asks the network again for the score
			case w[3] == "heun2":
				c.Name = "heun"
			case w[3] == "dopri5":
				c.Name, c.Steps, c.Dopri5 = "dopri5", 0, Tolerance{WholeBatch: true}
			default:
				c.Name = w[3]
			}
			seen := 0
			model := counted(toy, &seen)
			want := g.Tensor(s, name)
			if v, ok := construct(t, s, c).(*Dopri5); ok {
				x, err := v.Solve(s, model, z, func(int) error { return nil })
				if err != nil {
					t.Fatal(err)
				}
				// The first step is so small that its error is rounding, by which the second one is chosen. A GPU
				// rounds otherwise, and the original in float64 is 3.6e-4 of the largest value away.
				limit := torchtest.OnGPU(t, 5e-4, 2e-5)
				if e := s.MaxAll(s.Abs(s.Subtract(x, want))).Item(); !(e <= limit) {
					t.Errorf("%s: error %.2g, want at most %.0g", name, e, limit)
				}
			} else {
				near(t, s, name, draw(t, s, linear(t, s, c), always(model), z, noises), want, tolerance)
			}
			if seen != calls {
				t.Errorf("%s: %d calls of the network, original %d", name, seen, calls)
			}
		}
		return nil
	})
	if compared != 69 {
		t.Errorf("%d cases compared", compared)
	}
}

func TestFlowsEqualREPA(t *testing.T) {
	g, cases := flowGoldens(t)
	compared := 0
	torchtest.Run(t, func(s *torch.Scope) error {
		z, noises := s.To(g.Tensor(s, "z"), torch.Float64), s.Unbind(g.Tensor(s, "noise64"), 19, 0)
		labelled := func(labels ...float32) diffusion.Denoiser {
			return func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
				y := s.MulScalar(torch.From(s, labels, 2, 1, 1, 1), 0.05)
				return s.Add(toy(s, x, t), s.Div(y, s.Full(1000, torch.Float32, 1)))
			}
		}
		conditional, unconditional := labelled(207, 360), labelled(1000, 1000)
		for name, calls := range cases {
			w := strings.Fields(name)
			if w[0] != "repa" {
				continue
			}
			compared++
			c := Config{Name: w[1], Path: &schedule.Path{Kind: schedule.Linear, NoiseAtOne: true}, Steps: 20}
			if slices.Contains(w, "cosine") {
				c.Path.Kind = schedule.GVP
			}
			if w[1] == "em" {
				c.Name, c.SDE = "sde-euler", SDE{Form: FormLinear}
			}
			c.EulerLast = c.Name == "heun"
			v := linear(t, s, c)
			seen := 0
			model := func(k int) diffusion.Denoiser {
				return counted(func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
					out := conditional(s, x, t)
					if at := v.Starts()[k]; slices.Contains(w, "guided") && at <= 0.7 {
						out = s.Lerp(unconditional(s, x, t), out, 1.8)
					}
					return out
				}, &seen)
			}
			x := draw(t, s, v, model, z, noises)
			if x.DType() != torch.Float64 {
				t.Errorf("%s: samples are %v", name, x)
			}
			near(t, s, name, x, g.Tensor(s, name), tolerance)
			if seen != calls {
				t.Errorf("%s: %d calls of the network, original %d", name, seen, calls)
			}
		}
		return nil
	})
	if compared != 6 {
		t.Errorf("%d cases compared", compared)
	}
}

// Published runs of the other repositories on the same network, sums of all latents.
func TestFlowsEqualLightningDiTAndRAE(t *testing.T) {
	g, _ := flowGoldens(t)
	torchtest.Run(t, func(s *torch.Scope) error {
		z := g.Tensor(s, "z")
		for _, c := range []struct {
			what   string
			config Config
			first  []float32
			sum    float64
		}{
			{"LightningDiT", Config{Name: "euler", Steps: 19, Shift: 0.3, Path: &schedule.Path{Kind: schedule.Linear}},
				[]float32{.6975488, -.1817093, -1.0371728, .3324164}, -.735422},
			{"RAE", Config{Name: "euler", Steps: 49, Shift: math.Sqrt(768 * 16 * 16 / 4096.), Start: 1, End: 0.001,
				Path: &schedule.Path{Kind: schedule.Linear, NoiseAtOne: true}},
				[]float32{3.1347327, -.3686526, -4.2157588, 1.2724167}, -2.261617},
		} {
			x := draw(t, s, linear(t, s, c.config), always(toy), z, nil)
			near(t, s, c.what, s.Reshape(s.Narrow(x, 0, 0, 1), 4), torch.From(s, c.first, 4), tolerance)
			if got := s.Sum(x).Item(); !(math.Abs(got-c.sum) <= 5e-6) {
				t.Errorf("%s: sum %v, want %v", c.what, got, c.sum)
			}
		}
		return nil
	})
}

// eps is the network of the goldens on DiT's betas. For flows it is asked at t = sigma.
func eps(unit float64) diffusion.Denoiser {
	return func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
		wave := s.Sin(s.MulScalar(s.Reshape(s.To(t, torch.Float32), -1, 1), unit/100))
		return s.Add(s.MulScalar(x, 0.3), s.MulScalar(wave, 0.1))
	}
}

// The goldens are of float64: in float32 deis3 of diffusers is up to 8.8e-5 away and deis2 2.9e-6, as their integrals
// cancel where steps are small, the others up to 1.2e-6.
func TestMultistepEqualsDiffusers(t *testing.T) {
	text, err := os.ReadFile("testdata/multistep.json")
	if err != nil {
		t.Fatal(err)
	}
	var goldens map[string][3]float64
	if err := json.Unmarshal(text, &goldens); err != nil {
		t.Fatal(err)
	}
	if len(goldens) != 364 {
		t.Errorf("%d goldens", len(goldens))
	}
	torchtest.Run(t, func(s *torch.Scope) error {
		for name, want := range goldens {
			words, isMin := strings.CutPrefix(name, "min ")
			w := strings.Fields(words)
			c := Config{Name: w[0], Steps: parse(t, w[2]), Spacing: schedule.Spacing(w[1]), Final: schedule.FinalZero}
			if isMin {
				c.Final = schedule.FinalMin
			}
			if c.Name == "ddim-eta" {
				c.Name, c.Eta = "ddim", 0.7
			}
			model := eps(1)
			if shift, ok := strings.CutPrefix(w[1], "flow"); ok {
				model = eps(1000)
				c.Spacing, c.Path = "", &schedule.Path{Kind: schedule.Linear, NoiseAtOne: true}
				c.Shift, _ = strconv.ParseFloat(shift, 64)
				if strings.HasPrefix(c.Name, "unipc") {
					var times []float64
					for i := range c.Steps {
						times = append(times, 1-float64(i)/float64(c.Steps)*0.999)
					}
					if c.Grid, err = c.Path.GridOf(append(times, 0), c.Shift); err != nil {
						return err
					}
				} else {
					c.Start = 0.999
				}
			}
			v := linear(t, s, c)
			if v.Steps() != parse(t, w[2]) {
				t.Errorf("%s: %d steps", name, v.Steps())
			}
			var noises []*torch.Tensor
			for k := range v.Steps() {
				noises = append(noises, torch.From(s, []float32{float32(k+1) / 10, -0.1}, 1, 2))
			}
			x := draw(t, s, v, always(model), torch.From(s, []float32{1, -0.5}, 1, 2), noises)
			near(t, s, name, x, torch.From(s, want[:2], 1, 2), tolerance)
		}
		return nil
	})
}

// The first of two numbers that diffusers and its documents' readers get; the second is in the goldens.
func TestMultistepEqualsPrinted(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		for _, c := range []struct {
			name    string
			spacing schedule.Spacing
			final   schedule.Final
			eight   float64
			twenty  float64
		}{
			{"ddim", "leading", "", 14.9587765, 22.0909290}, {"ddim", "trailing", "", 42.2421532, 32.9481430},
			{"dpm++2m", "", "", 30.6089325, 27.6474915}, {"dpm++2m-heun", "", "", 28.7390385, 27.2935715},
			{"dpm++2m", "trailing", "", 30.5956230, 27.6472187}, {"dpm++2m", "karras", "", 18.1204948, 26.3472271},
			{"dpm++2m", "lambda", "", 26.1170692, 27.0614948}, {"dpm++2m", "", "sigma_min", 30.7041874, 27.7066803},
			{"dpm++3m", "", "", 31.1333981, 28.1443748}, {"dpm++1", "", "", 42.2288513, 32.9431877},
			{"unipc2", "", "", 29.5548058, 27.4126186}, {"unipc3", "", "", 29.9330044, 27.5745411},
			{"deis2", "", "", 34.5574036, 28.7855949}, {"deis3", "", "", 33.5023880, 28.6036301},
		} {
			for steps, want := range map[int]float64{8: c.eight, 20: c.twenty} {
				v := linear(t, s, Config{Name: c.name, Spacing: c.spacing, Final: c.final, Steps: steps})
				x := torch.Data[float32](draw(t, s, v, always(eps(1)), torch.From(s, []float32{1, -0.5}, 1, 2), nil))
				if e := math.Abs(float64(x[0])-want) / want; !(e <= tolerance) {
					t.Errorf("%s %s %d: %v, original %v", c.name, c.spacing, steps, x[0], want)
				}
			}
		}
		return nil
	})
}

// DDIM with eta and its way back equal DiT's, on DiT's own grids.
func TestDDIMStepsEqualOriginal(t *testing.T) {
	g := torchtest.Open(t, "../testdata/steps.safetensors")
	full, err := schedule.New(schedule.LinearBetas(1000))
	if err != nil {
		t.Fatal(err)
	}
	for name, spec := range map[string]string{"full": "", "250": "250", "ddim50": "ddim50"} {
		use, err := schedule.Space(1000, spec)
		if err != nil {
			t.Fatal(err)
		}
		d, err := full.Respace(use)
		if err != nil {
			t.Fatal(err)
		}
		torchtest.Run(t, func(s *torch.Scope) error {
			for key, c := range map[string]Config{"ddim0": {}, "ddim1": {Eta: 1}, "reverse": {Reverse: true}} {
				c.Name, c.Grid = "ddim", d.Grid()
				v := linear(t, s, c)
				for i, at := range torch.Data[int64](g.Tensor(s, name+".t")) {
					row := func(key string) *torch.Tensor { return s.Narrow(g.Tensor(s, key), 0, i, 1) }
					k, told := int64(d.Len()-1)-at, int64(-1)
					if c.Reverse {
						k = at + 1 // behind the step from no noise at all
					}
					if int(k) == v.Steps() { // the original goes on to pure noise
						continue
					}
					model := func(s *torch.Scope, _, t *torch.Tensor) *torch.Tensor {
						told = torch.Data[int64](t)[0]
						return row("model_output")
					}
					got := v.Step(s, model, v.Start(s, row("x")), row("noise"), torch.From(s, []int64{k}, 1)).X()
					near(t, s, fmt.Sprintf("%s.%s, step %d", name, key, at), got, row(name+"."+key), tolerance)
					if want := torch.Data[int64](row(name + ".t_model"))[0]; told != want {
						t.Errorf("%s.%s, step %d: the network is told %d, want %d", name, key, at, told, want)
					}
				}
			}
			return nil
		})
	}
}
