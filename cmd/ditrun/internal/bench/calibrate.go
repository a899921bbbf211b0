package bench

import (
	"context"
	"math"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/machine"
)

// A Speed is what a training step takes, in seconds: so many whatever the batch, and so many for each picture.
type Speed struct {
	Step    float64 `json:"step"`
	Picture float64 `json:"picture"`
	// Whole is set where the model was measured as it is, with its batch: then Step is 0.
	Whole bool `json:"whole"`
}

// Seconds returns what a step of so many pictures takes.
func (v Speed) Seconds(pictures int) float64 {
	return v.Step + v.Picture*float64(pictures)
}

// longest is how many seconds a step may take that is measured for an estimate.
const longest = 3

// One measures steps of one of the model's blocks with one picture: their seconds, and what the process takes of the
// host's memory besides the model and its activations.
func (j *Job) One(ctx context.Context) (seconds float64, base int64, err error) {
	part := j.part(1, 1)
	f, _, err := part.Train(ctx)
	if err != nil {
		return 0, 0, err
	}
	own := part.Model.StateBytes() + part.Model.ActivationBytes(j.Precision.DType())
	return f.StepSeconds, max(0, machine.PeakResident()-int64(own)), nil
}

// Calibrate measures in some seconds how long training steps of the job's model and batch take, where one of One takes
// so many. Where a step takes more than three seconds, it measures models of one and of three of its blocks with few
// pictures: the time grows evenly with both.
func (j *Job) Calibrate(ctx context.Context, one float64) (v Speed, err error) {
	depth, batch := j.Model.Depth, j.Batch
	if one*float64(depth*batch) <= longest { // at most, since one block is not all of it
		seconds, err := j.seconds(ctx, depth, batch)
		return Speed{Picture: seconds / float64(batch), Whole: true}, err
	}
	const blocks = 3
	few := min(max(1, int(longest/(2*blocks*one))), max(1, batch/2))
	if depth <= blocks {
		low, err := j.seconds(ctx, depth, few)
		if err != nil {
			return v, err
		}
		high, err := j.seconds(ctx, depth, 2*few)
		return line(low, high, few), err
	}
	var at [2]Speed // of one block, and of three
	for i, d := range []int{1, blocks} {
		low, err := j.seconds(ctx, d, few)
		if err != nil {
			return v, err
		}
		high, err := j.seconds(ctx, d, 2*few)
		if err != nil {
			return v, err
		}
		at[i] = line(low, high, few)
	}
	more := float64(depth-1) / (blocks - 1)
	return Speed{
		Step:    max(0, at[0].Step+(at[1].Step-at[0].Step)*more),
		Picture: at[0].Picture + (at[1].Picture-at[0].Picture)*more,
	}, nil
}

// line is the speed of steps that take low seconds with few pictures, and high with twice as many.
func line(low, high float64, few int) Speed {
	picture := math.Max(0, high-low) / float64(few)
	return Speed{Step: max(0, low-picture*float64(few)), Picture: picture}
}

// seconds measures steps of so many blocks and pictures.
func (j *Job) seconds(ctx context.Context, depth, batch int) (float64, error) {
	f, _, err := j.part(depth, batch).Train(ctx)
	return f.StepSeconds, err
}

// part is the job for so many blocks and pictures.
func (j *Job) part(depth, batch int) *Job {
	part := *j
	part.Model.Depth, part.Batch, part.Rounds, part.Steps, part.Progress = depth, batch, 3, 1, nil
	return &part
}
