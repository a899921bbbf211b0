package vae

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// BenchmarkMemoryFormat compares convolution layouts: forward, and forward with backward, of the
// encoder and the decoder with memory in row-major (planar) and in channels-last order.
func BenchmarkMemoryFormat(b *testing.B) {
	small, err := SmallConfig(32, 4, 4)
	if err != nil {
		b.Fatal(err)
	}
	for _, bc := range []struct {
		name        string
		cfg         Config
		batch, size int
		backward    bool
	}{
		{"small/forward", small, 64, 32, false},
		{"small/train", small, 16, 32, true},
		{"sd/forward", StableDiffusion(), 1, 128, false},
	} {
		for _, format := range []string{"planar", "channels-last"} {
			b.Run(fmt.Sprintf("%s/%s", bc.name, format), func(b *testing.B) {
				gen, err := torch.NewGenerator(torch.CPU, 1)
				if err != nil {
					b.Fatal(err)
				}
				torchtest.Run(b, func(s *torch.Scope) error {
					m, err := New(s, bc.cfg)
					if err != nil {
						return err
					}
					defer m.Close()
					m.Init(s, gen)
					x := s.Zeros(torch.Float32, bc.batch, 3, bc.size, bc.size)
					s.Normal_(x, gen, 0, 1)
					if format == "channels-last" {
						x = s.ChannelsLast(x)
					}
					if !bc.backward {
						s = s.NoGrad()
					}
					step := func(s *torch.Scope) error {
						moments := m.QuantConv.Forward(s, m.Encoder.Forward(s, x))
						mean, _ := posterior(s, moments)
						if format == "channels-last" {
							mean = s.ChannelsLast(mean)
						}
						y := m.Decoder.Forward(s, m.PostQuantConv.Forward(s, mean))
						if bc.backward {
							s.Backward(s.MSELoss(y, x))
						}
						s.Synchronize()
						return nil
					}
					if err := s.Try(step); err != nil {
						return err
					}
					start := cpuSeconds()
					for b.Loop() {
						if err := s.Try(step); err != nil {
							return err
						}
					}
					b.ReportMetric((cpuSeconds()-start)/float64(b.N), "cpu-s/op")
					return nil
				})
			})
		}
	}
}

// cpuSeconds is the processor time of this process, which other load on the machine disturbs less
// than the clock.
func cpuSeconds() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
