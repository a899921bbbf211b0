package evaluation

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/diffusion/metrics"
	"github.com/ditrun/ditrun/diffusion/metrics/inception"
)

// A Metric is a number that [Evaluate] knows.
type Metric string

// The metrics.
const (
	FID         Metric = "fid"
	SFID        Metric = "sfid"
	IS          Metric = "is"
	Precision   Metric = "precision"
	Recall      Metric = "recall"
	KID         Metric = "kid"
	FIDInfinity Metric = "fid-infinity"
	FD          Metric = "fd" // the Frechet distance of features of any network
)

// Metrics lists all metrics.
func Metrics() []Metric { return []Metric{FID, SFID, IS, Precision, Recall, KID, FIDInfinity, FD} }

// Default are those of ADM's evaluations, and FD where there are features of another network.
func Default() []Metric { return []Metric{FID, SFID, IS, Precision, Recall, FD} }

// ErrNoNetwork is the error of pictures without a network that makes features of them.
var ErrNoNetwork = errors.New("features of pictures need the weights of Inception")

// Options of [Evaluate].
type Options struct {
	Samples, Reference *Set // Reference may be nil for IS alone
	Network            *inception.Network
	InceptionName      string // of the card
	Preparation        inception.Preparation
	Metrics            []Metric // empty means as many of Default as the sets allow
	BatchSize          int      // of the network; 0 means 64
	Algebra            metrics.Algebra
	KeepFeatures       bool // of probabilities too, for Set.Save
	// OnFeatures and OnStage, which may be nil, are told of progress: pictures done of a set, and what is computed now
	// with the share that is done, 0 where it is not counted.
	OnFeatures func(set *Set, done, all int)
	OnStage    func(what string, share float64)
}

// needs lists what rows of samples and of the reference a metric takes; a Frechet distance takes statistics of the
// reference in their place.
func (m Metric) needs() (samples, reference string, statisticsDo bool) {
	switch m {
	case SFID:
		return spatial, spatial, true
	case IS:
		return probabilities, "", false
	case FD:
		return foreign, foreign, true
	case FID, FIDInfinity:
		return pool, pool, true
	}
	return pool, pool, false
}

// possible returns why a metric cannot be computed, nil where it can.
func (o *Options) possible(m Metric) error {
	mine, theirs, statisticsDo := o.kinds(m)
	if err := o.Samples.rows(mine); err != nil {
		return err
	}
	if theirs == "" {
		return nil
	}
	if o.Reference == nil {
		return errors.New("there is no reference")
	}
	if _, ok := o.Reference.statistics[theirs]; ok && statisticsDo {
		return nil
	}
	return o.Reference.rows(theirs)
}

// kinds is needs, where precision, recall, KID and the statistics of a reference may be of features of any network.
func (o *Options) kinds(m Metric) (samples, reference string, statisticsDo bool) {
	samples, reference, statisticsDo = m.needs()
	_, own := o.Samples.features[foreign]
	if !own {
		return samples, reference, statisticsDo
	}
	switch m {
	case Precision, Recall, KID:
		return foreign, foreign, false
	case FD:
		if o.Reference != nil && o.Reference.features[foreign].N == 0 {
			reference = pool // mu and sigma, of whatever features
		}
	}
	return samples, reference, statisticsDo
}

// choose returns the metrics to compute.
func (o *Options) choose() ([]Metric, error) {
	if len(o.Metrics) > 0 {
		for _, m := range o.Metrics {
			if !slices.Contains(Metrics(), m) {
				return nil, fmt.Errorf("metric %q: want one of %v", m, Metrics())
			}
			if err := o.possible(m); err != nil {
				return nil, fmt.Errorf("%s: %w", m, err)
			}
		}
		return o.Metrics, nil
	}
	var list []Metric
	var first error
	for _, m := range Default() {
		err := o.possible(m)
		if err == nil {
			list = append(list, m)
		} else if first == nil {
			first = fmt.Errorf("%s: %w", m, err)
		}
	}
	switch {
	case len(list) == 0 && o.Reference == nil:
		return nil, fmt.Errorf("%s: there is no reference: only the inception score, of pictures, needs none",
			o.Samples.info.Path)
	case len(list) == 0:
		return nil, first
	}
	return list, nil
}

