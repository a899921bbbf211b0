package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/tokens"
)

// A latentsInspection is what inspect says of a folder of latents.
type latentsInspection struct {
	Path          string              `json:"path"`
	Family        string              `json:"family"`
	Samples       int                 `json:"samples"`
	Skipped       int                 `json:"skipped"`
	Classes       int                 `json:"classes"` // 0 for none
	Shape         []int               `json:"shape"`   // channels, height, width
	DType         string              `json:"dtype"`
	Flip          bool                `json:"flip"`
	Captions      bool                `json:"captions"`
	ImageSize     picture.Size        `json:"image_size"`
	Orientation   picture.Orientation `json:"orientation"`
	VAE           string              `json:"vae"`
	VAESHA256     string              `json:"vae_sha256"`
	ScalingFactor float64             `json:"scaling_factor"`
	Mean          []float64           `json:"mean"`
	Std           []float64           `json:"std"`
	ScaledStd     float64             `json:"scaled_std"` // of all channels together
	Shards        int                 `json:"shards"`
	Bytes         int64               `json:"bytes"`
}

// inspectLatents reads the manifest of a set of latents, not the latents.
func inspectLatents(path string, m *latents.Manifest) *latentsInspection {
	in := &latentsInspection{Path: path, Family: "latents", Samples: m.Dataset.Samples - len(m.Skipped),
		Skipped: len(m.Skipped), Classes: len(m.Dataset.Classes), Shape: []int{m.Channels, m.Height, m.Width},
		DType: string(m.DType), Flip: m.Flip, ImageSize: m.ImageSize, Orientation: m.Orientation,
		VAE: m.VAE.Name, VAESHA256: m.VAE.SHA256, ScalingFactor: m.VAE.ScalingFactor, Mean: m.Mean, Std: m.Std,
		Shards: len(m.Shards)}
	if classes.None(m.Dataset.Classes) {
		in.Classes = 0
	}
	if in.Orientation == "" {
		in.Orientation = picture.AsStored
	}
	in.ScaledStd = m.VAE.ScalingFactor * overallStd(m.Mean, m.Std)
	in.Captions = exists(filepath.Join(path, tokens.FolderName))
	files, _ := os.ReadDir(path) // with the captions that may lie beside the shards
	for _, f := range files {
		if info, err := f.Info(); err == nil && info.Mode().IsRegular() {
			in.Bytes += info.Size()
		}
	}
	return in
}

// overallStd is the standard deviation of all numbers of channels of equal size with these means and deviations.
func overallStd(mean, std []float64) float64 {
	n, sum, squares := float64(len(mean)), 0.0, 0.0
	for c := range mean {
		sum += mean[c]
		squares += std[c]*std[c] + mean[c]*mean[c]
	}
	return math.Sqrt(max(0, squares/n-(sum/n)*(sum/n)))
}

// print writes what was found for people.
func (in *latentsInspection) print(e *env) {
	e.row("folder", "%s: latents, %s, %s", in.Path, plural(in.Shards, "shard"), format.Bytes(in.Bytes))
	sorted := "without classes"
	if in.Classes > 0 {
		sorted = "in " + plural(in.Classes, "class")
	}
	left := ""
	if in.Skipped > 0 {
		left = fmt.Sprintf(", %s left out", plural(in.Skipped, "bad picture"))
	}
	e.row("data", "%s %s%s", plural(in.Samples, "picture"), sorted, left)
	turned := "as stored"
	if in.Orientation == picture.ByEXIF {
		turned = "turned upright by EXIF"
	}
	views := "one view"
	if in.Flip {
		views = "plain and mirrored views"
	}
	e.row("shape", "%dx%dx%d %s of %s-pixel pictures, %s", in.Shape[0], in.Shape[1], in.Shape[2], in.DType,
		in.ImageSize, turned)
	e.row("views", "%s", views)
	if in.Captions {
		e.row("captions", "in %s", filepath.Join(in.Path, tokens.FolderName))
	}
	e.row("vae", "%s, sha256 %.12s...", in.VAE, in.VAESHA256)
	e.row("scaling", "factor %.5g, standard deviation after it %.2f (want about 1)", in.ScalingFactor, in.ScaledStd)
	e.row("channels", "%8s %8s %14s", "mean", "std", "std x scaling")
	for c := range in.Mean {
		e.row(fmt.Sprintf("  %d", c), "%8.3f %8.3f %14.2f", in.Mean[c], in.Std[c], in.Std[c]*in.ScalingFactor)
	}
	if text := latents.WrongScale(in.ScalingFactor, in.ScaledStd); text != "" {
		e.warn("%s", text)
	}
}
