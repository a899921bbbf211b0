package latents

import "math"

// momentStats gathers, per channel, the sums that give mean and deviation of latents drawn from the posteriors.
type momentStats struct {
	channels           int
	n                  float64
	mean, square, vari []float64
}

func newMomentStats(channels int) *momentStats {
	return &momentStats{channels, 0, make([]float64, channels), make([]float64, channels), make([]float64, channels)}
}

func (s *momentStats) add(record []float32) {
	plane := len(record) / (2 * s.channels)
	for c := range s.channels {
		mean, logvar := record[c*plane:(c+1)*plane], record[(s.channels+c)*plane:(s.channels+c+1)*plane]
		for i, v := range mean {
			m := float64(v)
			s.mean[c] += m
			s.square[c] += m * m
			s.vari[c] += math.Exp(float64(logvar[i]))
		}
	}
	s.n += float64(plane)
}

func (s *momentStats) merge(o *momentStats) {
	s.n += o.n
	for c := range s.channels {
		s.mean[c] += o.mean[c]
		s.square[c] += o.square[c]
		s.vari[c] += o.vari[c]
	}
}

func (s *momentStats) result() (mean, std []float64) {
	for c := range s.channels {
		m := s.mean[c] / s.n
		mean = append(mean, m)
		std = append(std, math.Sqrt(max(0, (s.square[c]+s.vari[c])/s.n-m*m)))
	}
	return mean, std
}
