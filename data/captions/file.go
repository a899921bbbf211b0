package captions

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ditrun/ditrun/data/store"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
)

// Names of the columns of tables and the fields of JSON lines, in the order they are looked for.
var (
	fileColumns    = []string{"file", "file_name", "filename", "image", "path", "name"}
	captionColumns = []string{"caption", "captions", "text", "prompt"}
)

// addFile reads a file of captions, whose format is told by content.
func (b *captionBuilder) addFile(ctx context.Context, location string) error {
	set, err := store.Open(ctx, location)
	if err != nil {
		return disk.OpenError(location, err)
	}
	if !set.Single {
		return errors.New("is a folder: " + wantedCaptions)
	}
	f, err := set.File(0)
	if err != nil {
		return disk.OpenError(location, err)
	}
	defer f.Close()
	return b.addText(ctx, io.NewSectionReader(f, 0, set.Objects[0].Size))
}

// addText reads captions in any format.
func (b *captionBuilder) addText(ctx context.Context, r io.Reader) error {
	in := bufio.NewReaderSize(&cancelled{ctx, r}, 1<<16)
	head, err := in.Peek(4096)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	plain, err := disk.PlainText(head)
	if err != nil {
		return err
	}
	in.Discard(len(head) - len(plain))
	head = plain
	text := bytes.TrimSpace(head)
	switch {
	case len(text) == 0:
		return errors.New("no captions in it: the file is empty or begins with blanks alone")
	case bytes.HasPrefix(head, []byte("\x1f\x8b")), bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")),
		bytes.HasPrefix(head, []byte("PK\x03\x04")):
		return errors.New("compressed: unpack it first")
	case text[0] == '{' && isCOCO(text):
		return b.addCOCO(in)
	case text[0] == '{':
		return b.addJSONLines(in)
	case text[0] == '[':
		return errors.New("a JSON array: want one JSON object a line, CSV, TSV or COCO's captions")
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	if tab := bytes.IndexByte(line, '\t'); tab >= 0 && !bytes.ContainsRune(line[:tab], ',') {
		return b.addTSV(in)
	}
	return b.addCSV(in)
}

// cancelled ends reading with its context.
type cancelled struct {
	ctx context.Context
	io.Reader
}

func (c *cancelled) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.Reader.Read(p)
}

// isCOCO says whether a JSON object begins as a file of COCO does. Its first key may be any of these.
func isCOCO(head []byte) bool {
	members := bytes.TrimSpace(head[1:])
	for _, key := range []string{"info", "licenses", "images", "annotations", "type", "categories"} {
		if after, ok := bytes.CutPrefix(members, []byte(`"`+key+`"`)); ok {
			after = bytes.TrimSpace(bytes.TrimPrefix(bytes.TrimSpace(after), []byte(":")))
			return key == "type" || len(after) > 0 && (after[0] == '{' || after[0] == '[')
		}
	}
	return false
}

// lines calls row with each line that is not blank, without its end.
func lines(in io.Reader, row func(line string) error) error {
	for line, err := range disk.Lines(in, maxCaptionRecord) {
		if err != nil {
			return err
		}
		if strings.TrimSpace(line.Text) == "" {
			continue
		}
		if err := row(line.Text); err != nil {
			return fmt.Errorf("line %d: %w", line.Number, err)
		}
	}
	return nil
}

// columns are the places of file name and caption in a table: by the names in the first row, else the first two.
func columns(first []string) (file, caption int, header bool) {
	find := func(names []string) int {
		for _, n := range names {
			if i := slices.IndexFunc(first,
				func(c string) bool { return strings.EqualFold(strings.TrimSpace(c), n) }); i >= 0 {
				return i
			}
		}
		return -1
	}
	file, caption = find(fileColumns), find(captionColumns)
	if file >= 0 && caption >= 0 {
		return file, caption, true
	}
	return 0, 1, false
}

