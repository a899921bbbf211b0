package schedule

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
)

// golden is testdata/schedule.json, made by the original code.
type golden struct {
	BetasSHA256 map[int]string `json:"betas_sha256"`
	Schedules   []struct {
		Betas     string
		Steps     int
		Spec      string
		At, Map   []int
		MapSHA256 string `json:"map_sha256"`
		Values    map[string][]float64
		SHA256    map[string]string
	}
	Spaces []struct {
		Steps        int
		Spec, SHA256 string
	}
	Sweeps []struct {
		Steps          int
		Prefix, SHA256 string
	}
}

func readGolden(t *testing.T) golden {
	t.Helper()
	text, err := os.ReadFile("testdata/schedule.json")
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatal(err)
	}
	if len(g.BetasSHA256) == 0 || len(g.Schedules) == 0 || len(g.Spaces) == 0 || len(g.Sweeps) == 0 {
		t.Fatal("testdata/schedule.json is not complete")
	}
	return g
}

// hash is the SHA-256 of 8-byte values in little-endian order.
func hash[T float64 | int](v []T) string {
	h := sha256.New()
	for _, x := range v {
		var bits uint64
		switch x := any(x).(type) {
		case float64:
			bits = math.Float64bits(x)
		case int:
			bits = uint64(x)
		}
		h.Write(binary.LittleEndian.AppendUint64(nil, bits))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// tables maps the original's names to ours.
func tables(s *Schedule) map[string][]float64 {
	return map[string][]float64{
		"betas":                          s.Betas,
		"alphas_cumprod":                 s.AlphasCumprod,
		"alphas_cumprod_prev":            s.AlphasCumprodPrev,
		"alphas_cumprod_next":            s.AlphasCumprodNext,
		"sqrt_alphas_cumprod":            s.SqrtAlphasCumprod,
		"sqrt_one_minus_alphas_cumprod":  s.SqrtOneMinusAlphasCumprod,
		"log_one_minus_alphas_cumprod":   s.LogOneMinusAlphasCumprod,
		"sqrt_recip_alphas_cumprod":      s.SqrtRecipAlphasCumprod,
		"sqrt_recipm1_alphas_cumprod":    s.SqrtRecipM1AlphasCumprod,
		"posterior_variance":             s.PosteriorVariance,
		"posterior_log_variance_clipped": s.PosteriorLogVarianceClipped,
		"posterior_mean_coef1":           s.PosteriorMeanCoef1,
		"posterior_mean_coef2":           s.PosteriorMeanCoef2,
		"log_betas":                      s.LogBetas,
	}
}

// near compares relatively; of two zeros it needs no more.
func near(a, b, tolerance float64) bool {
	return a == b || math.Abs(a-b) <= tolerance*max(math.Abs(a), math.Abs(b))
}

// respaced is the schedule the original's create_diffusion(spec) makes.
func respaced(t *testing.T, betas []float64, spec string) *Schedule {
	t.Helper()
	full, err := New(betas)
	if err != nil {
		t.Fatal(err)
	}
	use, err := Space(len(betas), spec)
	if err != nil {
		t.Fatal(err)
	}
	s, err := full.Respace(use)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAgainstOriginal(t *testing.T) {
	g := readGolden(t)
	for T, want := range g.BetasSHA256 {
		if got := hash(LinearBetas(T)); got != want {
			t.Errorf("LinearBetas(%d) differs: %s, want %s", T, got, want)
		}
	}
	for _, c := range g.Schedules {
		t.Run(fmt.Sprintf("%s %d %q", c.Betas, c.Steps, c.Spec), func(t *testing.T) {
			betas := LinearBetas(c.Steps)
			// Logarithms differ between libraries in the last bit. So do cosines,
			// and 1 - ratio of two that are nearly equal magnifies that by 1/beta.
			tolerance := 1e-14
			if c.Betas != "linear" {
				betas, tolerance = CosineBetas(c.Steps), 1e-10
			}
			s := respaced(t, betas, c.Spec)
			if got := hash(s.TimestepMap); got != c.MapSHA256 {
				t.Errorf("timestep map %v differs from the original's", s.TimestepMap)
			}
			for i, k := range c.At {
				if s.TimestepMap[k] != c.Map[i] {
					t.Errorf("step %d is step %d of the process, want %d", k, s.TimestepMap[k], c.Map[i])
				}
			}
			checked := 0
			for name, table := range tables(s) {
				if len(table) != s.Len() {
					t.Errorf("%s has %d entries for %d steps", name, len(table), s.Len())
				}
				if want, ok := c.SHA256[name]; ok {
					checked++
					if got := hash(table); got != want {
						t.Errorf("%s is not equal to the original's bit for bit", name)
					}
				}
				if want, ok := c.Values[name]; ok {
					checked++
					for i, k := range c.At {
						if !near(table[k], want[i], tolerance) {
							t.Errorf("%s[%d] = %v, want %v", name, k, table[k], want[i])
						}
					}
				}
			}
			if checked != 14 {
				t.Errorf("%d tables checked, want 14", checked)
			}
		})
	}
}

func TestLinearTable(t *testing.T) {
	s, err := New(LinearBetas(1000))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		t                                                 int
		beta, bar, variance, logVariance, logBeta, c1, c2 float64
	}{
		{0, 1e-4, 0.9999, 0, -9.816725135, -9.210340372, 1, 0},
		{1, 1.1991991992e-4, 0.99978009207, 5.453187661e-05, -9.816725135, -9.028686372, 0.5452914995, 0.454708499},
		{2, 1.3983983984e-4, 0.99964028298, 8.548911523e-05, -9.367121497, -8.875012791, 0.3887068359, 0.6112931603},
		{10, 2.9919919920e-4, 0.99780657251, 2.584636204e-04, -8.260755607, -8.114400988, 0.1362778598, 0.8637220693},
		{100, 2.0919919920e-3, 0.89514159090, 2.05455353e-03, -6.187696715, -6.169638561, 0.01889545559, 0.9810761026},
		{250, 5.07997997998e-3, 0.52142303062, 5.051719844e-03, -5.28802653, -5.282447958, 0.00768442233, 0.9919078833},
		{500, 1.005995995996e-2, 0.07779665837, 1.005133578e-02, -4.60004974, -4.599192094, 0.003058057076,
			0.9941043508},
		{750, 1.503993993994e-2, 0.00330015836, 1.503917954e-02, -4.197096514, -4.197045954, 8.734535068e-4,
			0.9924013631},
		{999, 0.02, 4.03582976538e-05, 1.999998353e-02, -3.912023829, -3.912023005, 1.283514872e-4, 0.9899486783},
	} {
		for _, v := range []struct {
			name      string
			got, want float64
		}{
			{"beta", s.Betas[c.t], c.beta},
			{"alphas cumprod", s.AlphasCumprod[c.t], c.bar},
			{"posterior variance", s.PosteriorVariance[c.t], c.variance},
			{"posterior log variance", s.PosteriorLogVarianceClipped[c.t], c.logVariance},
			{"log beta", s.LogBetas[c.t], c.logBeta},
			{"coef 1", s.PosteriorMeanCoef1[c.t], c.c1},
			{"coef 2", s.PosteriorMeanCoef2[c.t], c.c2},
		} {
			if !near(v.got, v.want, 1e-8) {
				t.Errorf("t = %d: %s %.12g, want %.12g", c.t, v.name, v.got, v.want)
			}
		}
	}
	if !near(s.SqrtAlphasCumprod[999], 0.006352818088, 1e-9) ||
		!near(s.SqrtOneMinusAlphasCumprod[999], 0.9999798206, 1e-9) ||
		!near(s.SqrtRecipAlphasCumprod[999], 157.4104573, 1e-9) {
		t.Errorf("roots of the last step: %v %v %v", s.SqrtAlphasCumprod[999], s.SqrtOneMinusAlphasCumprod[999],
			s.SqrtRecipAlphasCumprod[999])
	}
	if s.AlphasCumprodNext[998] != s.AlphasCumprod[999] || s.AlphasCumprodNext[999] != 0 ||
		s.AlphasCumprodPrev[0] != 1 {
		t.Error("alphas cumprod of the neighbours are wrong at the ends")
	}
}

func TestRespaced250(t *testing.T) {
	s := respaced(t, LinearBetas(1000), "250")
	if s.Len() != 250 || s.TimestepMap[41] != 164 || s.TimestepMap[42] != 169 || s.TimestepMap[100] != 401 ||
		s.TimestepMap[249] != 999 {
		t.Errorf("%d steps, map %v", s.Len(), s.TimestepMap)
	}
	for _, v := range []struct {
		name      string
		got, want float64
	}{
		{"beta 0", s.Betas[0], 1e-4},
		{"beta 1", s.Betas[1], 5.990655645e-4},
		{"beta 2", s.Betas[2], 9.176029928e-4},
		{"beta 249", s.Betas[249], 0.077519344992},
		{"posterior variance 1", s.PosteriorVariance[1], 8.5702534406e-05},
		{"posterior log variance 0", s.PosteriorLogVarianceClipped[0], -9.364628160},
		{"posterior variance 249", s.PosteriorVariance[249], 0.077519082079},
	} {
		if !near(v.got, v.want, 1e-9) {
			t.Errorf("%s %.12g, want %.12g", v.name, v.got, v.want)
		}
	}
}

// A schedule respaced twice still knows the steps of the first process.
func TestRespaceComposes(t *testing.T) {
	s := respaced(t, LinearBetas(1000), "ddim250")
	s, err := s.Respace([]int{0, 2, 249})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(s.TimestepMap); got != "[0 8 996]" {
		t.Errorf("map %s, want [0 8 996]", got)
	}
}

// One step is enough to sample with: every table is finite.
func TestOneStep(t *testing.T) {
	s := respaced(t, LinearBetas(1000), "1")
	for name, table := range tables(s) {
		if len(table) != 1 || math.IsNaN(table[0]) || math.IsInf(table[0], 0) {
			t.Errorf("%s = %v, want one finite entry", name, table)
		}
	}
}

func TestRefusedSchedules(t *testing.T) {
	for _, c := range []struct {
		betas []float64
		want  string
	}{
		{nil, "schedule: no steps"},
		{[]float64{0.1, 0}, "schedule: beta of step 1 is 0, want a value in (0, 1]"},
		{[]float64{-0.1}, "beta of step 0 is -0.1"},
		{[]float64{math.NaN()}, "beta of step 0 is NaN"},
		{LinearBetas(10), "beta of step 5 is 1."},
		{LinearBetas(0), "no steps"},
		{LinearBetas(-3), "no steps"},
		{CosineBetas(0), "no steps"},
	} {
		if _, err := New(c.betas); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("New(%v): %v, want %s", c.betas, err, c.want)
		}
	}
	full, err := New(LinearBetas(1000))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		use  []int
		want string
	}{
		{nil, "no steps"},
		{[]int{0, 1000}, "step 1000 of a schedule of 1000"},
		{[]int{-1}, "step -1 of a schedule of 1000"},
		{[]int{5, 5}, "step 5 after step 5, want ascending steps"},
		{[]int{5, 4}, "step 4 after step 5"},
	} {
		if _, err := full.Respace(c.use); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Respace(%v): %v, want %s", c.use, err, c.want)
		}
	}
}
