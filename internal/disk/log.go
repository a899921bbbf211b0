package disk

import (
	"os"
)

// maxWaiting bounds the lines that a [Log] keeps while it cannot write.
const maxWaiting = 1 << 20

// A Log is a text file that grows by whole lines. What cannot be written now waits for the next line; a file that was
// removed or replaced is made again. One goroutine at a time uses it.
type Log struct {
	path    string
	f       *os.File // nil after it was lost
	waiting []byte
}

// OpenLog opens the log at path to add to it, and makes it where it is missing.
func OpenLog(path string) (*Log, error) {
	l := &Log{path: path}
	return l, l.open()
}

func (l *Log) open() (err error) {
	l.f, err = os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o666)
	return err
}

// Here says whether the file at the log's path is the one that is written to.
func (l *Log) Here() bool {
	if l.f == nil {
		return false
	}
	have, err := l.f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(l.path)
	return err == nil && os.SameFile(have, there)
}

// Add adds text, one or more lines with their ends. After an error they wait, with those that waited before, for
// the next call; of more than a megabyte the first are given up.
func (l *Log) Add(text string) error {
	l.waiting = append(l.waiting, text...)
	if over := len(l.waiting) - maxWaiting; over > 0 {
		l.waiting = l.waiting[over:]
	}
	if !l.Here() {
		l.Close()
		if err := l.open(); err != nil {
			return err
		}
	}
	n, err := l.f.Write(l.waiting)
	l.waiting = l.waiting[n:]
	return err
}

// Close closes the file. What waits is lost.
func (l *Log) Close() error {
	if l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f = nil
	return err
}
