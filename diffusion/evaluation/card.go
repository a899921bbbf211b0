package evaluation

import (
	"fmt"

	"github.com/ditrun/ditrun/diffusion/metrics"
	"github.com/ditrun/ditrun/diffusion/metrics/inception"
)

// PublicInception is the SHA-256 of the weights that pytorch-fid and torch-fidelity publish.
const PublicInception = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

// A Card is numbers with everything that moves them. Numbers that were not asked for are nil.
type Card struct {
	FID          *float64 `json:"fid,omitempty"`
	SFID         *float64 `json:"sfid,omitempty"`
	IS           *float64 `json:"is,omitempty"`
	ISDeviation  *float64 `json:"is_deviation,omitempty"` // of the splits; nil for one
	Precision    *float64 `json:"precision,omitempty"`
	Recall       *float64 `json:"recall,omitempty"`
	KID          *float64 `json:"kid,omitempty"`
	KIDDeviation *float64 `json:"kid_deviation,omitempty"` // of the subsets; nil for one
	FIDInfinity  *float64 `json:"fid_infinity,omitempty"`
	FD           *float64 `json:"fd,omitempty"`

	Samples   SetInfo  `json:"samples"`
	Reference *SetInfo `json:"reference,omitempty"`
	Network   *Network `json:"inception,omitempty"`
	Settings  Settings `json:"settings"`
	Software  string   `json:"software,omitempty"` // the program with its version, and what it computed on
	Device    string   `json:"device,omitempty"`
	Differs   []string `json:"differs_from_adm"` // what is not as in ADM's protocol
	Notes     []string `json:"notes"`
}

// Network is what made the features.
type Network struct {
	File        string `json:"file,omitempty"`
	SHA256      string `json:"sha256"`
	Public      bool   `json:"public"` // they are the weights that everybody has
	Preparation string `json:"preparation"`
	Precision   string `json:"precision"`
}

// Settings are those of the formulas.
type Settings struct {
	Covariance  string `json:"covariance"`
	SplitSize   int    `json:"is_split_size,omitempty"`
	Neighbour   int    `json:"neighbour,omitempty"`
	Distances   string `json:"distances,omitempty"` // of precision and recall
	KIDSubsets  int    `json:"kid_subsets,omitempty"`
	KIDSize     int    `json:"kid_subset_size,omitempty"`
	InfinityMin int    `json:"fid_infinity_least,omitempty"`
	Seed        uint64 `json:"seed"`
}

func (c *Card) set(m Metric, v float64) {
	switch m {
	case FID:
		c.FID = &v
	case SFID:
		c.SFID = &v
	case FD:
		c.FD = &v
	}
}

func newCard(o *Options, list []Metric) *Card {
	c := &Card{Samples: o.Samples.info, Differs: []string{}, Notes: []string{}}
	if o.Reference != nil {
		info := o.Reference.info
		c.Reference = &info
	}
	if sum := o.Samples.info.Inception; sum != "" {
		c.Network = &Network{SHA256: sum, Public: sum == PublicInception,
			Preparation: inception.Preparation(o.Samples.info.Preparation).String(), Precision: "fp32"}
		if o.Network != nil && o.Network.SHA256() == sum {
			c.Network.File = o.InceptionName
		}
	}
	c.Settings.Covariance = "float64, N - 1"
	for _, m := range list {
		switch m {
		case IS:
			c.Settings.SplitSize = metrics.SplitSize
		case Precision, Recall:
			c.Settings.Neighbour, c.Settings.Distances = metrics.Neighbour, "float64"
		}
	}
	return c
}

// remark says what differs from ADM's protocol, and what else a reader of the numbers must know.
func (c *Card) remark(o *Options, list []Metric) {
	differs := func(format string, args ...any) { c.Differs = append(c.Differs, fmt.Sprintf(format, args...)) }
	note := func(format string, args ...any) { c.Notes = append(c.Notes, fmt.Sprintf(format, args...)) }
	const papers = 50000
	if n := c.Samples.Count; n != papers {
		differs("%d samples, not 50,000", n)
		if n < papers && (c.FID != nil || c.SFID != nil || c.FD != nil) {
			note("a Frechet distance of %d samples is biased upwards: compare it only with one of as many; "+
				"fid-infinity extrapolates", n)
		}
	}
	for _, m := range list {
		kind, _, statisticsDo := o.kinds(m)
		if f := o.Samples.features[kind]; statisticsDo && f.N <= f.D {
			note("%s of %d samples with %d features: the covariance is singular, which is computed exactly", m, f.N,
				f.D)
		}
	}
	if c.FD != nil {
		differs("features of a file, of a network that it does not name")
	}
	if c.Network != nil {
		if !c.Network.Public {
			differs("the weights of Inception are not the public ones")
		}
		if o.Samples.info.Preparation != string(inception.ADM) {
			differs("pictures are prepared as by %s", o.Samples.info.Preparation)
		}
		differs("Inception is the port to PyTorch's layers, not TensorFlow's graph")
	}
	if o.Reference != nil && len(o.Reference.statistics) == 0 {
		differs("the reference is the %d pictures that were given, not statistics of a whole data set",
			o.Reference.info.Count)
	}
	if c.Precision != nil {
		differs("precision and recall compare distances in float64, not float16")
	}
	if o.Reference != nil && len(o.Reference.statistics) > 0 && c.Network != nil && o.Reference.info.Inception == "" {
		note("the statistics of the reference do not say what network and what resize they are of: they must be " +
			"those of the samples")
	}
	for _, m := range list {
		if m == FIDInfinity || m == KID && c.Settings.KIDSubsets > 1 {
			note("%s is of random parts of the sets, and is not among ADM's numbers", m)
		}
	}
}
