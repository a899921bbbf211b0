// Package gallery writes sampled pictures as they are drawn: as one sheet for people (NAME.png), as files in a folder
// with a table of what they show, as a WebDataset archive (NAME.tar), or as an array for programs that evaluate them
// (NAME.npz).
//
//	err := gallery.Save(ctx, "pictures.npz", pipeline, sampling.Request{Labels: labels, BatchSize: 50})
//
// Pictures take no memory but for a sheet. Drawing that was cut short is continued by the same calls, and several
// processes that make them at once share the work, batch by batch. The output has the same bytes in any case, and
// appears when it is complete.
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
	// Job says with which other processes these pictures are drawn, if any.
	Job Job
	// Alone keeps off other processes, which would share the work else.
	Alone bool
}

// A Job is several processes that were started together.
type Job struct {
	ID          string // the same in all processes, another in the next job
	Rank, World int    // World is 1, or 0, for a process that was started alone
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

// batches is the number of batches.
func (s *Set) batches() int { return (s.Count + s.BatchSize - 1) / s.BatchSize }

// span is that of batch b.
func (s *Set) span(b int) span { return span{b * s.BatchSize, min((b+1)*s.BatchSize, s.Count)} }

// next is the span of the batch behind the first pictures, which are whole batches.
func (s *Set) next(done int) span { return s.span(done / s.BatchSize) }

// Bytes is the size of the pixels.
func (s Set) Bytes() int64 { return 3 * int64(s.Count) * int64(s.Height) * int64(s.Width) }

// className is the name of a label, the number where there is none.
func (s Set) className(label int) string {
	if label >= 0 && label < len(s.Classes) {
		return s.Classes[label]
	}
	return strconv.Itoa(label)
}

// An Output takes pictures as they come. Next may be called by another goroutine than the other methods.
type Output interface {
	// Done is how many pictures are there, in whole batches; after Open those that were drawn before.
	Done() int
	// Elsewhere is how many of them were not added to this output, but by other processes or before.
	Elsewhere() int
	// Next returns the number of a batch to draw, which no other process draws; false where none is missing. It waits
	// for those that other processes draw.
	Next(ctx context.Context) (batch int, ok bool, err error)
	// Add writes the pictures of a batch that Next returned.
	Add(batch int, p sampling.Pictures) error
	// Finish gives the output its name, when Next has returned false; see [Draw].
	Finish(ctx context.Context) error
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
	if set.BatchSize == 0 || set.BatchSize > set.Count {
		set.BatchSize = set.Count
	}
	if kindOf(path) == sheetKind {
		if err := checkSheet(path, set); err != nil {
			return nil, err
		}
		if set.batches() == 1 && set.Job.World < 2 { // nothing of it would be kept
			return &sheetOutput{path: path, set: set}, nil
		}
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
	if err := Check(path, Job{}); err != nil {
		return err
	}
	out, err := Open(ctx, path, SetOf(p, r))
	if err != nil {
		return err
	}
	defer out.Close()
	return Draw(ctx, p, r, out)
}

// Draw draws the pictures of r that the output lacks and no other process draws, and finishes it when all are there.
// The progress is that of all pictures.
func Draw(ctx context.Context, p *sampling.Pipeline, r sampling.Request, out Output) error {
	process := p.Info().Process
	r.Process = &process
	r = r.WithDefaults()
	if progress := r.Progress; progress != nil {
		total, err := r.NumSteps()
		if err != nil {
			return err
		}
		batches := (r.Len() + r.BatchSize - 1) / r.BatchSize
		r.Progress = func(done, _ int) {
			elsewhere := (out.Elsewhere() + r.BatchSize - 1) / r.BatchSize
			progress(min(elsewhere*total/batches+done, total), total)
		}
	}
	for {
		for b, err := range p.Some(ctx, r, out.Next) {
			if err == nil {
				err = out.Add(b.First/r.BatchSize, b.Pictures)
			}
			if err != nil {
				return err
			}
		}
		if err := out.Finish(ctx); !errors.Is(err, errMissing) {
			return err
		}
	}
}

type kind int

const (
	folderKind kind = iota
	sheetKind
	npzKind
	tarKind
)

func kindOf(path string) kind {
	switch filepath.Ext(path) {
	case ".png":
		return sheetKind
	case ".npz":
		return npzKind
	case ".tar":
		return tarKind
	}
	return folderKind
}

// IsSheet says whether the output at path is one sheet.
func IsSheet(path string) bool { return kindOf(path) == sheetKind }

// IsArray says whether the output at path holds pixels as they are. The others are smaller.
func IsArray(path string) bool { return kindOf(path) == npzKind }

// What [Check] refuses by the name alone, and a file where the name is that of a folder.
var (
	ErrName   = errors.New("want a name that ends in .png, .npz or .tar, or a folder")
	ErrIsFile = disk.ErrIsFile
)

// otherPictures are endings that nobody gives to a folder.
var otherPictures = []string{".png", ".npz", ".npy", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff"}

// Check refuses an output that does not fit what stands at its path, before the work instead of after it, and removes
// what killed processes left there that nobody can continue. Another process of the job may have finished it already.
func Check(path string, job Job) error {
	finished := sweepPartials(path, job)
	disk.Sweep(filepath.Clean(path))
	fits := disk.FitsFile
	if kindOf(path) == folderKind {
		fits = disk.FitsFolder
		if slices.Contains(otherPictures, strings.ToLower(filepath.Ext(path))) {
			return fmt.Errorf("out %s: %w", path, ErrName)
		}
	}
	err := fits(path)
	if errors.Is(err, disk.ErrNotEmpty) && finished {
		return nil
	}
	if errors.Is(err, disk.ErrNotEmpty) {
		return fmt.Errorf("out %s: %w, want a new one, or one that an interrupted command left", path, err)
	} else if err != nil {
		return fmt.Errorf("out %s: %w", path, err)
	}
	return nil
}
