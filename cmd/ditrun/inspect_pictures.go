package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/picture"
)

// A picturesInspection is what inspect says of a folder or an archive of pictures.
type picturesInspection struct {
	Path     string         `json:"path"`
	Family   string         `json:"family"`
	Pictures int            `json:"pictures"`
	Classes  int            `json:"classes"` // 0 for none
	Least    int            `json:"least_in_a_class"`
	Most     int            `json:"most_in_a_class"`
	Read     int            `json:"headers_read"`
	Formats  map[string]int `json:"formats"`
	Smallest picture.Size   `json:"smallest"`
	Median   picture.Size   `json:"median"`
	Largest  picture.Size   `json:"largest"`
	Size     picture.Size   `json:"image_size"`
	Enlarged int            `json:"enlarged"` // pictures smaller than that
	Oriented int            `json:"with_exif_orientation"`
	Bad      []string       `json:"bad"` // whose headers cannot be read
	Notes    []string       `json:"notes"`
}

// mostHeaders bounds the time that inspect takes, as does mostRemoteHeaders where each header is a request.
const mostHeaders, mostRemoteHeaders = 10000, 200

// inspectPictures opens the pictures at path and reads their headers, or those of a sample of them.
func inspectPictures(e *env, path string, o *inspectOptions) (*picturesInspection, error) {
	src, err := (&pictureOptions{}).open(e, path)
	if err != nil {
		all := &pictureOptions{noClasses: true}
		again, allErr := all.open(e, path)
		if allErr != nil {
			return nil, err
		}
		e.warn("as class folders they are refused: %v", err)
		src = again
	}
	defer src.Close()
	in := &picturesInspection{Path: path, Family: "pictures", Pictures: src.Len(),
		Size: cmp.Or(o.imageSize, picture.Square(256)),
		Bad:  []string{}, Notes: append([]string{}, src.Notes()...)}
	if list := src.Classes(); !classes.None(list) {
		counts := catalog.Counts(src)
		in.Classes, in.Least, in.Most = len(list), slices.Min(counts), slices.Max(counts)
	}
	most := mostHeaders
	if raw, _ := catalog.Raw(src); raw != nil && raw.Remote() {
		most = mostRemoteHeaders
	}
	bar := e.progress("headers", "pictures", int64(min(src.Len(), most)))
	found, err := catalog.TakeSurvey(e.ctx, src, most, func(done, of int) { bar.Set(int64(done)) })
	if err != nil {
		bar.Abort()
		return nil, err
	}
	bar.Finish()
	in.Read, in.Formats, in.Oriented, in.Enlarged = found.Read, found.Formats, found.Oriented, found.Smaller(in.Size)
	if n := len(found.Sizes); n > 0 {
		in.Smallest, in.Median, in.Largest = found.Sizes[0], found.Sizes[n/2], found.Sizes[n-1]
	}
	for _, b := range found.Bad {
		in.Bad = append(in.Bad, fmt.Sprintf("%s: %v", b.Err.Path, b.Err.Err))
	}
	return in, nil
}

// print writes what was found for people.
func (in *picturesInspection) print(e *env, all bool) {
	sorted := "without classes"
	switch {
	case in.Classes == 1:
		sorted = "in 1 class"
	case in.Classes > 1 && in.Least == in.Most:
		sorted = fmt.Sprintf("in %s of %d each", plural(in.Classes, "class"), in.Most)
	case in.Classes > 1:
		sorted = fmt.Sprintf("in %s of %d to %d", plural(in.Classes, "class"), in.Least, in.Most)
	}
	e.row("pictures", "%s: %s %s", in.Path, plural(in.Pictures, "picture"), sorted)
	if in.Read < in.Pictures {
		e.row("sample", "what follows is of %s, spread evenly over them", plural(in.Read, "picture"))
	}
	names := slices.SortedFunc(maps.Keys(in.Formats), func(a, b string) int {
		return cmp.Or(cmp.Compare(in.Formats[b], in.Formats[a]), cmp.Compare(a, b))
	})
	var formats []string
	for _, name := range names {
		formats = append(formats, fmt.Sprintf("%d %s", in.Formats[name], cmp.Or(name, "IDX")))
	}
	if len(formats) > 0 {
		e.row("formats", "%s", strings.Join(formats, ", "))
		e.row("sizes", "smallest %s, median %s, largest %s (width x height)", sides(in.Smallest), sides(in.Median),
			sides(in.Largest))
		e.row("crops", "of %s pixels: %s smaller and would be enlarged", in.Size, count(in.Enlarged, "is", "are"))
	}
	if in.Oriented > 0 {
		e.row("turned", "%s an EXIF orientation: --orientation exif turns them upright",
			count(in.Oriented, "has", "have"))
	}
	const named = 10
	for i, text := range in.Bad {
		if i == named && !all {
			e.row("", "and %d more: --all lists them", len(in.Bad)-i)
			break
		}
		e.row("bad", "%s", text)
	}
}

func sides(s picture.Size) string { return fmt.Sprintf("%dx%d", s.Width, s.Height) }

// count is a number of pictures with its verb.
func count(n int, one, many string) string {
	switch n {
	case 0:
		return "none " + many
	case 1:
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
