package hub

import (
	"slices"
	"testing"
)

func TestParse(t *testing.T) {
	for s, want := range map[string]Ref{
		"hf:a/b":              {Repo: "a/b", Revision: "main"},
		"hf:a/b@v1.0/c/d.bin": {Repo: "a/b", Revision: "v1.0", File: "c/d.bin"},
		"https://h/x/y.pt":    {URL: "https://h/x/y.pt"},
		"a/b":                 {Repo: "a/b", Revision: "main"},
		"a/b@v1.0":            {Repo: "a/b", Revision: "v1.0"},
		"sd-vae-ft-ema":       {Repo: "stabilityai/sd-vae-ft-ema", Revision: "main", Known: Names()[4]},

		"stabilityai/sd-vae-ft-ema": {Repo: "stabilityai/sd-vae-ft-ema", Revision: "main", Known: Names()[4]},
	} {
		if got, err := Parse(s); err != nil || got != want {
			t.Errorf("Parse(%q) = %+v, %v, want %+v", s, got, err, want)
		}
	}
	for _, k := range Names() {
		if _, err := Parse(k.Name); err != nil {
			t.Errorf("%s: %v", k.Name, err)
		}
	}
	for _, s := range []string{"", "x", "hf:", "hf:a", "hf:a/", "hf:../b", "hf:a/..", "hf:a/b@", "hf:a/b@../c",
		"hf:a/b/", "hf:a/b/../c",
		"a/b/c", "./b", "a/b.pt", "a/model.safetensors", "/a/b", "~/b", "a/",
		"hf:a--b/c", "hf:a/b?c", "http://h/x", "https://", "https://h/", "https://h/..", "https://user:pw@h/x.pt"} {
		if got, err := Parse(s); err == nil {
			t.Errorf("Parse(%q) = %+v, want an error", s, got)
		}
	}
}

func TestNameOf(t *testing.T) {
	for path, want := range map[string]string{
		"/c/hub/models--org--repo/snapshots/0123":                           "org/repo",
		"/c/snapshots/models--org--repo/snapshots/0123/vae/x.bin":           "org/repo",
		"/c/hub/models--stabilityai--sd-vae-ft-ema/snapshots/0123":          "sd-vae-ft-ema",
		"/c/hub/models--org--repo/blobs/0123":                               "",
		"/c/vae":                                                            "",
		"/c/hub/models--..--repo/snapshots/0123/diffusion_pytorch_model.pt": "",
	} {
		if got := NameOf(path); got != want {
			t.Errorf("NameOf(%q) = %q, want %q", path, got, want)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, s := range []string{"a", "a/b.json", "..a", "a..b"} {
		if err := CheckName(s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"", ".", "..", "/a", "../a", "a/../b", "a/../../b", "a//b", "a/", `a\b`, "a\x00b",
		"a\nb", "C:a"} {
		if CheckName(s) == nil {
			t.Errorf("CheckName(%q): accepted", s)
		}
	}
}

func TestNeeded(t *testing.T) {
	got := Needed([]string{".gitattributes", "README.md", "config.json", "a/m.bin", "a/m.safetensors", "n.bin", "o.pt",
		"vocab.txt", "run.py"})
	want := []string{"config.json", "a/m.safetensors", "n.bin", "o.pt", "vocab.txt"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
