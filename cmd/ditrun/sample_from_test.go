package main

import (
	"encoding/json"
	"image"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/diffusion/sampling/gallery"
)

// crafted writes a picture that says it was drawn in this way, and returns its path.
func crafted(t *testing.T, d gallery.Drawn) string {
	t.Helper()
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "crafted.png")
	img := image.NewNRGBA(image.Rect(0, 0, 2, 2))
	err = sheet.WritePNG(path, img, sheet.Text{Keyword: "ditrun", Text: string(text)})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A stranger's picture cannot make the command write files or use the machine in another way.
func TestFromTakesNoOtherFlags(t *testing.T) {
	victim := filepath.Join(t.TempDir(), "victim.safetensors")
	for name, value := range map[string]string{"save-latents": victim, "out": victim, "from": victim,
		"search-steps": "3", "fetch": "true", "device": "cpu", "threads": "1", "json": "true"} {
		path := crafted(t, gallery.Drawn{Flags: []gallery.Flag{{Name: "ckpt", Value: "x"}, {Name: name, Value: value}}})
		ditrun(t, "sample", "--from", path).refused(t, 1, "--from "+path+": it was drawn with --"+name+
			", which this version does not take from a picture")
	}
}

// The steps of dopri5 with --rng torch depend on all pictures of the batch, of which a picture knows one.
func TestFromWholeBatch(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	mustRun(t, "convert", "--ckpt", r.run, "--to", "official", "--out", in("SiT-tiny.pt"))
	mustRun(t, "convert", "--ckpt", in("SiT-tiny.pt"), "--model", r.model(t), "--to", "ditrun", "--out",
		in("ours.safetensors"))
	draw := func(rng, out string) string {
		mustRun(t, "sample", "--ckpt", in("ours.safetensors"), "--vae", r.vae, "--solver", "dopri5", "--rng", rng,
			"--class-labels", "0,1", "--out", in(out))
		return filepath.Join(in(out), "000000.png")
	}
	from := func(picture string) []string {
		return []string{"sample", "--from", picture, "--ckpt", in("ours.safetensors"), "--vae", r.vae, "--out",
			in("again.png")}
	}
	picture := draw("torch", "torch")
	o := ditrun(t, from(picture)...) // which also warns that the weights have no checksum
	if o.code != 1 || !strings.Contains(o.stderr, "error: --from "+picture+": with --rng torch dopri5 chooses its "+
		"steps by the error of the whole batch, and what is on 1 picture more is not known") ||
		!strings.Contains(o.stderr, "hint: draw the whole set again by the command") {
		t.Errorf("code %d\n%s", o.code, o.stderr)
	}
	picture = draw("image", "image")
	if o := ditrun(t, from(picture)...); o.code != 0 {
		t.Errorf("code %d\n%s", o.code, o.stderr)
	}
	if d := pixelsDiffer(t, picture, in("again.png")); d != 0 {
		t.Errorf("with --rng image the picture differs by %d", d)
	}
}

// The picture that is drawn again is not overwritten, by whatever name.
func TestFromIsNotOverwritten(t *testing.T) {
	path := crafted(t, gallery.Drawn{Flags: []gallery.Flag{{Name: "ckpt", Value: "x"}}})
	t.Chdir(filepath.Dir(path))
	if err := os.Rename(path, "sample.png"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("sample.png", "link.png"); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--from", "sample.png"}, {"--from", "link.png"},
		{"--from", "sample.png", "--out", "link.png"}} {
		ditrun(t, append([]string{"sample"}, args...)...).refused(t, 2, "that is the picture of --from, which would "+
			"be overwritten", "hint: --out PATH.png says where the new one goes")
	}
}

// What a sheet says of itself has the bounds of the command line.
func TestFromBounds(t *testing.T) {
	for flag, value := range map[string]string{"num-samples": "10000001", "batch-size": "1048577"} {
		path := crafted(t, gallery.Drawn{Flags: []gallery.Flag{{Name: "ckpt", Value: "x"}, {Name: flag, Value: value}}})
		ditrun(t, "sample", "--from", path, "--out", filepath.Join(t.TempDir(), "x.png")).refused(t, 2,
			"--"+flag+" "+value+": ")
	}
}

// A picture of --no-fused says so, and is drawn again without fused operations.
func TestFromNoFused(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	out, again := filepath.Join(dir, "a.png"), filepath.Join(dir, "b.png")
	mustRun(t, r.sample(out, "--no-fused")...)
	d, err := gallery.ReadDrawn(out)
	if err != nil || !slices.Contains(d.Flags, gallery.Flag{Name: "no-fused", Value: "true"}) {
		t.Errorf("flags %q, error %v", d.Flags, err)
	}
	if !strings.Contains(string(read(t, out)), " --no-fused") {
		t.Error("the command of the picture lacks --no-fused")
	}
	mustRun(t, "sample", "--from", out, "--ckpt", r.run, "--vae", r.vae, "--out", again)
	if d, err = gallery.ReadDrawn(again); err != nil || !slices.Contains(d.Flags, gallery.Flag{Name: "no-fused",
		Value: "true"}) {
		t.Errorf("drawn again it has flags %q, error %v", d.Flags, err)
	}
	mustRun(t, r.sample(out)...)
	if d, err = gallery.ReadDrawn(out); err != nil || slices.ContainsFunc(d.Flags,
		func(f gallery.Flag) bool { return f.Name == "no-fused" }) {
		t.Errorf("without it flags %q, error %v", d.Flags, err)
	}
}

