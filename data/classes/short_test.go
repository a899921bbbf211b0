package classes

import "testing"

func TestShort(t *testing.T) {
	for name, want := range map[string]string{
		"n01440764": "tench", "tench, Tinca tinca": "tench", "n02099601": "golden retriever",
		"apples, red": "apples, red", "tench, red": "tench, red", "n99999999": "n99999999", "cat": "cat", "": "",
	} {
		if got := Short(name); got != want {
			t.Errorf("%q is short %q, want %q", name, got, want)
		}
	}
}