// Evaluate compares samples with a reference.
func Evaluate(ctx context.Context, o Options) (*Card, error) {
	if o.BatchSize == 0 {
		o.BatchSize = 64
	}
	if o.Preparation == "" {
		o.Preparation = inception.ADM
	}
	if o.Algebra == nil {
		o.Algebra = metrics.Go{}
	}
	list, err := o.choose()
	if err != nil {
		return nil, err
	}
	if err := o.checkOrigins(); err != nil {
		return nil, err
	}
	mine, theirs := map[string]bool{}, map[string]bool{}
	for _, m := range list {
		a, b, statisticsDo := o.kinds(m)
		mine[a] = true
		if o.Reference == nil || b == "" {
			continue
		}
		if _, ok := o.Reference.statistics[b]; !ok || !statisticsDo {
			theirs[b] = true
		}
	}
	for _, m := range list { // before the hours that features may take
		if err := o.checkWidths(m); err != nil {
			return nil, err
		}
	}
	if err := o.extract(ctx, o.Samples, mine); err != nil {
		return nil, err
	}
	if o.Reference != nil {
		if err := o.extract(ctx, o.Reference, theirs); err != nil {
			return nil, err
		}
	}
	card := newCard(&o, list)
	for _, m := range list {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		if err := o.compute(ctx, m, card); err != nil {
			return nil, fmt.Errorf("%s: %w", m, err)
		}
	}
	card.remark(&o, list)
	return card, nil
}

