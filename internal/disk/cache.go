package disk

import (
	"fmt"
	"os"
	"path/filepath"
)

// A NoCacheError says that the environment names no folder for a cache.
type NoCacheError struct {
	Variable string // one that would name it
	Unset    string // in words, what is looked at
}

func (e *NoCacheError) Error() string { return "there is no cache folder: " + e.Unset }

// CacheDir returns ditrun's folder among the user's folders for caches, which may not exist yet. Where the environment
// names none the error is a [NoCacheError].
func CacheDir() (string, error) {
	cache, err := os.UserCacheDir()
	switch given := os.Getenv("XDG_CACHE_HOME"); {
	case err != nil && given == "":
		return "", &NoCacheError{"XDG_CACHE_HOME", "neither XDG_CACHE_HOME nor HOME is set"}
	case err != nil:
		return "", fmt.Errorf("XDG_CACHE_HOME is %q: want a full path", given)
	}
	return filepath.Join(cache, "ditrun"), nil
}
