package tokens

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"

	"github.com/ditrun/ditrun/data/captions"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// An Encoder makes the token states of captions.
type Encoder interface {
	// Info describes the encoder and the shape of its states.
	Info() EncoderInfo
	// Encode fills states [len(texts), L, W], and lengths with the number of tokens of each, 1 to L.
	Encode(texts []string, states []float32, lengths []int32) error
}

// Options of Write. The zero value is fine.
type Options struct {
	BatchSize int // captions encoded at once; 0 means 64
	FileRows  int // captions in a file of states; 0 means as many as make 64 MiB
	// OnProgress, which may be nil, is told how many of the distinct captions are encoded.
	OnProgress func(done, total int)
	// Unlocked, which may be nil, is called where the file system has no locks, so that others are not kept out;
	// its error ends the work.
	Unlocked func() error
}

// Summary says what Write wrote.
type Summary struct {
	Rows     int  // distinct captions, the empty one included
	Captions int  // captions of all records
	Without  int  // records without a caption
	Kept     bool // the set had the same captions and states already
}

const (
	textNew = FolderName + ".new" // where the folder is made
	textOld = FolderName + ".old" // what the new one replaces, for a moment
)

// Write encodes captions, which are numbered by the samples of the catalogue, and keeps them beside the latents in
// dir. Each distinct caption is encoded once. What was there before stays in use until the new folder is whole. A call
// that was stopped is continued by the next one with the same captions and encoder: finished files are kept. Of several
// processes one does the work and the others wait.
func Write(ctx context.Context, dir string, c *captions.Set, enc Encoder, o Options) (Summary, error) {
	s, err := writeText(ctx, dir, c, enc, o)
	if err != nil {
		return s, fmt.Errorf("write captions to %s: %w", dir, err)
	}
	return s, nil
}

func writeText(ctx context.Context, dir string, c *captions.Set, enc Encoder, o Options) (Summary, error) {
	l, err := latents.Open(dir)
	if err != nil {
		return Summary{}, err
	}
	defer l.Close()
	w, err := newTextWriter(l, c, enc, o)
	if err != nil {
		return Summary{}, err
	}
	lock, err := disk.WaitLock(ctx, filepath.Join(dir, FolderName+".lock"))
	if err != nil {
		return Summary{}, err
	}
	defer lock.Remove()
	if !lock.Held() && o.Unlocked != nil {
		if err := o.Unlocked(); err != nil {
			return Summary{}, err
		}
	}
	if err := restoreText(dir); err != nil {
		return Summary{}, err
	}
	return w.write(ctx, dir)
}

// restoreText puts right what a process left that was killed while it replaced the folder.
func restoreText(dir string) error {
	text, old := filepath.Join(dir, FolderName), filepath.Join(dir, textOld)
	if _, err := os.Stat(old); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, err := os.Stat(text); errors.Is(err, fs.ErrNotExist) {
		return os.Rename(old, text)
	}
	return os.RemoveAll(old)
}

// textWriter makes the folder of captions of one set.
type textWriter struct {
	Options
	enc   Encoder
	info  textInfo
	texts []string // by row

	offsets, rows []byte // tensors of the index
}

