package torch_test

import (
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// wantLive fails unless exactly n handles exist; reclaimed ones are freed by a scope that opens.
func wantLive(t *testing.T, n int64, when string) {
	t.Helper()
	if got := torch.Live(); got != n {
		t.Errorf("%s: %d tensors live, want %d", when, got, n)
	}
}

// failure runs f and returns the *Error with which it must fail.
func failure(t *testing.T, f func(s *torch.Scope)) *torch.Error {
	t.Helper()
	err := torch.Run(torchtest.Device(t), func(s *torch.Scope) error { f(s); return nil })
	var e *torch.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want a *torch.Error", err)
	}
	return e
}

func TestRunFreesEverything(t *testing.T) {
	before := torch.Live()
	torchtest.Run(t, func(s *torch.Scope) error {
		s.Chunk(s.Ones(torch.Float32, 4, 2), 4, 0)
		wantLive(t, before+5, "inside")
		return nil
	})
	wantLive(t, before, "after Run")
	boom := errors.New("boom")
	if err := torch.Run(torchtest.Device(t),
		func(s *torch.Scope) error { s.Ones(torch.Float32, 4); return boom }); err != boom {
		t.Errorf("Run returned %v, want f's own error", err)
	}
	wantLive(t, before, "after an error")
	func() {
		defer func() {
			if r := recover(); r != "boom" {
				t.Errorf("Run let %v through, want the panic of f", r)
			}
		}()
		torch.Run(torchtest.Device(t), func(s *torch.Scope) error { s.Ones(torch.Float32, 4); panic("boom") })
	}()
	wantLive(t, before, "after a panic")
	done := make(chan bool)
	go func() {
		defer close(done)
		torch.Run(torchtest.Device(t),
			func(s *torch.Scope) error { s.Ones(torch.Float32, 4); runtime.Goexit(); return nil })
	}()
	<-done
	wantLive(t, before, "after Goexit")
}

func TestSubKeepsItsResultOnly(t *testing.T) {
	before := torch.Live()
	torchtest.Run(t, func(s *torch.Scope) error {
		x := torch.From(s, []float32{1, 2}, 2)
		var inner *torch.Tensor
		y := s.Sub(func(s *torch.Scope) *torch.Tensor {
			inner = s.MulScalar(x, 2)
			return s.AddScalar(inner, 1)
		})
		wantLive(t, before+2, "after Sub")
		want(t, y, []float32{3, 5}, 2)

		if same := s.Sub(func(*torch.Scope) *torch.Tensor { return x }); same != x {
			t.Error("Sub changed a tensor of the outer scope")
		}
		if none := s.Sub(func(s *torch.Scope) *torch.Tensor { s.Neg(x); return nil }); none != nil {
			t.Error("Sub made up a result")
		}
		wantLive(t, before+2, "after Sub with results of others")
		want(t, x, []float32{1, 2}, 2)

		z := s.Sub(func(s *torch.Scope) *torch.Tensor { // through two scopes, the middle without grad
			return s.NoGrad().Sub(func(s *torch.Scope) *torch.Tensor { return s.Neg(x) })
		})
		want(t, z, []float32{-1, -2}, 2)

		ts := s.SubAll(func(s *torch.Scope) []*torch.Tensor {
			a := s.Exp(x)
			return []*torch.Tensor{s.Neg(x), nil, x, s.Chunk(a, 2, 0)[1]}
		})
		wantLive(t, before+5, "after SubAll")
		want(t, ts[0], []float32{-1, -2}, 2)
		if ts[1] != nil || ts[2] != x || ts[3].NumElements() != 1 {
			t.Errorf("SubAll returned %v", ts)
		}
		twice := s.SubAll(func(s *torch.Scope) []*torch.Tensor { y := s.Neg(x); return []*torch.Tensor{y, y} })
		want(t, twice[1], []float32{-1, -2}, 2)
		wantLive(t, before+6, "after SubAll with one tensor twice")

		if err := s.Try(func(s *torch.Scope) error { s.Add(x, s.Ones(torch.Float32, 3)); return nil }); !errors.Is(err,
			torch.ErrShape) {
			t.Errorf("Try returned %v, want a shape error", err)
		}
		wantLive(t, before+6, "after a failed Try")
		want(t, x, []float32{1, 2}, 2) // the outer scope goes on

		_ = inner
		return nil
	})
	wantLive(t, before, "at the end")
}

