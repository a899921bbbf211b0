// Package gallery writes sampled pictures as they are drawn: as one sheet for people (NAME.png), as files in a folder
// with a table of what they show, or as an array for programs that evaluate them (NAME.npz).
//
//	err := gallery.Save(ctx, "pictures.npz", pipeline, sampling.Request{Labels: labels, BatchSize: 50})
//
// A folder or an .npz takes no memory for its pictures, and drawing that was cut short is continued by the same calls.
package gallery

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/internal/disk"
)

// A Set says what is to be written.
type Set struct {
	Count, Height, Width int
	// pictures that come at once, 0 for all: of drawing that is cut short whole batches are kept
	BatchSize int
	Labels    []int    // one a picture; nil for a model without classes
	Prompts   []string // one a picture; nil for a model without text
	Classes   []string // names by label, as far as there are any
	// Key names the request, see [sampling.Pipeline.Key]. It is called for folders and .npz files, and takes a while.
	Key func() (string, error)
	// Recipe goes into PNG files.
	Recipe Recipe
}

func (s Set) validate() error {
	if s.Count < 1 || s.Height < 1 || s.Width < 1 || s.BatchSize < 0 {
		return fmt.Errorf("%d pictures of %dx%d in batches of %d: want at least one, of one pixel", s.Count, s.Height,
			s.Width, s.BatchSize)
	}
	for _, n := range []int{len(s.Labels), len(s.Prompts)} {
		if n != 0 && n != s.Count {
			return fmt.Errorf("%d labels and %d prompts for %d pictures: want one each, or none", len(s.Labels),
				len(s.Prompts), s.Count)
		}
	}
	return nil
}

// Bytes is the size of the pixels.
func (s Set) Bytes() int64 { return 3 * int64(s.Count) * int64(s.Height) * int64(s.Width) }

// className is the name of a label, the number where there is none.
func (s Set) className(label int) string {
	if label >= 0 && label < len(s.Classes) {
		return s.Classes[label]
	}
	return strconv.Itoa(label)
}

// An Output takes pictures as they come. It is used by one goroutine.
type Output interface {
	// Done is how many pictures are there; after Open those that were drawn before, which are whole batches.
	Done() int
	// Add writes the next pictures.
	Add(sampling.Pictures) error
	// Finish gives the output its name. All pictures are there.
	Finish() error
	// Close ends the use, after Finish or without it, and returns how many pictures are kept to be continued with.
	Close() int
	// Others are pictures of other requests for this output, which Finish removes.
	Others() []Partial
}

// Open opens the output at a path that [Check] let pass.
func Open(ctx context.Context, path string, set Set) (Output, error) {
	if err := set.validate(); err != nil {
		return nil, err
	}
	if kindOf(path) == sheetKind {
		return openSheet(path, set)
	}
	return openPartial(ctx, path, set)
}

// SetOf describes the pictures that p draws of r. Prompts and Recipe are the caller's to add.
func SetOf(p *sampling.Pipeline, r sampling.Request) Set {
	set := Set{Count: r.Len(), BatchSize: r.BatchSize, Labels: r.Labels, Classes: p.Info().Classes,
		Key: func() (string, error) { return p.Key(r) }}
	set.Height, set.Width = p.PictureSize()
	return set
}

// Save draws the pictures of r and writes them to path: [Check], [Open] and [Draw] in one call.
func Save(ctx context.Context, path string, p *sampling.Pipeline, r sampling.Request) error {
	if err := Check(path); err != nil {
		return err
	}
	out, err := Open(ctx, path, SetOf(p, r))
	if err != nil {
		return err
	}
	defer out.Close()
	return Draw(ctx, p, r, out)
}

// Draw draws the pictures of r that the output lacks, and finishes it. The progress is that of all pictures.
func Draw(ctx context.Context, p *sampling.Pipeline, r sampling.Request, out Output) error {
	process := p.Info().Process
	r.Process = &process
	total, err := r.NumSteps()
	if err != nil {
		return err
	}
	if left := r.After(out.Done()); left.Len() > 0 {
		steps, err := left.NumSteps()
		if err != nil {
			return err
		}
		if r.Progress != nil {
			left.Progress = func(done, _ int) { r.Progress(total-steps+done, total) }
		}
		for pictures, err := range p.Batches(ctx, left) {
			if err == nil {
				err = out.Add(pictures)
			}
			if err != nil {
				return err
			}
		}
	}
	return out.Finish()
}

type kind int

const (
	folderKind kind = iota
	sheetKind
	npzKind
)

func kindOf(path string) kind {
	switch filepath.Ext(path) {
	case ".png":
		return sheetKind
	case ".npz":
		return npzKind
	}
	return folderKind
}

// IsSheet says whether the output at path is one sheet, which is kept in memory.
func IsSheet(path string) bool { return kindOf(path) == sheetKind }

// IsFolder says whether the output at path is a folder, whose files are smaller than their pixels.
func IsFolder(path string) bool { return kindOf(path) == folderKind }

// What [Check] refuses by the name alone, and a file where the name is that of a folder.
var (
	ErrName   = errors.New("want a name that ends in .png or .npz, or a folder")
	ErrIsFile = disk.ErrIsFile
)

// otherPictures are endings that nobody gives to a folder.
var otherPictures = []string{".png", ".npz", ".npy", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff"}

// Check refuses an output that does not fit what stands at its path, before the work instead of after it, and removes
// what killed processes left there that nobody can continue.
func Check(path string) error {
	sweepPartials(path)
	disk.Sweep(filepath.Clean(path))
	fits := disk.FitsFile
	if kindOf(path) == folderKind {
		fits = disk.FitsFolder
		if slices.Contains(otherPictures, strings.ToLower(filepath.Ext(path))) {
			return fmt.Errorf("out %s: %w", path, ErrName)
		}
	}
	err := fits(path)
	if errors.Is(err, disk.ErrNotEmpty) {
		return fmt.Errorf("out %s: %w, want a new one, or one that an interrupted command left", path, err)
	} else if err != nil {
		return fmt.Errorf("out %s: %w", path, err)
	}
	return nil
}
