package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ditrun/ditrun/data/archive"
	"github.com/ditrun/ditrun/data/store"
	"github.com/ditrun/ditrun/data/table"
)

// MemberSource is a [Source] whose pictures can have something beside them, such as captions.
type MemberSource interface {
	Source
	// Members calls found with each wanted member beside a picture, and stops at an error of found. [ErrNoMembers] says
	// that there can be none.
	Members(ctx context.Context, want WantedMembers, found func(Member) error) error
}

// WantedMembers selects members.
type WantedMembers struct {
	// Kind selects members of archives by what their names end in, such as txt; MaxBytes is how large they may be.
	Kind     func(kind string) bool
	MaxBytes int64
	// Columns are names of table columns, in order of preference.
	Columns []string
}

// A Member belongs to pictures: a member of an archive that shares their name, or a value in their row of a table.
type Member struct {
	Samples []int  // the ids of the pictures
	Kind    string // what its name ends in, such as txt; "" for the value of a table
	Name    string // in the archive
	Content []byte // valid until found returns
}

// ErrNoMembers is the error of a source whose pictures are files of their own.
var ErrNoMembers = errors.New("no captions: the pictures are single files: pack them as WebDataset or parquet files " +
	"with captions in them, or a file of captions")

// Members is that of [MemberSource].
func (c *catalogue) Members(ctx context.Context, want WantedMembers, found func(Member) error) error {
	if !c.files[0].keep {
		return ErrNoMembers
	}
	byFile := make([][]int, len(c.files)) // samples in the order of their places
	for i, e := range c.entries {
		byFile[e.file] = append(byFile[e.file], i)
	}
	for f := range c.files {
		ids := byFile[f]
		slices.SortFunc(ids, func(i, j int) int { return cmp.Compare(c.entries[i].offset, c.entries[j].offset) })
		if err := c.membersOf(ctx, f, ids, want, found); err != nil {
			return fmt.Errorf("%s: %w", c.files[f].path, err)
		}
	}
	return nil
}

func (c *catalogue) membersOf(ctx context.Context, file int, ids []int, want WantedMembers,
	found func(Member) error) error {
	// an archive that was unpacked into the cache is known by the original's path
	set, err := store.Open(ctx, c.files[file].path)
	if err != nil {
		return err
	}
	kind, err := kindOf(set, 0)
	if err != nil {
		return err
	}
	if kind == "parquet" {
		f, err := set.File(0)
		if err != nil {
			return err
		}
		defer f.Close()
		return table.Texts(ctx, f, set.Objects[0].Size, want.Columns, len(ids), func(row int, text []byte) error {
			return found(Member{Samples: ids[row : row+1], Content: text})
		})
	}
	var f store.File
	if set.Remote && kind == "tar" { // its headers are asked for in blocks, as in openPacked
		if f, err = set.Cached(remoteBlock, remoteCache).File(0); err != nil {
			return err
		}
		defer f.Close()
	} else if f, _, err = c.files[file].reader(); err != nil { // stays open
		return err
	}
	at := make(map[int64]int, len(ids))
	for _, i := range ids {
		at[c.entries[i].offset] = i
	}
	return archive.Members(ctx, f, at, want.Kind, want.MaxBytes, func(m archive.Member) error {
		return found(Member{Samples: m.Pictures, Kind: m.Kind, Name: m.Name, Content: m.Content})
	})
}
