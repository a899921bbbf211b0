package tokens

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/ditrun/ditrun/data/captions"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/mmap"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/philox"
)

// FolderName is the folder beside the shards of a set of latents that holds the captions of its records and their token
// states. Shards and manifest do not depend on it, so captions can be added to a finished set.
const FolderName = "text"

// textManifest is the file that makes the folder whole. It is written last.
const textManifest = "text.json"

const (
	textFormat  = "ditrun-text"
	textVersion = 1

	textCaptions = "captions.txt"      // the caption of each row, one a line
	textIndex    = "index.safetensors" // which rows belong to which record

	captionsFile, indexFile, firstStates = 0, 1, 2 // where they stand in the list of files

	tensorStates  = "states"  // F16 [n, L, W]
	tensorLengths = "lengths" // I32 [n]
	tensorOffsets = "offsets" // I64 [N+1]
	tensorRows    = "rows"    // I32 [total]
)

// EncoderInfo says what made token states.
type EncoderInfo struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"` // hex, of its weights, or of the file of states where those are not known
	Length int    `json:"length"` // L, tokens of a caption, padding included
	Width  int    `json:"width"`  // W, numbers of a token
}

// Limits on what token states may ask for.
const (
	maxTextLength = 1 << 16
	maxTextWidth  = 1 << 16
	maxTextRow    = 1 << 26 // numbers of the states of one caption
)

func (e *EncoderInfo) validate() error {
	if e.Name == "" || e.SHA256 == "" {
		return errors.New("the text encoder has no name or sha256")
	}
	return e.checkShape()
}

func (e *EncoderInfo) checkShape() error {
	if e.Length < 1 || e.Length > maxTextLength || e.Width < 1 || e.Width > maxTextWidth ||
		e.Length*e.Width > maxTextRow {
		return fmt.Errorf("states of %d tokens of width %d: want at least 1 of each, at most %d, and at most %d "+
			"numbers", e.Length, e.Width, maxTextWidth, maxTextRow)
	}
	return nil
}

// maxTextManifest bounds the memory that text.json can cost.
const maxTextManifest = 1 << 28

// textInfo is the content of text.json.
type textInfo struct {
	Format   string      `json:"format"`
	Version  int         `json:"version"`
	Dataset  string      `json:"dataset"` // hash of the catalogue that the latents were made from
	Records  string      `json:"records"` // hex SHA-256 over the ids of the records
	Samples  int         `json:"samples"` // records
	Encoder  EncoderInfo `json:"encoder"`
	DType    string      `json:"dtype"` // F16
	Rows     int         `json:"rows"`
	FileRows int         `json:"file_rows"` // rows of each file of states but the last
	Captions int         `json:"captions"`  // of all records, counted for each that has it
	Without  int         `json:"without"`   // records that have none
	Files    []textFile  `json:"files"`     // captions, index, states
}

