package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ditrun/ditrun/diffusion/runs"
)

// TestRunOutlivesItsRecords: what only shows a run may fail in every way while it goes on. The run says so once,
// ends well, and with the bits of a run that nothing happened to.
func TestRunOutlivesItsRecords(t *testing.T) {
	r := theRoad(t)
	const steps = 24
	flags := []string{"--max-steps", fmt.Sprint(steps), "--log-every", "1", "--ckpt-every", "20", "--sample-every",
		"12", "--vae", r.vae}
	straight := filepath.Join(t.TempDir(), "straight")
	mustRun(t, r.train(slices.Concat(flags, []string{"--run-dir", straight})...)...)

	folder := func(path string) (err error) { // in the place of a file
		for range 100 { // the run may write the file again in between
			if err = errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Join(path, "x"), 0o777)); err == nil {
				break
			}
		}
		return err
	}
	file := func(path string) error { return errors.Join(os.RemoveAll(path), os.WriteFile(path, nil, 0o666)) }
	for _, c := range []struct {
		name   string
		damage func(run string) error
		warn   []string // each once
		other  string   // where the run is then, "" where it was
		log    bool     // whether log.jsonl is whole in the end
	}{
		{"no folder for previews", func(run string) error { return os.RemoveAll(filepath.Join(run, "samples")) }, nil,
			"", true},
		{"a file for the folder of previews", func(run string) error { return file(filepath.Join(run, "samples")) },
			[]string{"samples/0000012.png: not a directory: the run goes on, and tries again"}, "", true},
		{"a folder for a loss curve", func(run string) error { return folder(filepath.Join(run, "loss.png")) },
			[]string{"loss.png: is a directory: the run goes on, and tries again"}, "", true},
		{"no log", func(run string) error { return os.Remove(filepath.Join(run, "log.jsonl")) }, nil, "", true},
		{"a folder for a log", func(run string) error { return folder(filepath.Join(run, "log.jsonl")) },
			[]string{"log.jsonl: is a directory: the run goes on, and tries again"}, "", false},
		{"a folder for a text", func(run string) error { return folder(filepath.Join(run, "log.txt")) },
			[]string{"log.txt: is a directory: the run goes on, and tries again"}, "", true},
		{"no run.json", func(run string) error { return os.Remove(filepath.Join(run, "run.json")) }, nil, "", true},
		{"latest is a folder", func(run string) error { return folder(filepath.Join(run, "checkpoints", "latest")) },
			[]string{"the checkpoint of step 20 is whole, and found without it",
				"the checkpoint of step 24 is whole, and found without it"}, "", true},
		{"latest is a file", func(run string) error { return file(filepath.Join(run, "checkpoints", "latest")) }, nil,
			"", true},
		{"the run folder is moved", func(run string) error { return os.Rename(run, run+"-moved") },
			[]string{"was moved to "}, "run-moved", true},
		{"the run folder is removed", func(run string) error {
			for os.RemoveAll(run) != nil { // the run may write into it while it goes
			}
			return nil
		}, []string{"is gone, with what was in it: the run goes on in "}, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // each is a process of one thread
			dir := t.TempDir()
			run := filepath.Join(dir, "run")
			p := start(t, r.train(slices.Concat(flags, []string{"--run-dir", run})...)...)
			p.until("(step=0000003)")
			// It waits for somebody to read the lines of the next two steps.
			if err := c.damage(run); err != nil {
				t.Fatal(err)
			}
			o := p.wait()
			if o.code != 0 || !strings.Contains(o.stdout, "Done!") {
				t.Fatalf("code %d\n%s%s", o.code, o.stdout, o.stderr)
			}
			var said []string
			for line := range strings.Lines(o.stderr) {
				said = append(said, strings.TrimSpace(line))
			}
			for _, want := range c.warn {
				if n := strings.Count(o.stderr, want); n != 1 {
					t.Errorf("said %q, want %q once", said, want)
				}
			}
			// A folder that goes away while a line is written may be met by that line too.
			if !strings.Contains(c.name, "the run folder") && len(said) != len(c.warn) {
				t.Errorf("said %q, want %q", said, c.warn)
			}
			if c.other != "" {
				run = filepath.Join(dir, c.other)
			}
			equalFiles(t, filepath.Join(straight, "checkpoints/0000024"), filepath.Join(run, "checkpoints/0000024"),
				checkpointFiles...)
			if c.log {
				var all []int
				for i := range steps {
					all = append(all, i+1)
				}
				checkLog(t, run, all...)
			}
			// The same command finds nothing left to do.
			again := ditrun(t, r.train(slices.Concat(flags, []string{"--run-dir", run, "--resume", "auto"})...)...)
			if again.code != 0 || !strings.Contains(again.stdout, "Done already, after 24 steps; a larger") {
				t.Errorf("continued: code %d\n%s%s", again.code, again.stdout, again.stderr)
			}
		})
	}
}

