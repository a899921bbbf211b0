package dit

// NumParams returns the number of elements of all parameters, the fixed positions included.
func (c Config) NumParams() float64 {
	count := func(ps []param) (n float64) {
		for _, p := range ps {
			of := 1.0
			for _, d := range p.shape {
				of *= float64(d)
			}
			n += of
		}
		return n
	}
	return count(c.layoutBefore()) + float64(c.Depth)*count(c.layoutOfBlock("")) + count(c.layoutAfter())
}

// MACs returns the multiply-accumulates of one forward pass of one sample, which the paper's tables
// call Gflops, with TextLength tokens of text. Hardware floating-point operations are twice as many.
func (c Config) MACs() float64 {
	t, d := float64(c.NumTokens()), float64(c.HiddenSize)
	patch, text := float64(c.PatchSize*c.PatchSize), float64(c.TextLength)
	seq := t               // tokens that go through a block
	context := c.context() // tokens that they look at beside themselves
	if c.Block == InContext {
		seq, context = t+context, 0
	}
	block := seq*(4*d*d+2*d*float64(c.mlpHidden())) + 2*seq*seq*d
	if context > 0 {
		block += 2*seq*d*d + 2*context*d*d + 2*seq*context*d
	}
	ends := t*float64(c.InChannels)*patch*d + frequencyEmbeddingSize*d + d*d + t*d*patch*float64(c.OutChannels())
	if c.HasText() {
		ends += text * (float64(c.TextWidth)*d + d*d)
	}
	switch c.Block {
	case AdaLNZero:
		block, ends = block+6*d*d, ends+2*d*d
	case AdaLN:
		block, ends = block+4*d*d, ends+2*d*d
	}
	return float64(c.Depth)*block + ends
}

// context is the number S of tokens of the conditioning.
func (c Config) context() float64 {
	n := float64(c.TextLength)
	if !c.adaptive() {
		if n++; c.HasClass() {
			n++
		}
	}
	return n
}

// ActivationBytes returns the memory that a training step holds between the forward and the backward pass for
// one sample, its tokens being of bytesEach bytes a number: what the layers keep for their gradients. Kernels
// of attention keep no T x T matrix. The tensors of [N, D] are left out. On a CPU it is within a tenth of what a
// process grows by (docs/blocks.md).
func (c Config) ActivationBytes(bytesEach int) float64 {
	t, d, hidden, context := float64(c.NumTokens()), float64(c.HiddenSize), float64(c.mlpHidden()), c.context()
	seq := t
	if c.Block == InContext {
		seq += context
	}
	// Both norms keep their input, both first layers theirs, attention q, k, v and its output, the MLP both sides of GELU.
	block := 8*seq*d + 2*seq*hidden
	switch {
	case c.Block == AdaLNZero:
		block += 2 * t * d // what the gates multiply
	case c.Block == CrossAttention:
		block += t * d // the output of the norm before cross-attention
	}
	if c.Block == CrossAttention || c.adaptive() && c.HasText() {
		block += 3*t*d + 2*context*d // its input, q, its output; k and v
	}
	ends := t*float64(c.InChannels*c.PatchSize*c.PatchSize) + 2*t*d
	if c.HasText() {
		ends += float64(c.TextLength) * (float64(c.TextWidth) + 3*d)
	}
	return float64(bytesEach) * (float64(c.Depth)*block + ends)
}

// StateBytes returns the memory that training holds throughout: weights, their gradients, AdamW's two moments
// and the average of the weights, all Float32.
func (c Config) StateBytes() float64 { return 5 * 4 * c.NumParams() }
