package main

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/diffusion/evaluation"
	"github.com/ditrun/ditrun/diffusion/metrics/inception"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/checkpoint/numpy"
)

// writeNPY writes an array of float32 values.
func writeNPY(t *testing.T, path string, values []float32, shape ...int64) {
	t.Helper()
	write(t, path, npyOf(t, checkpoint.F32, checkpoint.EncodeFloats(values, checkpoint.F32), shape...))
}

func npyOf(t *testing.T, d checkpoint.DType, data []byte, shape ...int64) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := numpy.EncodeNPY(&b, checkpoint.Tensor{Info: checkpoint.Info{DType: d, Shape: shape},
		Data: data}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// writeNPZ writes an archive of .npy files.
func writeNPZ(t *testing.T, path string, names []string, arrays ...[]byte) {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i, name := range names {
		w, err := z.Create(name + ".npy")
		if err == nil {
			_, err = w.Write(arrays[i])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, path, b.Bytes())
}

// normals are n rows of d numbers around shift.
func normals(seed uint64, n, d int, shift float64) []float32 {
	rng := rand.New(rand.NewPCG(seed, 0))
	out := make([]float32, n*d)
	for i := range out {
		out[i] = float32(rng.NormFloat64() + shift)
	}
	return out
}

// says wants texts in what a command prints.
func says(t *testing.T, stdout string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(stdout, text) {
			t.Errorf("no %q in\n%s", text, stdout)
		}
	}
}

func readCardOf(t *testing.T, text string) (c evaluation.Card) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return c
}

func TestEvalOfFeatures(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	writeNPY(t, in("a.npy"), normals(1, 300, 8, 0), 300, 8)
	writeNPY(t, in("b.npy"), normals(2, 400, 8, 0.5), 400, 8)
	writeNPZ(t, in("stats.npz"), []string{"mu", "sigma"}, npyOf(t, checkpoint.F32,
		checkpoint.EncodeFloats(make([]float32, 8), checkpoint.F32), 8),
		npyOf(t, checkpoint.F32, checkpoint.EncodeFloats(identity(8), checkpoint.F32), 8, 8))

	c := readCardOf(t, mustRun(t, "eval", "--json", "--samples", in("a.npy"), "--ref", in("b.npy"), "--metrics",
		"fd,precision,recall,kid", "--out", in("card.json")).stdout)
	if c.FD == nil || *c.FD < 1.5 || *c.FD > 3 { // 8 times 0.5^2, and the bias of few samples
		t.Errorf("fd %v, want about 2", c.FD)
	}
	if c.Precision == nil || *c.Precision < 0.5 || c.Recall == nil || c.KID == nil || c.FID != nil {
		t.Errorf("%+v", c)
	}
	if c.Samples.Count != 300 || c.Reference.Count != 400 || len(c.Samples.SHA256) != 64 || len(c.Notes) == 0 {
		t.Errorf("%+v", c)
	}
	o := mustRun(t, "eval", "--samples", in("a.npy"), "--ref", in("stats.npz"), "--out", in("other.json"))
	says(t, o.stdout, "FD", "biased", "300 samples, not 50,000")
	fits(t, o.stdout, dir)
	again := readCardOf(t, string(read(t, in("other.json"))))
	if again.FD == nil || *again.FD > 0.5 { // both are standard normals
		t.Errorf("fd %v, want about 0", again.FD)
	}
	o = mustRun(t, "eval", "--compare", in("card.json"), in("other.json"))
	says(t, o.stdout, "reference.count", "reference.sha256", "settings.neighbour", "FD")
	if strings.Contains(o.stdout, "samples.") {
		t.Errorf("the samples are the same:\n%s", o.stdout)
	}
	fits(t, o.stdout, dir)
	if o := mustRun(t, "eval", "--compare", in("card.json"), in("card.json")); !strings.Contains(o.stdout,
		"the settings are the same") {
		t.Errorf("a card differs from itself:\n%s", o.stdout)
	}
}

// A deviation is one of several subsets or splits: of one there is none.
func TestEvalOfOneSubset(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	writeNPY(t, in("a.npy"), normals(1, 40, 8, 0), 40, 8)
	writeNPY(t, in("b.npy"), normals(2, 40, 8, 0.5), 40, 8)
	writeNPY(t, in("more.npy"), normals(2, 41, 8, 0.5), 41, 8)
	for ref, subsets := range map[string]int{"b.npy": 1, "more.npy": 100} {
		o := mustRun(t, "eval", "--samples", in("a.npy"), "--ref", in(ref), "--metrics", "kid",
			"--out", in("card.json"))
		c := readCardOf(t, string(read(t, in("card.json"))))
		if c.Settings.KIDSubsets != subsets || c.Settings.KIDSize != 40 || (c.KIDDeviation != nil) != (subsets > 1) {
			t.Errorf("%s: %+v, deviation %v, want %d of 40", ref, c.Settings, c.KIDDeviation, subsets)
		}
		for _, text := range []string{"+-", "random parts"} {
			if strings.Contains(o.stdout, text) != (subsets > 1) {
				t.Errorf("%s: %d subsets, and whether it says %q is wrong in\n%s", ref, subsets, text, o.stdout)
			}
		}
	}
}

