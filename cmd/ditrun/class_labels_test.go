package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/dit"
)

// classesNamed is a model with a class for each name, and so many more without one.
func classesNamed(more int, list ...string) dit.Info {
	return dit.Info{Config: dit.Config{NumClasses: len(list) + more}, Classes: list}
}

var (
	fashion = classesNamed(0, "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
		"Bag",
		"Ankle boot")
	digits = classesNamed(0, "0", "1", "10", "11", "2", "3")
)

func imageNet() dit.Info {
	var list []string
	for _, c := range catalog.ImageNetClasses() {
		list = append(list, c.Synset)
	}
	return classesNamed(0, list...)
}

func TestClassLabels(t *testing.T) {
	odd := classesNamed(0, "cat, tabby", "cat", "tabby", " ", " blank", "line\nend", "tab\there", "-rf", "label:1",
		`caf\xe9`, `caf\xe8`, "cafe\u0301s", "", "a/b")
	for _, c := range []struct {
		info   dit.Info
		values []string
		want   []int
		found  []string
	}{
		{fashion, nil, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, nil},
		{fashion, []string{"3, 7,Bag"}, []int{3, 7, 8}, nil},
		{fashion, []string{"3", "bag", "3"}, []int{3, 8, 3}, []string{"bag is 8, Bag"}},
		{fashion, []string{"boot"}, []int{9}, []string{"boot is 9, Ankle boot"}},
		{fashion, []string{"BOOT,top"}, []int{9, 0}, []string{"BOOT is 9, Ankle boot", "top is 0, T-shirt/top"}},
		{fashion, []string{"Shirt"}, []int{6}, nil}, // not T-shirt/top
		{fashion, []string{"t shirt"}, []int{0}, []string{"t shirt is 0, T-shirt/top"}},
		{fashion, []string{"label:2,name:Coat"}, []int{2, 4}, []string{"label:2 is 2, Pullover"}},
		{digits, []string{"0,1"}, []int{0, 1}, nil},
		{digits, []string{"10,11"}, []int{2, 3}, nil}, // names, as there are no such numbers
		{digits, []string{"label:2"}, []int{2}, []string{"label:2 is 2, 10"}},
		{digits, []string{"name:2,name:3"}, []int{4, 5}, nil},
		{digits, []string{"label:5"}, []int{5}, []string{"label:5 is 5, 3"}},
		{classesNamed(0, "1,000", "1", "000"), []string{"1,000"}, []int{0}, nil}, // 000 could be either
		{classesNamed(0, "1,000", "x"), []string{"1,000"}, []int{0}, []string{"1,000 is 0, 1,000"}},
		{classesNamed(3), []string{"2,0"}, []int{2, 0}, nil},
		{odd, []string{"cat, tabby"}, []int{0}, []string{"cat, tabby is 0, cat, tabby"}}, // which cat and tabby are too
		{odd, []string{"cat,tabby"}, []int{1, 2}, nil},
		{odd, []string{"name:cat, tabby"}, []int{0}, []string{"name:cat, tabby is 0, cat, tabby"}},
		{odd, []string{"cat", "tabby"}, []int{1, 2}, nil},
		{odd, []string{" "}, []int{3}, nil},
		{odd, []string{`" "`}, []int{3}, nil},
		{odd, []string{""}, []int{12}, nil},
		{odd, []string{" blank", "blank", `" blank"`}, []int{4, 4, 4}, []string{`blank is 4, " blank"`}},
		{odd, []string{"line\nend", `line\nend`}, []int{5, 5}, nil},
		{odd, []string{"tab\there", `tab\there`}, []int{6, 6}, nil},
		{odd, []string{"-rf"}, []int{7}, nil},
		{odd, []string{"label:1"}, []int{1}, []string{"label:1 is 1, cat"}},
		{odd, []string{"name:label:1"}, []int{8}, nil},
		{odd, []string{`caf\xe9`, "caf\xe8"}, []int{9, 10}, nil},
		{odd, []string{"caf\u00e9s"}, []int{11}, nil},
		{classesNamed(0, "Cat", "cat"), []string{"cat,Cat"}, []int{1, 0}, nil},
		{classesNamed(0, "tench, Tinca tinca", "goldfish"), []string{"tinca tinca"}, []int{0},
			[]string{"tinca tinca is 0, tench, Tinca tinca"}},
		{imageNet(), []string{"golden retriever"}, []int{207},
			[]string{"golden retriever is 207, n02099601 (golden retriever)"}},
		{imageNet(), []string{"n02099601,207"}, []int{207, 207}, nil},
		{imageNet(), []string{"tench, Tinca tinca"}, []int{0},
			[]string{"tench, Tinca tinca is 0, n01440764 (tench, Tinca tinca)"}},
	} {
		labels, found, err := parseClasses(c.values, c.info)
		if err != nil || !slices.Equal(labels, c.want) || !slices.Equal(found, c.found) {
			t.Errorf("%q: %v %q, %v, want %v %q", c.values, labels, found, err, c.want, c.found)
		}
	}
}