func newTextWriter(l *latents.Set, c *captions.Set, enc Encoder, o Options) (*textWriter, error) {
	if have, want := c.Len(), l.Manifest().Dataset.Samples; have != want {
		return nil, fmt.Errorf("captions of %s, the latents were made from %d", names.Plural(have, "sample"), want)
	}
	e := enc.Info()
	if err := e.validate(); err != nil {
		return nil, err
	}
	w := &textWriter{Options: o, enc: enc}
	w.BatchSize = cmp.Or(w.BatchSize, 64)
	w.FileRows = cmp.Or(w.FileRows, max(1, 64<<20/(2*e.Length*e.Width)))
	if w.OnProgress == nil {
		w.OnProgress = func(int, int) {}
	}
	// Samples that were skipped have no record, and captions that only they have no row.
	row := make([]int32, len(c.Texts))
	row[0] = 1
	for i := range l.Len() {
		for _, t := range c.Of(l.ID(i)) {
			row[t] = 1
		}
	}
	for t, used := range row {
		if row[t] = int32(len(w.texts)); used > 0 {
			w.texts = append(w.texts, c.Texts[t])
		}
	}
	w.info = textInfo{Format: textFormat, Version: textVersion, Dataset: l.Manifest().Dataset.Hash,
		Records: l.RecordsHash(), Samples: l.Len(),
		Encoder: e, DType: string(checkpoint.F16), Rows: len(w.texts), FileRows: w.FileRows}
	w.offsets = make([]byte, 8, 8*(l.Len()+1))
	for i := range l.Len() {
		of := c.Of(l.ID(i))
		if len(of) == 0 {
			w.info.Without++
			of = []int32{0}
		} else {
			w.info.Captions += len(of)
		}
		for _, t := range of {
			w.rows = binary.LittleEndian.AppendUint32(w.rows, uint32(row[t]))
		}
		w.offsets = binary.LittleEndian.AppendUint64(w.offsets, uint64(len(w.rows)/4))
	}
	return w, nil
}

func (w *textWriter) write(ctx context.Context, dir string) (Summary, error) {
	summary := Summary{Rows: w.info.Rows, Captions: w.info.Captions, Without: w.info.Without}
	text, made := filepath.Join(dir, FolderName), filepath.Join(dir, textNew)
	if err := os.MkdirAll(made, 0o777); err != nil {
		return summary, err
	}
	names := w.info.names()
	if err := writeTexts(filepath.Join(made, textCaptions), w.texts); err != nil {
		return summary, err
	}
	index := []checkpoint.Tensor{
		{Info: checkpoint.Info{Name: tensorOffsets, DType: checkpoint.I64, Shape: []int64{int64(w.info.Samples) + 1}},
			Data: w.offsets},
		{Info: checkpoint.Info{Name: tensorRows, DType: checkpoint.I32, Shape: []int64{int64(len(w.rows) / 4)}},
			Data: w.rows},
	}
	if err := checkpoint.Write(filepath.Join(made, textIndex), index,
		map[string]string{"format": textFormat}); err != nil {
		return summary, err
	}
	for _, name := range names[:2] {
		if err := w.record(made, name); err != nil {
			return summary, err
		}
	}
	if have, err := readText(text); err == nil && w.same(have) {
		summary.Kept = true
		return summary, os.RemoveAll(made)
	}
	for k, name := range names[2:] {
		if err := w.states(ctx, k, filepath.Join(made, name)); err != nil {
			return summary, err
		}
		if err := w.record(made, name); err != nil {
			return summary, err
		}
	}
	entries, err := os.ReadDir(made)
	if err != nil {
		return summary, err
	}
	for _, e := range entries { // of a call that was stopped, with other captions
		if !slices.Contains(names, e.Name()) {
			if err := os.RemoveAll(filepath.Join(made, e.Name())); err != nil {
				return summary, err
			}
		}
	}
	b, err := disk.MarshalSealed(&w.info)
	if err != nil {
		return summary, err
	}
	if err := disk.WriteBytes(filepath.Join(made, textManifest), b); err != nil {
		return summary, err
	}
	old, err := disk.Exchange(made, text)
	if err != nil {
		return summary, err
	}
	if err := disk.SyncDir(dir); err != nil || old == "" {
		return summary, err
	}
	return summary, os.RemoveAll(old)
}

// record adds a finished file to the list.
func (w *textWriter) record(dir, name string) error {
	path := filepath.Join(dir, name)
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	sum, err := disk.SHA256(path)
	w.info.Files = append(w.info.Files, textFile{File: name, Bytes: st.Size(), SHA256: sum})
	return err
}

// same says whether a finished folder is what w would make, by all but the bytes of the states.
func (w *textWriter) same(have *textInfo) bool {
	a, b := w.info, *have
	files := b.Files[:2]
	a.Files, b.Files = nil, nil
	return slices.Equal(w.info.Files, files) && reflect.DeepEqual(a, b)
}