func identity(d int) []float32 {
	out := make([]float32, d*d)
	for i := range d {
		out[i*d+i] = 1
	}
	return out
}

// randomInception writes weights that are nobody's.
func randomInception(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "inception.pth")
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		gen, err := torch.NewGenerator(torch.CPU, 1)
		if err != nil {
			return err
		}
		n := inception.New(s)
		defer n.Close()
		n.Init(s, gen)
		return n.Save(path)
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// noisePictures writes a folder of PNG files of random levels, and returns their bytes [N, H, W, 3].
func noisePictures(t *testing.T, dir string, seed uint64, n, h, w int) []byte {
	t.Helper()
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	var all []byte
	for i := range n {
		pix := make([]uint8, 3*h*w)
		for j := range pix {
			pix[j] = uint8(rng.IntN(128 + int(seed)*32))
		}
		img, err := sheet.FromRGB(pix, w, h)
		if err != nil {
			t.Fatal(err)
		}
		err = sheet.WritePNG(filepath.Join(dir, fmt.Sprintf("%06d.png", i)), img,
			sheet.Text{Keyword: "parameters", Text: "Steps: 7"})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, pix...)
	}
	return all
}

// The same pictures give the same card in every container, their features saved and given again the same numbers.
func TestEvalOfPictures(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	net := randomInception(t)
	const n, h, w = 5, 12, 10
	pix := noisePictures(t, in("samples"), 1, n, h, w)
	noisePictures(t, in("ref"), 2, 4, h, w)
	writeNPZ(t, in("samples.npz"), []string{"arr_0"}, npyOf(t, checkpoint.U8, pix, n, h, w, 3))

	run := func(args ...string) evaluation.Card {
		t.Helper()
		return readCardOf(t, mustRun(t, append([]string{"eval", "--json", "--batch-size", "3"}, args...)...).stdout)
	}
	folder := run("--samples", in("samples"), "--ref", in("ref"), "--inception", net, "--save-features",
		in("f.safetensors"))
	for name, v := range map[string]*float64{"fid": folder.FID, "sfid": folder.SFID, "is": folder.IS,
		"precision": folder.Precision, "recall": folder.Recall} {
		if v == nil || !(*v >= 0) {
			t.Errorf("%s: %v", name, v)
		}
	}
	if folder.ISDeviation != nil {
		t.Errorf("the score of one split deviates by %v", *folder.ISDeviation)
	}
	if folder.Samples.Recipe["parameters"] != "Steps: 7" || folder.Samples.Size != "12x10" || folder.Network == nil ||
		folder.Network.Public {
		t.Errorf("%+v", folder)
	}
	alone := run("--samples", in("samples"), "--inception", net)
	if alone.IS == nil || *alone.IS != *folder.IS || alone.FID != nil || alone.Reference != nil {
		t.Errorf("%+v without a reference, want the score of %+v", alone, folder)
	}
	help := mustRun(t, "eval", "--help").stdout
	if strings.Contains(part(help, "Required"), "--ref ") || !strings.Contains(help, "--ref ") {
		t.Errorf("--ref is needed, or not there, by\n%s", help)
	}
	stored := run("--samples", in("samples.npz"), "--ref", in("ref"), "--inception", net)
	if *stored.FID != *folder.FID || stored.Samples.PixelsSHA256 != folder.Samples.PixelsSHA256 {
		t.Errorf("FID %v of a .npz and %v of a folder, pixels %s and %s", *stored.FID, *folder.FID,
			stored.Samples.PixelsSHA256, folder.Samples.PixelsSHA256)
	}
	saved := run("--samples", in("f.safetensors"), "--ref", in("ref"), "--inception", net)
	if *saved.FID != *folder.FID || *saved.SFID != *folder.SFID || math.Abs(*saved.IS-*folder.IS) > 1e-12 ||
		saved.Samples.PixelsSHA256 != folder.Samples.PixelsSHA256 {
		t.Errorf("%+v of saved features, %+v of pictures", saved, folder)
	}
	ditrun(t, "eval", "--samples", in("f.safetensors"), "--ref", in("ref"), "--inception", net, "--resize",
		"pytorch-fid").refused(t, 1, "prepared by pytorch-fid", "by adm")
	ditrun(t, "eval", "--samples", in("samples"), "--ref", in("ref")).refused(t, 1, "need the weights of Inception",
		"--inception inception")
}

