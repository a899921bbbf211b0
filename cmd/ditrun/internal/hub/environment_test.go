package hub

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEndpoint(t *testing.T) {
	for given, want := range map[string]string{
		"":                              "https://huggingface.co",
		"hf-mirror.com":                 "https://hf-mirror.com",
		"hf-mirror.com/":                "https://hf-mirror.com",
		" hf-mirror.com \n":             "https://hf-mirror.com",
		"//hf-mirror.com":               "https://hf-mirror.com",
		"hf-mirror.com:8443":            "https://hf-mirror.com:8443",
		"hf-mirror.com/hub/":            "https://hf-mirror.com/hub",
		"https://hf-mirror.com///":      "https://hf-mirror.com",
		"http://localhost:8080/mirror/": "http://localhost:8080/mirror",
	} {
		t.Setenv("HF_ENDPOINT", given)
		if got, err := endpoint(); err != nil || got != want {
			t.Errorf("HF_ENDPOINT=%q: %q, %v; want %q", given, got, err, want)
		}
	}
	for _, bad := range []string{"ftp://hf-mirror.com", "https://", "https:/hf-mirror.com", "hf mirror.com",
		"https://hf-mirror.com?x=1", "://x"} {
		t.Setenv("HF_ENDPOINT", bad)
		if got, err := endpoint(); err == nil || !strings.Contains(err.Error(), "HF_ENDPOINT is ") {
			t.Errorf("HF_ENDPOINT=%q: %q, %v; want an error that names the variable", bad, got, err)
		}
	}
}

func TestCacheOfTheEnvironment(t *testing.T) {
	home := t.TempDir()
	for name, value := range map[string]string{"base/hf/token": "secret\n", "base/other": "second"} {
		path := filepath.Join(home, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(value), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	all := []string{"XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN",
		"HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"}
	for _, c := range []struct {
		env        map[string]string
		dir, token string
	}{
		{nil, "$HOME/.cache/huggingface/hub", ""},
		{map[string]string{"XDG_CACHE_HOME": "~/base"}, "$HOME/base/huggingface/hub", ""},
		{map[string]string{"HF_HOME": "~/base/hf"}, "$HOME/base/hf/hub", "secret"},
		{map[string]string{"HF_HOME": "$BASE/hf"}, "$HOME/base/hf/hub", "secret"},
		{map[string]string{"HF_HOME": "${BASE}/hf", "HF_HUB_CACHE": "~/models"}, "$HOME/models", "secret"},
		{map[string]string{"HF_HUB_CACHE": "/x/$UNSET/y"}, "/x/$UNSET/y", ""},
		{map[string]string{"HUGGINGFACE_HUB_CACHE": "~/old", "HUGGING_FACE_HUB_TOKEN": "old"}, "$HOME/old", "old"},
		{map[string]string{"HF_TOKEN_PATH": "~/base/other"}, "$HOME/.cache/huggingface/hub", "second"},
		{map[string]string{"HF_TOKEN": " given\n"}, "$HOME/.cache/huggingface/hub", "given"},
	} {
		t.Setenv("HOME", home)
		t.Setenv("BASE", filepath.Join(home, "base"))
		for _, name := range all {
			t.Setenv(name, c.env[name])
		}
		want := strings.Replace(c.dir, "$HOME", home, 1)
		if dir, token, err := cacheDir(); err != nil || dir != want || token != c.token {
			t.Errorf("%v: %s, token %q, %v; want %s, %q", c.env, dir, token, err, want, c.token)
		}
	}

	// A service may have no home folder, and none is needed where a variable says the cache.
	for _, c := range []struct {
		name, value      string
		dir, token, none string
	}{
		{"HF_HUB_CACHE", "/models", "/models", "", ""},
		{"HF_HOME", home + "/base/hf", home + "/base/hf/hub", "secret", ""},
		{"XDG_CACHE_HOME", "/cache", "/cache/huggingface/hub", "", ""},
		{"HF_TOKEN", "given", "", "", "none of HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME and HOME is set"},
		{"HF_HUB_CACHE", "~/models", "", "", "~/models: ~ stands for the home folder, and HOME is not set"},
	} {
		t.Setenv("HOME", "")
		for _, name := range all {
			t.Setenv(name, "")
		}
		t.Setenv(c.name, c.value)
		dir, token, err := cacheDir()
		if dir != c.dir || token != c.token || (err == nil) != (c.none == "") ||
			err != nil && !strings.Contains(err.Error(), c.none) {
			t.Errorf("no HOME, %s=%s: %s, token %q, %v; want %s, %q, %q", c.name, c.value, dir, token, err, c.dir,
				c.token, c.none)
		}
	}
}

// TestCacheOfFiles: files of addresses have a cache of their own.
func TestCacheOfFiles(t *testing.T) {
	t.Setenv("HF_HUB_CACHE", "/models")
	for _, c := range []struct{ home, xdg, want, none string }{
		{"/home/u", "", "/home/u/.cache/ditrun/x.pt", ""},
		{"", "/cache", "/cache/ditrun/x.pt", ""},
		{"", "", "", "there is no cache folder: neither XDG_CACHE_HOME nor HOME is set"},
		{"/home/u", "cache", "", `XDG_CACHE_HOME is "cache": want a full path`},
	} {
		t.Setenv("HOME", c.home)
		t.Setenv("XDG_CACHE_HOME", c.xdg)
		path, err := plainPath(Ref{URL: "https://h/x.pt"}, "")
		if path != c.want || (err == nil) != (c.none == "") || err != nil && err.Error() != c.none {
			t.Errorf("HOME=%s XDG_CACHE_HOME=%s: %s, %v; want %s, %q", c.home, c.xdg, path, err, c.want, c.none)
		}
	}
}
