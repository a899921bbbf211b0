// Package torch is the Go face of libtorch.
//
// # Scopes
//
// Whatever makes a tensor is a method of [Scope] (or takes one); methods of [Tensor] only describe
// it or read it back. A scope frees everything it made, in one C call, when it ends; what is to
// live longer is returned from [Scope.Sub] or made persistent by [Persist]. Nothing waits for Go's
// garbage collector.
//
//	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
//		x := torch.From(s, []float32{1, 2, 3, 4}, 2, 2)
//		y := s.Sub(func(s *torch.Scope) *torch.Tensor {
//			return s.MatMul(x, s.SiLU(x)) // the SiLU is freed when Sub ends
//		})
//		fmt.Println(torch.Data[float32](y))
//		return nil
//	})
//
// Use one scope for a training step, one for a block of a model, one for a sampling step.
// Parameters, averages and everything else that outlives a step is made persistent.
//
// # Errors
//
// A failing operation panics with an [*Error]; [Run] and [Scope.Try] turn it into a returned error. So
// whoever computes on a Scope, which exists only inside Run, never meets the panic. What needs no Scope
// can be called outside of Run too, where nothing turns the panic into an error: of each such function
// and method the comment says when "it panics with an *Error".
//
// # Threads
//
//  1. A Scope belongs to one goroutine at a time. Parameters may be read by several goroutines and
//     are written only by the one that owns the optimizer.
//  2. Grad mode, TF32 and determinism travel with the scope into each C call, so evaluation may run on one goroutine
//     while training runs on another. Calls that want TF32 or determinism otherwise wait for each other: evaluate with
//     the switches of the training. For the same reason two ranks of a group are two processes.
//  3. Run locks its OS thread, because OpenMP keeps a team of threads for each calling thread; at
//     most four Runs are inside at once. Do not nest Run: use [Scope.Try].
//  4. Loader goroutines make no tensors. They fill Go memory, which the training goroutine copies.
//  5. Call [SetNumThreads] once, before work. Set GOMP_SPINCOUNT=4000, or OMP_WAIT_POLICY=passive, in
//     the environment before the first use of this package where other goroutines or processes
//     compute too: OpenMP's spinning threads would take their cores.
//
// # Libraries
//
// libtorch is opened when it is first needed, not when the program starts, so that a program runs,
// and can say what is missing, without it; see [Available]. One binary serves CPU and CUDA machines.
// docs/build.md says how programs of other modules are built. The [example] computes a product.
//
// [example]: https://pkg.go.dev/github.com/ditrun/ditrun/torch#example-package
package torch

//go:generate go run ./internal/genops .