// TestRunOutlivesItsTerminal: a hang-up and a closed pipe stop a run as SIGTERM does, with a checkpoint; a hang-up
// that was ignored when it began, as nohup has it, does not.
func TestRunOutlivesItsTerminal(t *testing.T) {
	r := theRoad(t)
	// Where this test itself runs under nohup its processes would ignore a hang-up too.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	flags := []string{"--max-steps", "100000", "--epochs", "100000", "--log-every", "1"}
	saved := func(t *testing.T, run string) {
		t.Helper()
		names, err := os.ReadDir(filepath.Join(run, "checkpoints"))
		if err != nil || len(names) != 2 {
			t.Fatalf("checkpoints %v, %v", names, err)
		}
		ditrun(t, "inspect", filepath.Join(run, "checkpoints", names[0].Name(), "model.safetensors"))
		short := slices.Concat(flags,
			[]string{"--run-dir", run, "--resume", "auto", "--max-steps", fmt.Sprint(nextStep(t, run) + 2)})
		if o := ditrun(t, r.train(short...)...); o.code != 0 {
			t.Errorf("continued: code %d\n%s%s", o.code, o.stdout, o.stderr)
		}
	}
	t.Run("hang-up", func(t *testing.T) {
		run := filepath.Join(t.TempDir(), "run")
		p := start(t, r.train(slices.Concat(flags, []string{"--run-dir", run})...)...)
		p.until("(step=0000003)")
		p.signal(syscall.SIGHUP)
		p.signal(syscall.SIGHUP) // the shell's, after the terminal's
		if o := p.wait(); !strings.Contains(o.stdout, "holds all that was done, --resume auto continues") {
			t.Errorf("code %d\n%s%s", o.code, o.stdout, o.stderr)
		}
		saved(t, run)
	})
	t.Run("closed pipe", func(t *testing.T) {
		run := filepath.Join(t.TempDir(), "run")
		p := start(t, r.train(slices.Concat(flags, []string{"--run-dir", run})...)...)
		p.until("(step=0000003)")
		p.pipe.Close()
		p.cmd.Wait()
		saved(t, run)
	})
	t.Run("nohup", func(t *testing.T) {
		run := filepath.Join(t.TempDir(), "run")
		cmd := command(t, `trap "" HUP; exec "$@"`,
			r.train("--max-steps", "60", "--log-every", "1", "--run-dir", run)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, filepath.Join(run, "log.jsonl"))
		cmd.Process.Signal(syscall.SIGHUP)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(run, "checkpoints", "0000060")); err != nil {
			t.Error(err)
		}
	})
	t.Run("launch", func(t *testing.T) {
		run := filepath.Join(t.TempDir(), "run")
		p := start(t, slices.Concat([]string{"launch", "-n", "2"},
			r.train(slices.Concat(flags, []string{"--run-dir", run})...))...)
		p.until("(step=0000003)")
		p.signal(syscall.SIGHUP)
		if o := p.wait(); !strings.Contains(o.stdout, "holds all that was done, --resume auto continues") {
			t.Errorf("code %d\n%s%s", o.code, o.stdout, o.stderr)
		}
		if names, err := os.ReadDir(filepath.Join(run, "checkpoints")); err != nil || len(names) != 2 {
			t.Errorf("checkpoints %v, %v", names, err)
		}
	})
}

// nextStep is the step after the newest checkpoint of a run.
func nextStep(t *testing.T, run string) (step int) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(run, "checkpoints", "[0-9]*"))
	if err != nil || len(names) == 0 {
		t.Fatal(err)
	}
	fmt.Sscan(strings.TrimLeft(filepath.Base(names[len(names)-1]), "0"), &step)
	return step + 1
}

