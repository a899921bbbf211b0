package latents

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/internal/disk"
)

// planName is the file of the plan in a folder to which latents are being made: whoever begins puts it there before the
// first shard, and whoever comes later compares. The manifest takes its place. A shared lock on it says that its
// writer is at work, so that a plan that came to nothing does not stand in the way of the next.
const planName = "plan.json"

// planFile is its content.
type planFile struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Plan
}

func readPlan(path string) (*Plan, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var f planFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, err
	}
	if f.Format != latentsFormat || f.Version != latentsVersion {
		return nil, fmt.Errorf("format %q, version %d: this program has %s, version %d", f.Format, f.Version,
			latentsFormat, latentsVersion)
	}
	return &f.Plan, disk.CheckSeal(b)
}

// agree makes the plan that of the folder, unless there is another.
func (w *Writer) agree(ctx context.Context) error {
	path := filepath.Join(w.dir, planName)
	fail := func(err error) error { return fmt.Errorf("write latents to %s: %w", w.dir, err) }
	lock, err := disk.WaitLock(ctx, path+".lock")
	if err != nil {
		return fail(err)
	}
	defer lock.Remove()
	disk.Sweep(path)
	found, err := readPlan(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err == nil && w.plan.differs(found) == "":
		if _, err := w.fits(); err != nil {
			return err
		}
		w.share, err = disk.TryShare(path)
		return err
	default:
		if err := w.alone(path, found, err); err != nil {
			return fail(err)
		}
	}
	missing, err := w.fits()
	if err != nil || !missing {
		return err
	}
	text, err := disk.MarshalSealed(planFile{latentsFormat, latentsVersion, w.plan})
	if err != nil {
		return fail(err)
	}
	if err := disk.WriteBytes(path, text); err != nil {
		return err
	}
	w.planned = true
	w.share, err = disk.TryShare(path)
	return err
}

// alone returns an error if somebody makes latents to the plan that was found, or may do so.
func (w *Writer) alone(path string, found *Plan, damage error) error {
	lock, err := disk.TryLock(path)
	if err == nil {
		defer lock.Unlock()
		if lock.Held() {
			return nil
		}
	} else if !errors.Is(err, disk.ErrLocked) {
		return err
	}
	other := "to another plan"
	switch {
	case damage != nil:
		other = fmt.Sprintf("to a plan that cannot be read (%s: %v)", planName, damage)
	case found.VAE.SHA256 != w.plan.VAE.SHA256:
		other = fmt.Sprintf("with VAE %s (sha256 %.12s...), this one has VAE %s (sha256 %.12s...)",
			found.VAE.Name, found.VAE.SHA256, w.plan.VAE.Name, w.plan.VAE.SHA256)
	default:
		other = w.plan.differs(found)
	}
	where := "choose another folder"
	if lock != nil { // a file system without locks
		where += ", or delete " + path + " if nobody does"
	}
	return fmt.Errorf("another process makes latents there %s: %s", other, where)
}

// finishPlan removes the plan of a finished set.
func (w *Writer) finishPlan(ctx context.Context) error {
	if w.share != nil {
		w.share.Unlock()
		w.share = nil
	}
	path := filepath.Join(w.dir, planName)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := disk.WaitLock(ctx, path+".lock")
	if err != nil {
		return err
	}
	defer lock.Remove()
	found, err := readPlan(path)
	if err == nil && w.plan.differs(found) != "" {
		return nil // of somebody who began when the shards had been deleted
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Close says that the writer makes no more shards. The last to do so takes the plan away: shards that were made say by
// themselves of which set they are. It may be called again.
func (w *Writer) Close() error {
	if w.share == nil {
		return nil
	}
	err := w.share.Unlock()
	w.share = nil
	path := filepath.Join(w.dir, planName)
	lock, lockErr := disk.TryLock(path + ".lock") // another writer that begins just now has it, and needs the plan
	if err != nil || lockErr != nil {
		return err
	}
	defer lock.Remove()
	if plan, err := disk.TryLock(path); err == nil {
		if plan.Held() || w.planned { // without locks, whoever wrote it
			plan.Remove()
		} else {
			plan.Unlock()
		}
	}
	return nil
}
