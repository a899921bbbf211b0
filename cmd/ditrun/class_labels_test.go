package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/dit"
)

// What a user names no class by is an error of usage, with a hint.
func TestClassLabelsRefused(t *testing.T) {
	info := dit.Info{Config: dit.Config{NumClasses: 3}, Classes: []string{"coat", "shirt", "bag"}}
	_, _, err := parseClasses([]string{"shirts"}, info, 0, 0)
	if usage := (usageError{}); !errors.As(err, &usage) || hintOf(err) != "did you mean shirt?" ||
		err.Error() != `--class-labels: no class is named "shirts"` {
		t.Errorf("%v; hint %q", err, hintOf(err))
	}
}

// Names that are not UTF-8, or in the other form of Unicode, stay what they are from the pictures to the samples.
func TestNamesOnTheRoad(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	pictures, latents := filepath.Join(dir, "p\xe9"), filepath.Join(dir, "l\xe9")
	picture := read(t, filepath.Join(writeTree(t, 1), "n01440764", "00.png"))
	for _, class := range []string{"1", "cafe\u0301", "caf\xe8", "caf\xe9"} {
		for i := range 2 {
			write(t, filepath.Join(pictures, class, fmt.Sprintf("%d.png", i)), picture)
		}
	}
	encode := []string{"encode-latents", "--data", pictures, "--vae", r.vae, "--out", latents}
	mustRun(t, encode...)
	if err := os.Rename(filepath.Join(pictures, "cafe\u0301"), filepath.Join(pictures, "caf\u00e9")); err != nil {
		t.Fatal(err)
	}
	unchanged(t, func() {
		if o := mustRun(t, encode...); !strings.Contains(o.stdout, "nothing is left to encode\n") {
			t.Errorf("printed\n%s", o.stdout)
		}
	}, latents)
	const names = "0  2 pictures  1\n1  2 pictures  cafe\u0301\n2  2 pictures  caf\\xe8\n" +
		"3  2 pictures  caf\\xe9\n8 pictures in 4 classes\n"
	if o := mustRun(t, "classes", "--data", latents); !strings.HasPrefix(o.stdout, names) {
		t.Errorf("classes prints %q, want %q", o.stdout, names)
	}
	if o := mustRun(t, "classes", "--data", latents, "caf\u00e9"); o.stdout != "1  2 pictures  cafe\u0301\n" {
		t.Errorf("classes prints %q", o.stdout)
	}
	if o := mustRun(t, "classes", "--data", pictures, "caf\xe8"); o.stdout != "2  2 pictures  caf\\xe8\n" {
		t.Errorf("classes prints %q", o.stdout)
	}

	run, again := filepath.Join(dir, "run"), filepath.Join(dir, "again")
	mustRun(t, slices.Concat([]string{"train", "--data", latents}, trainFlags, []string{"--run-dir", run,
		"--max-steps", "6", "--global-batch-size", "8"})...)
	mustRun(t, "train", "--config", filepath.Join(run, "config.yaml"), "--run-dir", again)
	equalFiles(t, run, again, "config.yaml")
	r.run = run
	out := filepath.Join(dir, "samples")
	ditrun(t, r.sample(out, "--class-labels", "1")...).refused(t, 2,
		"--class-labels: 1 is the label of class \"cafe\u0301\", and the name of class 0: write label:1 or name:1")
	o := mustRun(t, r.sample(out, "--class-labels", "name:1,caf\u00e9", "--class-labels", "caf\xe9", "--class-labels",
		`CAF\xE8`)...)
	if !strings.Contains(o.stdout, "classes CAF\\xE8 is 2, caf\\xe8\n") {
		t.Errorf("printed\n%s", o.stdout)
	}
	const want = "file,label,class\n000000.png,0,1\n000001.png,1,cafe\u0301\n" +
		"000002.png,3,caf\\xe9\n000003.png,2,caf\\xe8\n"
	if got := string(read(t, filepath.Join(out, "labels.csv"))); got != want {
		t.Errorf("labels.csv is\n%swant\n%s", got, want)
	}
}

// A number of pictures alone is spread over all classes; only without one are there a few of 1,000.
func TestClassesOfANumber(t *testing.T) {
	info := dit.Info{Config: dit.Config{NumClasses: 1000}}
	for _, c := range []struct {
		values []string
		n      int
		want   string
	}{
		{nil, 0, "[207 360 387 974 88 979 417 279]"},
		{nil, 4, "[0 250 500 750]"},
		{[]string{"all"}, 4, "[0 250 500 750]"},
		{[]string{"3-5"}, 6, "[3 3 4 4 5 5]"},
		{[]string{"random"}, 4, "[557 283 294 224]"},
	} {
		labels, _, err := parseClasses(c.values, info, c.n, 1)
		if c.n > 0 {
			labels = spread(labels, c.n)
		}
		if got := fmt.Sprint(labels); err != nil || got != c.want {
			t.Errorf("%q, %d pictures: %s, %v, want %s", c.values, c.n, got, err, c.want)
		}
	}
	if labels, _, _ := parseClasses(nil, info, 2000, 0); len(spread(labels, 2000)) != 2000 ||
		spread(labels, 2000)[1999] != 999 {
		t.Error("2,000 pictures are not two of each of 1,000 classes")
	}
	if _, _, err := parseClasses([]string{"random"}, info, 0, 0); err == nil ||
		!strings.Contains(err.Error(), "--num-samples says how many") {
		t.Errorf("random without a number: %v", err)
	}
}