// Flags of a picture that a given one makes void are dropped: nobody could unset them.
func TestFromDropsVoidFlags(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	mustRun(t, "convert", "--ckpt", r.run, "--to", "official", "--out", in("SiT-tiny.pt"))
	mustRun(t, "convert", "--ckpt", in("SiT-tiny.pt"), "--model", r.model(t), "--to", "ditrun", "--out",
		in("ours.safetensors"))
	models := map[string]string{"dit": r.run, "flow": in("ours.safetensors")}
	drawn := map[string][]string{
		"guided": {"dit", "--cfg-scale", "2", "--guidance-rescale", "0.5", "--guidance-interval", "0,900"},
		"led":    {"dit", "--cfg-scale", "2", "--guide-ckpt", r.run},
		"few":    {"dit", "--num-sampling-steps", "3"},
		"ddim":   {"dit", "--num-sampling-steps", "ddim3", "--solver", "ddim"},
		"times":  {"dit", "--solver", "dpm++2m", "--timesteps", "999,500"},
		"sde": {"flow", "--num-sampling-steps", "4", "--cfg-scale", "2", "--guidance-interval", "0.1,1",
			"--diffusion-form", "linear", "--diffusion-norm", "0.5", "--last-step", "Euler", "--last-step-size", "0.1"},
		"batches": {"dit", "--num-sampling-steps", "3", "--batch-size", "2"},
	}
	for name, args := range drawn {
		mustRun(t, append([]string{"sample", "--ckpt", models[args[0]], "--vae", r.vae, "--out", in(name + ".png")},
			args[1:]...)...)
	}
	for _, c := range []struct {
		picture string
		given   []string
		recipe  string
	}{
		{"guided", []string{"--cfg-scale", "1"}, "no guidance, seed 0"},
		{"led", []string{"--cfg-scale", "1"}, "no guidance, seed 0"},
		{"few", []string{"--solver", "dpm++2m", "--timesteps", "900,500,200,100"}, "4 steps of dpm++2m at 900,"},
		{"few", []string{"--solver", "unipc2"}, "3 steps of unipc2 on linspace"},
		{"ddim", []string{"--solver", "dpm++2m", "--timesteps", "900,500"}, "2 steps of dpm++2m at 900,500"},
		{"times", []string{"--num-sampling-steps", "3"}, "3 steps of dpm++2m on linspace"},
		{"times", []string{"--timesteps", "900,500,100"}, "3 steps of dpm++2m at 900,500,100"},
		{"times", []string{"--solver", "ddpm", "--num-sampling-steps", "2"}, "2 steps of ddpm, "},
		{"sde", []string{"--solver", "dopri5"}, "as many steps as needed of dopri5, "},
		{"sde", []string{"--solver", "heun"}, "4 steps of heun on linspace, "},
		{"sde", []string{"--timesteps", "0.1,0.4,0.8"}, "3 steps of sde-euler at 0.1,"},
		{"sde", []string{"--last-step", "None"}, "last step None)"},
		{"batches", []string{"--rng", "torch"}, "of libtorch's generator"},
	} {
		args := append([]string{"sample", "--from", in(c.picture + ".png"), "--ckpt", models[drawn[c.picture][0]],
			"--vae", r.vae, "--out", in("again.png")}, c.given...)
		o := ditrun(t, args...) // which warns of weights without a checksum
		if o.code != 0 {
			t.Errorf("%s, %q: code %d\n%s", c.picture, c.given, o.code, o.stderr)
		}
		o.says(t, c.recipe)
	}
}

// What a recipe writes is taken back from a picture.
func TestRecipeFlags(t *testing.T) {
	source, err := os.ReadFile("sample_recipe.go")
	if err != nil {
		t.Fatal(err)
	}
	var written []string
	for _, m := range regexp.MustCompile(`\badd\w*\("([a-z-]+)"`).FindAllStringSubmatch(string(source), -1) {
		if !slices.Contains(written, m[1]) {
			written = append(written, m[1])
		}
	}
	taken := slices.Clone(recipeFlags)
	slices.Sort(written)
	slices.Sort(taken)
	if !slices.Equal(written, taken) {
		t.Errorf("a recipe has\n%q, of a picture is taken\n%q", written, taken)
	}
}
