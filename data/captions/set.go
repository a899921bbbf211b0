package captions

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/internal/disk"
)

// A Set is the texts that describe the samples of a source; a sample may have none, one or several.
type Set struct {
	// Texts are the distinct captions in byte order. The first is "", that of a sample without any.
	Texts []string
	// Stats counts what was read to make the set.
	Stats Stats

	offsets []int64 // texts of sample i are rows[offsets[i]:offsets[i+1]]
	rows    []int32
}

// Stats count the captions that were read, and what was wrong with them.
type Stats struct {
	Read       int // captions that were read
	Unmatched  int // captions of pictures that the source does not have
	Empty      int // captions of white space alone, which count as none
	Duplicates int // captions that their sample had already
	Invalid    int // captions with bytes that are not UTF-8, replaced by U+FFFD
	Cut        int // captions cut to MaxLength bytes
	Without    int // samples without a caption

	FirstUnmatched string // where Unmatched is not 0, the file name of the first
}

// Len is the number of samples.
func (c *Set) Len() int { return len(c.offsets) - 1 }

// Of returns the indices into Texts of the captions of sample i, none if it has none. Not to be modified.
func (c *Set) Of(i int) []int32 { return c.rows[c.offsets[i]:c.offsets[i+1]] }

// MaxLength is the number of bytes that a longer caption is cut to: no text encoder reads as much.
const MaxLength = 4096

const (
	maxCaptionRecord = 16 << 20 // bytes of one line or object of a file of captions
	maxCaptionText   = 1 << 31  // bytes of all distinct captions
	MaxRows          = 1<<31 - 1
)

// labelled is what captions are found for: a source, or the records of a set of latents.
type labelled interface {
	Len() int
	Classes() []string
	Sample(i int) catalog.Sample
}

const wantedCaptions = "want class:TEMPLATE, class:@FILE, data, data:FIELD or the path of a file of captions"

// Read finds captions for the samples of src. Each of specs adds to them:
//
//   - class:TEMPLATE makes one from the class name, which takes the place of {} in the template;
//   - class:@FILE does so by each line of a file;
//   - data takes them from the source itself: the member .txt beside a picture of a WebDataset archive, or caption or
//     text of its member .json; the column text, caption or captions of a parquet file. data:FIELD names another
//     member, JSON field or column;
//   - anything else is the path of a file: CSV or TSV with a file name and a caption a line, JSON lines, or the
//     captions of COCO. Pictures are known by their file names, see [catalog.Source].
func Read(ctx context.Context, specs []string, src catalog.Source) (*Set, error) {
	return readCaptions(ctx, specs, src, src)
}

// OfClasses is [Read] for samples of which no more than the class is known: all specs are of the kind
// class. The labels are indexed by id, -1 for samples that are not there.
func OfClasses(specs, classes []string, labels []int32) (*Set, error) {
	return readCaptions(context.Background(), specs, &classSamples{classes, labels}, nil)
}

// classSamples are samples of which the label is known; -1 for those that are not there.
type classSamples struct {
	classes []string
	labels  []int32
}

func (s *classSamples) Len() int                    { return len(s.labels) }
func (s *classSamples) Classes() []string           { return s.classes }
func (s *classSamples) Sample(i int) catalog.Sample { return catalog.Sample{Label: int(s.labels[i])} }

func readCaptions(ctx context.Context, specs []string, samples labelled, src catalog.Source) (*Set, error) {
	if len(specs) == 0 {
		return nil, errors.New("captions: nothing to read: " + wantedCaptions)
	}
	b := newCaptionBuilder(samples)
	for _, spec := range specs {
		template, class := strings.CutPrefix(spec, "class:")
		source, field, _ := strings.Cut(spec, ":")
		var err error
		switch {
		case class:
			err = b.addClasses(template)
		case src == nil:
			err = errors.New("the latents do not hold the names of their pictures: give the pictures too (--data)")
		case source == "data":
			err = b.addMembers(ctx, src, field)
		default:
			err = b.addFile(ctx, spec)
		}
		if err != nil {
			return nil, fmt.Errorf("captions %s: %w", spec, err)
		}
	}
	c, err := b.finish()
	if err != nil {
		return nil, fmt.Errorf("captions: %w", err)
	}
	return c, nil
}

// captionBuilder collects captions in any order.
type captionBuilder struct {
	samples labelled
	names   *nameIndex // made when the first file name is looked up
	number  map[string]int32
	texts   []string
	bytes   int
	pairs   []captionPair
	stats   Stats
}

type captionPair struct {
	sample int
	text   int32
}

func newCaptionBuilder(samples labelled) *captionBuilder {
	return &captionBuilder{samples: samples, number: map[string]int32{"": 0}, texts: []string{""}}
}