func TestReleasePersistClose(t *testing.T) {
	before := torch.Live()
	var p *torch.Tensor
	torchtest.Run(t, func(s *torch.Scope) error {
		x, y := s.Ones(torch.Float32, 2), s.Ones(torch.Float32, 2)
		s.Release(x, nil, x)
		wantLive(t, before+1, "after Release")
		p = torch.Persist(s.MulScalar(y, 3))
		if torch.Persist(p) != p {
			t.Error("Persist of a persistent tensor returns another")
		}
		s.Sub(func(*torch.Scope) *torch.Tensor { return p }) // a persistent tensor stays persistent
		return nil
	})
	wantLive(t, before+1, "after Run")
	want(t, p, []float32{3, 3}, 2)
	if e := failure(t, func(s *torch.Scope) { s.Release(p) }); e.Op != "Release" {
		t.Errorf("releasing a persistent tensor: %v", e)
	}
	p.Close()
	p.Close()
	wantLive(t, before, "after Close")
	if e := failure(t, func(s *torch.Scope) { s.Ones(torch.Float32, 2).Close() }); e.Op != "Close" {
		t.Errorf("closing a scope's tensor: %v", e)
	}
	wantLive(t, before, "after misuse")
}

func TestUseAfterEndNamesTheOperation(t *testing.T) {
	var dead *torch.Tensor
	torchtest.Run(t, func(s *torch.Scope) error { dead = s.Ones(torch.Float32, 2, 3); return nil })
	var released *torch.Tensor
	for op, f := range map[string]func(s *torch.Scope){
		"Add":           func(s *torch.Scope) { s.Add(s.Ones(torch.Float32, 1), dead) },
		"Cat":           func(s *torch.Scope) { s.Cat([]*torch.Tensor{s.Ones(torch.Float32, 1), dead}, 0) },
		"Linear":        func(s *torch.Scope) { x := s.Ones(torch.Float32, 3, 3); s.Linear(x, x, dead) },
		"Copy_":         func(s *torch.Scope) { s.Copy_(dead, s.Ones(torch.Float32, 1)) },
		"Data":          func(*torch.Scope) { torch.Data[float32](dead) },
		"Bytes":         func(*torch.Scope) { dead.Bytes() },
		"Item":          func(*torch.Scope) { dead.Item() },
		"CopyFromBytes": func(*torch.Scope) { dead.CopyFromBytes(make([]byte, 24)) },
		"Backward":      func(s *torch.Scope) { s.Backward(dead) },
		"Grad":          func(s *torch.Scope) { s.Grad(dead) },
		"ClearGrad":     func(*torch.Scope) { dead.ClearGrad() },
		"RequiresGrad":  func(*torch.Scope) { dead.RequiresGrad() },
		"Persist":       func(*torch.Scope) { torch.Persist(dead) },
		"ToDevice":      func(s *torch.Scope) { s.ToDevice(dead, torch.CPU) },
		"Neg": func(s *torch.Scope) {
			released = s.Ones(torch.Float32, 1)
			s.Release(released)
			s.Neg(released)
		},
	} {
		before := torch.Live()
		e := failure(t, f)
		if e.Op != op || !strings.Contains(e.Error(), "after its scope ended") {
			t.Errorf("%s of a dead tensor: %v", op, e)
		}
		wantLive(t, before, op)
	}
	if !slices.Equal(dead.Shape(), []int{2, 3}) {
		t.Error("a dead tensor forgot its shape")
	}
	e := failure(t, func(s *torch.Scope) {
		var ended *torch.Scope
		s.Sub(func(s *torch.Scope) *torch.Tensor { ended = s; return nil })
		ended.Ones(torch.Float32, 1)
	})
	if !strings.Contains(e.Error(), "after it ended") {
		t.Errorf("use of an ended scope: %v", e)
	}
}

