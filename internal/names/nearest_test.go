package names

import "testing"

func TestNearest(t *testing.T) {
	list := []string{"train", "train-vae", "sample", "doctor", "data", "lr"}
	for word, want := range map[string]string{
		"trian": "train", "trainvae": "train-vae", "smaple": "sample", "dcotor": "doctor", "zzz": "", "xy": "",
		"date": "data",
	} {
		if got := Nearest(word, list); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
}
