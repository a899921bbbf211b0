package torch_test

import (
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch"
)

// On a scope of Shapes there are tensors without elements, and whatever would compute panics with a sentence.
func TestShapes(t *testing.T) {
	s := torch.Shapes()
	p := s.Placeholder(torch.Float32, 2, 3)
	if p.Dim(0) != 2 || p.NumElements() != 6 || p.DType() != torch.Float32 {
		t.Errorf("made %v, want float32 [2 3]", p)
	}
	p.Close()
	for name, f := range map[string]func(){
		"an operation":     func() { s.Add(p, p) },
		"a new tensor":     func() { s.NoGrad().Zeros(torch.Float32, 2) },
		"a child":          func() { s.Sub(func(s *torch.Scope) *torch.Tensor { return nil }) },
		"a read":           func() { torch.Data[float32](p) },
		"a use elsewhere":  func() { torch.Persist(p) },
		"data from memory": func() { torch.From(s, []float32{1}, 1) },
	} {
		func() {
			defer func() {
				e, ok := recover().(*torch.Error)
				if !ok || !strings.Contains(e.Error(), "Shapes") {
					t.Errorf("%s: %v, want an error that names Shapes", name, e)
				}
			}()
			f()
		}()
	}
}