// A run of another length is the same run; damaged records do not lock it.
func TestResumeAutoFindsTheRun(t *testing.T) {
	r := theRoad(t)
	results := filepath.Join(t.TempDir(), "results")
	train := func(more ...string) outcome {
		t.Helper()
		o := ditrun(t, r.train(slices.Concat([]string{"--results-dir", results, "--resume", "auto", "--log-every", "2"},
			more)...)...)
		if o.code != 0 {
			t.Fatalf("code %d\n%s%s", o.code, o.stdout, o.stderr)
		}
		return o
	}
	train("--max-steps", "4")
	if o := train("--max-steps", "6"); !strings.Contains(o.stdout, "Continuing from step 4") {
		t.Errorf("a longer run began anew:\n%s", o.stdout)
	}
	if o := train("--max-steps", "7", "--lr", "0.002"); strings.Contains(o.stdout, "Continuing") {
		t.Errorf("a run of another learning rate continues:\n%s", o.stdout)
	}
	run := filepath.Join(results, list1(t, results)[0])
	log := filepath.Join(run, "log.jsonl")
	damaged := strings.Replace(string(read(t, log)), `"step":2,`, `"step":x,`, 1)
	write(t, log, []byte(damaged))
	write(t, filepath.Join(run, "run.json"),
		[]byte(strings.Replace(string(read(t, filepath.Join(run, "run.json"))), `"model": "`, `"model": `, 1)))
	o := train("--max-steps", "8")
	for _, want := range []string{"run.json: invalid character", "the run goes on under a new id",
		"log.jsonl: 1 line cannot be read: set aside in log.jsonl.damaged"} {
		if !strings.Contains(o.stderr, want) {
			t.Errorf("said %q, want %q", o.stderr, want)
		}
	}
	checkLog(t, run, 4, 6, 8)
	if _, err := runs.ReadInfo(run); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(run, "run.json")); err != nil {
		t.Fatal(err)
	}
	o = ditrun(t, r.train("--run-dir", run, "--resume", "auto", "--max-steps", "9")...)
	if o.code != 0 || !strings.Contains(o.stderr, "has checkpoints and no run.json: the run goes on under a new id") {
		t.Errorf("without run.json: code %d\n%s", o.code, o.stderr)
	}
}

// TestResumeOfNothingToDo: of a run without a checkpoint, and of one that is done, --resume says so.
func TestResumeOfNothingToDo(t *testing.T) {
	r := theRoad(t)
	run := filepath.Join(t.TempDir(), "run")
	mustRun(t, r.train("--run-dir", run, "--max-steps", "2")...)
	o := mustRun(t, "train", "--resume", run)
	if !strings.Contains(o.stdout, "Done already, after 2 steps; a larger --max-steps goes on\n") {
		t.Errorf("it says\n%s", o.stdout)
	}
	if err := os.RemoveAll(filepath.Join(run, "checkpoints")); err != nil {
		t.Fatal(err)
	}
	ditrun(t, "train", "--resume", run).refused(t, 1, "--resume "+run+": the run has no checkpoint yet",
		"hint: its command with --run-dir "+run+" --resume auto begins it again")
}

// TestResumeAutoOfAnEarlierVersion: a run whose config.yaml has the flags in another order, and lacks one that came
// later, is found.
func TestResumeAutoOfAnEarlierVersion(t *testing.T) {
	r := theRoad(t)
	results := filepath.Join(t.TempDir(), "results")
	train := func(more ...string) string {
		return mustRun(t, r.train(slices.Concat([]string{"--results-dir", results, "--resume", "auto"}, more)...)...).
			stdout
	}
	train("--max-steps", "2")
	run := filepath.Join(results, list1(t, results)[0])
	config := filepath.Join(run, "config.yaml")
	lines := slices.Collect(strings.Lines(string(read(t, config))))
	slices.Sort(lines)
	slices.Reverse(lines)
	lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "spike-factor:") })
	write(t, config, []byte(strings.Join(lines, "")))
	info := regexp.MustCompile(`"config_hash": *"[0-9a-f]+"`).ReplaceAllString(string(read(t,
		filepath.Join(run, "run.json"))), `"config_hash": "0123456789abcdef"`)
	write(t, filepath.Join(run, "run.json"), []byte(info))

	for _, other := range [][]string{{"--spike-factor", "50"}, {"--lr", "0.002"}} {
		if o := train(append(other, "--max-steps", "3")...); strings.Contains(o, "Continuing") {
			t.Errorf("a run with %q continues it:\n%s", other, o)
		}
	}
	if o := train("--max-steps", "3"); !strings.Contains(o, "Continuing from step 2") {
		t.Errorf("the run begins anew:\n%s", o)
	}
}

// list1 names what lies directly in a folder.
func list1(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestWithoutSymbolicLinks: `latest` is then a file.
func TestWithoutSymbolicLinks(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("no strace here")
	}
	r := theRoad(t)
	run := filepath.Join(t.TempDir(), "run")
	shell := `exec strace -f -qq -o /dev/null -e trace=symlinkat -e inject=symlinkat:error=EPERM "$@"`
	cmd := command(t, shell, r.train("--run-dir", run, "--max-steps", "2")...)
	done := time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() })
	defer done.Stop()
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if got := string(read(t, filepath.Join(run, "checkpoints", "latest"))); got != "0000002\n" {
		t.Errorf("latest holds %q", got)
	}
}
