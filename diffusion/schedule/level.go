package schedule

import (
	"fmt"
	"math"
)

// A Level says how noisy samples are at a time of their process: x = Alpha x_0 + Sigma eps.
type Level struct {
	T            float64 // the time, as the network is told it
	Alpha, Sigma float64
	// Derivatives by T along a flow path. Both are 0 for DiT's betas, which have no velocity.
	DAlpha, DSigma float64
}

// Lambda returns ln(Alpha / Sigma), half the logarithm of the signal-to-noise ratio, as in DPM-Solver.
func (l Level) Lambda() float64 { return math.Log(l.Alpha) - math.Log(l.Sigma) }

// Rho returns Sigma / Alpha: the noise level of EDM, the rho of DEIS.
func (l Level) Rho() float64 { return l.Sigma / l.Alpha }

// wronskian is alpha' sigma - alpha sigma', which is 1 (Linear) or pi/2 (GVP), negative where noise is at t = 1.
func (l Level) wronskian() float64 { return l.DAlpha*l.Sigma - l.Alpha*l.DSigma }

// Diffusion returns sigma |alpha'/alpha sigma - sigma'|, the D of the SDE by which the path turns data into noise
// (compute_drift of SiT, its diffusion form SBDM). It is infinite where Alpha is 0.
func (l Level) Diffusion() float64 { return l.Sigma * math.Abs(l.wronskian()) / l.Alpha }

// A Prediction is what a network's output means, by the name that flags and checkpoints have for it.
type Prediction string

// The predictions.
const (
	Noise    Prediction = "noise"    // eps
	Velocity Prediction = "velocity" // dx/dt = alpha' x_0 + sigma' eps
	Score    Prediction = "score"    // -eps / sigma
	Data     Prediction = "data"     // x_0
)

// ParsePrediction reads the name of a prediction.
func ParsePrediction(name string) (Prediction, error) {
	switch p := Prediction(name); p {
	case Noise, Velocity, Score, Data:
		return p, nil
	}
	return "", fmt.Errorf("prediction %q: want noise, velocity, score or data", name)
}

// A Mix is X x + Output output, for x at a level and a network's output there.
type Mix struct{ X, Output float64 }

// Plus returns m + f n.
func (m Mix) Plus(f float64, n Mix) Mix { return Mix{m.X + f*n.X, m.Output + f*n.Output} }

// Times returns f m.
func (m Mix) Times(f float64) Mix { return Mix{}.Plus(f, m) }

// DataFrom returns how x_0 follows from an output. It is not finite where the prediction does not tell: noise and score
// where Alpha is 0.
func (l Level) DataFrom(p Prediction) Mix {
	switch p {
	case Data:
		return Mix{0, 1}
	case Velocity:
		w := l.wronskian()
		return Mix{-l.DSigma / w, l.Sigma / w}
	}
	return Mix{X: 1 / l.Alpha}.Plus(-l.Sigma/l.Alpha, l.NoiseFrom(p))
}

// NoiseFrom returns how eps follows from an output. It is not finite for data where Sigma is 0.
func (l Level) NoiseFrom(p Prediction) Mix {
	switch p {
	case Noise:
		return Mix{0, 1}
	case Score:
		return Mix{0, -l.Sigma}
	case Velocity:
		w := l.wronskian()
		return Mix{l.DAlpha / w, -l.Alpha / w}
	}
	return Mix{1 / l.Sigma, -l.Alpha / l.Sigma}
}

// VelocityFrom returns how dx/dt follows from an output.
func (l Level) VelocityFrom(p Prediction) Mix {
	switch p {
	case Velocity:
		return Mix{0, 1}
	case Data:
		return Mix{l.DSigma / l.Sigma, l.wronskian() / l.Sigma}
	}
	return Mix{X: l.DAlpha / l.Alpha}.Plus(-l.wronskian()/l.Alpha, l.NoiseFrom(p))
}

// ScoreFrom returns how the score follows from an output. It is not finite where Sigma is 0.
func (l Level) ScoreFrom(p Prediction) Mix {
	if p == Score {
		return Mix{0, 1}
	}
	return l.NoiseFrom(p).Times(-1 / l.Sigma)
}

// MinSNR returns the weight of each step for models that predict noise, min(SNR, gamma) / SNR with SNR = abar / (1 -
// abar) (Hang et al. 2023, who take gamma = 5).
func (s *Schedule) MinSNR(gamma float64) ([]float64, error) {
	if !(gamma > 0) {
		return nil, fmt.Errorf("min-SNR gamma %v: want a positive number", gamma)
	}
	weights := make([]float64, s.Len())
	for t, abar := range s.AlphasCumprod {
		snr := abar / (1 - abar)
		weights[t] = min(snr, gamma) / snr
	}
	return weights, nil
}
