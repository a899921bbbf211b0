package classes

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// model has n classes, of which the first are named.
type model struct {
	n     int
	names []string
}

// classesNamed is a model with a class for each name, and so many more without one.
func classesNamed(more int, list ...string) model { return model{len(list) + more, list} }

var (
	fashion = classesNamed(0, "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
		"Bag",
		"Ankle boot")
	digits = classesNamed(0, "0", "1", "10", "11", "2", "3")
)

func imageNet() model { return classesNamed(0, ImageNetNames()...) }

// TestFindNamesWithCommas: in a list a name with commas is one class.
func TestFindNamesWithCommas(t *testing.T) {
	names := []string{"H\u00f6fe", "Hunde, Katzen", "cat", "a, b, c"}
	for _, c := range []struct {
		value string
		want  []int
	}{
		{"Hunde, Katzen", []int{1}}, {"cat,Hunde, Katzen", []int{2, 1}}, {"hunde, katzen,cat", []int{1, 2}},
		{"0,a, b, c,Hunde, Katzen,2", []int{0, 3, 1, 2}}, {"name:Hunde, Katzen,cat", []int{1, 2}},
	} {
		if got, _, err := Find(len(names), names, []string{c.value}); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%q: %d (%v), want %d", c.value, got, err, c.want)
		}
	}
}

func TestFind(t *testing.T) {
	odd := classesNamed(0, "cat, tabby", "cat", "tabby", " ", " blank", "line\nend", "tab\there", "-rf", "label:1",
		`caf\xe9`, `caf\xe8`, "cafe\u0301s", "", "a/b")
	for _, c := range []struct {
		model  model
		values []string
		want   []int
		found  []string
	}{
		{fashion, nil, nil, nil},
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
		{classesNamed(4), []string{"1-3"}, []int{1, 2, 3}, nil},
		{classesNamed(4), []string{"3, 0-1", "2-2"}, []int{3, 0, 1, 2}, nil},
		{classesNamed(3), []string{"all"}, []int{0, 1, 2}, nil},
		{classesNamed(0, "all", "0-1"), []string{"label:all", "label:0-1"}, []int{0, 1, 0, 1}, nil},
		{classesNamed(0, "all", "0-1"), []string{"name:all", "name:0-1"}, []int{0, 1}, nil},
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
		labels, found, err := Find(c.model.n, c.model.names, c.values)
		if err != nil || !slices.Equal(labels, c.want) || !slices.Equal(found, c.found) {
			t.Errorf("%q: %v %q, %v, want %v %q", c.values, labels, found, err, c.want, c.found)
		}
	}
}

func TestFindRefuses(t *testing.T) {
	twins := classesNamed(0, "Cat", "cat", "owl", "cattle", "owl", "bobcat 2")
	for _, c := range []struct {
		model      model
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
		{twins, "CAT", "CAT is the name of several classes if case is ignored: 0, Cat; 1, cat",
			"give the number of one, as in label:0"},
		{twins, "owl", "owl is the name of several classes: 2, owl; 4, owl", "as in label:2"},
		{twins, "name:owl", "owl is the name of several classes: 2, owl; 4, owl", "as in label:2"},
		{classesNamed(0, "cattle", "bobcat 2", "ox"), "cat", `no class is named "cat"`,
			"it is part of longer words: cattle, bobcat 2"},
		{classesNamed(0, "Ankle boot", "Rain boot"), "boot",
			"boot is part of the name of several classes: 0, Ankle boot; 1, Rain boot", "label:0"},
		{classesNamed(0, "caf\u00e9", "cafe\u0301"), "caf\u00e9", "the name of several classes", "label:0"},
		{classesNamed(0, "a\nb", `a\nb`), `a\nb`, "the name of several classes: 0, a\\nb; 1, a\\nb", "label:0"},
		{classesNamed(0, "caf\u00e9", "ox", "ant"), "cafe\u0301e", "no class is named", "did you mean caf\u00e9?"},
		{classesNamed(0, "read", "reddish"), "red", `no class is named "red"`, "it is part of longer words: reddish"},
		{fashion, "-", `no class is named "-"`, "the classes are T-shirt/top, "},
		{imageNet(), "crane", "crane is a name of several classes: 134, n02012849 (crane); 517, n03126707 (crane)",
			"as in label:134"},
		{imageNet(), "terrier", "terrier is part of the name of several classes: 153, n02085936 (Maltese dog, ",
			"label:153"},
		{classesNamed(3), "cat", `"cat": the checkpoint has no class names: give numbers`,
			"the numbers are 0 to 2"},
		{classesNamed(3), "3", "3: the model has classes 0 to 2", ""},
		{classesNamed(1000), "tench", "has no class names", "`ditrun classes WORD` finds them"},
	} {
		labels, _, err := Find(c.model.n, c.model.names, []string{c.value})
		e := (*FindError)(nil)
		if !errors.As(err, &e) {
			t.Errorf("%q: classes %v, error %v, want a FindError", c.value, labels, err)
		} else if !strings.Contains(e.Text, c.want) || !strings.Contains(e.Hint, c.hint) {
			t.Errorf("%q: %v; hint %q\nwant %s; hint %s", c.value, err, e.Hint, c.want, c.hint)
		}
	}
}

