package torch_test

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/optim"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// soak reports whether tests run at full count, as under make soak.
func soak() bool { return os.Getenv("DITRUN_SOAK") != "" }

// perceptron is the smallest model with every kind of state that a step touches.
type perceptron struct {
	In  nn.Linear `dit:"in"`
	Out nn.Linear `dit:"out"`
}

func (m *perceptron) forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Sub(func(s *torch.Scope) *torch.Tensor {
		h := s.GELU(m.In.Forward(s, x))
		return m.Out.Forward(s, s.LayerNorm(h, []int{h.Dim(-1)}, nil, nil, 1e-6))
	})
}

// step trains m once on x; at is where it fails, "" for nowhere.
func (m *perceptron) step(s *torch.Scope, o *optim.AdamW, x *torch.Tensor, at string) error {
	return s.Try(func(s *torch.Scope) error {
		y := m.forward(s, x)
		switch at {
		case "forward":
			s.Sub(func(s *torch.Scope) *torch.Tensor { return s.MatMul(y, s.Ones(torch.Float32, 1, 3)) })
		case "backward":
			s.Backward(y) // not a scalar
		}
		loss := s.MSELoss(y, x)
		s.Backward(loss)
		if at == "step" {
			return errors.New("stopped before the step")
		}
		o.Step(s, optim.StepOptions{LR: torchtest.Scalar(s, 1e-3), MaxNorm: 1, EMADecay: torchtest.Scalar(s, 0.99)})
		return nil
	})
}

func newPerceptron(s *torch.Scope, width int) (*perceptron, *optim.AdamW, error) {
	m := &perceptron{nn.NewLinear(s, width, 2*width), nn.NewLinear(s, 2*width, width)}
	gen, err := torch.NewGenerator(torch.CPU, 1)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range nn.Params(m) {
		nn.Normal(s, gen, p, 0.1)
	}
	o, err := optim.NewAdamW(nn.List(m), optim.DefaultConfig, optim.Sharding{})
	return m, o, err
}

// resident returns the bytes of memory that the process holds.
func resident(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// Handles and memory stay level over many steps, whether they succeed or fail midway. What a step
// that leaks its input's worth of memory would add (256 KiB a step) is twice the allowance.
func TestStepsDoNotLeak(t *testing.T) {
	steps := 200
	if soak() {
		steps = 10_000
	}
	const allowance = 18 << 20
	for _, at := range []string{"", "forward", "backward", "step"} {
		t.Run("fails at "+strconv.Quote(at), func(t *testing.T) {
			before := torch.Live()
			torchtest.Run(t, func(s *torch.Scope) error {
				const width = 128
				m, o, err := newPerceptron(s, width)
				if err != nil {
					return err
				}
				defer nn.Close(m)
				defer o.Close()
				x := s.Full(0.5, torch.Float32, 256<<10/4/width, width)
				var live, memory int64
				for i := 1; i <= steps; i++ {
					if err := m.step(s, o, x, at); (err != nil) != (at != "") {
						return fmt.Errorf("step %d: %v", i, err)
					}
					switch i {
					case 3:
						live = torch.Live()
					case 50:
						memory = resident(t)
					}
				}
				wantLive(t, live, fmt.Sprintf("after %d steps", steps))
				if grown := resident(t) - memory; grown > allowance {
					t.Errorf("memory grew by %d MiB over %d steps", grown>>20, steps-50)
				}
				return nil
			})
			wantLive(t, before, "at the end")
		})
	}
}

func minorFaults(t *testing.T) int64 {
	t.Helper()
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		t.Fatal(err)
	}
	return use.Minflt
}

// Activations come out of memory that the process keeps: 50 steps over 64 MiB touch 819,200 pages
// if each is mapped anew. The allowance is for Go's own heap and stacks. glibc finds a lasting place
// for a block only after some steps, when the small blocks around it have settled.
func TestActivationsReuseTheirPages(t *testing.T) {
	const allowance = 8192
	torchtest.Run(t, func(s *torch.Scope) error {
		x := s.Ones(torch.Float32, 16<<20)
		step := func() {
			s.Sub(func(s *torch.Scope) *torch.Tensor { s.MulScalar(x, 2); return nil })
		}
		for range 25 {
			step()
		}
		before := minorFaults(t)
		for range 50 {
			step()
		}
		if n := minorFaults(t) - before; n > allowance {
			t.Errorf("%d page faults in 50 steps, want at most %d", n, allowance)
		}
		return nil
	})
}
