package torch_test

import (
	"bytes"
	little "encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

func encode(t *testing.T, to []byte, values any) {
	t.Helper()
	if n, err := little.Encode(to, little.LittleEndian, values); err != nil || n != len(to) {
		t.Fatalf("%d of %d bytes: %v", n, len(to), err)
	}
}

// A step finds in the tensors of a feed what was sent last, whatever the host writes meanwhile for the next one.
func TestFeed(t *testing.T) {
	before := torch.Live()
	torchtest.Run(t, func(s *torch.Scope) error {
		f := torch.NewFeed(s, torch.Part{DType: torch.Int64, Shape: []int{3}},
			torch.Part{DType: torch.Float32, Shape: []int{2, 40}}, torch.Part{DType: torch.Bool, Shape: []int{0, 5}},
			torch.Part{DType: torch.Float64}, torch.Part{DType: torch.Uint8, Shape: []int{5}})
		defer f.Close()
		want(t, f.Tensor(3), []float64{0})
		for step := range 5 {
			k := float64(step)
			labels, rate := []int64{int64(step), 1 << 40, -1}, []float64{0.1 * k}
			x := slices.Repeat([]float32{float32(k)}, 80)
			sent := traffic(func() {
				encode(t, f.Bytes(0), labels)
				encode(t, f.Bytes(1), x)
				encode(t, f.Bytes(3), rate)
				copy(f.Bytes(4), "abcde")
				f.Send()
			})
			if want := (torch.Traffic{Uploads: 1}); sent != want && !s.Device().IsCUDA() { // a GPU may be waited for
				t.Errorf("step %d: %+v, want %+v", step, sent, want)
			}
			encode(t, f.Bytes(0), []int64{7, 7, 7})
			encode(t, f.Bytes(3), []float64{7})
			want(t, f.Tensor(0), labels, 3)
			want(t, f.Tensor(1), x, 2, 40)
			want(t, f.Tensor(3), rate)
			want(t, f.Tensor(4), []uint8("abcde"), 5)
			if empty := f.Tensor(2); !slices.Equal(empty.Shape(), []int{0, 5}) || len(f.Bytes(2)) != 0 {
				t.Errorf("%v, want an empty part", empty)
			}
		}
		return nil
	})
	wantLive(t, before, "at the end")
}

// Who writes once what he sends twice sends something else the second time, on the CPU as on a GPU.
func TestFeedHasTwoBuffers(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		f := torch.NewFeed(s, torch.Part{DType: torch.Uint8, Shape: []int{3}})
		defer f.Close()
		for _, text := range []string{"one", "two"} {
			copy(f.Bytes(0), text)
			f.Send()
		}
		f.Send()
		if got := f.Tensor(0).Bytes(); !bytes.Equal(got, []byte("one")) {
			t.Errorf("%s, want what the buffer held two steps before", got)
		}
		return nil
	})
}

// A captured step is given other numbers by the next Send.
func TestFeedOfACapture(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		f := torch.NewFeed(s, torch.Part{DType: torch.Float32, Shape: []int{2}}, torch.Part{DType: torch.Float64})
		defer f.Close()
		square := func(s *torch.Scope) []*torch.Tensor {
			return []*torch.Tensor{s.Mul(s.Square(f.Tensor(0)), s.To(f.Tensor(1), torch.Float32))}
		}
		square(s)
		g := s.Capture(square)
		defer g.Close()
		for _, k := range []float32{1, 2, 3} {
			encode(t, f.Bytes(0), []float32{k, 10 * k})
			encode(t, f.Bytes(1), []float64{0.5})
			f.Send()
			g.Replay()
			want(t, g.Results()[0], []float32{k * k / 2, 100 * k * k / 2}, 2)
		}
		for name, call := range map[string]func(){"Send": f.Send, "Bytes": func() { f.Bytes(0) }} {
			err := s.Try(func(s *torch.Scope) error {
				refused := s.Capture(func(*torch.Scope) []*torch.Tensor { call(); return nil })
				defer refused.Close()
				refused.Replay()
				return nil
			})
			if e := new(torch.Error); !errors.As(err, &e) || e.Op != "Feed."+name {
				t.Errorf("%s in a capture: %v, want its refusal", name, err)
			}
		}
		return nil
	})
}

func TestFeedRefusals(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		closed := torch.NewFeed(s, torch.Part{DType: torch.Uint8, Shape: []int{3}})
		closed.Close()
		closed.Close()
		pace := torch.NewPace(s, 2)
		pace.Close()
		pace.Close()
		for name, f := range map[string]func(){
			"a negative size": func() { torch.NewFeed(s, torch.Part{DType: torch.Uint8, Shape: []int{-1}}) },
			"too large":       func() { torch.NewFeed(s, torch.Part{DType: torch.Uint8, Shape: []int{1 << 50}}) },
			"Bytes":           func() { closed.Bytes(0) },
			"Send":            closed.Send,
			"no step ahead":   func() { torch.NewPace(s, 0) },
			"Step":            pace.Step,
		} {
			err := s.Try(func(*torch.Scope) error { f(); return nil })
			if e := new(torch.Error); !errors.As(err, &e) {
				t.Errorf("%s: %v, want an *Error", name, err)
			}
		}
		return nil
	})
}

func TestPace(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		p := torch.NewPace(s, 2)
		defer p.Close()
		if got := traffic(func() {
			for range 10 {
				s.Ones(torch.Float32, 1000)
				p.Step()
			}
		}); got != (torch.Traffic{}) {
			t.Errorf("%+v counted, want nothing", got)
		}
		return nil
	})
}