// table takes the rows of a table.
type table struct {
	b             *captionBuilder
	width         int // columns, 0 before the first row
	file, caption int
}

func (t *table) row(cells []string) error {
	if t.width == 0 {
		t.width = len(cells)
		var header bool
		if t.file, t.caption, header = columns(cells); header {
			return nil
		}
		if t.width != 2 {
			return fmt.Errorf("%s: want a file name and a caption, or names of the columns such as "+
				"file_name and caption in the first line", names.Plural(t.width, "column"))
		}
	}
	if len(cells) != t.width {
		return fmt.Errorf("%s, the first line has %d", names.Plural(len(cells), "column"), t.width)
	}
	if strings.TrimSpace(cells[t.file]) == "" {
		return errors.New("no file name")
	}
	return t.b.addNamed(strings.TrimSpace(cells[t.file]), cells[t.caption])
}

// addTSV reads a table with tabs between the columns. There are no quotes in this format.
func (b *captionBuilder) addTSV(in io.Reader) error {
	t := &table{b: b}
	return lines(in, func(line string) error { return t.row(strings.Split(line, "\t")) })
}

// addCSV reads a table as of RFC 4180: a caption with a comma is in quotes, else it counts as two columns.
func (b *captionBuilder) addCSV(in io.Reader) error {
	limit := &recordLimit{r: in}
	r := csv.NewReader(limit)
	r.FieldsPerRecord = -1
	r.ReuseRecord = true
	r.TrimLeadingSpace = true
	t := &table{b: b}
	for {
		limit.begin()
		cells, err := r.Read()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && limit.left == 0: // whatever the parser makes of it
			return fmt.Errorf("the record before byte %d: %w", r.InputOffset(), errRecordLimit)
		case err != nil:
			return err // names the line
		}
		line, _ := r.FieldPos(0)
		if err := t.row(cells); err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
	}
}

var errRecordLimit = fmt.Errorf("longer than %d bytes: is a quote or bracket not closed?", maxCaptionRecord)

// recordLimit bounds what a parser reads for one record, and so its memory.
type recordLimit struct {
	r    io.Reader
	left int
}

func (l *recordLimit) begin() { l.left = maxCaptionRecord }

func (l *recordLimit) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errRecordLimit
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

// addJSONLines reads one object a line, with the name of a file and a caption or a list of them.
func (b *captionBuilder) addJSONLines(in io.Reader) error {
	return lines(in, func(line string) error {
		b.countInvalid([]byte(line))
		var fields map[string]json.RawMessage
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			return err
		}
		var file string
		name, ok := firstField(fields, fileColumns)
		if !ok || json.Unmarshal(fields[name], &file) != nil || file == "" {
			return fmt.Errorf("no file name: want it in one of the fields %s", strings.Join(fileColumns, ", "))
		}
		name, ok = firstField(fields, captionColumns)
		if !ok {
			return fmt.Errorf("no caption: want it in one of the fields %s", strings.Join(captionColumns, ", "))
		}
		texts, err := captionsOf(fields[name])
		if err != nil {
			return fmt.Errorf("field %q: %w", name, err)
		}
		for _, text := range texts {
			if err := b.addNamed(file, text); err != nil {
				return err
			}
		}
		return nil
	})
}

// countInvalid counts text that package json will mend in silence.
func (b *captionBuilder) countInvalid(text []byte) {
	if !utf8.Valid(text) {
		b.stats.Invalid++
	}
}

func firstField(fields map[string]json.RawMessage, names []string) (string, bool) {
	for _, n := range names {
		if _, ok := fields[n]; ok {
			return n, true
		}
	}
	return "", false
}

// captionsOf reads a caption or a list of them.
func captionsOf(value json.RawMessage) ([]string, error) {
	var one string
	if json.Unmarshal(value, &one) == nil {
		return []string{one}, nil
	}
	var list []string
	if err := json.Unmarshal(value, &list); err != nil {
		return nil, errors.New("want a text or a list of texts")
	}
	return list, nil
}
