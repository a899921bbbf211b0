package philox

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ditrun/ditrun/internal/testtool"
)

// The known answers of Random123 (tests/kat_vectors, philox4x32 10), their
// counters and keys written as draws.
func TestKnownAnswers(t *testing.T) {
	for _, c := range []struct {
		seed             uint64
		block, tag, step uint32
		index            uint64
		want             [4]uint32
	}{
		{0, 0, 0, 0, 0, [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{math.MaxUint64, math.MaxUint32, 255, MaxStep, math.MaxUint64,
			[4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{0x299f31d0_a4093822, 0x243f6a88, 0x85, 0xa308d3, 0x03707344_13198a2e,
			[4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	} {
		if got := Block(c.seed, c.block, c.tag, c.step, c.index); got != c.want {
			t.Errorf("Block(%x, %x, %x, %x, %x) = %x, want %x", c.seed, c.block, c.tag, c.step, c.index, got, c.want)
		}
	}
}

// near says whether two normals agree within the promised 1e-6.
func near(a, b float32) bool { return math.Abs(float64(a)-float64(b)) <= 1e-6 }

// Golden values of an independent implementation, testdata/gen_philox.py.
func TestNumPyGolden(t *testing.T) {
	text, err := os.ReadFile("testdata/philox.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	if len(lines) < 100 {
		t.Fatalf("%d lines, want at least 100", len(lines))
	}
	for _, line := range lines {
		var (
			seed, index      uint64
			block, tag, step uint32
			want             [4]uint32
			normals          [4]uint32
		)
		if _, err := fmt.Sscanf(string(line), "%x %x %x %x %x %x %x %x %x %x %x %x %x", &seed, &block, &tag, &step,
			&index,
			&want[0], &want[1], &want[2], &want[3], &normals[0], &normals[1], &normals[2], &normals[3]); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		got := Block(seed, block, tag, step, index)
		if got != want {
			t.Errorf("%s: words %x", line, got)
		}
		for i, n := range normals4(got) {
			if !near(n, math.Float32frombits(normals[i])) {
				t.Errorf("%s: normal %d is %v, want %v", line, i, n, math.Float32frombits(normals[i]))
			}
		}
	}
}

func TestBoxMullerEdges(t *testing.T) {
	for _, c := range []struct {
		w0, w1 uint32
		want   [2]float64
	}{
		{math.MaxUint32, 12345, [2]float64{0, 0}},                  // u = 1
		{0, 0, [2]float64{6.660437527, 0}},                         // u = 2^-32, the largest value there is
		{0, 1 << 31, [2]float64{-6.660437527, 0}},                  // half a turn
		{1<<31 - 1, 1 << 30, [2]float64{0, 1.177410022}},           // u = 1/2, a quarter turn
		{1<<31 - 1, 3 << 30, [2]float64{0, -1.177410022}},          // three quarters
		{1<<31 - 1, 1 << 29, [2]float64{0.832554611, 0.832554611}}, // an eighth
	} {
		n0, n1 := boxMuller(c.w0, c.w1)
		if !near(n0, float32(c.want[0])) || !near(n1, float32(c.want[1])) {
			t.Errorf("boxMuller(%x, %x) = %v %v, want %v", c.w0, c.w1, n0, n1, c.want)
		}
	}
}

func TestNormalsPrefix(t *testing.T) {
	long := make([]float32, 19)
	Normals(long, 5, TagStepNoise, 3, 1<<40)
	for n := range long {
		short := make([]float32, n)
		Normals(short, 5, TagStepNoise, 3, 1<<40)
		for i := range short {
			if short[i] != long[i] {
				t.Fatalf("element %d of %d is %v, of 19 %v", i, n, short[i], long[i])
			}
		}
	}
}

// Every part of a draw's name must change the draw.
func TestDrawsDiffer(t *testing.T) {
	seen := make(map[uint32]string)
	add := func(name string, seed uint64, tag, step uint32, index uint64) {
		w := Uint32(seed, tag, step, index)
		if other, ok := seen[w]; ok {
			t.Errorf("%s and %s both start with %x", name, other, w)
		}
		seen[w] = name
	}
	add("zero", 0, 0, 0, 0)
	for i := range 64 {
		add(fmt.Sprint("seed bit ", i), 1<<i, 0, 0, 0)
		add(fmt.Sprint("index bit ", i), 0, 0, 0, 1<<i)
	}
	for i := range 24 {
		add(fmt.Sprint("step bit ", i), 0, 0, 1<<i, 0)
	}
	for i := range 8 {
		add(fmt.Sprint("tag bit ", i), 0, 1<<i, 0, 0)
	}
}

func TestDistribution(t *testing.T) {
	const n = 1 << 18
	v := make([]float32, n)
	Normals(v, 42, TagStartNoise, 0, 7)
	var m [5]float64
	inside := 0
	lag := 0.0
	for i, x := range v {
		p := 1.0
		for k := range m {
			m[k] += p / n
			p *= float64(x)
		}
		if math.Abs(float64(x)) < 1 {
			inside++
		}
		if i > 0 {
			lag += float64(x) * float64(v[i-1]) / n
		}
	}
	// Bounds of about five standard errors of each estimate.
	for _, c := range []struct {
		name             string
		got, want, bound float64
	}{
		{"mean", m[1], 0, 5 / math.Sqrt(n)},
		{"variance", m[2], 1, 5 * math.Sqrt(2./n)},
		{"third moment", m[3], 0, 5 * math.Sqrt(15./n)},
		{"fourth moment", m[4], 3, 5 * math.Sqrt(96./n)},
		{"share within 1", float64(inside) / n, 0.682689492, 5 * math.Sqrt(0.2166/n)},
		{"correlation of neighbours", lag, 0, 5 / math.Sqrt(n)},
	} {
		if math.Abs(c.got-c.want) > c.bound {
			t.Errorf("%s: %v, want %v within %v", c.name, c.got, c.want, c.bound)
		}
	}
}

func TestUniformAndIntn(t *testing.T) {
	const n, bins = 100000, 1000
	var count [bins]int
	for i := range uint64(n) {
		u := Uniform(3, TagTimestep, 0, i)
		k := Intn(bins, 3, TagTimestep, 0, i)
		if u < 0 || u >= 1 || k != int(u*bins) {
			t.Fatalf("index %d: uniform %v, integer %d", i, u, k)
		}
		count[k]++
	}
	chi2 := 0.0
	for _, c := range count {
		d := float64(c) - n/bins
		chi2 += d * d / (n / bins)
	}
	// 999 degrees of freedom: standard deviation 44.7.
	if chi2 < 775 || chi2 > 1225 {
		t.Errorf("chi-squared %v over %d bins, want near 999", chi2, bins)
	}
}

func TestPanics(t *testing.T) {
	for name, f := range map[string]func(){
		"tag":      func() { Block(0, 0, 256, 0, 0) },
		"step":     func() { Block(0, 0, 0, MaxStep+1, 0) },
		"zero":     func() { Intn(0, 0, 0, 0, 0) },
		"negative": func() { Intn(-1, 0, 0, 0, 0) },
		"large":    func() { Intn(1<<32, 0, 0, 0, 0) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

// compileTwin compiles C++ files into a program.
func compileTwin(t *testing.T, files ...string) string {
	cxx, err := exec.LookPath("g++")
	if err != nil {
		testtool.Missing(t, "no g++ to compile the twin with")
	}
	bin := filepath.Join(t.TempDir(), "twin")
	build := exec.Command(cxx, append([]string{"-std=c++17", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror",
		"-I../shim/kernels", "-o", bin}, files...)...)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	return bin
}

// The C++ twin gives the same integers and, within 1e-6, the same normals.
func TestCppTwin(t *testing.T) {
	bin := compileTwin(t, "testdata/twin.cc")
	type draw struct {
		seed             uint64
		block, tag, step uint32
		index            uint64
	}
	draws := []draw{{}, {math.MaxUint64, math.MaxUint32, 255, MaxStep, math.MaxUint64}}
	r := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		draws = append(draws, draw{r.Uint64(), r.Uint32(), r.Uint32N(256), r.Uint32N(MaxStep + 1), r.Uint64()})
	}
	var in bytes.Buffer
	for _, d := range draws {
		fmt.Fprintf(&in, "%x %x %x %x %x\n", d.seed, d.block, d.tag, d.step, d.index)
	}
	cmd := exec.Command(bin)
	cmd.Stdin = &in
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(out))
	different := 0
	check := func(d draw, what string, got float32, bits uint32) {
		want := math.Float32frombits(bits)
		if !near(got, want) {
			t.Errorf("%+v: %s %v in Go, %v in C++", d, what, got, want)
		}
		if got != want {
			different++
		}
	}
	for _, d := range draws {
		if !lines.Scan() {
			t.Fatal("the twin stopped early")
		}
		var (
			w       [4]uint32
			n       [4]uint32
			v       [3]uint32
			uniform uint64
			below   int
		)
		if _, err := fmt.Sscanf(lines.Text(), "%x %x %x %x %x %x %x %x %x %x %x %x %x", &w[0], &w[1], &w[2], &w[3],
			&n[0], &n[1], &n[2], &n[3], &uniform, &below, &v[0], &v[1], &v[2]); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		got := Block(d.seed, d.block, d.tag, d.step, d.index)
		if got != w {
			t.Fatalf("%+v: words %x in Go, %x in C++", d, got, w)
		}
		for i, x := range normals4(got) {
			check(d, "normal", x, n[i])
		}
		var all [7]float32
		Normals(all[:], d.seed, d.tag, d.step, d.index)
		for i := range v {
			check(d, "element", all[4+i], v[i])
		}
		if u := Uniform(d.seed, d.tag, d.step, d.index); u != math.Float64frombits(uniform) {
			t.Errorf("%+v: uniform %v in Go, %v in C++", d, u, math.Float64frombits(uniform))
		}
		if k := Intn(1000, d.seed, d.tag, d.step, d.index); k != below {
			t.Errorf("%+v: integer %d in Go, %d in C++", d, k, below)
		}
	}
	t.Logf("%d of %d normals differ in the last bit", different, 7*len(draws))
}

func BenchmarkNormals(b *testing.B) {
	v := make([]float32, 1<<20)
	b.SetBytes(int64(4 * len(v)))
	for b.Loop() {
		Normals(v, 1, TagStartNoise, 0, 0)
	}
}

// The CUDA kernels, which an emulator runs here on the CPU, give the same integers and, within 1e-6, the same normals.
func TestKernels(t *testing.T) {
	bin := compileTwin(t, "testdata/kernels.cc", "../shim/kernels/emulator/emulator.cpp")
	type request struct {
		seed      uint64
		tag, step uint32
		row       int
		indices   []uint64
	}
	r := rand.New(rand.NewPCG(3, 4))
	requests := []request{
		{1, TagTimestep, 0, 1, []uint64{0}},
		{math.MaxUint64, 255, MaxStep, 6, []uint64{0, math.MaxInt64, 17, 17}},
		{5, TagFlip, 0, 3, []uint64{1, 2, 3}},
	}
	for _, n := range []int{5, 255, 257, 600} {
		q := request{seed: r.Uint64(), tag: r.Uint32N(256), step: r.Uint32N(MaxStep + 1), row: 1 + r.IntN(40)}
		for range n {
			q.indices = append(q.indices, r.Uint64()>>1)
		}
		requests = append(requests, q)
	}
	var in bytes.Buffer
	for _, q := range requests {
		fmt.Fprintf(&in, "%x %x %x %d %d", q.seed, q.tag, q.step, q.row, len(q.indices))
		for _, i := range q.indices {
			fmt.Fprintf(&in, " %d", i)
		}
		fmt.Fprintln(&in)
	}
	cmd := exec.Command(bin)
	cmd.Stdin = &in
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	read := bytes.NewReader(out)
	for _, q := range requests {
		var (
			bits    uint32
			uniform float64
			got     float32
			want    = make([]float32, q.row)
		)
		scan := func(format string, to any) {
			if _, err := fmt.Fscanf(read, format, to); err != nil {
				t.Fatal(err)
			}
		}
		line := func() {
			if b, err := read.ReadByte(); err != nil || b != '\n' {
				t.Fatalf("%q, %v instead of the end of a line", b, err)
			}
		}
		for _, i := range q.indices {
			Normals(want, q.seed, q.tag, q.step, i)
			for j, w := range want {
				scan("%x ", &bits)
				if got = math.Float32frombits(bits); !near(got, w) {
					t.Fatalf("normal %d of draw %d of %+v is %v, want %v", j, i, q, got, w)
				}
			}
		}
		line()
		for _, i := range q.indices {
			scan("%g ", &uniform)
			if want := Uniform(q.seed, q.tag, q.step, i) * 0x1p32; uniform != want {
				t.Fatalf("uniform of draw %d of %+v is %v, want %v, in 2^-32", i, q, uniform, want)
			}
		}
		line()
	}
}
