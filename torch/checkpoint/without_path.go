package checkpoint

import "errors"

// WithoutPath drops the path that an error of this package begins with, for callers that name the file.
func WithoutPath(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}
