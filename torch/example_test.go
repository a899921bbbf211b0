package torch_test

import (
	"errors"
	"fmt"
	"log"

	"github.com/ditrun/ditrun/torch"
)

// Tensors belong to a scope, which frees them when it ends.
func Example() {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.From(s, []float32{1, 2, 3, 4}, 2, 2)
		y := s.Sub(func(s *torch.Scope) *torch.Tensor {
			return s.MatMul(x, s.AddScalar(x, 1)) // the sum is freed when Sub ends, the product is returned
		})
		fmt.Println(y.Shape(), torch.Data[float32](y))
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: [2 2] [10 13 22 29]
}

// An operation that fails ends Run with an error; no operation returns one.
func ExampleRun_error() {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		s.MatMul(s.Zeros(torch.Float32, 2, 3), s.Zeros(torch.Float32, 2, 3))
		fmt.Println("not reached")
		return nil
	})
	fmt.Println(errors.Is(err, torch.ErrShape))
	// Output: true
}

// Steps of gradient descent. A parameter outlives the scopes of the steps.
func ExampleScope_Backward() {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		w := torch.Persist(s.Zeros(torch.Float32, 1))
		defer w.Close()
		w.SetRequiresGrad(true)
		for range 3 {
			err := s.Try(func(s *torch.Scope) error {
				loss := s.Sum(s.Square(s.AddScalar(w, -4))) // (w - 4)^2
				s.Backward(loss)
				s.NoGrad().Copy_(w, s.Subtract(s.Detach(w), s.MulScalar(s.Grad(w), 0.25)))
				w.ClearGrad()
				fmt.Println(w.Item())
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// 2
	// 3
	// 3.5
}
