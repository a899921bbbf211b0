package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
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
			p := start(t, "launch", "-n", "2", "--max-restarts", "2", "--", "encode-latents", "--data", pictures, "--vae", r.vae, "--out", out, "--image-size", "2", "--batch-size", "64")
			p.until("process 0 of 2")
			waitFor(t, filepath.Join(out, "latents-00000-of-00003.safetensors.lock"))
			p.signal(sig)
			if twice {
				p.signal(sig)
			}
			began := time.Now()
			o := p.wait()
			if o.code != exitInterrupted || time.Since(began) > 10*time.Second || strings.Contains(o.stderr, "starting all again") {
				t.Errorf("%v: code %d after %v\n%s", sig, o.code, time.Since(began), o.stderr)
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
