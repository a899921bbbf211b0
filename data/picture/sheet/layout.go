package sheet

import (
	"fmt"
	"image"

	"github.com/ditrun/ditrun/internal/names"
)

// MaxSide is the most pixels that a side of a sheet has: what every program opens, and a person can look through.
const MaxSide = 4096

// A TooManyError says that a sheet cannot hold so many images.
type TooManyError struct {
	N, Most int         // images, and how many a sheet holds
	Size    image.Point // of an image
}

func (e *TooManyError) Error() string {
	return fmt.Sprintf("%s of %dx%d: a sheet, of at most %d pixels a side, holds %d", names.Plural(e.N, "picture"),
		e.Size.X, e.Size.Y, MaxSide, e.Most)
}

// Check returns a [*TooManyError] where [Draw] of n images of a size would return it.
func Check(size image.Point, n int, o Options) error {
	_, err := newLayout(size, n, o)
	return err
}

// Most is how many images of a size fit into a row and a column of a sheet with a title, whatever their labels are and
// wherever these stand.
func Most(size image.Point) (columns, rows int) {
	l, err := startLayout(size, GoFonts())
	if err != nil {
		return 1, 1
	}
	l.pitch.Y += (labelLines+1)*l.text.line + gap // and a note
	room := l.room(true)
	room.X -= maxBeside + 2*gap
	return max(1, room.X/l.pitch.X), max(1, room.Y/l.pitch.Y)
}

// A layout says where everything is on a sheet.
type layout struct {
	*typesetter
	columns       int
	size          image.Point // of the sheet
	cell          image.Point // size of an image on it
	origin, pitch image.Point // of the first cell, from cell to cell
	place         labelPlace
	labels        [][]textLine // by image; nil where an image has none of its own
	title         []textLine
}

func startLayout(size image.Point, fonts *Fonts) (*layout, error) {
	t, err := newTypesetter(fonts)
	if err != nil {
		return nil, err
	}
	l := &layout{typesetter: t, cell: cellOf(size), origin: image.Pt(margin, margin)}
	l.pitch = l.cell.Add(image.Pt(gap, gap))
	return l, nil
}

// room is what cells, each with the gap behind it, may take.
func (l *layout) room(titled bool) image.Point {
	room := image.Pt(MaxSide, MaxSide).Sub(image.Pt(2*margin-gap, 2*margin-gap))
	if titled {
		room.Y -= titleLines*l.heading.line + titleGap
	}
	return room
}

func newLayout(size image.Point, n int, o Options) (*layout, error) {
	l, err := startLayout(size, o.Fonts)
	if err != nil {
		return nil, err
	}
	title := Label{Text: o.Title}
	switch {
	case len(o.Labels) != n || !anyWords(o.Labels):
		o.Labels = nil
	case title == (Label{}) && n > 1 && allSame(o.Labels):
		title, o.Labels = o.Labels[0], nil
	}
	room := l.room(title != (Label{}))
	tooMany := func(pitch image.Point) error {
		columns := (room.X + margin - l.origin.X) / pitch.X // beside labels
		if o.Columns > 0 {
			columns = min(columns, o.Columns)
		}
		return &TooManyError{n, max(1, columns*(room.Y/pitch.Y)), size}
	}
	if n > max(1, (room.X/l.pitch.X)*(room.Y/l.pitch.Y)) { // first, since to write millions of labels takes a while
		pitch := l.pitch
		if len(o.Labels) > 0 {
			pitch.Y += l.text.line + gap
		}
		return nil, tooMany(pitch)
	}
	l.chooseShape(n, o, room)
	rows := (n + l.columns - 1) / l.columns
	width := l.origin.X + l.columns*l.pitch.X - gap + margin
	if title != (Label{}) {
		l.title = l.write(title, l.heading, max(minTitle, width)-2*margin, titleLines)
		l.origin.Y += len(l.title)*l.heading.line + titleGap
	}
	l.size = image.Pt(width, l.origin.Y+rows*l.pitch.Y-gap+margin)
	for _, line := range l.title { // one wider than a sheet of one or two images widens the sheet
		l.size.X = max(l.size.X, line.width+2*margin)
	}
	if n > 1 && max(l.size.X, l.size.Y) > MaxSide {
		return nil, tooMany(l.pitch)
	}
	return l, nil
}