// intern returns the number of a caption, cleaned: 0 where nothing is left of it. White space around it and a byte
// order mark before it, which a text file in an archive may have, are dropped. Line ends within it become blanks, so
// that lists of captions have one a line; all else stays as it is, control characters included. The text may belong
// to a larger buffer.
func (b *captionBuilder) intern(text string) (int32, error) {
	b.stats.Read++
	if text = strings.TrimSpace(strings.TrimPrefix(text, "\ufeff")); len(text) > MaxLength {
		b.stats.Cut++
		end := MaxLength
		for end > MaxLength-utf8.UTFMax && !utf8.RuneStart(text[end]) {
			end--
		}
		text = strings.TrimSpace(text[:end])
	}
	if !utf8.ValidString(text) {
		b.stats.Invalid++
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	if strings.ContainsAny(text, "\r\n") {
		text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\r' || r == '\n' }), " ")
	}
	n, ok := b.number[text]
	if !ok {
		if b.bytes += len(text); b.bytes > maxCaptionText {
			return 0, fmt.Errorf("more than %d bytes of captions", maxCaptionText)
		}
		n = int32(len(b.texts))
		text = strings.Clone(text)
		b.number[text] = n
		b.texts = append(b.texts, text)
	}
	if n == 0 {
		b.stats.Empty++
	}
	return n, nil
}

// add gives sample i a caption.
func (b *captionBuilder) add(i int, text string) error {
	n, err := b.intern(text)
	if err != nil {
		return err
	}
	return b.pair(i, n)
}

func (b *captionBuilder) pair(i int, text int32) error {
	if text == 0 {
		return nil
	}
	if len(b.pairs) == MaxRows {
		return fmt.Errorf("more than %d captions", MaxRows)
	}
	b.pairs = append(b.pairs, captionPair{i, text})
	return nil
}

// finish numbers the captions that samples have by their byte order, so that they do not depend on the order in which
// they were read.
func (b *captionBuilder) finish() (*Set, error) {
	used := make([]bool, len(b.texts))
	used[0] = true
	for _, p := range b.pairs {
		used[p.text] = true
	}
	c := &Set{Stats: b.stats, offsets: make([]int64, b.samples.Len()+1)}
	for i, t := range b.texts {
		if used[i] {
			c.Texts = append(c.Texts, t)
		}
	}
	slices.Sort(c.Texts)
	number := make([]int32, len(b.texts))
	for i, t := range b.texts {
		at, _ := slices.BinarySearch(c.Texts, t)
		number[i] = int32(at)
	}
	for i := range b.pairs {
		b.pairs[i].text = number[b.pairs[i].text]
	}
	slices.SortFunc(b.pairs, func(p, q captionPair) int {
		return cmp.Or(cmp.Compare(p.sample, q.sample), cmp.Compare(p.text, q.text))
	})
	distinct := slices.Compact(b.pairs)
	c.Stats.Duplicates = len(b.pairs) - len(distinct)
	next := 0
	for i := range b.samples.Len() {
		for ; next < len(distinct) && distinct[next].sample == i; next++ {
			c.rows = append(c.rows, distinct[next].text)
		}
		if c.offsets[i+1] = int64(next); c.offsets[i] == int64(next) && b.samples.Sample(i).Label >= 0 {
			c.Stats.Without++
		}
	}
	if len(c.rows) == 0 {
		err := fmt.Errorf("no picture has one: of %d that were read %d are empty", c.Stats.Read, c.Stats.Empty)
		if c.Stats.Unmatched > 0 {
			s := b.samples.Sample(0)
			err = fmt.Errorf("%w, %d are for other pictures, the first of them for %q; the first picture here is %q "+
				"of class %q",
				err, c.Stats.Unmatched, c.Stats.FirstUnmatched, s.Name, b.samples.Classes()[s.Label])
		}
		return nil, err
	}
	return c, nil
}

// maxTemplates bounds the captions that a sample can get from its class.
const maxTemplates = 1 << 12

// addClasses captions all samples by their class.
func (b *captionBuilder) addClasses(template string) error {
	templates := []string{template}
	if file, ok := strings.CutPrefix(template, "@"); ok {
		info, err := os.Stat(file)
		if err != nil {
			return disk.OpenError(file, err)
		}
		if !info.Mode().IsRegular() || info.Size() > maxTemplates*MaxLength {
			return fmt.Errorf("want a text file of at most %d bytes", maxTemplates*MaxLength)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return disk.OpenError(file, err)
		}
		templates = nil
		for line, err := range disk.Lines(bytes.NewReader(text), len(text)) {
			if err != nil {
				return disk.OpenError(file, err)
			}
			if t := strings.TrimSpace(line.Text); t != "" {
				templates = append(templates, t)
			}
		}
		if len(templates) == 0 || len(templates) > maxTemplates {
			return fmt.Errorf("%d templates: want 1 to %d, one a line", len(templates), maxTemplates)
		}
	}
	for i, t := range templates {
		if !strings.Contains(t, "{}") {
			return fmt.Errorf("template %d, %.100q: want {} in the place of the class name", i+1, t)
		}
	}
	list := b.samples.Classes()
	if classes.None(list) {
		return errors.New("the pictures have no classes to make captions of")
	}
	texts := make([][]int32, len(list)) // by label, made when the class is met
	for i := range b.samples.Len() {
		label := b.samples.Sample(i).Label
		if label < 0 {
			continue
		}
		if texts[label] == nil {
			words := classes.Short(list[label])
			for _, t := range templates {
				n, err := b.intern(strings.ReplaceAll(t, "{}", words))
				if err != nil {
					return err
				}
				texts[label] = append(texts[label], n)
			}
		}
		for _, n := range texts[label] {
			if err := b.pair(i, n); err != nil {
				return err
			}
		}
	}
	return nil
}
