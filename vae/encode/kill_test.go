package encode

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ditrun/ditrun/data/latents"
)

// childEnv makes a test process an encoder: folder of the latents, rank and world.
const childEnv = "DITRUN_TEST_ENCODE"

func killOptions(t *testing.T, dir string) Options {
	o := testOptions(t, dir)
	o.Source, o.BatchSize = pictures{n: 250, bad: []int{77, 200}}, 4
	o.OnError, o.DType = "skip", "fp32"
	return o
}

// TestKilledProcesses kills encoders at random moments: alone, and three that share the folder, of which some are
// started together with a rank and some just so, or with the rank of another. In the end the folder has the bytes of
// a run that nobody disturbed.
func TestKilledProcesses(t *testing.T) {
	if env := os.Getenv(childEnv); env != "" {
		var o Options
		dir, ranks, _ := strings.Cut(env, "|")
		o = killOptions(t, dir)
		if _, err := fmt.Sscan(ranks, &o.Rank, &o.World); err != nil {
			t.Fatal(err)
		}
		if _, err := Run(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		return
	}
	if testing.Short() {
		t.Skip("starts processes")
	}
	openVAE(t, "tiny") // skips where there is none, and ends with the test
	kills := 3
	if os.Getenv("DITRUN_SOAK") != "" {
		kills = 50
	}
	undisturbed := t.TempDir()
	began := time.Now()
	if p := startEncoder(t, undisturbed, 0, 0); p.wait() != nil {
		t.Fatalf("undisturbed: %s", p.output.String())
	}
	took := time.Since(began)
	want := files(t, undisturbed)
	l, err := latents.Open(undisturbed)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.Len() != 248 || len(want) != 33 {
		t.Fatalf("%d latents in %d files, want 248 in 33", l.Len(), len(want))
	}
	for _, together := range []int{1, 3} {
		t.Run(fmt.Sprint(together), func(t *testing.T) {
			seed := rand.Uint64()
			rng := rand.New(rand.NewPCG(seed, 0))
			killed, folders, states := 0, 0, map[string]int{}
			for killed < kills {
				dir := t.TempDir()
				folders++
				for killed < kills {
					n, finished := killSome(t, rng, dir, together, took)
					killed += n
					if finished {
						break
					}
					states[state(t, dir)]++
				}
				if p := startEncoder(t, dir, 0, 0); p.wait() != nil {
					t.Fatalf("seed %d: the finishing run: %s", seed, p.output.String())
				}
				got := files(t, dir)
				for name := range got {
					if want[name] == nil {
						t.Errorf("seed %d: %s is left behind", seed, name)
					}
				}
				for name := range want {
					if !bytes.Equal(got[name], want[name]) {
						t.Errorf("seed %d: %s differs from that of an undisturbed run", seed, name)
					}
				}
			}
			t.Logf("%d kills in %d folders, after which there were: %v; an undisturbed run takes %.1f s", killed,
				folders, states, took.Seconds())
		})
	}
}

// killSome starts encoders and kills each at a moment of its own, at least one of them; finished says that one was
// done before.
func killSome(t *testing.T, rng *rand.Rand, dir string, together int, took time.Duration) (killed int, finished bool) {
	var running []*encoderProcess
	for range together {
		// Alone, one of three, or, by chance, the same one of three twice.
		rank, world := rng.IntN(3), 3*rng.IntN(2)
		running = append(running, startEncoder(t, dir, rank, world))
	}
	began := time.Now()
	moments := make([]float64, together)
	for i := range moments {
		moments[i] = rng.Float64() * took.Seconds()
	}
	slices.Sort(moments)
	for i, p := range running {
		select {
		case <-p.done:
		case <-time.After(time.Until(began.Add(time.Duration(moments[i] * float64(time.Second))))):
			p.cmd.Process.Kill()
			<-p.done
		}
		switch {
		case p.err == nil:
			finished = true
		case p.cmd.ProcessState.ExitCode() == -1: // by our signal
			killed++
		default:
			t.Fatalf("an encoder failed: %s", p.output.String())
		}
	}
	return killed, finished
}

// state words what kills left.
func state(t *testing.T, dir string) string {
	shards, extra := 0, ""
	for name := range files(t, dir) {
		switch {
		case strings.HasSuffix(name, ".safetensors"):
			shards++
		case strings.HasSuffix(name, ".tmp"):
			extra = " and half a file"
		}
	}
	switch {
	case shards == 0:
		return "no shards" + extra
	case shards < 32:
		return "some shards" + extra
	}
	return "all shards" + extra
}

type encoderProcess struct {
	cmd    *exec.Cmd
	output bytes.Buffer
	done   chan struct{}
	err    error // once done
}

func startEncoder(t *testing.T, dir string, rank, world int) *encoderProcess {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &encoderProcess{cmd: exec.CommandContext(t.Context(), self, "-test.run=^TestKilledProcesses$"),
		done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%d %d", childEnv, dir, rank, world))
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p
}

func (p *encoderProcess) wait() error {
	<-p.done
	return p.err
}
