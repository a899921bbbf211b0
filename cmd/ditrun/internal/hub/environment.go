package hub

import (
	"cmp"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

const publicHub = "https://huggingface.co"

// endpoint is the address of the hub, without a slash at its end: HF_ENDPOINT, of which the scheme may be left out.
func endpoint() (string, error) {
	given := strings.TrimSpace(os.Getenv("HF_ENDPOINT"))
	if given == "" {
		return publicHub, nil
	}
	address := strings.TrimPrefix(strings.TrimRight(given, "/"), "//")
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || strings.HasSuffix(u.Host,
		":") ||
		u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("HF_ENDPOINT is %q: want the address of a hub, such as %s or https://hf-mirror.com",
			given, publicHub)
	}
	return address, nil
}

// cacheDir is the folder of huggingface_hub's cache, and token the user's, "" for none.
func cacheDir() (dir, token string, err error) {
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		cache = filepath.Join("~", ".cache")
	}
	home, err := expand(cmp.Or(os.Getenv("HF_HOME"), filepath.Join(cache, "huggingface")))
	if err != nil {
		return "", "", err
	}
	dir, err = expand(cmp.Or(os.Getenv("HF_HUB_CACHE"), os.Getenv("HUGGINGFACE_HUB_CACHE"), filepath.Join(home, "hub")))
	if err != nil {
		return "", "", err
	}
	token = cmp.Or(strings.TrimSpace(os.Getenv("HF_TOKEN")), strings.TrimSpace(os.Getenv("HUGGING_FACE_HUB_TOKEN")))
	if token == "" {
		path, err := expand(cmp.Or(os.Getenv("HF_TOKEN_PATH"), filepath.Join(home, "token")))
		if err != nil {
			return "", "", err
		}
		text, _ := os.ReadFile(path)
		token = strings.TrimSpace(string(text))
	}
	return dir, token, nil
}

// expand puts the home folder for a ~ at the beginning of path, and values for $NAME, as huggingface_hub does: where no
// shell has done it, as in the file of a service, path has them still.
func expand(path string) (string, error) {
	if path == "~" || strings.HasPrefix(path, "~/") {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		path = filepath.Join(home, path[1:])
	}
	return os.Expand(path, func(name string) string {
		if value, ok := os.LookupEnv(name); ok {
			return value
		}
		return "$" + name
	}), nil
}

// isOffline says whether HF_HUB_OFFLINE keeps this program from the network.
func isOffline() bool {
	on := strings.ToLower(strings.TrimSpace(os.Getenv("HF_HUB_OFFLINE")))
	return on == "1" || on == "true" || on == "yes" || on == "on"
}
