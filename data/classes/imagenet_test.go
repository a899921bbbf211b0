package classes

import (
	"slices"
	"strings"
	"testing"
)

func TestImageNet(t *testing.T) {
	list := ImageNet()
	if len(list) != 1000 || list[0] != (Class{"n01440764", "tench, Tinca tinca"}) || list[999].Synset != "n15075141" {
		t.Fatalf("%d classes, the first %v", len(list), list[0])
	}
	if !slices.IsSortedFunc(list, func(a, b Class) int { return strings.Compare(a.Synset, b.Synset) }) {
		t.Error("not in the order of the folder names")
	}
	all := ImageNetNames()
	for _, c := range []struct {
		classes []string
		want    string
	}{
		{all, ""}, {all[:10], ""}, {all[1:], "is class 0 here and 1 there"}, {[]string{"cat", "dog"}, ""},
		{[]string{"n00000001"}, ""},
	} {
		notes := strings.Join(Notes(c.classes), "\n")
		if (c.want == "") != (notes == "") || !strings.Contains(notes, c.want) {
			t.Errorf("%d classes from %s: %q, want %q", len(c.classes), c.classes[0], notes, c.want)
		}
	}
}
