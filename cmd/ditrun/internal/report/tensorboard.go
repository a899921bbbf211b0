package report

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"math"
	"time"

	"github.com/disintegration/imaging"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/tfevents"
	"github.com/ditrun/ditrun/diffusion/runs"
)

// thumbnail is the longest side, in pixels, of previews in event files: a
// whole sheet every few thousand steps would make them large and slow to load.
const thumbnail = 768

// scalars are the curves that TensorBoard shows.
func scalars(s runs.Step) []tfevents.Scalar {
	all := []tfevents.Scalar{
		{Tag: "train/loss", Value: float64(s.Loss)},
		{Tag: "train/lr", Value: float64(s.LR)},
		{Tag: "train/images_per_second", Value: float64(s.ImagesPerSecond)},
		{Tag: "train/data_wait_share", Value: float64(s.DataWaitShare)},
	}
	// Zero means not known.
	for _, v := range []tfevents.Scalar{
		{Tag: "train/mse", Value: float64(s.MSE)},
		{Tag: "train/vb", Value: float64(s.VB)},
		{Tag: "train/grad_norm", Value: float64(s.GradNorm)},
		{Tag: "train/update_norm", Value: float64(s.UpdateNorm)},
		{Tag: "train/tflops", Value: float64(s.TFLOPS)},
		{Tag: "train/mfu", Value: float64(s.MFU)},
		{Tag: "train/memory_gb", Value: float64(s.MemoryBytes) / 1e9},
		{Tag: "train/host_memory_gb", Value: float64(s.HostMemoryBytes) / 1e9},
	} {
		if v.Value != 0 {
			all = append(all, v)
		}
	}
	for i, v := range s.Bins {
		if math.IsNaN(float64(v)) { // no such timestep was drawn
			continue
		}
		first, last := binRange(i, len(s.Bins))
		all = append(all, tfevents.Scalar{Tag: fmt.Sprintf("mse_by_timestep/%03d-%03d", first, last),
			Value: float64(v)})
	}
	return all
}

func addPicture(w *tfevents.Writer, now time.Time, step int, img image.Image) error {
	small := imaging.Fit(img, thumbnail, thumbnail, imaging.Lanczos)
	var b bytes.Buffer
	if err := png.Encode(&b, small); err != nil {
		return err
	}
	return w.PNG(now, step, "preview", small.Rect.Dx(), small.Rect.Dy(), b.Bytes())
}
