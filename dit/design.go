package dit

import (
	"fmt"
	"slices"

	"github.com/ditrun/ditrun/torch"
)

// A Design is a kind of block.
type Design struct {
	Kind BlockKind
	// New makes a block of zeros, its norms the identity.
	New func(s *torch.Scope, cfg Config) Layer
	// Adaptive blocks take the sum of timestep and class as [Conditioning.Vector], and are followed by a
	// FinalLayer. The others take both as tokens, and are followed by a PlainFinalLayer.
	Adaptive bool
	// InSequence blocks find the tokens of the conditioning behind those of the image.
	InSequence bool
}

// blocks are the paper's designs, in its order.
var blocks = []Design{
	{Kind: InContext, New: newInContextBlock, InSequence: true},
	{Kind: CrossAttention, New: newCrossAttentionBlock},
	{Kind: AdaLN, New: newAdaLNBlock, Adaptive: true},
	{Kind: AdaLNZero, New: newBlock, Adaptive: true},
}

// BlockKinds lists the kinds in the order of the paper.
func BlockKinds() (kinds []BlockKind) {
	for _, d := range blocks {
		kinds = append(kinds, d.Kind)
	}
	return kinds
}

// design finds the design of the blocks of c, among those of the paper and more.
func (c Config) design(more ...Design) (Design, error) {
	for _, d := range slices.Concat(more, blocks) {
		if d.Kind == c.Block {
			return d, nil
		}
	}
	return Design{}, fmt.Errorf("block %q: not a kind of block", string(c.Block))
}
