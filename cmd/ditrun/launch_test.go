package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestLaunchShares: the processes of a launch make one set of latents together.
func TestLaunchShares(t *testing.T) {
	r := theRoad(t)
	t.Setenv(asDitrun, "1")
	out := filepath.Join(t.TempDir(), "latents")
	o := mustRun(t, "launch", "-n", "2", "--", "encode-latents", "--data", r.pictures, "--vae", r.vae, "--out", out)
	if !strings.Contains(o.stdout, "process 0 of 2\n") || !strings.Contains(o.stderr, "[1] process 1 of 2\n") {
		t.Errorf("printed\n%s%s", o.stdout, o.stderr)
	}
	equalFiles(t, r.latents, out, theShard, "manifest.json")
}

// TestInterruptLaunch: each signal reaches every process once; the first lets them save, the second ends them.
func TestInterruptLaunch(t *testing.T) {
	r := theRoad(t)
	pictures := filepath.Join(t.TempDir(), "many")
	writeIDX(t, pictures, 2*4096+50, 2) // three shards
	for _, sig := range interrupts {
		for _, twice := range []bool{false, true} {
			out := filepath.Join(t.TempDir(), fmt.Sprint("latents ", twice))
			// Another process seems to make the last shard: these have to wait for it, unless a signal reaches both.
			release := hold(t, filepath.Join(out, "latents-00002-of-00003.safetensors.lock"))
			p := startFree(t, "launch", "-n", "2", "--max-restarts", "2", "--", "encode-latents", "--data", pictures,
				"--vae", r.vae, "--out", out, "--image-size", "2", "--batch-size", "64")
			waitFor(t, filepath.Join(out, "latents-00000-of-00003.safetensors"))
			waitUntil(t, "process 1 runs", func() bool {
				return strings.Contains(p.stderr.String(), "[1] process 1 of 2")
			})
			p.signal(sig)
			if twice {
				p.signal(sig)
			}
			o := p.wait()
			release()
			code := 128 + int(sig)
			if twice && o.code == exitInterrupted { // of a process that had no time to tell the signals apart
				code = exitInterrupted
			}
			if o.code != code || strings.Contains(o.stderr, "starting all again") {
				t.Errorf("%v: code %d\n%s", sig, o.code, o.stderr)
			}
			if said := strings.Count(o.stderr, "[1] ditrun: stopping;"); !twice && said != 1 {
				t.Errorf("%v reached process 1 %d times\n%s", sig, said, o.stderr)
			}
			if names := list(t, out); slices.Contains(names, "manifest.json") {
				t.Errorf("%v: %q: all was done by then", sig, names)
			}
		}
	}
}