// What nobody closed is freed when the collector has found it and the next scope opens.
func TestDroppedTensorsAreReclaimed(t *testing.T) {
	dev := torchtest.Device(t)
	settle := func() { torch.Run(dev, func(*torch.Scope) error { return nil }) }
	settle()
	before := torch.Live()
	func() {
		s := torch.Abandon(dev)
		s.Chunk(s.Ones(torch.Float32, 8), 4, 0)
		torchtest.Run(t, func(s *torch.Scope) error { torch.Persist(s.Ones(torch.Float32, 3)); return nil })
		if _, err := torch.NewGenerator(dev, 1); err != nil {
			t.Fatal(err)
		}
	}()
	wantLive(t, before+6, "before the collection")
	for deadline := time.Now().Add(10 * time.Second); torch.Live() != before && time.Now().Before(deadline); {
		runtime.GC()
		time.Sleep(time.Millisecond)
		settle()
	}
	wantLive(t, before, "after collections")
}

func TestViewsShareStorage(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		x := s.Zeros(torch.Float32, 2, 4)
		s.Fill_(s.Chunk(x, 2, 1)[1], 1)
		want(t, x, []float32{0, 0, 1, 1, 0, 0, 1, 1}, 2, 4)
		s.Fill_(s.Select(s.Narrow(x, 1, 0, 2), 0, 1), 2)
		want(t, x, []float32{0, 0, 1, 1, 2, 2, 1, 1}, 2, 4)
		// A view lives on when its source's handle is gone.
		v := s.Sub(func(s *torch.Scope) *torch.Tensor {
			return s.Transpose(torch.From(s, []int64{1, 2, 3, 4, 5, 6}, 2, 3), 0, 1)
		})
		want(t, v, []int64{1, 4, 2, 5, 3, 6}, 3, 2)
		return nil
	})
}

// TestFillInParts: what is not plain host memory is filled through a part of its size, in order, and a tensor that is
// takes no other memory.
func TestFillInParts(t *testing.T) {
	const rows, row = 97, 1 << 20
	value := func(i int64) byte { return byte(i*7 + i>>20) }
	torchtest.Run(t, func(s *torch.Scope) error {
		for name, x := range map[string]*torch.Tensor{
			"plain":      s.Empty(torch.Uint8, rows, row),
			"transposed": s.Transpose(s.Empty(torch.Uint8, row, rows), 0, 1),
		} {
			parts, next := 0, int64(0)
			if err := x.Fill(func(p []byte, off int64) error {
				if off != next || len(p) > 64<<20 && (name != "plain" || s.Device().IsCUDA()) {
					t.Errorf("%s: part of %d bytes at %d, want %d", name, len(p), off, next)
				}
				for i := range p {
					p[i] = value(off + int64(i))
				}
				parts, next = parts+1, off+int64(len(p))
				return nil
			}); err != nil {
				return err
			}
			if next != rows*row || name == "transposed" && parts != 2 {
				t.Errorf("%s: %d bytes in %d parts", name, next, parts)
			}
			for i, b := range x.Bytes() {
				if b != value(int64(i)) {
					t.Errorf("%s: byte %d is %d, want %d", name, i, b, value(int64(i)))
					break
				}
			}
			full := errors.New("full")
			if err := x.Fill(func([]byte, int64) error { return full }); err != full {
				t.Errorf("%s: error %v", name, err)
			}
		}
		return nil
	})
}