type textFile struct {
	File   string `json:"file"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

func (t *textInfo) numFiles() int { return (t.Rows + t.FileRows - 1) / t.FileRows }

// rowsOf are the rows [lo, hi) of file k of states.
func (t *textInfo) rowsOf(k int) (lo, hi int) {
	return k * t.FileRows, min((k+1)*t.FileRows, t.Rows)
}

// names lists the files of the folder but text.json.
func (t *textInfo) names() []string {
	names := []string{textCaptions, textIndex}
	for k := range t.numFiles() {
		names = append(names, fmt.Sprintf("states-%05d-of-%05d.safetensors", k, t.numFiles()))
	}
	return names
}

func (t *textInfo) validate() error {
	if err := t.Encoder.validate(); err != nil {
		return err
	}
	if t.DType != string(checkpoint.F16) {
		return fmt.Errorf("dtype %q, want %s", t.DType, checkpoint.F16)
	}
	if t.Rows < 1 || t.Rows > captions.MaxRows || t.FileRows < 1 || t.FileRows > captions.MaxRows {
		return fmt.Errorf("%d rows, %d in a file: want at least 1 and at most %d", t.Rows, t.FileRows, captions.MaxRows)
	}
	if len(t.Files) != t.numFiles()+firstStates {
		return fmt.Errorf("%s, want %d for %s", names.Plural(len(t.Files), "file"), t.numFiles()+firstStates,
			names.Plural(t.Rows, "row"))
	}
	for i, name := range t.names() {
		// The name is compared, not used: a path in it would lead out of the folder.
		if t.Files[i].File != name {
			return fmt.Errorf("file %d is called %q, want %q", i, t.Files[i].File, name)
		}
	}
	return nil
}

func parseText(b []byte) (*textInfo, error) {
	var head struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, err
	}
	if head.Format != textFormat || head.Version != textVersion {
		return nil, fmt.Errorf("format %q, version %d: this program reads %s, version %d", head.Format, head.Version,
			textFormat, textVersion)
	}
	t := new(textInfo)
	if err := json.Unmarshal(b, t); err != nil {
		return nil, err
	}
	if err := t.validate(); err != nil {
		return nil, err
	}
	return t, disk.CheckSeal(b)
}

// A Set is the captions of a set of latents, as token states to condition a model on. A row is one distinct
// caption; row 0 is that of the empty one, which takes the place of a caption that is dropped in training, and is the
// negative prompt in sampling. All methods may be called from several goroutines at once.
type Set struct {
	dir     string
	info    textInfo
	offsets []int64
	rows    []int32
	lengths []int32
	files   [][]byte // mapped
	states  [][]byte // within files
}

// Of returns the captions of a set of latents, nil if it has none. They belong to the set and are closed with it.
func Of(l *latents.Set) (*Set, error) {
	p, err := l.Part(func() (latents.Part, error) {
		t, err := openText(l)
		if t == nil {
			return nil, err
		}
		return t, err
	})
	t, _ := p.(*Set)
	return t, err
}

const textWayOut = "add the captions again (encode-latents --captions), or delete this folder to train without them"

func openText(l *latents.Set) (*Set, error) {
	dir := filepath.Join(l.Dir(), FolderName)
	info, err := readText(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, fmt.Errorf("open %s: no %s%w: %s", dir, textManifest, disk.Quiet(err), textWayOut)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, disk.Advise(err, textWayOut))
	}
	if info.Dataset != l.Manifest().Dataset.Hash || info.Samples != l.Len() || info.Records != l.RecordsHash() {
		return nil, fmt.Errorf("open %s: made for other latents (%d of data set %.12s..., these are %d of "+
			"%.12s...): %s",
			dir, info.Samples, info.Dataset, l.Len(), l.Manifest().Dataset.Hash, textWayOut)
	}
	t := &Set{dir: dir, info: *info}
	if err := t.open(); err != nil {
		t.Close()
		return nil, fmt.Errorf("open %s: %w", dir, disk.Advise(err, textWayOut))
	}
	return t, nil
}

// readText reads text.json in dir. The error for a missing file is fs.ErrNotExist.
func readText(dir string) (*textInfo, error) {
	f, err := os.Open(filepath.Join(dir, textManifest))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTextManifest))
	if err != nil {
		return nil, err
	}
	t, err := parseText(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", textManifest, err)
	}
	return t, nil
}

func (t *Set) open() error {
	for _, f := range t.info.Files {
		st, err := os.Stat(filepath.Join(t.dir, f.File))
		if err != nil {
			return fmt.Errorf("%s: missing%w", f.File, disk.Quiet(err))
		}
		if st.Size() != f.Bytes {
			return fmt.Errorf("%s: %d bytes, %s says %d: cut short or damaged", f.File, st.Size(), textManifest,
				f.Bytes)
		}
	}
	if err := t.openIndex(); err != nil {
		return fmt.Errorf("%s: %w", textIndex, err)
	}
	if err := t.compare(indexFile); err != nil { // small, and all of it was read anyway
		return err
	}
	for k := range t.info.numFiles() {
		if err := t.openStates(k); err != nil {
			return fmt.Errorf("%s: %w", t.info.Files[firstStates+k].File, err)
		}
	}
	return nil
}

func (t *Set) openIndex() error {
	f, err := checkpoint.OpenSafetensors(filepath.Join(t.dir, textIndex))
	if err != nil {
		return checkpoint.WithoutPath(err) // the caller names the file
	}
	defer f.Close()
	offsets, _ := f.Lookup(tensorOffsets)
	rows, _ := f.Lookup(tensorRows)
	if offsets.DType != checkpoint.I64 || !slices.Equal(offsets.Shape, []int64{int64(t.info.Samples) + 1}) ||
		rows.DType != checkpoint.I32 || len(rows.Shape) != 1 {
		return fmt.Errorf("want %s I64 [%d] and %s I32 [n]", tensorOffsets, t.info.Samples+1, tensorRows)
	}
	ob, err := f.Read(tensorOffsets)
	if err != nil {
		return err
	}
	rb, err := f.Read(tensorRows)
	if err != nil {
		return err
	}
	t.offsets = make([]int64, t.info.Samples+1)
	for i := range t.offsets {
		t.offsets[i] = int64(binary.LittleEndian.Uint64(ob[8*i:]))
		if i > 0 && t.offsets[i] <= t.offsets[i-1] || i == 0 && t.offsets[0] != 0 || t.offsets[i] > rows.Shape[0] {
			return fmt.Errorf("%s: %d at %d: want them to ascend from 0 to %d", tensorOffsets, t.offsets[i], i,
				rows.Shape[0])
		}
	}
	if last := t.offsets[t.info.Samples]; last != rows.Shape[0] {
		return fmt.Errorf("%s: they end at %d of %d rows", tensorOffsets, last, rows.Shape[0])
	}
	t.rows = make([]int32, rows.Shape[0])
	for i := range t.rows {
		t.rows[i] = int32(binary.LittleEndian.Uint32(rb[4*i:]))
		if t.rows[i] < 0 || int(t.rows[i]) >= t.info.Rows {
			return fmt.Errorf("%s: %d at %d: want 0 to %d", tensorRows, t.rows[i], i, t.info.Rows-1)
		}
	}
	return nil
}

func (t *Set) openStates(k int) error {
	path := filepath.Join(t.dir, t.info.Files[firstStates+k].File)
	f, err := checkpoint.OpenSafetensors(path)
	if err != nil {
		return checkpoint.WithoutPath(err)
	}
	defer f.Close()
	lo, hi := t.info.rowsOf(k)
	states, lengths, err := findStates(f, t.info.Encoder.Length, t.info.Encoder.Width)
	if err != nil {
		return err
	}
	if states.Shape[0] != int64(hi-lo) || states.DType != checkpoint.F16 {
		return fmt.Errorf("%s %s [%d, ...], want F16 [%d, ...]", tensorStates, states.DType, states.Shape[0], hi-lo)
	}
	ls, err := readLengths(f, t.info.Encoder.Length)
	if err != nil {
		return err
	}
	t.lengths = append(t.lengths, ls...)
	b, err := mmap.Map(path, max(states.Offset+states.Size, lengths.Offset+lengths.Size))
	if err != nil {
		return err
	}
	t.files = append(t.files, b)
	t.states = append(t.states, b[states.Offset:states.Offset+states.Size])
	return nil
}

// findStates finds the tensors of a file of states, of any length and width if those given are 0.
func findStates(f *checkpoint.File, length, width int) (states, lengths checkpoint.Info, err error) {
	states, ok := f.Lookup(tensorStates)
	lengths, ok2 := f.Lookup(tensorLengths)
	fits := func(have int64, want int) bool { return want == 0 || have == int64(want) }
	switch {
	case !ok || !ok2:
		err = fmt.Errorf("want tensors %s [n, L, W] and %s [n]", tensorStates, tensorLengths)
	case len(states.Shape) != 3 || !fits(states.Shape[1], length) || !fits(states.Shape[2], width):
		err = fmt.Errorf("%s %v, want [n, %d, %d]", tensorStates, states.Shape, length, width)
	case lengths.DType != checkpoint.I32 || !slices.Equal(lengths.Shape, states.Shape[:1]):
		err = fmt.Errorf("%s %s %v, want I32 [%d]", tensorLengths, lengths.DType, lengths.Shape, states.Shape[0])
	}
	return states, lengths, err
}

// readLengths reads the numbers of tokens and holds them against the length of the states.
func readLengths(f *checkpoint.File, length int) ([]int32, error) {
	b, err := f.Read(tensorLengths)
	if err != nil {
		return nil, err
	}
	ls := make([]int32, len(b)/4)
	for i := range ls {
		ls[i] = int32(binary.LittleEndian.Uint32(b[4*i:]))
		if ls[i] < 1 || int(ls[i]) > length {
			return nil, fmt.Errorf("%s: %d of row %d: want 1 to %d", tensorLengths, ls[i], i, length)
		}
	}
	return ls, nil
}

// Encoder says what made the states; prompts have to be encoded by the same.
func (t *Set) Encoder() EncoderInfo { return t.info.Encoder }

// Rows returns the number of distinct captions, the empty one included.
func (t *Set) Rows() int { return t.info.Rows }

// Captions returns the rows of the captions of record i, at least one. Not to be modified.
func (t *Set) Captions(i int) []int32 { return t.rows[t.offsets[i]:t.offsets[i+1]] }

// Draw chooses one of the captions of record i, by the random number of tag caption.
func (t *Set) Draw(i int, seed, index uint64) int {
	rows := t.Captions(i)
	if len(rows) == 1 {
		return int(rows[0])
	}
	return int(rows[philox.Intn(len(rows), seed, philox.TagCaption, 0, index)])
}

// Read decodes the states [L, W] of a row into dst and returns its number of tokens, 1 to L.
func (t *Set) Read(row int, dst []float32) (tokens int, err error) {
	return t.row(row, len(dst), func(b []byte) {
		for j := range dst {
			dst[j] = checkpoint.FromFloat16(binary.LittleEndian.Uint16(b[2*j:]))
		}
	})
}

// RowBytes is the size of the stored states of a row.
func (t *Set) RowBytes() int { return 2 * t.info.Encoder.Length * t.info.Encoder.Width }

// ReadStored is Read without the decoding: p, of RowBytes, gets Float16 numbers, little-endian.
func (t *Set) ReadStored(row int, p []byte) (tokens int, err error) {
	return t.row(row, len(p)/2, func(b []byte) { copy(p, b) })
}

// row gives use the stored states of a row, for which there has to be room for so many numbers.
func (t *Set) row(row, room int, use func(b []byte)) (tokens int, err error) {
	n := t.info.Encoder.Length * t.info.Encoder.Width
	if row < 0 || row >= t.info.Rows || room != n {
		return 0, fmt.Errorf("read %s: row %d into %d numbers, want rows 0 to %d and %d numbers", t.dir, row, room,
			t.info.Rows-1, n)
	}
	k := row / t.info.FileRows
	err = mmap.Guard(func() error {
		use(t.states[k][2*n*(row-k*t.info.FileRows):])
		return nil
	})
	if err != nil {
		file := &t.info.Files[firstStates+k]
		err = mmap.Explain(err, filepath.Join(t.dir, file.File), file.Bytes)
		return 0, fmt.Errorf("read %s: %s: %w", t.dir, file.File, err)
	}
	return int(t.lengths[row]), nil
}

// Texts reads the captions of all rows.
func (t *Set) Texts() ([]string, error) {
	if err := t.VerifyFile(captionsFile); err != nil {
		return nil, err
	}
	texts, err := readTexts(filepath.Join(t.dir, textCaptions), t.info.Rows)
	if err != nil {
		return nil, fmt.Errorf("read %s: %s: %w", t.dir, textCaptions, err)
	}
	return texts, nil
}

// CheckEncoder returns an error unless the states were made by the text encoder whose weights have the given SHA-256.
func (t *Set) CheckEncoder(sum string) error {
	if e := t.info.Encoder; sum != e.SHA256 {
		return fmt.Errorf("captions %s: made with text encoder %s (sha256 %.12s...), this one has sha256 %.12s...: "+
			"use the one that made them, or add the captions again with this one",
			t.dir, e.Name, e.SHA256, sum)
	}
	return nil
}

// Verify compares the SHA-256 of each file with text.json. The error names every damaged one.
func (t *Set) Verify(ctx context.Context) error {
	var damaged []error
	for k := range t.info.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := t.VerifyFile(k)
		if disk.OfMachine(err) {
			return err
		}
		damaged = append(damaged, err)
	}
	return errors.Join(damaged...)
}

// NumFiles is the number of files that have checksums.
func (t *Set) NumFiles() int { return len(t.info.Files) }

// VerifyFile compares the k-th file of the list in text.json.
func (t *Set) VerifyFile(k int) error {
	if err := t.compare(k); err != nil {
		return fmt.Errorf("verify %s: %w", t.dir, disk.Advise(err, textWayOut))
	}
	return nil
}

func (t *Set) compare(k int) error {
	f := t.info.Files[k]
	sum, err := disk.SHA256(filepath.Join(t.dir, f.File))
	if err == nil && sum != f.SHA256 {
		err = fmt.Errorf("sha256 %s, %s says %s", sum, textManifest, f.SHA256)
	}
	switch {
	case disk.OfMachine(err):
		return fmt.Errorf("%s: %w", f.File, disk.Bare(err))
	case err != nil:
		return fmt.Errorf("%s: damaged: %w", f.File, err)
	}
	return nil
}

func (t *Set) Close() error {
	var errs []error
	for _, b := range t.files {
		errs = append(errs, mmap.Unmap(b))
	}
	t.files, t.states = nil, nil
	return errors.Join(errs...)
}
