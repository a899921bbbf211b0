package catalog

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/ditrun/ditrun/data/picture"
)

// Bad is a sample whose picture cannot be decoded, and why.
type Bad struct {
	ID  int
	Err *BadPicture
}

// A BadPicturesError says that pictures cannot be decoded. Its text names the first of them, as there may be a million.
type BadPicturesError struct {
	Bad []Bad
	Of  int // how many pictures there are, good and bad
}

// MaxListed is how many bad pictures an error names.
const MaxListed = 20

func (e *BadPicturesError) Error() string {
	n := len(e.Bad)
	var b strings.Builder
	switch {
	case n == 1 && e.Of == 1:
		return fmt.Sprintf("the only picture cannot be decoded: %s", e.Bad[0].line())
	case n == 1:
		return fmt.Sprintf("a picture cannot be decoded: %s", e.Bad[0].line())
	case n == e.Of:
		fmt.Fprintf(&b, "none of the %d pictures can be decoded:", n)
	default:
		fmt.Fprintf(&b, "pictures that cannot be decoded: %d", n)
	}
	for _, bad := range e.Bad[:min(n, MaxListed)] {
		fmt.Fprintf(&b, "\n  %s", bad.line())
	}
	if n > MaxListed {
		fmt.Fprintf(&b, "\n  and %d more", n-MaxListed)
	}
	return b.String()
}

// line says where one bad picture is and what is wrong with it.
func (b Bad) line() string { return fmt.Sprintf("%s: %v", b.Err.Path, b.Err.Err) }

// List names all bad pictures, one a line.
func (e *BadPicturesError) List() string {
	var b strings.Builder
	for _, bad := range e.Bad {
		fmt.Fprintln(&b, bad.line())
	}
	return b.String()
}

// None says whether no picture is good.
func (e *BadPicturesError) None() bool { return len(e.Bad) == e.Of }

// Without returns src without the samples of the given ids: the others move up, in the same order. Its hash depends on
// what is missing. Closing it closes src.
func Without(src Source, ids []int) Source {
	if len(ids) == 0 {
		return src
	}
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	sum := sha256.Sum256(fmt.Appendf(nil, "%s without %v", src.Hash(), ids))
	return &remainder{src, ids, hex.EncodeToString(sum[:])}
}

// Missing returns how many samples src lacks, see [Without].
func Missing(src Source) int {
	if r, ok := src.(*remainder); ok {
		return len(r.missing) + Missing(r.Source)
	}
	return 0
}

type remainder struct {
	Source
	missing []int // ids in Source, ascending
	hash    string
}

// id returns the id in the whole source of sample i.
func (r *remainder) id(i int) int {
	// missing[k]-k samples are there before the k-th that is missing.
	return i + sort.Search(len(r.missing), func(k int) bool { return r.missing[k]-k > i })
}

func (r *remainder) Len() int                            { return r.Source.Len() - len(r.missing) }
func (r *remainder) Sample(i int) Sample                 { return r.Source.Sample(r.id(i)) }
func (r *remainder) Image(i int) (*picture.Image, error) { return r.Source.Image(r.id(i)) }
func (r *remainder) Hash() string                        { return r.hash }

// Emptied returns the labels that lose all their samples where those of the given ids are left out of src.
func Emptied(src Source, ids []int) []int {
	left := map[int]int{} // by label that loses a sample
	for _, i := range ids {
		left[src.Sample(i).Label]--
	}
	if len(left) == 0 {
		return nil
	}
	for i := range src.Len() {
		label := src.Sample(i).Label
		if _, ok := left[label]; ok {
			left[label]++
		}
	}
	var labels []int
	for label, n := range left {
		if n == 0 {
			labels = append(labels, label)
		}
	}
	slices.SortFunc(labels, cmp.Compare[int])
	return labels
}
