package stream

// Permutation returns the order of n samples in an epoch: the permutation that torch.randperm(n) gives on the CPU
// after torch.manual_seed(seed+epoch). It is a pure function of its arguments. The sum wraps at 32 bits, as all
// that torch's CPU generator uses of a seed.
func Permutation(seed uint32, epoch, n int) []int {
	a := make([]int, n)
	for i := range a {
		a[i] = i
	}
	g := newMersenne(seed + uint32(epoch))
	for i := range n - 1 {
		j := i + int(g.next()%uint32(n-i))
		a[i], a[j] = a[j], a[i]
	}
	return a
}

// blockOrder is the order of n samples in an epoch for storage that is slow at single records: blocks of neighbours in
// random order, and in each window of blocks the samples in random order. It is a pure function of its arguments.
func blockOrder(seed uint32, epoch, n, perBlock int) []int {
	blocks := Permutation(seed, epoch, (n+perBlock-1)/perBlock)
	order := make([]int, 0, n)
	for w := 0; w*windowBlocks < len(blocks); w++ {
		start := len(order)
		for _, b := range blocks[w*windowBlocks : min((w+1)*windowBlocks, len(blocks))] {
			for i := b * perBlock; i < min((b+1)*perBlock, n); i++ {
				order = append(order, i)
			}
		}
		window := order[start:]
		g := newMersenne(^seed ^ uint32(epoch)<<16 ^ uint32(w)*2654435761) // others than those of the blocks
		for i := range len(window) - 1 {
			j := i + int(g.next()%uint32(len(window)-i))
			window[i], window[j] = window[j], window[i]
		}
	}
	return order
}

// windowBlocks is the number of blocks that are mixed: 64 MiB of each view.
const windowBlocks = 64

// blockBytes is what a block holds at least: enough that a disk is read as fast as it can.
const blockBytes = 1 << 20

// mersenne is the generator MT19937 (Matsumoto and Nishimura 1998), seeded as init_genrand does.
type mersenne struct {
	state [624]uint32
	pos   int
}

func newMersenne(seed uint32) *mersenne {
	g := &mersenne{pos: 624}
	g.state[0] = seed
	for i := 1; i < 624; i++ {
		p := g.state[i-1]
		g.state[i] = 1812433253*(p^p>>30) + uint32(i)
	}
	return g
}

func (g *mersenne) next() uint32 {
	if g.pos == 624 {
		s := &g.state
		for i := range 624 {
			y := s[i]&0x80000000 | s[(i+1)%624]&0x7fffffff
			s[i] = s[(i+397)%624] ^ y>>1 ^ -(y&1)&0x9908b0df
		}
		g.pos = 0
	}
	y := g.state[g.pos]
	g.pos++
	y ^= y >> 11
	y ^= y << 7 & 0x9d2c5680
	y ^= y << 15 & 0xefc60000
	return y ^ y>>18
}
