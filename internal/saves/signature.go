package saves

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

	"github.com/ditrun/ditrun/internal/disk"
)

// SumsName is a file of checksums beside the files that it lists, in the form of the command sha256sum.
const SumsName = "SHA256SUMS"

// maxSums bounds what is read of a file of checksums.
const maxSums = 1 << 20

// WriteSums writes the checksums of files in dir. From then on those who open the files compare with them.
func WriteSums(dir string, files []File) error {
	var b bytes.Buffer
	for _, f := range files {
		fmt.Fprintf(&b, "%s  %s\n", f.SHA256, f.Name)
	}
	return disk.WriteBytes(filepath.Join(dir, SumsName), b.Bytes())
}

// A Signature is what another file says of a file: what it was when it was written.
type Signature struct {
	By     string // the name of the file that says so
	bytes  int64  // -1 where only the checksum is known
	sha256 string
	advice string // what to do where the file is damaged
}

// SignatureOf looks for the signature of the file at path, in state.json of a training run or in SHA256SUMS. It is nil
// where the file has none.
func SignatureOf(path string) (*Signature, error) {
	dir, name := filepath.Split(path)
	dir = filepath.Clean(dir)
	if s, err := signedByState(dir, name); s != nil || err != nil {
		return s, err
	}
	return signedBySums(dir, name)
}

func signedByState(dir, name string) (*Signature, error) {
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
		if file.Name == name {
			return &Signature{StateName, file.Bytes, file.SHA256, olderThan(dir)}, nil
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

func signedBySums(dir, name string) (*Signature, error) {
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
			advice := fmt.Sprintf("copy it again, or delete %s if it was changed on purpose", filepath.Join(dir,
				SumsName))
			return &Signature{SumsName, -1, strings.ToLower(line[:digits]), advice}, nil
		}
	}
	return nil, nil
}

// CheckSize compares the size of the file, where that is known.
func (s *Signature) CheckSize(size int64) error {
	if s.bytes >= 0 && size != s.bytes {
		return fmt.Errorf("%d bytes, %d when it was written (%s): cut short or damaged: %s", size, s.bytes, s.By,
			s.advice)
	}
	return nil
}

// Check compares the file's hex SHA-256.
func (s *Signature) Check(sum string) error {
	if sum != s.sha256 {
		return fmt.Errorf("sha256 %.12s..., %.12s... when it was written (%s): damaged: %s", sum, s.sha256, s.By,
			s.advice)
	}
	return nil
}

// ReadSigned reads a small file, of at most limit bytes, and compares it with its signature where it has one.
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
	s, err := SignatureOf(path)
	if s == nil || err != nil {
		return text, err
	}
	sum := sha256.Sum256(text)
	return text, s.Check(hex.EncodeToString(sum[:]))
}
