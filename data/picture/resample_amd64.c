#include "resample_amd64.h"

#include <immintrin.h>
#include <string.h>

// The sums are those of the portable code to the last bit: a 32-bit weight k is split as 4096*high
// + low with both parts in 16 bits, for which there is a multiply-add of pairs; (sum of high << 12)
// + sum of low is then the sum of k * sample in 32 bits.

#define AVX2 __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline))

enum { weight_bits = 22 };

int dit_have_avx2(void) { return __builtin_cpu_supports("avx2"); }

// What sums of low parts begin with, so that the shift rounds.
AVX2 INLINE __m256i rounding(void) { return _mm256_set1_epi32(1 << (weight_bits - 1)); }

AVX2 INLINE __m256i finish(__m256i high, __m256i low) {
  return _mm256_srai_epi32(_mm256_add_epi32(_mm256_slli_epi32(high, 12), low), weight_bits);
}

AVX2 INLINE void add(__m256i *high, __m256i *low, __m256i samples, const int32_t *k) {
  *high = _mm256_add_epi32(*high, _mm256_madd_epi16(samples, _mm256_set1_epi32(k[0])));
  *low = _mm256_add_epi32(*low, _mm256_madd_epi16(samples, _mm256_set1_epi32(k[1])));
}

AVX2 INLINE __m256i load2(const uint8_t *a, const uint8_t *b) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)a)),
                                 _mm_loadu_si128((const __m128i *)b), 1);
}

// store writes four bytes, of which the next pixel overwrites the last; the last pixel of a row
// writes three.
INLINE void store(uint8_t *at, int v, int last) {
  if (last)
    memcpy(at, &v, 3);
  else
    memcpy(at, &v, 4);
}

// Four rows at once; the same row may be given several times. Two rows lie side by side, each with
// red, green, blue and a void lane. Inlined for a known number of pairs it takes two thirds of the
// time.
AVX2 INLINE void four_rows(uint8_t *const dst[4], const uint8_t *const src[4], const int32_t *lo,
                           const int32_t *k, int pairs, int n) {
  // Of two pixels r g b R G B: r R g G b B as 16-bit numbers; a load holds two such pairs.
  const __m256i first = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,
                                         0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1);
  const __m256i second =
      _mm256_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1, 6, -1, 9, -1, 7,
                       -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
  for (int x = 0; x < n; x++, k += 2 * pairs) {
    const long at = 3 * (long)lo[x];
    __m256i high0 = _mm256_setzero_si256(), low0 = rounding(), high1 = high0, low1 = low0;
    for (int j = 0; j < pairs; j += 2) {
      const __m256i p = load2(src[0] + at + 6 * j, src[1] + at + 6 * j),
                    q = load2(src[2] + at + 6 * j, src[3] + at + 6 * j);
      add(&high0, &low0, _mm256_shuffle_epi8(p, first), k + 2 * j);
      add(&high1, &low1, _mm256_shuffle_epi8(q, first), k + 2 * j);
      if (j + 1 == pairs) break;
      add(&high0, &low0, _mm256_shuffle_epi8(p, second), k + 2 * j + 2);
      add(&high1, &low1, _mm256_shuffle_epi8(q, second), k + 2 * j + 2);
    }
    // Within 128 bits, rows 0 and 2 come first, then 1 and 3.
    __m256i v = _mm256_packs_epi32(finish(high0, low0), finish(high1, low1));
    v = _mm256_packus_epi16(v, v);
    const __m128i p = _mm256_castsi256_si128(v), q = _mm256_extracti128_si256(v, 1);
    const int last = x == n - 1;
    store(dst[0] + 3 * x, _mm_cvtsi128_si32(p), last);
    store(dst[1] + 3 * x, _mm_cvtsi128_si32(q), last);
    store(dst[2] + 3 * x, _mm_extract_epi32(p, 1), last);
    store(dst[3] + 3 * x, _mm_extract_epi32(q, 1), last);
  }
}

AVX2 void dit_resample_rows(uint8_t *dst, const uint8_t *src, int w, int y0, int y1,
                            const int32_t *lo, const int32_t *k, int pairs, int n, uint8_t *tail) {
  for (int y = y0; y < y1; y += 4) {
    const uint8_t *from[4];
    uint8_t *to[4];
    for (int i = 0; i < 4; i++) {
      const int r = y + i < y1 ? y + i : y1 - 1;
      from[i] = src + 3 * (long)w * r;
      to[i] = dst + 3 * (long)n * (r - y0);
      if (r == y1 - 1) {
        // The last loads of a row reach past it, which may be past the picture.
        memcpy(tail, from[i], 3 * (size_t)w);
        from[i] = tail;
      }
    }
    switch (pairs) {  // enlarging takes 2 or 3, reducing up to a half 2 to 5, halving 1 or 2
      case 1: four_rows(to, from, lo, k, 1, n); break;
      case 2: four_rows(to, from, lo, k, 2, n); break;
      case 3: four_rows(to, from, lo, k, 3, n); break;
      case 4: four_rows(to, from, lo, k, 4, n); break;
      case 5: four_rows(to, from, lo, k, 5, n); break;
      default: four_rows(to, from, lo, k, pairs, n);
    }
  }
}

// Thirty-two samples of one output row.
AVX2 INLINE void thirty_two(uint8_t *dst, const uint8_t *src, long stride, int taps,
                            const int32_t *k) {
  const __m256i zero = _mm256_setzero_si256();
  __m256i high[4] = {zero, zero, zero, zero},
          low[4] = {rounding(), rounding(), rounding(), rounding()};
  for (int j = 0; j < taps; j += 2, k += 2, src += 2 * stride) {
    const __m256i a = _mm256_loadu_si256((const __m256i *)src);
    const __m256i b = j + 1 < taps ? _mm256_loadu_si256((const __m256i *)(src + stride)) : zero;
    const __m256i u = _mm256_unpacklo_epi8(a, b), v = _mm256_unpackhi_epi8(a, b);
    add(&high[0], &low[0], _mm256_unpacklo_epi8(u, zero), k);
    add(&high[1], &low[1], _mm256_unpackhi_epi8(u, zero), k);
    add(&high[2], &low[2], _mm256_unpacklo_epi8(v, zero), k);
    add(&high[3], &low[3], _mm256_unpackhi_epi8(v, zero), k);
  }
  // Packing works within 128 bits, as unpacking does: the order is that of the input.
  const __m256i u = _mm256_packs_epi32(finish(high[0], low[0]), finish(high[1], low[1]));
  const __m256i v = _mm256_packs_epi32(finish(high[2], low[2]), finish(high[3], low[3]));
  _mm256_storeu_si256((__m256i *)dst, _mm256_packus_epi16(u, v));
}

AVX2 void dit_resample_cols(uint8_t *dst, const uint8_t *src, int samples, int y0,
                            const int32_t *lo, const int32_t *taps, const int32_t *k, int pairs,
                            int n) {
  for (int i = 0; i < n; i++, k += 2 * pairs) {
    const uint8_t *from = src + (long)(lo[i] - y0) * samples;
    uint8_t *to = dst + (long)i * samples;
    for (int x = 0; x + 32 <= samples; x += 32) thirty_two(to + x, from + x, samples, taps[i], k);
    // What is left is made by a last step that overlaps the one before.
    if (samples % 32) thirty_two(to + samples - 32, from + samples - 32, samples, taps[i], k);
  }
}