// extract has the features made of the pictures of a set that are wanted and missing.
func (o *Options) extract(ctx context.Context, s *Set, want map[string]bool) error {
	if s.pictures == nil || s.info.PixelsSHA256 != "" || !want[pool] && !want[spatial] && !want[probabilities] {
		return nil
	}
	if o.Network == nil {
		return fmt.Errorf("%s: %w", s.info.Path, ErrNoNetwork)
	}
	out := map[string]*metrics.Features{pool: {D: inception.PoolSize}}
	if want[spatial] {
		out[spatial] = &metrics.Features{D: inception.SpatialSize}
	}
	if want[probabilities] {
		s.score = metrics.NewScore(inception.NumClasses, metrics.SplitSize)
		if o.KeepFeatures {
			out[probabilities] = &metrics.Features{D: inception.NumClasses}
		}
	}
	add := func(kind string, n int, data []float32) {
		if f := out[kind]; f != nil {
			f.N += n
			f.Data = append(f.Data, data...)
		}
	}
	which := inception.Which{Spatial: want[spatial], Probabilities: want[probabilities]}
	done := 0
	err := s.each(ctx, o.BatchSize, func(b batch, size picture.Size) error {
		f, err := o.Network.Features(b.rgb, b.count, size.Height, size.Width, o.Preparation, which)
		if err != nil {
			return fmt.Errorf("%s: pictures %d to %d: %w", s.info.Path, done, done+b.count-1, err)
		}
		add(pool, b.count, f.Pool)
		add(spatial, b.count, f.Spatial)
		add(probabilities, b.count, f.Probabilities)
		if s.score != nil {
			if err := s.score.Add(metrics.Features{N: b.count, D: inception.NumClasses,
				Data: f.Probabilities}); err != nil {
				return err
			}
		}
		if done += b.count; o.OnFeatures != nil {
			o.OnFeatures(s, done, s.info.Count)
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	for kind, f := range out {
		if err := s.keep(kind, *f); err != nil {
			return fmt.Errorf("%s: %w", s.info.Path, err)
		}
	}
	s.info.Inception, s.info.Preparation = o.Network.SHA256(), string(o.Preparation)
	return nil
}

// checkOrigins is an error where features of files are of different networks or preparations.
func (o *Options) checkOrigins() error {
	type origin struct{ path, network, preparation string }
	var first origin
	for _, s := range []*Set{o.Samples, o.Reference} {
		if s == nil {
			continue
		}
		is := origin{s.info.Path, s.info.Inception, s.info.Preparation}
		if is.network == "" && s.pictures != nil && o.Network != nil {
			is.network, is.preparation = o.Network.SHA256(), string(o.Preparation)
		}
		switch {
		case is.network == "":
		case first.network == "":
			first = is
		case is.network != first.network:
			return fmt.Errorf("%s: features of the network %.12s, those of %s are of %.12s: want one network", is.path,
				is.network, first.path, first.network)
		case is.preparation != first.preparation:
			return fmt.Errorf("%s: features of pictures that were prepared by %s, those of %s by %s: want one of them",
				is.path, is.preparation, first.path, first.preparation)
		}
	}
	return nil
}

// checkWidths is an error where a reference is of features of another network.
func (o *Options) checkWidths(m Metric) error {
	mine, theirs, _ := o.kinds(m)
	if o.Reference == nil || theirs == "" {
		return nil
	}
	made := map[string]int{pool: inception.PoolSize, spatial: inception.SpatialSize}
	a, b := o.Samples.width(mine), o.Reference.width(theirs)
	if a == 0 {
		a = made[mine]
	}
	if b == 0 {
		b = made[theirs]
	}
	if a != b {
		return fmt.Errorf("%s: %s has %d features of a picture, %s has %d: want those of one network", m,
			o.Reference.info.Path, b, o.Samples.info.Path, a)
	}
	return nil
}

func (o *Options) stage(what string, share float64) {
	if o.OnStage != nil {
		o.OnStage(what, share)
	}
}

// Numbers of the extrapolation, as its authors have them where there are so many pictures.
const (
	infinityPoints = 15
	infinityLeast  = 5000
)

// compute adds a number to the card.
func (o *Options) compute(ctx context.Context, m Metric, card *Card) error {
	o.stage(string(m), 0)
	mine, theirs, _ := o.kinds(m)
	switch m {
	case FID, SFID, FD:
		a, err := o.Samples.gaussian(o.Algebra, mine)
		if err != nil {
			return err
		}
		b, err := o.Reference.gaussian(o.Algebra, theirs)
		if err != nil {
			return err
		}
		d, err := metrics.Frechet(o.Algebra, a, b)
		if err != nil {
			return err
		}
		card.set(m, d)
	case IS:
		return o.inceptionScore(card)
	case Precision, Recall:
		if card.Precision != nil { // both come at once
			return nil
		}
		p, r, err := metrics.PrecisionRecall(o.Algebra, o.Samples.features[mine], o.Reference.features[theirs],
			metrics.Neighbour, func(share float64) { o.stage("precision and recall", share) })
		if err != nil {
			return err
		}
		card.Precision, card.Recall = &p, &r
	case KID:
		a, b := o.Samples.features[mine], o.Reference.features[theirs]
		subsets, size := metrics.Subsets(a, b, metrics.NumSubsets, metrics.SubsetSize)
		mean, deviation, err := metrics.KernelDistance(o.Algebra, a, b, subsets, size, 0)
		if err != nil {
			return err
		}
		card.Settings.KIDSubsets, card.Settings.KIDSize, card.KID = subsets, size, &mean
		if subsets > 1 {
			card.KIDDeviation = &deviation
		}
	case FIDInfinity:
		reference, err := o.Reference.gaussian(o.Algebra, theirs)
		if err != nil {
			return err
		}
		f := o.Samples.features[mine]
		least := infinityLeast
		if f.N < 2*infinityLeast {
			least = f.N / 2
		}
		e, err := metrics.Infinity(o.Algebra, f, reference, least, infinityPoints, 0)
		if err != nil {
			return err
		}
		card.FIDInfinity, card.Settings.InfinityMin = &e.Infinity, least
	}
	return ctx.Err()
}

func (o *Options) inceptionScore(card *Card) error {
	score := o.Samples.score
	if score == nil {
		f := o.Samples.features[probabilities]
		score = metrics.NewScore(f.D, metrics.SplitSize)
		if err := score.Add(f); err != nil {
			return fmt.Errorf("%s: %w", o.Samples.info.Path, err)
		}
	}
	mean, deviation, err := score.Score()
	if card.IS = &mean; o.Samples.info.Count > metrics.SplitSize {
		card.ISDeviation = &deviation
	}
	return err
}