// --image-size crops a folder to the size of a .npz, whichever of them is the reference.
func TestEvalOfCroppedPictures(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	net := randomInception(t)
	noisePictures(t, in("photos"), 2, 4, 12, 10)
	noisePictures(t, in("more"), 3, 5, 9, 14)
	write(t, filepath.Join(in("photos"), "000004.png"), read(t, filepath.Join(in("more"), "000004.png")))
	writeNPZ(t, in("array.npz"), []string{"arr_0"}, npyOf(t, checkpoint.U8, make([]byte, 5*8*6*3), 5, 8, 6, 3))
	for _, sets := range [][2]string{{"array.npz", "photos"}, {"photos", "array.npz"}} {
		args := []string{"eval", "--json", "--samples", in(sets[0]), "--ref", in(sets[1]), "--metrics", "fid",
			"--inception", net, "--image-size"}
		c := readCardOf(t, mustRun(t, append(args, "8x6")...).stdout)
		if c.FID == nil || c.Samples.Size != "8x6" || c.Reference.Size != "8x6" {
			t.Errorf("%s against %s: %+v", sets[0], sets[1], c)
		}
		ditrun(t, append(args, "8")...).refused(t, 1, "array.npz", "its pictures are 8x6, want 8x8",
			"hint: give the size of the .npz to --image-size")
	}
}

