package torch_test

import (
	"errors"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// One goroutine works with what another one makes, each beside the other.
func TestAside(t *testing.T) {
	dev := torchtest.Device(t)
	const rounds = 20
	made, live := make(chan *torch.Tensor), torch.Live()
	go func() {
		defer close(made)
		err := torch.Run(dev, func(s *torch.Scope) error {
			for i := range rounds {
				made <- torch.Persist(s.Full(float64(i), torch.Float32, 1<<18))
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}()
	torchtest.Run(t, func(s *torch.Scope) error {
		stop := errors.New("enough")
		n := 0
		err := s.Aside(func(s *torch.Scope, follow func()) error {
			for x := range made {
				follow()
				err := s.Try(func(s *torch.Scope) error {
					if got, want := s.Mean(s.AddScalar(x, 1)).Item(), float64(n+1); got != want {
						t.Errorf("the mean is %v, want %v", got, want)
					}
					return nil
				})
				x.Close()
				if err != nil {
					return err
				}
				n++
			}
			return stop
		})
		if err != stop || n != rounds {
			t.Errorf("%d tensors came, error %v", n, err)
		}
		err = s.Aside(func(s *torch.Scope, _ func()) error {
			s.Add(s.Zeros(torch.Float32, 2), s.Zeros(torch.Float32, 3))
			return nil
		})
		if e := (*torch.Error)(nil); !errors.As(err, &e) {
			t.Errorf("an operation that fails: %v", err)
		}
		return nil
	})
	if n := torch.Live(); n != live {
		t.Errorf("%d tensors live, %d before", n, live)
	}
}
