package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/bench"
)

// TestBenchProfile: of the four works that have one, in their processes, and silently.
func TestBenchProfile(t *testing.T) {
	r := theRoad(t)
	for _, f := range benched(t, slices.Concat(smallBench, []string{"--vae", r.vae, "--profile"})...).Works {
		if f.Work == "load" || f.Work == "start" {
			if f.Profile != nil {
				t.Errorf("%s: %+v", f.Work, f.Profile)
			}
			continue
		}
		product := "aten::addmm"
		if f.Work == "encode" || f.Work == "decode" {
			product = "aten::mkldnn_convolution"
		}
		p, sum := f.Profile, 0.0
		if p == nil || p.Steps != 2 || len(f.Rounds) != 3 {
			t.Errorf("%s: rounds %v, profile %+v", f.Work, f.Rounds, p)
			continue
		}
		calls := map[string]int{}
		for _, m := range p.Timings {
			sum += m.Seconds
			calls[m.Name] = m.Calls
		}
		if sum <= 0 || sum > p.Seconds || calls[product] == 0 || calls[product]%2 != 0 {
			t.Errorf("%s: %g s of %g, %d calls of %s", f.Work, sum, p.Seconds, calls[product], product)
		}
	}
	o := mustRun(t, slices.Concat([]string{"bench", "train", "--profile"}, smallBench)...)
	fits(t, o.stdout)
	lines := strings.Split(o.stdout, "\n\n")
	table := strings.Split(lines[len(lines)-1], "\n")
	if !strings.HasPrefix(table[0], "train: 2 steps in ") || !strings.HasSuffix(table[1], "calls  operation") ||
		!strings.Contains(o.stdout, " others\n") || !strings.Contains(o.stdout, "-  between operations\n") ||
		len(table) != 2+profileRows+3 || strings.Contains(o.stderr, "ERROR") {
		t.Errorf("prints\n%s%s", o.stdout, o.stderr)
	}
	ditrun(t, "bench", "start", "load", "--profile").refused(t, 2, "--profile: want one of train, sample, encode")
}

func TestProfileOfKernels(t *testing.T) {
	for name, want := range map[string]string{
		"void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>, std::array<char*, 1ul> >" +
			"(int, at::native::FillFunctor<float>, std::array<char*, 1ul>)": "vectorized_elementwise_kernel<4, " +
			"FillFunctor<float>, std::array<char*, 1ul> >",
		"void at::native::(anonymous namespace)::f<void (*)(int)>(void (*)(int))": "f<void (*)(int)>",
		"Memcpy HtoD (Pinned -> Device)":                                          "Memcpy HtoD (Pinned -> Device)",
		"sm90_xmma_gemm_bf16bf16":                                                 "sm90_xmma_gemm_bf16bf16",
	} {
		if got := kernelName(name); got != want {
			t.Errorf("%s became %s, want %s", name, got, want)
		}
	}
	b := &benchRun{env: &env{stdout: &strings.Builder{}}, job: &bench.Job{}}
	b.profile("train", &bench.Profile{Steps: 1, Seconds: 1, Timings: []bench.Timing{
		{Name: strings.Repeat("gemm", 50), Calls: 1234567, Seconds: 1.5}}})
	fits(t, b.stdout.(*strings.Builder).String())
}
