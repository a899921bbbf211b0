package checkpoint

import "math"

// Float16 returns f rounded to the nearest IEEE half, ties to even. Values of 65520 and more become infinite.
func Float16(f float32) uint16 {
	b := math.Float32bits(f)
	sign := uint16(b>>16) & 0x8000
	b &= 0x7fffffff
	switch {
	case b >= 0x7f800000: // infinite, or not a number: keep the top of the payload and stay one
		if b > 0x7f800000 {
			return sign | 0x7e00 | uint16(b>>13)&0x3ff
		}
		return sign | 0x7c00
	case b >= 0x477ff000: // 65520 is halfway between the largest half and the next power of two
		return sign | 0x7c00
	case b >= 0x38800000: // normal half: drop 13 bits of mantissa, re-bias the exponent by 127-15
		b += 0xfff + b>>13&1
		return sign | uint16((b-0x38000000)>>13)
	case b < 0x33000000: // below half of the smallest subnormal
		return sign
	}
	// Subnormal: the mantissa with its hidden bit, in units of 2^-24.
	m := b&0x7fffff | 0x800000
	shift := 126 - b>>23
	units := m >> shift
	remainder, tie := m&(1<<shift-1), uint32(1)<<(shift-1)
	if remainder > tie || remainder == tie && units&1 == 1 {
		units++
	}
	return sign | uint16(units)
}

// FromFloat16 returns the value of an IEEE half, which every float32 holds exactly.
func FromFloat16(h uint16) float32 {
	// Shifted into place the exponent is short by 112; the product puts that right, for subnormal halves too.
	f := math.Float32frombits(uint32(h&0x7fff)<<13) * 0x1p112
	b := math.Float32bits(f)
	if h&0x7c00 == 0x7c00 {
		b |= 0x7f800000
	}
	return math.Float32frombits(b | uint32(h&0x8000)<<16)
}