// Outside Run, Fill returns what goes wrong, and the others panic with it.
func TestErrorsOutsideRun(t *testing.T) {
	var closed *torch.Tensor
	torchtest.Run(t, func(s *torch.Scope) error { closed = s.Ones(torch.Float32, 2); return nil })
	var e *torch.Error
	err := closed.Fill(func([]byte, int64) error { t.Error("read was called"); return nil })
	if !errors.As(err, &e) || e.Op != "Fill" || !strings.Contains(err.Error(), "after its scope ended") {
		t.Errorf("Fill returns %v", err)
	}
	for op, f := range map[string]func(){
		"Item": func() { closed.Item() }, "Bytes": func() { closed.Bytes() },
		"CopyFromBytes":   func() { closed.CopyFromBytes(make([]byte, 8)) },
		"SetRequiresGrad": func() { closed.SetRequiresGrad(true) },
		"Persist":         func() { torch.Persist(closed) },
	} {
		func() {
			defer func() {
				if e, ok := recover().(*torch.Error); !ok || e.Op != op {
					t.Errorf("%s: panic %v", op, e)
				}
			}()
			f()
		}()
	}
}

func TestTensorDescription(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		x := s.Zeros(torch.BFloat16, 2, 3, 4)
		if x.Rank() != 3 || x.Dim(0) != 2 || x.Dim(-1) != 4 || x.NumElements() != 24 || x.DType() != torch.BFloat16 ||
			x.Device() != s.Device() {
			t.Errorf("wrong description: %v", x)
		}
		if got, want := x.String(), "bfloat16 [2 3 4] on "+s.Device().String(); got != want {
			t.Errorf("String is %q, want %q", got, want)
		}
		if len(x.Bytes()) != 48 {
			t.Errorf("%d bytes, want 48", len(x.Bytes()))
		}
		x.CopyFromBytes([]byte(strings.Repeat("\x80\x3f", 24))) // 1.0
		if got := s.Sum(s.To(x, torch.Float32)).Item(); got != 24 {
			t.Errorf("sum is %v, want 24", got)
		}
		y := s.ToDevice(x, torch.CPU)
		if y.Device() != torch.CPU || s.Full(2.5, torch.Float64).Item() != 2.5 || s.Full(7, torch.Int32).Item() != 7 {
			t.Error("ToDevice or Item is wrong")
		}
		for _, s := range []*torch.Scope{s, s.NoGrad()} {
			if p := s.Ones(torch.Float32, 1); p.RequiresGrad() {
				t.Error("a new tensor requires a gradient")
			}
		}
		if !s.RecordsGrad() || s.NoGrad().RecordsGrad() {
			t.Error("RecordsGrad is wrong")
		}
		return nil
	})
}

// Run within Run says so, instead of waiting for ever at the fifth.
func TestNestedRun(t *testing.T) {
	nested := func() (err error) {
		defer func() { err, _ = recover().(*torch.Error) }()
		return torch.Run(torch.CPU, func(*torch.Scope) error { return nil })
	}
	for range 2 { // the first leaves nothing behind
		err := torch.Run(torch.CPU, func(*torch.Scope) error { return nested() })
		if err == nil || !strings.Contains(err.Error(), "Run: called within Run: use the scope's Try") {
			t.Errorf("error %v", err)
		}
	}
	if err := torch.Run(torch.CPU, func(*torch.Scope) error { return nil }); err != nil {
		t.Errorf("after it: %v", err)
	}
}

// Others compute while a Run waits for another goroutine, in the place that it gives up and takes again.
func TestPause(t *testing.T) {
	dev := torchtest.Device(t)
	const goroutines = 6 // more than compute at once
	var waiting, all sync.WaitGroup
	waiting.Add(goroutines)
	for range goroutines {
		all.Go(func() {
			err := torch.Run(dev, func(s *torch.Scope) error {
				x := s.Ones(torch.Float32, 3)
				s.Pause(func() {
					waiting.Done()
					waiting.Wait()
				})
				if sum := s.Sum(x).Item(); sum != 3 {
					t.Errorf("after a pause the sum is %v, want 3", sum)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	failure(t, func(*torch.Scope) { torch.Shapes().Pause(func() {}) })
}
