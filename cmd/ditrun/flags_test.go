package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// TestWholeNumbersHaveBounds: no whole number of any command is taken that is negative or beyond all use, and none
// becomes another.
func TestWholeNumbersHaveBounds(t *testing.T) {
	tried := 0
	for _, c := range commands() {
		for _, f := range c.Flags {
			if _, ok := f.(*cli.IntFlag); !ok {
				continue
			}
			name := f.Names()[0]
			tried++
			most, _ := mostOf(name)
			for value, want := range map[string]string{
				"-1":                    fmt.Sprintf("--%s -1: want at least ", name),
				"-9223372036854775808":  fmt.Sprintf("--%s -9223372036854775808: want at least ", name),
				fmt.Sprint(most + 1):    fmt.Sprintf("--%s %d: want at most %d", name, most+1, most),
				"4294967297":            fmt.Sprintf("--%s 4294967297: want at most %d", name, most), // 1 in 32 bits
				fmt.Sprint(math.MaxInt): fmt.Sprintf("--%s 9223372036854775807: want at most %d", name, most),
				"99999999999999999999": fmt.Sprintf("--%s \"99999999999999999999\": want a whole number from 0 to %d",
					name, most),
				"1e3": fmt.Sprintf("--%s \"1e3\": want a whole number", name),
			} {
				var out, errs bytes.Buffer
				code := run(t.Context(), []string{"ditrun", c.Name, "--" + name, value}, &out, &errs)
				if code != 2 || !strings.HasPrefix(errs.String(), "ditrun: error: "+want) || out.Len() > 0 {
					t.Errorf("%s --%s %s: code %d, errors %q, want 2, %q", c.Name, name, value, code, errs.String(),
						want)
				}
			}
		}
	}
	if tried < 30 {
		t.Errorf("%d flags", tried)
	}
	// A file of flags has the same bounds.
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("num-workers: 1000000\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"ditrun", "train", "--config", path}, &out, &errs); code != 2 ||
		errs.String() != "ditrun: error: --num-workers 1000000: want at most 1024\n" {
		t.Errorf("in a file: code %d, errors %q", code, errs.String())
	}
	for value, want := range map[string]string{"1e9": "--cfg-scale 1e+09: want at most 1000000",
		"0.5": "--cfg-scale 0.5: want a number from 1 (no guidance) up", "inf": "--cfg-scale +Inf: want at most",
		"nan": "--cfg-scale NaN: want a number"} {
		errs.Reset()
		args := []string{"ditrun", "sample", "--ckpt", "x", "--out", "x.png", "--cfg-scale", value}
		if code := run(t.Context(), args, &out, &errs); code != 2 ||
			!strings.HasPrefix(errs.String(), "ditrun: error: "+want) {
			t.Errorf("--cfg-scale %s: code %d, errors %q", value, code, errs.String())
		}
	}
}

// TestFirstBadFlagIsNamed: of several bad flags the same one is reported each time.
func TestFirstBadFlagIsNamed(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	for range 30 {
		ditrun(t, "encode-latents", "--data", none, "--vae", none, "--out", none,
			"--resampler", "r", "--precision", "p", "--on-error", "e", "--dtype", "d", "--flip", "f").
			refused(t, 2, `--flip "f": want both or none`)
		ditrun(t, "train", "--data", none,
			"--ckpt-every", "-1", "--log-every", "-1", "--epochs", "-1", "--global-batch-size", "-1").
			refused(t, 2, "--global-batch-size -1: want at least ")
	}
}
