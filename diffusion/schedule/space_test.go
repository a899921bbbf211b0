package schedule

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// text is the steps with commas between them.
func text(use []int) string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(use), "[]"), " ", ",")
}

func TestSpace(t *testing.T) {
	for _, c := range []struct {
		T    int
		spec string
		want string
	}{
		{1000, "1", "0"},
		{1000, "2", "0,999"},
		{1000, "3", "0,500,999"},
		{1000, "5", "0,250,500,749,999"},
		{1000, "7", "0,166,333,500,666,832,999"},
		{1000, "10", "0,111,222,333,444,555,666,777,888,999"},
		{1000, "50",
			"0,20,41,61,82,102,122,143,163,183,204,224,245,265,285,306,326,347,367,387,408,428,449,469,489," +
				"510,530,550,571,591,612,632,652,673,693,714,734,754,775,795,816,836,856,877,897,917,938,958," +
				"979,999"},
		{1000, "10,15,20",
			"0,37,74,111,148,185,222,259,296,333,334,358,381,405,429,453,476,500,524,547,571,595,619,642," +
				"666,667,684,702,719,737,754,772,789,807,824,842,859,877,894,912,929,947,964,982,999"},
		{300, "10,15,20",
			"0,11,22,33,44,55,66,77,88,99,100,107,114,121,128,135,142,149,157,164,171,178,185,192,199,200," +
				"205,210,216,221,226,231,236,242,247,252,257,263,268,273,278,283,289,294,299"},
		{10, "", "0,1,2,3,4,5,6,7,8,9"},
		{10, "ddim5", "0,2,4,6,8"},
		{1000, "0,1", "500"},
	} {
		use, err := Space(c.T, c.spec)
		if err != nil || text(use) != c.want {
			t.Errorf("Space(%d, %q) = %v, %v, want %s", c.T, c.spec, use, err, c.want)
		}
	}
	use, err := Space(1000, "250")
	if err != nil || len(use) != 250 {
		t.Fatal(len(use), err)
	}
	for i := 1; i < len(use); i++ {
		step := 4
		if slices.Contains([]int{169, 502, 835}, use[i]) {
			step = 5
		}
		if use[i]-use[i-1] != step {
			t.Errorf("step %d after %d", use[i], use[i-1])
		}
	}
}

func TestSpaceRefuses(t *testing.T) {
	for _, c := range []struct {
		T    int
		spec string
		want string
	}{
		{1000, "ddim37", `num-sampling-steps "ddim37": no integer stride over 1000 steps gives 37`},
		{1000, "ddim1", `num-sampling-steps "ddim1": no integer stride over 1000 steps gives 1`},
		{1000, "ddim-5", `no integer stride over 1000 steps gives -5`},
		{1000, "ddim", `"" is not a number of steps; want "ddim" and a number`},
		{1000, "ddim50,50", `"50,50" is not a number of steps`},
		{1000, "1001", `num-sampling-steps "1001": 1001 steps of a process of 1000`},
		{1000, "501,499", `num-sampling-steps "501,499": 501 steps of a section of 500`},
		{1000, "abc", `num-sampling-steps "abc": "abc" is not a number of steps`},
		{1000, "5,", `"" is not a number of steps`},
		{1000, "-5", `"-5" is not a number of steps`},
		{1000, "1.5", `"1.5" is not a number of steps`},
		{1000, "99999999999999999999", `is not a number of steps`},
		{1000, "0", `num-sampling-steps "0": keeps no step`},
		{1000, strings.Repeat("1,", 1000) + "1", "1001 sections of a process of 1000 steps"},
		{0, "", `the process has 0 steps`},
	} {
		use, err := Space(c.T, c.spec)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Space(%d, %q) = %v, %v, want %s", c.T, c.spec, use, err, c.want)
		}
	}
}

// The stride lengths that exist over 1000 steps.
func TestSpaceDDIM(t *testing.T) {
	var got []int
	for n := range 1002 {
		if _, err := Space(1000, "ddim"+strconv.Itoa(n)); err == nil {
			got = append(got, n)
		}
	}
	var want []int
	for n := 2; n <= 36; n++ {
		want = append(want, n)
	}
	want = append(want, 38, 39, 40, 42, 44, 46, 48, 50, 53, 56, 59, 63, 67, 72, 77, 84, 91, 100, 112, 125, 143, 167,
		200, 250, 334, 500, 1000)
	if !slices.Equal(got, want) {
		t.Errorf("ddimN exists for %v, want %v", got, want)
	}
}

func TestSpaceAgainstOriginal(t *testing.T) {
	g := readGolden(t)
	for _, c := range g.Spaces {
		use, err := Space(c.Steps, c.Spec)
		if c.SHA256 == "" {
			if err == nil {
				t.Errorf("Space(%d, %q) = %v, the original refuses", c.Steps, c.Spec, use)
			}
			continue
		}
		if sum := sha256.Sum256([]byte(text(use))); err != nil || hex.EncodeToString(sum[:]) != c.SHA256 {
			t.Errorf("Space(%d, %q) = %v, %v: not the original's", c.Steps, c.Spec, use, err)
		}
	}
	// Every count there is: rounding halves up, or multiplying instead of
	// accumulating, fails here.
	for _, c := range g.Sweeps {
		h := sha256.New()
		for n := 1; n <= c.Steps+1; n++ {
			if use, err := Space(c.Steps, c.Prefix+strconv.Itoa(n)); err != nil {
				fmt.Fprintln(h, "error")
			} else {
				fmt.Fprintln(h, text(use))
			}
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != c.SHA256 {
			t.Errorf("Space(%d, %q + every count) is not the original's", c.Steps, c.Prefix)
		}
	}
}

func FuzzSpace(f *testing.F) {
	for _, spec := range []string{"", "250", "ddim50", "10,15,20", "0", "-1", "ddim", ",", "1e3", "\x00"} {
		f.Add(1000, spec)
	}
	f.Fuzz(func(t *testing.T, T int, spec string) {
		T %= 2000
		use, err := Space(T, spec)
		if err != nil {
			return
		}
		if len(use) == 0 || use[0] < 0 || use[len(use)-1] >= T {
			t.Fatalf("Space(%d, %q) = %v", T, spec, use)
		}
		for i := 1; i < len(use); i++ {
			if use[i] <= use[i-1] {
				t.Fatalf("Space(%d, %q) = %v, not ascending", T, spec, use)
			}
		}
	})
}
