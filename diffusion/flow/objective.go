package flow

import (
	"fmt"
	"math"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/torch"
)

// A Weight multiplies the squared error of a sample, by SiT's names for loss_weight.
type Weight string

// The weights, with D of [schedule.Level.Diffusion]. They are about the error of the noise; that of the score times
// sigma is the same, and that of the data is alpha/sigma of it.
const (
	WeightNone       Weight = "none"       // 1
	WeightVelocity   Weight = "velocity"   // (D / sigma)^2, which makes it that of the velocity
	WeightLikelihood Weight = "likelihood" // D / sigma^2
)

// Config says what a model is trained on. The zero value of a field is its default.
type Config struct {
	Path       schedule.Path
	Prediction schedule.Prediction // velocity
	Weight     Weight              // none
	Times      Times
}

// Times says how the times of training are drawn.
type Times struct {
	// LogitNormal draws the sigmoid of a normal number. Times are uniform without it. Both are within SiT's margins
	// ([schedule.Path.TrainInterval]), from which uniform times are drawn and at which others are cut off.
	LogitNormal bool
	Mean, Std   float64 // of the normal number; Std 0 stands for 1
	// Lo and Hi cut the logit-normal distribution off: what lies outside is drawn within. Hi 0 stands for 1.
	Lo, Hi float64
	Shift  float64 // of [schedule.Shift], at last; 0 stands for none
}

// An Objective trains a model on a path. It keeps nothing on the device.
type Objective struct {
	Config
	lo, hi float64 // of uniform numbers, before they become normal ones
}

// New checks a configuration and fills in its defaults.
func New(c Config) (*Objective, error) {
	if _, err := schedule.ParsePath(string(c.Path.Kind), false); err != nil {
		return nil, err
	}
	if c.Prediction == "" {
		c.Prediction = schedule.Velocity
	}
	if _, err := schedule.ParsePrediction(string(c.Prediction)); err != nil {
		return nil, err
	}
	if c.Weight == "" {
		c.Weight = WeightNone
	}
	switch c.Weight {
	case WeightNone, WeightVelocity, WeightLikelihood:
	default:
		return nil, fmt.Errorf("loss weight %q: want %s, %s or %s", c.Weight, WeightNone, WeightVelocity,
			WeightLikelihood)
	}
	if c.Weight != WeightNone && c.Prediction == schedule.Velocity {
		return nil, fmt.Errorf("loss weight %s: the loss of a velocity has none; SiT ignores it", c.Weight)
	}
	o := &Objective{Config: c}
	return o, o.checkTimes()
}

func (o *Objective) checkTimes() error {
	t := &o.Times
	if t.Shift == 0 {
		t.Shift = 1
	}
	if err := schedule.CheckShift(t.Shift); err != nil {
		return err
	}
	if !t.LogitNormal {
		if t.Mean != 0 || t.Std != 0 || t.Lo != 0 || t.Hi != 0 {
			return fmt.Errorf("times are uniform: mean, deviation and limits are for logit-normal ones")
		}
		o.lo, o.hi = o.Path.TrainInterval(o.Prediction)
		return nil
	}
	if t.Std == 0 {
		t.Std = 1
	}
	if t.Hi == 0 {
		t.Hi = 1
	}
	if !(t.Std > 0) || math.IsInf(t.Std, 1) || math.IsNaN(t.Mean) || math.IsInf(t.Mean, 0) {
		return fmt.Errorf("times of mean %v and deviation %v: want numbers, the deviation above 0", t.Mean, t.Std)
	}
	if !(0 <= t.Lo && t.Lo < t.Hi && t.Hi <= 1) {
		return fmt.Errorf("times from %v to %v: the interval is outside of 0 to 1, or empty", t.Lo, t.Hi)
	}
	below := func(v float64) float64 { // the distribution function of the logit-normal one
		return math.Erfc(-(math.Log(v)-math.Log1p(-v)-t.Mean)/t.Std/math.Sqrt2) / 2
	}
	o.lo, o.hi = below(t.Lo), below(t.Hi)
	return nil
}

// Time returns Float32 [N]. However times are drawn, they keep SiT's margins: at the very ends weights are infinite,
// and VP has a slope that is.
func (o *Objective) Time(s *torch.Scope, u *torch.Tensor) *torch.Tensor {
	t := s.AddScalar(s.MulScalar(u, o.hi-o.lo), o.lo)
	if o.Times.LogitNormal {
		z := s.MulScalar(s.Erfinv(s.AddScalar(s.MulScalar(t, 2), -1)), math.Sqrt2)
		t = s.Sigmoid(s.AddScalar(s.MulScalar(z, o.Times.Std), o.Times.Mean))
	}
	if shift := o.Times.Shift; shift != 1 {
		t = s.Div(s.MulScalar(t, shift), s.AddScalar(s.MulScalar(t, shift-1), 1))
	}
	lo, hi := o.Path.TrainInterval(o.Prediction)
	return s.To(s.Clamp(t, lo, hi), torch.Float32)
}

// Noisiness returns how far times are from data along the path.
func (o *Objective) Noisiness(s *torch.Scope, t *torch.Tensor) *torch.Tensor {
	v := s.To(t, torch.Float64)
	if !o.Path.NoiseAtOne {
		v = s.AddScalar(s.Neg(v), 1)
	}
	return s.Clamp(v, 0, math.Nextafter(1, 0)) // at noise itself it would be 1
}

// Losses mixes data x0 [N, C, H, W] with noise to the times t [N] and scores the model's prediction (training_losses of
// SiT, which calls the data x1 and the noise x0). MSE is the error of the prediction itself, of a score times sigma;
// Total has the weight. Channels of the output beyond C are for a variance that flows do not have, and left out.
func (o *Objective) Losses(s *torch.Scope, model diffusion.Denoiser, x0, noise, t *torch.Tensor) diffusion.Losses {
	l := At(s, o.Path, t)
	xt := mix(s, l.Alpha, x0, l.Sigma, noise)
	output := model(s, xt, t)
	if c := x0.Dim(1); output.Dim(1) > c {
		output = s.Narrow(output, 1, 0, c)
	}
	target := noise
	switch o.Prediction {
	case schedule.Data:
		target = x0
	case schedule.Velocity:
		target = mix(s, l.DAlpha, x0, l.DSigma, noise)
	case schedule.Score:
		output = s.Neg(s.Mul(like(s, l.Sigma, output), output))
	}
	mse := s.MeanDims(s.Reshape(s.Square(s.Subtract(output, target)), x0.Dim(0), -1), false, 1)
	total := mse
	if w := o.weight(s, l); w != nil {
		total = s.Mul(s.To(w, mse.DType()), mse)
	}
	return diffusion.Losses{Total: total, MSE: mse}
}

// weight returns the weights of samples at levels l [N], nil for 1.
func (o *Objective) weight(s *torch.Scope, l Level) *torch.Tensor {
	if o.Weight == WeightNone {
		return nil
	}
	w := s.Div(l.Diffusion(s), s.Square(l.Sigma))
	if o.Weight == WeightVelocity {
		w = s.Square(s.Mul(w, l.Sigma))
	}
	if o.Prediction == schedule.Data {
		w = s.Mul(w, s.Square(s.Div(l.Alpha, l.Sigma)))
	}
	return w
}
