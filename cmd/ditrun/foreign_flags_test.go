package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// A script is one of the originals, with the flags of its argument parser and the command of ours that does its work.
type script struct {
	title   string // of its table in docs/from-dit.md
	program []string
	command string
	flags   string
}

// scripts have the flags of facebookresearch/DiT at ed81ce2 and chuanyangjin/fast-DiT at 0ddbd64.
var scripts = []script{
	{"train.py: ditrun train", []string{ofDiT}, "train", "data-path results-dir model image-size num-classes epochs " +
		"global-batch-size global-seed vae num-workers log-every ckpt-every"},
	{"sample.py: ditrun sample", []string{ofDiT}, "sample", "model vae image-size num-classes cfg-scale " +
		"num-sampling-steps seed ckpt"},
	{"sample_ddp.py: ditrun sample", []string{ofDiT}, "sample", "model vae sample-dir per-proc-batch-size " +
		"num-fid-samples image-size num-classes cfg-scale num-sampling-steps global-seed tf32 no-tf32 ckpt"},
	{"extract_features.py of fast-DiT: ditrun encode-latents", []string{ofDiT, ofFastDiT}, "encode-latents",
		"data-path features-path results-dir model image-size num-classes epochs global-batch-size global-seed vae " +
			"num-workers log-every ckpt-every"},
	{"train.py of fast-DiT: ditrun train", []string{ofFastDiT}, "train", "feature-path results-dir model image-size " +
		"num-classes epochs global-batch-size global-seed vae num-workers log-every ckpt-every"},
}

// flagsOf lists the names of a command's flags, short ones too.
func flagsOf(t *testing.T, command string) (names []string) {
	t.Helper()
	i := slices.IndexFunc(commands(), func(c *cli.Command) bool { return c.Name == command })
	if i < 0 {
		t.Fatalf("no command %s", command)
	}
	for _, f := range commands()[i].Flags {
		names = append(names, f.Names()...)
	}
	return names
}

// TestForeignFlags: what the table says we have is there, and what it says others call otherwise is no flag of ours.
func TestForeignFlags(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range foreignFlags {
		ours, key := flagsOf(t, f.command), f.command+" "+f.theirs
		switch {
		case f.ours != "" && !slices.Contains(ours, f.ours):
			t.Errorf("%s: there is no --%s", key, f.ours)
		case f.ours == "" && f.note == "":
			t.Errorf("%s: neither a flag nor a reason", key)
		case slices.Contains(ours, f.theirs):
			t.Errorf("%s: we have it", key)
		case seen[key], strings.Contains(f.theirs, "_"):
			t.Errorf("%s: twice, or with an underscore", key)
		}
		seen[key] = true
		for _, theirs := range []string{f.theirs, strings.ReplaceAll(f.theirs, "-", "_")} {
			o := ditrun(t, f.command, "--"+theirs, "x")
			o.refused(t, 2, "unknown flag --"+theirs, "hint: ", f.theirs, f.note)
			if f.ours != "" && !strings.Contains(o.stderr, "--"+f.ours+" is what "+f.program+" calls --"+f.theirs) {
				t.Errorf("%s: %s", key, o.stderr)
			}
		}
	}
	// Every flag of the originals is one of ours or in the table.
	for _, s := range scripts {
		for _, flag := range strings.Fields(s.flags) {
			if f, ok := foreign(s.command, flag); !slices.Contains(flagsOf(t, s.command), flag) &&
				!(ok && slices.Contains(s.program, f.program)) {
				t.Errorf("%s: nobody says what --%s is", s.title, flag)
			}
		}
	}
}

// TestForeignKeys: the same holds for keys of a configuration.
func TestForeignKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	write(t, path, []byte("model: DiT-S/2\nlearning_rate: 1e-4\n"))
	ditrun(t, "train", "--config", path).refused(t, 1, `line 2: unknown key "learning_rate"`,
		"hint: lr is what diffusers calls learning-rate\n")
	write(t, path, []byte("feature_path: x\n"))
	ditrun(t, "train", "--config", path).refused(t, 1, "hint: data is what fast-DiT calls feature-path: "+
		"convert --latents FEATURES --to ditrun makes our form of its features\n")
}

// TestPageOfForeignFlags: docs/from-dit.md has each flag of the originals, with what the table of the code says.
func TestPageOfForeignFlags(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "from-dit.md"))
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("`--([a-z0-9-]+)`")
	for _, s := range scripts {
		_, table, ok := strings.Cut(string(page), "\n### "+s.title+"\n")
		table, _, _ = strings.Cut(table, "\n#")
		missing := strings.Fields(s.flags)
		for line := range strings.Lines(table) {
			cells := strings.Split(line, "|")
			if len(cells) < 4 {
				continue
			}
			for _, m := range quoted.FindAllStringSubmatch(cells[1], -1) {
				theirs, want := m[1], "the same"
				if f, ok := foreign(s.command, theirs); ok && f.ours != "" {
					want = "`--" + f.ours + "`"
				} else if ok {
					want = "none"
				}
				if got := strings.TrimSpace(cells[2]); got != want {
					t.Errorf("%s: --%s is %q there, want %q", s.title, theirs, got, want)
				}
				if i := slices.Index(missing, theirs); i < 0 {
					t.Errorf("%s has no --%s", s.title, theirs)
				} else {
					missing = slices.Delete(missing, i, i+1)
				}
			}
		}
		if !ok || len(missing) > 0 {
			t.Errorf("%s: not on the page: %q", s.title, missing)
		}
	}
}
