package nn

// A Cost is what one forward pass takes, in numbers, not in bytes.
type Cost struct {
	// MACs are multiply-accumulates of matrix products. Hardware floating-point operations are twice as many.
	MACs float64
	// Saved counts the elements that are kept for the gradients until the backward pass, and Float32 those of them that
	// are Float32 in every precision: what norms take.
	Saved, Float32 float64
}

// Costs returns the sum of parts.
func Costs(parts ...Cost) (sum Cost) {
	for _, p := range parts {
		sum.MACs += p.MACs
		sum.Saved += p.Saved
		sum.Float32 += p.Float32
	}
	return sum
}

// Cost returns the cost of rows inputs, which are kept for the gradient of the weight.
func (l *Linear) Cost(rows float64) Cost {
	out, in := float64(l.Weight.Dim(0)), float64(l.Weight.Dim(1))
	return Cost{MACs: rows * in * out, Saved: rows * in}
}

// Cost returns the cost of so many positions of the output, each computed from a patch of its own, as where the stride
// is the kernel size: the patches are kept for the gradient of the weight.
func (c *Conv2d) Cost(outputs float64) Cost {
	patch := float64(c.Weight.NumElements() / c.Weight.Dim(0))
	return Cost{MACs: outputs * patch * float64(c.Weight.Dim(0)), Saved: outputs * patch}
}

// Cost returns the cost of rows inputs, which are kept.
func (l *LayerNorm) Cost(rows float64) Cost { return normCost(rows, float64(l.Weight.Dim(0))) }

// Cost returns the cost of rows inputs of dim numbers, which are kept.
func (n AdaLayerNorm) Cost(rows, dim float64) Cost { return normCost(rows, dim) }

func normCost(rows, dim float64) Cost { return Cost{Saved: rows * dim, Float32: rows * dim} }

// AttentionCost returns the cost of scaled dot-product attention of queries over keys, each of dim numbers in all
// heads: queries, keys and values are kept. Attention kernels keep no matrix of queries by keys, and the layer that
// takes the output keeps that.
func AttentionCost(queries, keys, dim float64) Cost {
	return Cost{MACs: 2 * queries * keys * dim, Saved: (queries + 2*keys) * dim}
}
