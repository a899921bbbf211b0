package scaling

// A PaperModel is a model of the DiT paper (Peebles and Xie, "Scalable Diffusion Models with Transformers",
// arXiv:2212.09748): its size from table 1, the rest from table 4.
type PaperModel struct {
	Name                        string
	Depth, HiddenSize, NumHeads int
	PatchSize                   int
	Gflops                      float64 // 10^9 multiply-accumulates of a forward pass at 256 pixels
	MillionParams               float64
	FID                         float64 // of 50,000 pictures without guidance, after PaperSteps of PaperBatch
}

// The training behind the FIDs of [Paper].
const (
	PaperSteps = 400_000
	PaperBatch = 256
)

// Paper returns the paper's twelve models, trained on ImageNet at 256 pixels and sampled in 250 steps.
func Paper() []PaperModel {
	return []PaperModel{
		{"DiT-S/8", 12, 384, 6, 8, 0.36, 33, 153.60},
		{"DiT-S/4", 12, 384, 6, 4, 1.41, 33, 100.41},
		{"DiT-S/2", 12, 384, 6, 2, 6.06, 33, 68.40},
		{"DiT-B/8", 12, 768, 12, 8, 1.42, 131, 122.74},
		{"DiT-B/4", 12, 768, 12, 4, 5.56, 130, 68.38},
		{"DiT-B/2", 12, 768, 12, 2, 23.01, 130, 43.47},
		{"DiT-L/8", 24, 1024, 16, 8, 5.01, 459, 118.87},
		{"DiT-L/4", 24, 1024, 16, 4, 19.70, 458, 45.64},
		{"DiT-L/2", 24, 1024, 16, 2, 80.71, 458, 23.33},
		{"DiT-XL/8", 28, 1152, 16, 8, 7.39, 676, 106.41},
		{"DiT-XL/4", 28, 1152, 16, 4, 29.05, 675, 43.01},
		{"DiT-XL/2", 28, 1152, 16, 2, 118.64, 675, 19.47},
	}
}