// states makes file k of states, or keeps it.
func (w *textWriter) states(ctx context.Context, k int, path string) error {
	lo, hi := w.info.rowsOf(k)
	length, width := w.info.Encoder.Length, w.info.Encoder.Width
	n := length * width
	h := sha256.New()
	if err := encodeTexts(h, w.texts[lo:hi]); err != nil {
		return err
	}
	meta := map[string]string{
		"format": textFormat, "version": strconv.Itoa(textVersion), "encoder": w.info.Encoder.Name,
		"encoder_sha256": w.info.Encoder.SHA256,
		"rows":           fmt.Sprintf("%d-%d", lo, hi), "captions_sha256": hex.EncodeToString(h.Sum(nil)),
	}
	w.OnProgress(lo, w.info.Rows)
	if w.finished(path, meta, hi-lo) {
		w.OnProgress(hi, w.info.Rows)
		return nil
	}
	states := make([]byte, 0, 2*n*(hi-lo))
	lengths := make([]byte, 0, 4*(hi-lo))
	batch := make([]float32, n*min(w.BatchSize, hi-lo))
	counts := make([]int32, min(w.BatchSize, hi-lo))
	for at := lo; at < hi; at += w.BatchSize {
		if err := ctx.Err(); err != nil {
			return err
		}
		texts := w.texts[at:min(at+w.BatchSize, hi)]
		if err := w.enc.Encode(texts, batch[:n*len(texts)], counts[:len(texts)]); err != nil {
			return err
		}
		for i, text := range texts {
			if counts[i] < 1 || int(counts[i]) > length {
				return fmt.Errorf("caption %.100q: %d tokens, want 1 to %d", text, counts[i], length)
			}
			lengths = binary.LittleEndian.AppendUint32(lengths, uint32(counts[i]))
			for _, v := range batch[i*n : (i+1)*n] {
				half := checkpoint.Float16(v)
				if half&0x7c00 == 0x7c00 {
					return fmt.Errorf("caption %.100q: state %v cannot be stored as float16", text, v)
				}
				states = append(states, byte(half), byte(half>>8))
			}
		}
		w.OnProgress(at+len(texts), w.info.Rows)
	}
	tensors := []checkpoint.Tensor{
		{Info: checkpoint.Info{Name: tensorStates, DType: checkpoint.F16,
			Shape: []int64{int64(hi - lo), int64(length), int64(width)}}, Data: states},
		{Info: checkpoint.Info{Name: tensorLengths, DType: checkpoint.I32, Shape: []int64{int64(hi - lo)}},
			Data: lengths},
	}
	return checkpoint.WriteOptions(path, tensors, meta, checkpoint.Options{KeepOrder: true, Align: 4096})
}

// finished says whether the file of states is there, made of the same captions by the same encoder.
func (w *textWriter) finished(path string, meta map[string]string, rows int) bool {
	f, err := checkpoint.OpenSafetensors(path)
	if err != nil {
		return false
	}
	defer f.Close()
	have := f.Metadata()
	for key, v := range meta {
		if have[key] != v {
			return false
		}
	}
	states, _, err := findStates(f, w.info.Encoder.Length, w.info.Encoder.Width)
	return err == nil && states.DType == checkpoint.F16 && states.Shape[0] == int64(rows)
}

// WriteCaptions writes the distinct captions to a file, one a line, for an encoder of another program; the first line,
// of the empty caption, is blank. See [OpenStates].
func WriteCaptions(path string, c *captions.Set) error { return writeTexts(path, c.Texts) }

func writeTexts(path string, texts []string) error {
	return disk.WriteFile(path, func(out io.Writer) error { return encodeTexts(out, texts) })
}

func encodeTexts(out io.Writer, texts []string) error {
	for _, t := range texts {
		if _, err := io.WriteString(out, t+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// readTexts reads n captions.
func readTexts(path string, n int) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var texts []string
	s := bufio.NewScanner(f) // its limit of 64 KiB a line is above that of captions
	for s.Scan() {
		if len(texts) == n {
			return nil, fmt.Errorf("more than %d lines", n)
		}
		texts = append(texts, s.Text())
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	if len(texts) < n {
		return nil, fmt.Errorf("%s, want %d", names.Plural(len(texts), "line"), n)
	}
	return texts, nil
}
