package checkpoint

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/ditrun/ditrun/internal/disk"
)

// SumsName is a file of checksums beside the files that it lists, in the form of the command sha256sum.
const SumsName = "SHA256SUMS"

// maxSums bounds what is read of a file of checksums.
const maxSums = 1 << 20

// WriteSums writes the checksums of files in dir. From then on [Open] and [ReadSigned] compare with them.
func WriteSums(dir string, files []Saved) error {
	var b bytes.Buffer
	for _, f := range files {
		fmt.Fprintf(&b, "%s  %s\n", f.SHA256, f.File)
	}
	return disk.WriteBytes(filepath.Join(dir, SumsName), b.Bytes())
}

// A signature is what stands beside a file about it: what it was when it was written.
type signature struct {
	bytes  int64 // -1 where that is not said
	sha256 string
	by     string // the file that says so
	wayOut string
}

// signatureOf looks for what signs the file at path: state.json of a training run, or SHA256SUMS. It is nil where
// nothing does.
func signatureOf(path string) (*signature, error) {
	dir, name := filepath.Split(path)
	dir = filepath.Clean(dir)
	if s, err := signedByState(dir, name); s != nil || err != nil {
		return s, err
	}
	return signedBySums(dir, name)
}

func signedByState(dir, name string) (*signature, error) {
	text, err := readState(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var head map[string]json.RawMessage
	if json.Unmarshal(text, &head) == nil && head["files"] == nil && head["world_size"] == nil {
		return nil, nil // of another program
	}
	f, err := ReadFolder(dir)
	if err != nil {
		return nil, disk.Advise(err, olderThan(dir))
	}
	for _, file := range f.Files {
		if file.File == name {
			return &signature{file.Bytes, file.SHA256, StateName, olderThan(dir)}, nil
		}
	}
	return nil, nil
}

// olderThan says what to do where the checkpoint in dir is damaged.
func olderThan(dir string) string {
	const alone = "no older checkpoint is beside it: copy it again from where it came, or train again"
	at, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return alone
	}
	above := filepath.Dir(at)
	steps, err := Steps(above)
	if err != nil {
		return alone
	}
	for i := len(steps) - 1; i >= 0; i-- {
		if StepName(steps[i]) >= filepath.Base(at) {
			continue
		}
		path := filepath.Join(above, StepName(steps[i]))
		if f, err := ReadFolder(path); err == nil && f.Present() == nil {
			return "take an older checkpoint: " + path
		}
	}
	return alone
}

func signedBySums(dir, name string) (*signature, error) {
	f, err := os.Open(filepath.Join(dir, SumsName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", SumsName, disk.Bare(err))
	}
	defer f.Close()
	const digits = 2 * sha256.Size
	for l, err := range disk.Lines(io.LimitReader(f, maxSums), bufio.MaxScanTokenSize) {
		if err != nil {
			return nil, fmt.Errorf("%s: %w", SumsName, err)
		}
		line := l.Text
		// Two spaces, or a space and a star: sha256sum read it as text or as bytes, which is the same here.
		if len(line) > digits+2 && line[digits] == ' ' && strings.Contains(" *", line[digits+1:digits+2]) &&
			line[digits+2:] == name {
			wayOut := fmt.Sprintf("copy it again, or delete %s if it was changed on purpose", filepath.Join(dir,
				SumsName))
			return &signature{-1, strings.ToLower(line[:digits]), SumsName, wayOut}, nil
		}
	}
	return nil, nil
}

func (s *signature) check(sum string) error {
	if sum != s.sha256 {
		return fmt.Errorf("sha256 %.12s..., %.12s... when it was written (%s): damaged: %s", sum, s.sha256, s.by,
			s.wayOut)
	}
	return nil
}

// ReadSigned reads a small file, of at most limit bytes, and compares it with the checksum that stands beside it, if
// there is one.
func ReadSigned(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	s, err := signatureOf(path)
	if s == nil || err != nil {
		return text, err
	}
	sum := sha256.Sum256(text)
	return text, s.check(hex.EncodeToString(sum[:]))
}

// A comparison takes the sum of a signed file in the background, while the file is read.
type comparison struct {
	signature
	size int64
	stop atomic.Bool
	done chan struct{} // closed when sum and err are set
	sum  string
	err  error
}

// compare begins to take the sum of a file of size bytes.
func (s *signature) compare(r io.ReaderAt, size int64) *comparison {
	c := &comparison{signature: *s, size: size, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		sum, buf := sha256.New(), make([]byte, 1<<20)
		for at := int64(0); at < size && !c.stop.Load(); {
			p := buf[:min(int64(len(buf)), size-at)]
			if c.err = readFull(r, p, at); c.err != nil {
				return
			}
			sum.Write(p)
			at += int64(len(p))
		}
		c.sum = hex.EncodeToString(sum.Sum(nil))
	}()
	return c
}

// checkSize compares what can be compared without reading.
func (c *comparison) checkSize() error {
	if c.bytes >= 0 && c.size != c.bytes {
		return fmt.Errorf("%d bytes, %d when it was written (%s): cut short or damaged: %s", c.size, c.bytes, c.by,
			c.wayOut)
	}
	return nil
}

// verify waits for the sum and compares it.
func (c *comparison) verify() error {
	if err := c.checkSize(); err != nil {
		return err
	}
	<-c.done
	if c.err != nil {
		return c.err
	}
	return c.check(c.sum)
}

// end stops taking the sum.
func (c *comparison) end() {
	c.stop.Store(true)
	<-c.done
}