// What is wrong with an input is said with its name, what was wanted and what was found; nothing is left behind.
func TestEvalRefuses(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	floats := func(values []float32, shape ...int64) []byte {
		return npyOf(t, checkpoint.F32, checkpoint.EncodeFloats(values, checkpoint.F32), shape...)
	}
	writeNPY(t, in("a.npy"), normals(1, 20, 8, 0), 20, 8)
	writeNPY(t, in("wide.npy"), normals(1, 20, 9, 0), 20, 9)
	writeNPY(t, in("one.npy"), normals(1, 1, 8, 0), 1, 8)
	writeNPY(t, in("flat.npy"), normals(1, 20, 8, 0), 160)
	bad := normals(1, 20, 8, 0)
	bad[11] = float32(math.NaN())
	writeNPY(t, in("nan.npy"), bad, 20, 8)
	writeNPZ(t, in("other.npz"), []string{"x", "y"}, floats([]float32{1}, 1), floats([]float32{1}, 1))
	writeNPZ(t, in("float.npz"), []string{"arr_0"}, floats(make([]float32, 48), 1, 4, 4, 3))
	writeNPZ(t, in("gray.npz"), []string{"arr_0"}, npyOf(t, checkpoint.U8, make([]byte, 16), 1, 4, 4, 1))
	writeNPZ(t, in("half.npz"), []string{"mu"}, floats([]float32{1, 2}, 2))
	writeNPZ(t, in("square.npz"), []string{"mu", "sigma"}, floats([]float32{1, 2}, 2), floats(make([]float32, 6), 2, 3))
	writeNPZ(t, in("nine.npz"), []string{"mu", "sigma"}, floats(make([]float32, 9), 9), floats(identity(9), 9, 9))
	lopsided := identity(8)
	lopsided[1] = 0.5
	writeNPZ(t, in("lopsided.npz"), []string{"mu", "sigma"}, floats(make([]float32, 8), 8), floats(lopsided, 8, 8))
	write(t, in("text.npz"), []byte("text"))
	write(t, in("card.json"), []byte(`{"fid": 3}`))
	write(t, in("large.json"), make([]byte, maxCard+1))
	if err := os.Mkdir(in("empty"), 0o777); err != nil {
		t.Fatal(err)
	}
	noisePictures(t, in("mixed"), 1, 2, 8, 8)
	noisePictures(t, in("mixed2"), 1, 3, 8, 9)
	write(t, filepath.Join(in("mixed"), "000002.png"), read(t, filepath.Join(in("mixed2"), "000002.png")))
	net := randomInception(t)

	out := in("out.json")
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"--samples", in("a.npy"), "--ref", in("wide.npy")},
			[]string{"wide.npy has 9 features", "a.npy has 8"}},
		{[]string{"--samples", in("a.npy"), "--ref", in("nine.npz")},
			[]string{"nine.npz has 9 features", "a.npy has 8"}},
		{[]string{"--samples", in("one.npy"), "--ref", in("a.npy"), "--metrics", "fd"},
			[]string{"one.npy", "covariance of one picture"}},
		{[]string{"--samples", in("flat.npy"), "--ref", in("a.npy")}, []string{"flat.npy", "F32 [160]", "[N, D]"}},
		{[]string{"--samples", in("nan.npy"), "--ref", in("a.npy")},
			[]string{"nan.npy", "feature 3 of picture 1 is NaN"}},
		{[]string{"--samples", in("other.npz"), "--ref", in("a.npy")}, []string{"other.npz", "holds x, y", "arr_0"}},
		{[]string{"--samples", in("float.npz"), "--ref", in("a.npy")}, []string{"float.npz", "F32 [1 4 4 3]", "uint8"}},
		{[]string{"--samples", in("gray.npz"), "--ref", in("a.npy")}, []string{"gray.npz", "U8 [1 4 4 1]", "3]"}},
		{[]string{"--samples", in("a.npy"), "--ref", in("half.npz")}, []string{"half.npz: no array sigma"}},
		{[]string{"--samples", in("a.npy"), "--ref", in("square.npz")},
			[]string{"square.npz", "sigma", "[2 3]", "[2, 2]"}},
		{[]string{"--samples", in("a.npy"), "--ref", in("lopsided.npz")}, []string{"lopsided.npz", "not symmetric"}},
		{[]string{"--samples", in("text.npz"), "--ref", in("a.npy")}, []string{"text.npz: not a .npz file"}},
		{[]string{"--samples", in("none.npy"), "--ref", in("a.npy")}, []string{"none.npy: no such file"}},
		{[]string{"--samples", in("empty"), "--ref", in("a.npy")}, []string{"empty", "want a folder of pictures"}},
		{[]string{"--samples", in("a.npy"), "--ref", in("a.npy"), "--metrics", "fid"},
			[]string{"fid", "a.npy holds features [20, 8]", "no features of Inception's pool"}},
		{[]string{"--samples", in("a.npy")}, []string{"a.npy: there is no reference"}},
		{[]string{"--samples", in("nine.npz"), "--ref", in("a.npy")}, []string{"nine.npz holds statistics"}},
		{[]string{"--samples", in("mixed"), "--ref", in("mixed"), "--inception", net, "--metrics", "fid"},
			[]string{"several sizes", "000000.png is 8", "000002.png is 8x9", "--image-size"}},
		{[]string{"--samples", in("a.npy"), "--ref", in("a.npy"), "--inception", in("a.npy")}, []string{"a.npy"}},
		{[]string{"--compare", in("card.json"), in("card.json")}, []string{"card.json", "no settings"}},
		{[]string{"--compare", in("large.json"), in("card.json")}, []string{"large.json", "more than 1048576 bytes"}},
		{[]string{"--compare", os.DevNull, in("card.json")}, []string{os.DevNull + ": not a regular file"}},
		{[]string{"--compare", in("empty"), in("card.json")}, []string{"empty: not a regular file"}},
	} {
		args := append([]string{"eval"}, c.args...)
		if c.args[0] != "--compare" {
			args = append(args, "--out", out)
		}
		ditrun(t, args...).refused(t, 1, c.want...)
		if _, err := os.Stat(out); err == nil {
			t.Fatalf("%v: a card was written", c.args)
		}
	}
	for flag, value := range map[string]string{"resize": "adm", "image-size": "8", "batch-size": "3"} {
		ditrun(t, "eval", "--samples", in("a.npy"), "--ref", in("a.npy"), "--"+flag, value).refused(t, 2,
			"--"+flag+": is for pictures, and none are given")
	}
	ditrun(t, "eval", "--samples", in("a.npy"), "--ref", in("mixed"), "--save-features", in("f.safetensors")).refused(t,
		2, "--save-features: ", "a.npy holds features, and no pictures")
}

// A card is written and printed though the features cannot be saved, and printed though it cannot be written.
func TestEvalKeepsTheCard(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	writeNPY(t, in("a.npy"), normals(1, 20, 8, 0), 20, 8)
	samples, err := evaluation.Open(t.Context(), in("a.npy"), evaluation.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer samples.Close()
	fid := 1.5
	card := &evaluation.Card{FID: &fid}
	for _, o := range []evalOptions{{out: in("card.json"), saveFeatures: in("f.safetensors")},
		{out: in("none/card.json")}} {
		var stdout bytes.Buffer
		if err := o.handOut(&env{stdout: &stdout}, samples, card); err == nil {
			t.Errorf("%+v: no error", o)
		}
		says(t, stdout.String(), "1.5000")
	}
	if c := readCardOf(t, string(read(t, in("card.json")))); c.FID == nil || *c.FID != fid {
		t.Errorf("%+v", c)
	}
}

func FuzzCard(f *testing.F) {
	f.Add([]byte(`{"fid": 3, "settings": {"covariance": "float64"}, "samples": {"path": "x"}}`))
	f.Add([]byte(`{"settings": {"covariance": "float64"}, "samples": []}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, flat, err := parseCard("card.json", text); err == nil {
			compareCards(flat, flat)
		}
	})
}
