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
