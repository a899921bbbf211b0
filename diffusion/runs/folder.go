package runs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/saves"
)

// lockName is a file in the run folder that is locked, by flock, while the
// run is open. The kernel takes the lock away when the process dies.
const lockName = ".lock"

// runName is the name of a run folder: a number, a dash, the model.
var runName = regexp.MustCompile(`^(\d{3,})-`)

// number makes the folder resultsDir/NNN-MODEL, with NNN one above the highest
// number there.
func number(resultsDir, model string) (string, error) {
	if model == "" {
		return "", errors.New("create run folder: no model name")
	}
	if err := os.MkdirAll(resultsDir, 0o777); err != nil {
		return "", fmt.Errorf("create results folder: %w", err)
	}
	// Folders of two models can share a number without colliding, so the scan
	// and the mkdir are done under a lock. Where the file system has no locks
	// the mkdir below still keeps two runs apart.
	if lock, err := disk.WaitLock(context.Background(), filepath.Join(resultsDir, lockName)); err == nil {
		defer lock.Remove()
	}
	entries, err := os.ReadDir(resultsDir)
	if err != nil {
		return "", err
	}
	next := 0
	for _, e := range entries {
		if m := runName.FindStringSubmatch(e.Name()); m != nil {
			if n, err := strconv.Atoi(m[1]); err == nil {
				next = max(next, n+1)
			}
		}
	}
	for ; ; next++ {
		dir := filepath.Join(resultsDir, fmt.Sprintf("%03d-%s", next, strings.ReplaceAll(model, "/", "-")))
		err := os.Mkdir(dir, 0o777)
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("create run folder: %w", err)
		}
	}
}

// claim makes dir the folder of a new run: it must not exist, or be empty.
func claim(dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return fmt.Errorf("create run folder: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("create run folder: %w", err)
	}
	for _, e := range entries {
		// The lock is what a run that failed at once leaves behind.
		if e.Name() != lockName {
			return fmt.Errorf("create run folder %s: it holds %s, want a new or empty folder%w", dir, e.Name(),
				quiet{fs.ErrExist})
		}
	}
	return nil
}

// quiet carries an error for errors.Is without adding to the text.
type quiet struct{ error }

func (quiet) Error() string   { return "" }
func (q quiet) Unwrap() error { return q.error }

// Latest finds the run to continue: of the folders in resultsDir that no
// process has open and whose config hash equals configHash, or whose config.yaml
// is the same by the judgement of same, which may be nil, the one with the
// highest number. It returns "" when there is none, and also when resultsDir
// does not exist. The folder is not locked; Resume does that.
func Latest(resultsDir, configHash string, same func(dir string, config []byte) bool) (string, error) {
	entries, err := os.ReadDir(resultsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	best, bestNumber := "", -1
	for _, e := range entries {
		m := runName.FindStringSubmatch(e.Name())
		if m == nil || !e.IsDir() {
			continue
		}
		n, err := strconv.Atoi(m[1])
		if err != nil || n <= bestNumber {
			continue
		}
		dir := filepath.Join(resultsDir, e.Name())
		if hashOf(dir) != configHash && !sameConfig(dir, same) {
			continue
		}
		lock, err := disk.TryLock(filepath.Join(dir, lockName))
		if errors.Is(err, disk.ErrLocked) {
			continue
		}
		if err != nil {
			return "", err
		}
		lock.Unlock()
		best, bestNumber = dir, n
	}
	return best, nil
}

func sameConfig(dir string, same func(dir string, config []byte) bool) bool {
	if same == nil {
		return false
	}
	config, err := os.ReadFile(filepath.Join(dir, ConfigName))
	return err == nil && same(dir, config)
}

// configHashIn finds the hash in a run.json that is damaged elsewhere.
var configHashIn = regexp.MustCompile(`"config_hash": *"([0-9a-f]+)"`)

// hashOf returns the config hash of a run folder, "" where there is none.
func hashOf(dir string) string {
	info, err := ReadInfo(dir)
	if err == nil {
		return info.ConfigHash
	}
	text, err := os.ReadFile(filepath.Join(dir, infoName))
	if m := configHashIn.FindSubmatch(text); err == nil && m != nil {
		return string(m[1])
	}
	return ""
}

// CheckpointsName is the folder of checkpoints in a run folder.
const CheckpointsName = "checkpoints"

func hasCheckpoints(dir string) bool {
	steps, err := saves.Steps(filepath.Join(dir, CheckpointsName))
	return err == nil && len(steps) > 0
}

// Is says whether dir is the folder of a run: it has a run.json, or checkpoints.
func Is(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, infoName))
	return err == nil || hasCheckpoints(dir)
}
