package hub

import (
	"cmp"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/ditrun/ditrun/internal/disk"
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
	home, homeErr := hubHome()
	switch given := cmp.Or(os.Getenv("HF_HUB_CACHE"), os.Getenv("HUGGINGFACE_HUB_CACHE")); {
	case given != "": // which needs no home folder
		dir, err = expand(given)
	default:
		dir, err = filepath.Join(home, "hub"), homeErr
	}
	if err != nil {
		return "", "", err
	}
	token = cmp.Or(strings.TrimSpace(os.Getenv("HF_TOKEN")), strings.TrimSpace(os.Getenv("HUGGING_FACE_HUB_TOKEN")))
	path, err := expand(os.Getenv("HF_TOKEN_PATH"))
	switch {
	case token != "":
		return dir, token, nil
	case err != nil:
		return "", "", err
	case path == "" && homeErr != nil: // so no token is kept anywhere
		return dir, "", nil
	}
	text, _ := os.ReadFile(cmp.Or(path, filepath.Join(home, "token")))
	return dir, strings.TrimSpace(string(text)), nil
}

// hubHome is the folder in which huggingface_hub keeps its cache and the user's token, if nothing else is said.
func hubHome() (string, error) {
	if given := os.Getenv("HF_HOME"); given != "" {
		return expand(given)
	}
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" && os.Getenv("HOME") == "" {
		return "", &disk.NoCacheError{Variable: "HF_HUB_CACHE",
			Unset: "none of HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME and HOME is set"}
	}
	return expand(filepath.Join(cmp.Or(cache, "~/.cache"), "huggingface"))
}

// expand puts the home folder for a ~ at the beginning of path, and values for $NAME, as huggingface_hub does: where no
// shell has done it, as in the file of a service, path has them still.
func expand(path string) (string, error) {
	if path == "~" || strings.HasPrefix(path, "~/") {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("%s: ~ stands for the home folder, and HOME is not set", path)
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
