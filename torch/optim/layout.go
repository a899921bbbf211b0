package optim

import "github.com/ditrun/ditrun/torch/nn"

const (
	// Parameters start at multiples of 64 bytes, as fresh allocations do, so that kernels see aligned data.
	alignParam = 16
	// A rank's share of a bucket is a multiple of 128 bytes.
	alignShare = 32
)

func padded(n, to int) int { return (n + to - 1) / to * to }

// A layout says where the parameters lie in the flat buffer of the weights: those that are trained in
// buckets, one behind the other, the frozen ones behind them. Of each bucket, every rank has a share of
// the same size. Positions and sizes are in elements.
type layout struct {
	params  []nn.Param
	offsets []int // of each parameter
	bucket  []int // of each parameter, -1 for frozen ones
	begin   []int // of each bucket, and the end of the last
	total   int
	ranks   int
	rank    int  // this process
	sharded bool // its buffers hold its shares only, else everything
}

// newLayout puts the trained parameters in reverse order of declaration, which is about the order in
// which their gradients come, into buckets of about the given size.
func newLayout(params []nn.Param, bucketSize, rank, ranks int, sharded bool) *layout {
	l := &layout{params: params, offsets: make([]int, len(params)), bucket: make([]int, len(params)), begin: []int{0},
		rank: rank, ranks: ranks, sharded: sharded}
	end := func() {
		if l.total > l.begin[len(l.begin)-1] {
			l.total = padded(l.total, ranks*alignShare)
			l.begin = append(l.begin, l.total)
		}
	}
	put := func(i int) {
		l.offsets[i] = l.total
		l.total += padded(params[i].Tensor.NumElements(), alignParam)
	}
	for i := len(params) - 1; i >= 0; i-- {
		l.bucket[i] = -1
		if p := params[i].Tensor; p.RequiresGrad() {
			if l.total+p.NumElements() > l.begin[len(l.begin)-1]+bucketSize {
				end()
			}
			l.bucket[i] = len(l.begin) - 1
			put(i)
		}
	}
	end()
	for i := range params {
		if l.bucket[i] < 0 {
			put(i)
		}
	}
	return l
}

func (l *layout) buckets() (sizes []int) {
	for i := range l.begin[1:] {
		sizes = append(sizes, l.begin[i+1]-l.begin[i])
	}
	return sizes
}

// A piece is a part of a parameter.
type piece struct {
	param          int
	offset, length int // in the parameter
	at             int // in a buffer
}

// whole is the piece that is all of parameter i, in the buffer of all weights.
func (l *layout) whole(i int) piece {
	return piece{i, 0, l.params[i].Tensor.NumElements(), l.offsets[i]}
}

// moments lists what of the trained parameters lies in this rank's shares, in order of declaration,
// and where in the rank's buffer.
func (l *layout) moments() (out []piece) {
	for i := range l.params {
		b := l.bucket[i]
		if b < 0 {
			continue
		}
		size := (l.begin[b+1] - l.begin[b]) / l.ranks
		begin := l.begin[b] + l.rank*size
		p := l.whole(i)
		from, to := max(p.at, begin), min(p.at+p.length, begin+size)
		if from >= to {
			continue
		}
		at := from
		if l.sharded {
			at = l.begin[b]/l.ranks + from - begin
		}
		out = append(out, piece{i, from - p.at, to - from, at})
	}
	return out
}

// held lists what of all parameters this rank's buffers hold, in order of declaration: of frozen ones
// the averages only.
func (l *layout) held() (out []piece) {
	if !l.sharded {
		for i := range l.params {
			out = append(out, l.whole(i))
		}
		return out
	}
	trained := l.begin[len(l.begin)-1]
	out = l.moments()
	for i := range l.params {
		if l.bucket[i] < 0 {
			p := l.whole(i)
			p.at += trained/l.ranks - trained
			out = append(out, p)
		}
	}
	return out
}