func TestClassLabelsRefused(t *testing.T) {
	twins := classesNamed(0, "Cat", "cat", "owl", "cattle", "owl", "bobcat 2")
	for _, c := range []struct {
		info       dit.Info
		value      string
		want, hint string
	}{
		{digits, "2", `2 is the label of class "10", and the name of class 4: write label:2 or name:2`, ""},
		{digits, "1,3", `3 is the label of class "11", and the name of class 5: write label:3 or name:3`, ""},
		{classesNamed(0, "a", "b", "c", "01"), "01",
			`01 is the label of class "b", and the name of class 3: write label:1 or name:01`, ""},
		{classesNamed(0, "1", "1"), "1",
			`1 is the label of class "1", and the name of class 0: write label:1 or name:1`, ""},
		{digits, "7", "7: the model has classes 0 to 5", ""},
		{digits, "label:6", "6: the model has classes 0 to 5", ""},
		{digits, "label:two", "label:two: want a number after label:", ""},
		{fashion, "3,,7", `"3,,7": want numbers or names`, ""},
		{fashion, "", `"": want numbers or names`, ""},
		{fashion, "3,", `"3,": want numbers or names`, ""},
		{classesNamed(0, "", "x"), "1,", `"1,": want numbers or names`, ""},
		{twins, "CAT", "CAT is but for the case the name of several classes: 0, Cat; 1, cat",
			"give the number of one, as in label:0"},
		{twins, "owl", "owl is the name of several classes: 2, owl; 4, owl", "as in label:2"},
		{twins, "name:owl", "owl is the name of several classes: 2, owl; 4, owl", "as in label:2"},
		{classesNamed(0, "cattle", "bobcat 2", "ox"), "cat", `no class is named "cat"`,
			"longer words have it: cattle, bobcat 2"},
		{classesNamed(0, "Ankle boot", "Rain boot"), "boot",
			"boot is part of the name of several classes: 0, Ankle boot; 1, Rain boot", "label:0"},
		{classesNamed(0, "caf\u00e9", "cafe\u0301"), "caf\u00e9", "the name of several classes", "label:0"},
		{classesNamed(0, "a\nb", `a\nb`), `a\nb`, "the name of several classes: 0, a\\nb; 1, a\\nb", "label:0"},
		{classesNamed(0, "caf\u00e9", "ox", "ant"), "cafe\u0301e", "no class is named", "did you mean caf\u00e9?"},
		{classesNamed(0, "read", "reddish"), "red", `no class is named "red"`, "longer words have it: reddish"},
		{fashion, "-", `no class is named "-"`, "the classes are T-shirt/top, "},
		{imageNet(), "crane", "crane is a name of several classes: 134, n02012849 (crane); 517, n03126707 (crane)",
			"as in label:134"},
		{imageNet(), "terrier", "terrier is part of the name of several classes: 153, n02085936 (Maltese dog, ",
			"label:153"},
		{classesNamed(3), "cat", `"cat": the checkpoint holds no names of classes, want numbers`,
			"the numbers are 0 to 2"},
		{classesNamed(3), "3", "3: the model has classes 0 to 2", ""},
		{classesNamed(1000), "tench", "holds no names", "`ditrun classes WORD` finds them"},
	} {
		labels, _, err := parseClasses([]string{c.value}, c.info)
		if err == nil {
			t.Errorf("%q: classes %v, want an error", c.value, labels)
			continue
		}
		if hint := hintOf(err); !strings.HasPrefix(err.Error(), "--class-labels") || !strings.Contains(err.Error(),
			c.want) ||
			!strings.Contains(hint, c.hint) {
			t.Errorf("%q: %v; hint %q\nwant %s; hint %s", c.value, err, hint, c.want, c.hint)
		}
		if usage := (usageError{}); !errors.As(err, &usage) {
			t.Errorf("%q: %v is no error of usage", c.value, err)
		}
	}
}

// Every class can be asked for by its name as it is shown, or another class has the same.
func TestShownNamesAreFound(t *testing.T) {
	list := []string{"", " ", "  two  ", "\t", "a\tb", "a\x00b", "\x1b[31mred", "\u202eright", `caf\xe9`, "n\u0303",
		"name", "--out", "'quoted'", `"quoted"`, "a,b", ",", "\u732b"}
	info := classesNamed(0, list...)
	for label, name := range list {
		got, _, err := parseClasses([]string{shownName(name)}, info)
		if err != nil || !slices.Equal(got, []int{label}) {
			t.Errorf("%q, shown as %s: %v, %v, want %d", name, shownName(name), got, err, label)
		}
	}
	if c := (classLine{2, "caf\u00e9", ""}); !matches(c, []string{"cafe\u0301"}) || matches(c, []string{"cafe"}) {
		t.Error("classes does not search by the canonical form")
	}
	if c := (classLine{2, "a\nb", ""}); !matches(c, []string{`a\nb`}) || fmt.Sprint(shownName(c.Name)) != `a\nb` {
		t.Error("classes does not find a name as it shows it")
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
	const names = "0  1\n1  cafe\u0301\n2  caf\\xe8\n3  caf\\xe9\n"
	if o := mustRun(t, "classes", "--data", latents); o.stdout != names {
		t.Errorf("classes prints %q, want %q", o.stdout, names)
	}
	if o := mustRun(t, "classes", "--data", latents, "caf\u00e9"); o.stdout != "1  cafe\u0301\n" {
		t.Errorf("classes prints %q", o.stdout)
	}
	if o := mustRun(t, "classes", "--data", pictures, "caf\xe8"); o.stdout != "2  caf\\xe8\n" {
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
