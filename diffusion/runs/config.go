package runs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Of returns the folder of the run that a checkpoint, or a weight file in one, belongs to, "" for those of no run.
func Of(path string) string {
	for _, follow := range []func(string) (string, error){filepath.Abs, filepath.EvalSymlinks} {
		at, err := follow(path)
		if err != nil {
			continue
		}
		if at, err = filepath.Abs(at); err != nil {
			continue
		}
		for range 2 { // a checkpoint, then a file in one
			if above := filepath.Dir(at); filepath.Base(above) == CheckpointsName && Is(filepath.Dir(above)) {
				return filepath.Dir(above)
			}
			at = filepath.Dir(at)
		}
	}
	return ""
}

// PathIn is what a path in a configuration file means: below the folder of that file, where it is there, else what it
// is without the file.
func PathIn(config, path string) string {
	if path == "" || filepath.IsAbs(path) || strings.Contains(path, "://") {
		return path
	}
	beside := filepath.Join(filepath.Dir(config), path)
	if _, err := os.Stat(beside); err == nil {
		return beside
	}
	if found, err := filepath.Glob(beside); err == nil && len(found) > 0 { // a pattern of archives
		return beside
	}
	return path
}

// Autoencoder is the path of the autoencoder that the configuration of the run in dir names, "" where it names none.
func Autoencoder(dir string) (string, error) {
	path, err := Setting(dir, "vae")
	return PathIn(filepath.Join(dir, ConfigName), path), err
}

// Setting is the value that the configuration of the run in dir has under a key, "" where it has none.
func Setting(dir, key string) (string, error) {
	settings, err := Settings(dir)
	return settings[key], err
}

// Settings are the configuration of the run in dir, as text; none where there is no configuration.
func Settings(dir string) (map[string]string, error) {
	path := filepath.Join(dir, ConfigName)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var settings map[string]string
	if err = yaml.Unmarshal(text, &settings); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return settings, nil
}