// TestTerminatedLaunchOfTraining: training that saved all it did ends with 0, for schedulers.
func TestTerminatedLaunchOfTraining(t *testing.T) {
	r := theRoad(t)
	run := filepath.Join(t.TempDir(), "run")
	p := start(t, slices.Concat([]string{"launch", "-n", "2", "--"},
		r.train("--run-dir", run, "--max-steps", "100000", "--log-every", "1"))...)
	p.until("(step=0000003)")
	p.signal(syscall.SIGTERM)
	if o := p.wait(); o.code != 0 || strings.Contains(o.stderr, "error") ||
		!strings.Contains(o.stdout, "--resume auto continues") {
		t.Errorf("code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	if !exists(filepath.Join(run, "checkpoints", "latest", "state.json")) {
		t.Error("nothing was saved")
	}
}

// TestOneProcess: commands that do not share their work refuse to do it once for each process.
func TestOneProcess(t *testing.T) {
	needTorch(t)
	t.Setenv(asDitrun, "1")
	dir := t.TempDir()
	for _, args := range [][]string{
		{"train-vae", "--data", "pictures", "--out", filepath.Join(dir, "x")},
		{"convert", "--ckpt", "run", "--to", "official", "--out", filepath.Join(dir, "x.pt")},
	} {
		o := ditrun(t, append([]string{"launch", "-n", "3", "--"}, args...)...)
		want := "ditrun: error: " + args[0] + ": started as 3 processes, each of which would do the whole work\n"
		if o.code != exitUsage || strings.Count(o.stderr, want) != 1 || strings.Count(o.stderr, "error") != 2 ||
			o.stdout != "" {
			t.Errorf("%s: code %d, printed\n%s%s", args[0], o.code, o.stdout, o.stderr)
		}
		if got := list(t, dir); len(got) > 0 {
			t.Errorf("%s leaves %q", args[0], got)
		}
	}
	// One process of a launcher is a process alone.
	o := ditrun(t, "launch", "-n", "1", "--", "convert", "--ckpt", "none", "--to", "official", "--out",
		filepath.Join(dir, "x.pt"))
	if o.code != 1 || strings.Contains(o.stderr, "started as") {
		t.Errorf("code %d\n%s", o.code, o.stderr)
	}
	// Slurm says it in other words.
	slurm := map[string]string{"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_LOCALID": "0",
		"SLURM_JOB_ID":         "7",
		"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_STEP_NODELIST": "a", "SLURM_NODEID": "0"}
	if err := checkAlone("convert", func(name string) string { return slurm[name] }); err == nil ||
		!strings.Contains(err.Error(), "started as 4 processes") {
		t.Errorf("under Slurm: %v", err)
	}
}

// TestKilledRank: a process of a run that is killed ends the others, all start again by themselves, and the end is
// that of a run that nothing happened to. The same under torchrun where DITRUN_TORCH_PYTHON names a Python with
// torch.
func TestKilledRank(t *testing.T) {
	r := theRoad(t)
	t.Setenv(asDitrun, "1")
	train := func(run string) []string {
		return slices.Concat([]string{"train", "--data", r.latents}, trainFlags,
			[]string{"--max-steps", "300", "--ckpt-every", "50", "--log-every", "100",
				"--resume", "auto", "--run-dir", run})
	}
	undisturbed := filepath.Join(t.TempDir(), "run")
	mustRun(t, slices.Concat([]string{"launch", "-n", "2", "--"}, train(undisturbed))...)
	weights := filepath.Join("checkpoints", "0000300")
	for _, by := range []string{"launch", "torchrun"} {
		t.Run(by, func(t *testing.T) {
			run := filepath.Join(t.TempDir(), "run")
			cmd := command(t, "", slices.Concat([]string{"launch", "-n", "2", "--max-restarts", "2", "--"},
				train(run))...)
			if by == "torchrun" {
				if os.Getenv("DITRUN_TORCH_PYTHON") == "" {
					t.Skip("DITRUN_TORCH_PYTHON does not name a Python with torch")
				}
				cmd = command(t,
					`exec "$DITRUN_TORCH_PYTHON" -m torch.distributed.run --standalone `+
						`--nproc-per-node=2 --max-restarts=2 --no-python "$@"`, train(run)...)
			}
			var said bytes.Buffer
			cmd.Stdout, cmd.Stderr = &said, &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			waitFor(t, filepath.Join(run, "checkpoints", "0000100", "state.json"))
			killed := time.Now()
			if err := syscall.Kill(rankOf(t, run, "1"), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Fatalf("%v\n%s", err, said.String())
			}
			t.Logf("done %v after the kill", time.Since(killed).Round(time.Second))
			if n := strings.Count(said.String(), "Resumed at step"); n != 1 {
				t.Errorf("resumed %d times, want once\n%s", n, said.String())
			}
			equalFiles(t, filepath.Join(undisturbed, weights), filepath.Join(run, weights), "model.safetensors",
				"ema.safetensors",
				"optimizer-000-of-002.safetensors", "optimizer-001-of-002.safetensors")
		})
	}
}

// rankOf finds the process of a rank that trains in the folder run.
func rankOf(t *testing.T, run, rank string) int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		line, err := os.ReadFile(path)
		args := strings.Split(string(line), "\x00")
		if err != nil || !slices.Contains(args, run) {
			continue
		}
		env, err := os.ReadFile(filepath.Join(filepath.Dir(path), "environ"))
		if err == nil && slices.Contains(strings.Split(string(env), "\x00"), "RANK="+rank) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("no process of rank %s trains in %s", rank, run)
	return 0
}
