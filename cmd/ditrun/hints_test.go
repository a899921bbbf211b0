package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/hub"
	"github.com/ditrun/ditrun/diffusion/training"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch"
)

// The hint follows from the cause of an error, not from where it came up.
func TestHintOfCause(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "no", "such", "file")
	at := func(errno syscall.Errno) error {
		return fmt.Errorf("open captions: %w", &fs.PathError{Op: "open", Path: file, Err: errno})
	}
	const place = "`ditrun encode-latents` makes latents from pictures"
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"other":      {errors.New("truncated"), place},
		"missing":    {at(syscall.ENOENT), place},
		"files":      {at(syscall.EMFILE), "`ulimit -n` shows and raises the limit"},
		"all files":  {at(syscall.ENFILE), "other programs have to close some"},
		"space":      {at(syscall.ENOSPC), "the disk of " + dir + " has "},
		"bare space": {fmt.Errorf("write x: %w", syscall.ENOSPC), "free space on that disk"},
		"quota":      {at(syscall.EDQUOT), "the quota of disk space is used up"},
		"file size":  {at(syscall.EFBIG), "`ulimit -f` shows and raises"},
		"read-only":  {at(syscall.EROFS), "mounted read-only"},
		"permission": {at(syscall.EACCES), dir + " belongs to " + userName(os.Getuid()) + " (drwx"},
		"permitted":  {at(syscall.EPERM), "), this is " + userName(os.Geteuid())},
		"network":    {fmt.Errorf("listen: %w", syscall.EACCES), place},
		"link": {&os.LinkError{Op: "rename", Old: "/x", New: file, Err: syscall.ENOSPC},
			"the disk of " + dir + " has "},
		"no cache": {fmt.Errorf("unpack x.tar.gz: %w", &disk.NoCacheError{Variable: "XDG_CACHE_HOME"}),
			"set XDG_CACHE_HOME to a folder for it"},
		"interrupted": {context.Canceled, place},
		"memory": {withLessMemory(fmt.Errorf("draw: %w", torch.ErrOutOfMemory), "a smaller --batch-size takes less"),
			"a smaller --batch-size takes less"},
		"memory of a step": {withLessMemory(&training.BatchError{Err: torch.ErrOutOfMemory}, "a smaller --batch-size"),
			place},
		"not memory": {withLessMemory(errors.New("truncated"), "a smaller --batch-size takes less"), place},
	} {
		var out bytes.Buffer
		if code := conclude(&out, withHint(c.err, place), nil); code != exitFailed {
			t.Errorf("%s: code %d", name, code)
		}
		hint := out.String()[strings.Index(out.String(), "\n")+1:]
		if !strings.HasPrefix(hint, "ditrun: hint: ") || !strings.Contains(hint, c.want) || c.want != place &&
			strings.Contains(hint, place) {
			t.Errorf("%s: %q, want %q", name, hint, c.want)
		}
	}
	// What is left of the work is said beside the cause.
	if got := hintOf(withKept(at(syscall.EMFILE), "whole shards are kept")); !strings.HasPrefix(got,
		"whole shards are kept; this process may have ") {
		t.Errorf("%q", got)
	}
	if got := hintOf(at(syscall.EFBIG)); !strings.HasPrefix(got, "`ulimit -f`") {
		t.Errorf("without a hint of the place: %q", got)
	}
}

// That the same command goes on is said only where it does.
func TestContinues(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	e := &env{ctx: ctx}
	for _, c := range []struct {
		err       error
		continues bool
	}{
		{errors.New("shard 3 was made to another plan"), false},
		{fmt.Errorf("write: %w", syscall.ENOSPC), true},
		{nil, false},
	} {
		if got := hintOf(e.continues(c.err, "whole shards are kept")); strings.Contains(got,
			"the same command continues") != c.continues {
			t.Errorf("%v: %q", c.err, got)
		}
	}
	cancel()
	if got := hintOf(e.continues(ctx.Err(),
		"whole shards are kept")); got != "whole shards are kept; the same command continues" {
		t.Errorf("interrupted: %q", got)
	}
}

// TestNearModel: what people call a model leads to its name, and what is far from all to none.
func TestNearModel(t *testing.T) {
	for given, want := range map[string]string{"DiT-XL2": "DiT-XL/2", "dit-xl/2": "DiT-XL/2", "XL/2": "DiT-XL/2",
		"DiT-XL-4": "DiT-XL/4", "xl": "DiT-XL/2", "DiT-L": "DiT-L/2", "s8": "DiT-S/8", "DiT-XL/2-256": "DiT-XL/2",
		"192x6x6/2": "DiT-192x6x6/2", "": "", "DiT": "", "large": "", "onnx": ""} {
		if got := nearModel(given); got != want {
			t.Errorf("%q is near %q, want %q", given, got, want)
		}
	}
}

// TestNearName: so it is with the known weights, of a kind that fits.
func TestNearName(t *testing.T) {
	all := func(hub.Kind) bool { return true }
	for given, want := range map[string]string{"ema": "sd-vae-ft-ema", "mse": "sd-vae-ft-mse",
		"sd-vae": "sd-vae-ft-ema", "dit-xl-256": "dit-xl-2-256", "DiT-XL/2": "dit-xl-2-256",
		"dit-xl-512":                  "dit-xl-2-512",
		"weights/DiT-XL-2-512x512.pt": "dit-xl-2-512", "sd_vae_ft_mse": "sd-vae-ft-mse", "model.pt": "", "run": ""} {
		if got := nearName(given, all); got != want {
			t.Errorf("%q is near %q, want %q", given, got, want)
		}
	}
	if got := nearName("sd-vae", func(k hub.Kind) bool { return k == hub.DiT }); got != "" {
		t.Errorf("an autoencoder for a DiT: %s", got)
	}
}
