package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/hub/hubtest"
	"github.com/ditrun/ditrun/diffusion/runs"
)

// TestConfigPaths: in a configuration file a path of what is read is relative to the file where it is there, else to
// the working directory; config.yaml has them in full.
func TestConfigPaths(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	t.Chdir(dir)
	for to, from := range map[string]string{"project/latents": r.latents, "vae": r.vae} {
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	start := filepath.Join(r.run, "checkpoints/0000006/ema.safetensors")
	write(t, "project/start.safetensors", read(t, start))
	write(t, "project/small.yaml", []byte("data: latents\nvae: vae\ninit-from: start.safetensors\n"+
		"results-dir: runs\nmodel: DiT-16x1x2/2\nglobal-batch-size: 16\nema-decay: 0.5\n"))
	train := []string{"train", "--config", "project/small.yaml", "--max-steps"}
	mustRun(t, append(train, "2")...)
	config := string(read(t, "runs/000-DiT-16x1x2-2/config.yaml"))
	for _, want := range []string{"data: " + dir + "/project/latents\n", "vae: " + dir + "/vae\n",
		"init-from: " + dir + "/project/start.safetensors\n", "results-dir: " + dir + "/runs\n"} {
		if !strings.Contains(config, want) {
			t.Errorf("config.yaml lacks %q:\n%s", want, config)
		}
	}
	// The run is found again, from wherever the paths are given, and by the hash that earlier versions gave it.
	mustRun(t, append(train, "3", "--resume", "auto")...)
	info := filepath.Join(dir, "runs/000-DiT-16x1x2-2/run.json")
	mustRun(t, "train", "--resume", filepath.Dir(info), "--max-steps", "4")
	now, err := runs.ReadInfo(filepath.Dir(info))
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("project")
	train = append(train[:1], "--config", "small.yaml", "--results-dir", "../runs", "--resume", "auto", "--max-steps")
	mustRun(t, append(train, "5")...)
	// Earlier versions kept --init-from as it was given.
	for file, change := range map[string][2]string{info: {now.ConfigHash, "0123456789abcdef"},
		"../runs/000-DiT-16x1x2-2/config.yaml": {dir + "/project/start.safetensors", "start.safetensors"}} {
		text := strings.Replace(string(read(t, file)), change[0], change[1], 1)
		if !strings.Contains(text, change[1]+"\n") && !strings.Contains(text, change[1]+`",`) {
			t.Fatalf("%s lacks %s", file, change[0])
		}
		write(t, file, []byte(text))
	}
	mustRun(t, append(train, "6")...)
	if now, err := runs.ReadInfo(filepath.Dir(info)); err != nil || len(now.Resumed) != 4 {
		t.Errorf("resumed %+v (%v), want four times", now.Resumed, err)
	}
}

// TestOldConfigPaths: a run whose config.yaml has the path of its initial weights as it was given goes on in another
// folder, where the path leads nowhere; and so does one whose autoencoder is gone, as long as it needs none.
func TestOldConfigPaths(t *testing.T) {
	r := theRoad(t)
	hubtest.EmptyCache(t)
	run := copyOf(t, r.run)
	config := filepath.Join(run, runs.ConfigName)
	text := regexp.MustCompile(`(?m)^(init-from|vae|sample-every): .*$`).ReplaceAll(read(t, config), nil)
	write(t, config, append(text, "\ninit-from: weights/start\nvae: a/b\nsample-every: 0\n"...))
	t.Chdir(t.TempDir())
	o := succeed(t, "train", "--resume", run, "--max-steps", "7")
	for _, want := range []string{"--init-from weights/start: no such file", "; the run goes on from its checkpoint\n",
		"--vae a/b: no such file", "; training does not need it\n"} {
		if !strings.Contains(o.stderr, want) {
			t.Errorf("no warning %q:\n%s", want, o.stderr)
		}
	}
	ditrun(t, "train", "--resume", run, "--max-steps", "8", "--sample-every", "8").refused(t, 1, "its autoencoder")
	ditrun(t, r.train("--init-from", "weights/start", "--resume", "auto")...).refused(t, 1,
		"--init-from weights/start: no such file")
}

// TestConfigOutputs: where a run goes depends neither on where the configuration is nor on what is there.
func TestConfigOutputs(t *testing.T) {
	r := theRoad(t)
	t.Chdir(t.TempDir())
	write(t, "conf/small.yaml", []byte("results-dir: runs\n"))
	train := r.train("--config", "conf/small.yaml", "--resume", "auto", "--max-steps")
	mustRun(t, append(train, "8")...)
	if err := os.MkdirAll("conf/runs", 0o777); err != nil {
		t.Fatal(err)
	}
	mustRun(t, append(train, "9")...)
	if info, err := runs.ReadInfo("runs/000-DiT-16x1x2-2"); err != nil || len(info.Resumed) != 1 {
		t.Errorf("resumed %+v (%v), want once", info.Resumed, err)
	}
	if got := list(t, "conf/runs"); len(got) > 0 {
		t.Errorf("conf/runs holds %q", got)
	}
}