func TestShowcase(t *testing.T) {
	for n, want := range map[int][]int{3: {0, 1, 2}, 1000: {207, 360, 387, 974, 88, 979, 417, 279}} {
		if got := Showcase(n); !slices.Equal(got, want) {
			t.Errorf("of %d classes %v, want %v", n, got, want)
		}
	}
	if got := Showcase(999); len(got) != 20 || got[19] != 19 {
		t.Errorf("of 999 classes %v", got)
	}
}

// Every class can be asked for by its name as it is shown, or another class has the same.
func TestShownNamesAreFound(t *testing.T) {
	list := []string{"", " ", "  two  ", "\t", "a\tb", "a\x00b", "\x1b[31mred", "\u202eright", `caf\xe9`, "n\u0303",
		"name", "--out", "'quoted'", `"quoted"`, "a,b", ",", "\u732b"}
	for label, name := range list {
		got, _, err := Find(len(list), list, []string{Shown(name)})
		if err != nil || !slices.Equal(got, []int{label}) {
			t.Errorf("%q, shown as %s: %v, %v, want %d", name, Shown(name), got, err, label)
		}
	}
	if name := "caf\u00e9"; !Has(name, []string{"cafe\u0301"}) || Has(name, []string{"cafe"}) {
		t.Error("names are not searched by the canonical form")
	}
	if name := "a\nb"; !Has(name, []string{`a\nb`}) || Shown(name) != `a\nb` {
		t.Error("a name is not found as it is shown")
	}
}

// A word for several classes that is the name of one too is refused, as is a range that is none.
func TestSetsRefused(t *testing.T) {
	for _, c := range []struct {
		model       model
		value, want string
	}{
		{classesNamed(0, "x", "All"), "all",
			"all is every class, and the name of class 1: write label:all or name:all"},
		{classesNamed(2, "0-1"), "0-1",
			"0-1 is classes 0 to 1, and the name of class 0: write label:0-1 or name:0-1"},
		{classesNamed(4), "3-1", "3-1: want the lower number first"},
		{classesNamed(4), "2-4", "4: the model has classes 0 to 3"},
	} {
		_, _, err := Find(c.model.n, c.model.names, []string{c.value})
		if e := (*FindError)(nil); !errors.As(err, &e) || e.Text != c.want {
			t.Errorf("%s: error %v, want %q", c.value, err, c.want)
		}
	}
}

func TestAskForRandom(t *testing.T) {
	named := []string{"x", "Random"}
	for _, c := range []struct {
		names, values []string
		want          bool
		fails         bool
	}{
		{nil, nil, false, false}, {nil, []string{"random"}, true, false}, {nil, []string{"3", "random"}, false, false},
		{named, []string{"random"}, false, true}, {named, []string{"label:random"}, true, false},
		{named, []string{"name:random"}, false, false},
	} {
		if got, err := AskForRandom(c.names, c.values); got != c.want || (err != nil) != c.fails {
			t.Errorf("%q of %q: %v, %v", c.values, c.names, got, err)
		}
	}
}

func TestAskForBalanced(t *testing.T) {
	named := []string{"x", "Balanced"}
	for _, c := range []struct {
		names, values []string
		want, fails   bool
	}{
		{nil, []string{"balanced"}, true, false}, {nil, []string{"random"}, false, false},
		{named, []string{"balanced"}, false, true}, {named, []string{"label:balanced"}, true, false},
	} {
		if got, err := AskForBalanced(c.names, c.values); got != c.want || (err != nil) != c.fails {
			t.Errorf("%q of %q: %v, %v", c.values, c.names, got, err)
		}
	}
}
