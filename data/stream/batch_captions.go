package stream

import (
	"fmt"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/tokens"
)

// textFor returns the captions for batches that ask for them, nil for others.
func textFor(l *latents.Set, o *Options) (*tokens.Set, error) {
	if !o.Captions {
		return nil, nil
	}
	t, err := tokens.Of(l)
	if err == nil && t == nil {
		err = fmt.Errorf("latents %s: no captions in this set: add them with encode-latents --captions", l.Dir())
	}
	return t, err
}

// makeTokens gives a batch of n samples room for captions.
func (b *Batch) makeTokens(t *tokens.Set, n int) {
	b.Tokens = make([]byte, n*t.RowBytes())
	b.TokenLengths, b.CaptionRows = make([]int, n), make([]int, n)
}

// addCaption draws a caption of a record by the random number of an index and puts it into a slot.
func (b *Batch) addCaption(t *tokens.Set, slot, record int, seed, index uint64) (err error) {
	n := t.RowBytes()
	row := t.Draw(record, seed, index)
	b.CaptionRows[slot] = row
	b.TokenLengths[slot], err = t.ReadStored(row, b.Tokens[slot*n:(slot+1)*n])
	return err
}
