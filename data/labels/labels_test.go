package labels

import (
	"fmt"
	"strings"
	"testing"
)

func TestAssign(t *testing.T) {
	pictures := []string{"a.jpg", "b.jpg", "c.jpg"}
	for text, want := range map[string]string{
		"cat\ndog\ncat\n":                    "cat dog | a.jpg 0 b.jpg 1 c.jpg 0",
		"a.png dog\nb x\nc,cat 1 2\n":        "cat dog x | a.jpg 1 b.jpg 2 c.jpg 0",
		"cat\ndog\n":                         "has 2 lines for 3 pictures",
		"a cat\nb cat\n":                     "has no line for c.jpg",
		"1\n2\n3\n":                          "development kit",
		"a cat\ndog\n":                       "want either a class in every line",
		"a cat\na dog\n":                     "a is of class dog, and was of class cat",
		"":                                   "no labels",
		"n01443537\nn01440764\nn01443537\n":  "n01440764 n01443537 n01484850",
		"n01443537\nn01440764\nnot-a-synset": "n01440764 n01443537 not-a-synset | a.jpg 1 b.jpg 0 c.jpg 2",
	} {
		l, err := parse([]byte(text))
		got := ""
		if err == nil {
			var classes []string
			var numbers []int32
			if classes, numbers, _, err = l.Assign(pictures); err == nil {
				got = strings.Join(classes, " ") + " |"
				for i, number := range numbers {
					got += fmt.Sprintf(" %s %d", pictures[i], number)
				}
			}
		}
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add("cat\ndog\ncat\n")
	f.Add("ImageId,PredictionString\na.jpg,n01440764 1 2 3 4\nb,n01443537\nx/c.png n01440764\r\n")
	f.Add("1\n2\n3\n")
	f.Add("file,label\n\"a.jpg\",\"golden, retriever\"\nb.jpg,boeing 747\nx/c.jpg,cat,train\n")
	f.Add("class,file\ncat,a.jpg\ndog,b.jpg\ncat,c.jpg\n")
	f.Add("x/a.jpg\tcat\ny/a.jpg\tdog\nb cat\nc cat\n")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := parse([]byte(text))
		if err != nil {
			return
		}
		pictures := []string{"a.jpg", "b.jpg", "c.jpg"}
		classes, numbers, _, err := l.Assign(pictures)
		if err != nil {
			return
		}
		for i, name := range pictures {
			line, number := i, int(numbers[i])
			if l.names != nil {
				line, err = l.find(name)
			}
			if err != nil || number >= len(classes) || classes[number] != l.classes[line] {
				t.Errorf("%s has label %d of %q, want that of line %d of %q: %v",
					name, number, classes, line, l.classes, err)
			}
		}
	})
}

// FuzzLabel reads members .cls and .json.
func FuzzLabel(f *testing.F) {
	for _, text := range []string{
		"3\n", "cat", "-1", "1e9", `{"label": 3}`, `{"label": "cat", "class_id": 2.0}`, `{"label": [1], "cls": null}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := Parse(string(text))
		byJSON, found, jsonErr := FromJSON(text)
		for _, c := range []struct {
			label Label
			found bool
			err   error
		}{{l, err == nil, err}, {byJSON, found, jsonErr}} {
			both := c.label.Class != "" && c.label.Number != 0
			if c.found && c.err != nil || c.label.Number < 0 || c.label.Number > MaxNumber || both {
				t.Errorf("%q: %+v", text, c)
			}
			if !c.found {
				continue
			}
			if again, err := Parse(c.label.String()); err != nil || again != c.label { // as in archives of our own
				t.Errorf("%q: label %q is read again as %q: %v", text, c.label, again, err)
			}
		}
	})
}
