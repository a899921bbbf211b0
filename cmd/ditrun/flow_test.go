package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch/checkpoint"
)

// Files of SiT are inspected, converted and sampled as what they are.
func TestSampleFlow(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	sit := in("SiT-tiny.pt")
	mustRun(t, "convert", "--ckpt", r.run, "--to", "official", "--out", sit)
	mustRun(t, "inspect", "--model", r.model(t), sit).prints(t,
		"predicts velocity on the linear path, noise at 0, data at 1",
		"sampled  250 steps of sde-euler on linspace, guidance on 3 of 4 channels")

	// From here on the family stands in the file.
	ours := in("ours.safetensors")
	mustRun(t, "convert", "--ckpt", sit, "--model", r.model(t), "--to", "ditrun", "--out", ours)
	sample := func(out string, more ...string) []string {
		return append([]string{"sample", "--ckpt", ours, "--vae", r.vae, "--out", in(out)}, more...)
	}
	o := mustRun(t, sample("a.npz", "--num-sampling-steps", "4", "--cfg-scale", "2", "--guidance-interval", "0.3,1",
		"--save-latents", in("a.safetensors"))...)
	o.prints(t, "recipe  4 steps of sde-euler on linspace, guidance 2 on 3 of 4 channels from 0.3 to 1, data at 1, "+
		"seed 0",
		"latents written to "+in("a.safetensors"))
	f, err := checkpoint.Open(in("a.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if x, ok := f.Lookup("latents"); !ok || len(x.Shape) != 4 || x.Shape[0] != 4 || x.Shape[1] != 4 ||
		f.Metadata()["scaling_factor"] == "" {
		t.Errorf("latents %v, metadata %v", x.Shape, f.Metadata())
	}
	for solver, recipe := range map[string]string{
		"dopri5":  "recipe  as many steps as needed of dopri5, guidance 4 on 3 of 4 channels, seed 0",
		"unipc2":  "recipe  3 steps of unipc2 on karras, guidance 4 on 3 of 4 channels, seed 0",
		"heun":    "recipe  3 steps of heun on karras, guidance 4 on 3 of 4 channels, seed 0",
		"dpm++2m": "recipe  3 steps of dpm++2m on karras, guidance 4 on 3 of 4 channels, seed 0",
	} {
		more := []string{"--solver", solver}
		if solver != "dopri5" {
			more = append(more, "--num-sampling-steps", "3", "--timesteps", "karras")
		}
		mustRun(t, sample(solver+".png", more...)...).prints(t, recipe)
		png, err := os.ReadFile(in(solver + ".png"))
		if err != nil || !strings.Contains(string(png), "--solver "+solver) {
			t.Errorf("%s: no command in the picture, error %v", solver, err)
		}
	}
	ditrun(t, sample("x.png", "--solver", "ddpm")...).refused(t, 2, `--solver "ddpm": the model predicts velocity on `+
		"the linear path, noise at 0, data at 1: want ddim, ")
	ditrun(t, sample("x.png", "--timesteps", "leading")...).refused(t, 2, "--timesteps leading: that is for DiT's "+
		"1000 steps, a flow has none: want linspace, karras, lambda")
	ditrun(t, r.sample(in("x.png"), "--solver", "euler")...).refused(t, 2, `--solver "euler": the model predicts `+
		"noise at DiT's 1000 steps: want ddpm, ddim, ")
	ditrun(t, "convert", "--ckpt", ours, "--to", "diffusers", "--out", in("d")).refused(t, 1, "DiTPipeline draws with "+
		"models that predict noise")

	ditrun(t, "convert", "--ckpt", ours, "--to", "official", "--out", in("x.pt")).refused(t, 1, ours+" predicts "+
		"velocity on the linear path, noise at 0, data at 1, and a .pt, which does not say so, is taken for one that "+
		"predicts noise at DiT's 1000 steps", "call it SiT-x.pt, by which it is known; or --to ditrun keeps it")
	mustRun(t, "convert", "--ckpt", ours, "--to", "official", "--out", in("SiT-x.pt"))

	// Solvers of DiT's own betas.
	mustRun(t, "sample", "--ckpt", r.run, "--vae", r.vae, "--solver", "dpm++2m", "--num-sampling-steps", "3", "--out",
		in("x.png")).prints(t, "recipe  3 steps of dpm++2m on linspace, guidance 4 on 3 of 4 channels, seed 0")
}