// cellOf is the size that images of a size are shown in.
func cellOf(size image.Point) image.Point {
	side := max(1, min(size.X, size.Y))
	return size.Mul(max(1, (minCell+side-1)/side))
}

// chooseShape chooses the columns, and where labels stand, and makes room for these.
func (l *layout) chooseShape(n int, o Options, room image.Point) {
	l.labels = make([][]textLine, n)
	run := runLength(o.Labels)
	rows := (n + run - 1) / run
	width, height := run*l.pitch.X, rows*l.pitch.Y
	switch {
	case o.Columns > 0:
		l.columns = min(o.Columns, n)
	case run > 1 && nearSquare(float64(width)/float64(height)) && width+maxBeside+2*gap <= room.X && height <= room.Y:
		l.columns = run
	}
	if l.columns > 0 {
		l.place = placeLabels(o.Labels, l.columns)
		l.writeLabels(o.Labels)
		return
	}
	if len(o.Labels) > 0 {
		l.place = underEach
		l.writeLabels(o.Labels)
	}
	l.columns = columnsOf(n, run, l.pitch, room)
	if l.columns == 0 { // of which the caller finds that it is too large
		l.columns = max(1, room.X/l.pitch.X)
	}
}

// writeLabels makes the lines of the labels, and room for them.
func (l *layout) writeLabels(labels []Label) {
	most, width := 0, 0
	for i, label := range labels {
		switch {
		case l.place == leftOfRows && i%l.columns == 0:
			l.labels[i] = l.write(label, l.text, maxBeside, max(1, l.cell.Y/l.text.line))
		case l.place == underEach, l.place == aboveColumns && i < l.columns:
			l.labels[i] = l.write(label, l.text, l.cell.X, labelLines)
		}
		most = max(most, len(l.labels[i]))
		for _, line := range l.labels[i] {
			width = max(width, line.width)
		}
	}
	switch l.place {
	case aboveColumns:
		l.origin.Y += most*l.text.line + gap
	case leftOfRows:
		l.origin.X += width + 2*gap
	case underEach:
		l.pitch.Y += most*l.text.line + gap
	}
}

// write makes the lines of a label.
func (l *layout) write(label Label, s style, width, n int) []textLine {
	lines, ok := l.lines(label.Text, s, width, n)
	if !ok {
		lines, _ = l.lines(label.Else, s, width, n)
	}
	if label.Note != "" {
		note, _ := l.lines(label.Note, s, width, 1)
		lines = append(lines, note...)
	}
	return lines
}

// cellAt is where image i stands.
func (l *layout) cellAt(i int) image.Point {
	return l.origin.Add(image.Pt(i%l.columns*l.pitch.X, i/l.columns*l.pitch.Y))
}

type labelPlace int

const (
	nowhere labelPlace = iota
	aboveColumns
	leftOfRows
	underEach
)

// placeLabels finds where labels need to stand.
func placeLabels(labels []Label, columns int) labelPlace {
	if len(labels) == 0 {
		return nowhere
	}
	byColumn, byRow := len(labels) > columns, columns > 1
	for i, l := range labels {
		byColumn = byColumn && l == labels[i%columns]
		byRow = byRow && l == labels[i-i%columns]
	}
	switch {
	case byColumn:
		return aboveColumns
	case byRow:
		return leftOfRows
	}
	return underEach
}

func anyWords(labels []Label) bool {
	for _, l := range labels {
		if l.Text != "" || l.Note != "" {
			return true
		}
	}
	return false
}

func allSame(labels []Label) bool {
	for _, l := range labels {
		if l != labels[0] {
			return false
		}
	}
	return len(labels) > 0
}
