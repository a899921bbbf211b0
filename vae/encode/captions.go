package encode

import (
	"context"
	"fmt"

	"github.com/ditrun/ditrun/data/captions"
	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/latents"
)

// Captions reads the captions of the pictures that a finished set of latents was made from, as tokens.Write takes
// them. src has these pictures; without it, which is nil, the specs are of the kind class. See [captions.Read].
func Captions(ctx context.Context, set *latents.Set, specs []string, src catalog.Source) (*captions.Set, error) {
	if src == nil {
		return captions.OfClasses(specs, set.Classes(), set.LabelsByID())
	}
	if made := set.Manifest().Dataset.Hash; src.Hash() != made {
		return nil, &OtherPicturesError{set.Dir(), src.Hash(), made}
	}
	return captions.Read(ctx, specs, src)
}

// An OtherPicturesError says that pictures are not those that latents were made from.
type OtherPicturesError struct {
	Latents          string // the folder
	Pictures, Wanted string // hashes of the data sets
}

func (e *OtherPicturesError) Error() string {
	return fmt.Sprintf("not the pictures that the latents in %s were made from (data set %.12s..., they are of "+
		"%.12s...)", e.Latents, e.Pictures, e.Wanted)
}
