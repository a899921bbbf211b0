package disk

import (
	"errors"
	"fmt"
	"io/fs"
)

// OpenError words the failure to open path without repeating it.
func OpenError(path string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) && pe.Path == path {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("open %s: no such file or folder%w", path, Quiet(err))
		}
		err = pe.Err
	}
	return fmt.Errorf("open %s: %w", path, err)
}

// Quiet carries an error for errors.Is without adding to the text.
func Quiet(err error) error { return silent{err} }

type silent struct{ error }

func (silent) Error() string   { return "" }
func (s silent) Unwrap() error { return s.error }
