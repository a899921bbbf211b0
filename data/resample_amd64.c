#include "resample_amd64.h"

#include <immintrin.h>
#include <string.h>

// The sums are those of the portable code to the last bit: a 32-bit weight k is split as 4096*high
// + low with both parts in 16 bits, for which there is a multiply-add of pairs; (sum of high << 12)
// + sum of low is then the sum of k * sample in 32 bits.

#define AVX2 __attribute__((target("avx2")))

enum { weight_bits = 22 };

int dit_have_avx2(void) { return __builtin_cpu_supports("avx2"); }

// Two rows side by side, each with red, green, blue and a void lane, as samples.
AVX2 static inline __m128i finish(__m256i high, __m256i low) {
  __m256i v = _mm256_add_epi32(_mm256_slli_epi32(high, 12), low);
  v = _mm256_srai_epi32(_mm256_add_epi32(v, _mm256_set1_epi32(1 << (weight_bits - 1))),
                        weight_bits);
  v = _mm256_packs_epi32(v, v);
  v = _mm256_packus_epi16(v, v);
  return _mm_unpacklo_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

AVX2 static inline __m256i load2(const uint8_t *a, const uint8_t *b) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadl_epi64((const __m128i *)a)),
                                 _mm_loadl_epi64((const __m128i *)b), 1);
}

// store writes four bytes, of which the next pixel overwrites the last; the last pixel of a row
// writes three.
static inline void store(uint8_t *at, uint32_t v, int last) {
  if (last)
    memcpy(at, &v, 3);
  else
    memcpy(at, &v, 4);
}

// Four rows at once; the same row may be given several times.
AVX2 static void four_rows(uint8_t *const dst[4], const uint8_t *const src[4], const int32_t *lo,
                           const int32_t *off, const int32_t *pairs, int n) {
  // Of two pixels r g b R G B: r R g G b B as 16-bit numbers.
  const __m256i spread = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,
                                          0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1);
  for (int x = 0; x < n; x++) {
    const long at = 3 * (long)lo[x];
    const int32_t *k = pairs + 2 * (long)off[x], *end = pairs + 2 * (long)off[x + 1];
    const uint8_t *a = src[0] + at, *b = src[1] + at, *c = src[2] + at, *d = src[3] + at;
    __m256i high0 = _mm256_setzero_si256(), low0 = high0, high1 = high0, low1 = high0;
    for (; k < end; k += 2, a += 6, b += 6, c += 6, d += 6) {
      const __m256i kh = _mm256_set1_epi32(k[0]), kl = _mm256_set1_epi32(k[1]);
      const __m256i p = _mm256_shuffle_epi8(load2(a, b), spread),
                    q = _mm256_shuffle_epi8(load2(c, d), spread);
      high0 = _mm256_add_epi32(high0, _mm256_madd_epi16(p, kh));
      low0 = _mm256_add_epi32(low0, _mm256_madd_epi16(p, kl));
      high1 = _mm256_add_epi32(high1, _mm256_madd_epi16(q, kh));
      low1 = _mm256_add_epi32(low1, _mm256_madd_epi16(q, kl));
    }
    const __m128i p = finish(high0, low0), q = finish(high1, low1);
    const int last = x == n - 1;
    store(dst[0] + 3 * x, (uint32_t)_mm_cvtsi128_si32(p), last);
    store(dst[1] + 3 * x, (uint32_t)_mm_extract_epi32(p, 1), last);
    store(dst[2] + 3 * x, (uint32_t)_mm_cvtsi128_si32(q), last);
    store(dst[3] + 3 * x, (uint32_t)_mm_extract_epi32(q, 1), last);
  }
}

AVX2 void dit_resample_rows(uint8_t *dst, const uint8_t *src, int w, int y0, int y1,
                            const int32_t *lo, const int32_t *off, const int32_t *pairs, int n,
                            uint8_t *tail) {
  for (int y = y0; y < y1; y += 4) {
    const uint8_t *from[4];
    uint8_t *to[4];
    for (int i = 0; i < 4; i++) {
      const int r = y + i < y1 ? y + i : y1 - 1;
      from[i] = src + 3 * (long)w * r;
      to[i] = dst + 3 * (long)n * (r - y0);
      if (r == y1 - 1) {
        // The last loads of a row reach up to five bytes past it, which may be past the picture.
        memcpy(tail, from[i], 3 * (size_t)w);
        from[i] = tail;
      }
    }
    four_rows(to, from, lo, off, pairs, n);
  }
}

// Sixteen samples of one output row.
AVX2 static inline void sixteen(uint8_t *dst, const uint8_t *src, long stride, const int32_t *k,
                                int taps) {
  __m256i high0 = _mm256_setzero_si256(), low0 = high0, high1 = high0, low1 = high0;
  for (int j = 0; j < taps; j += 2, k += 2) {
    const __m128i a = _mm_loadu_si128((const __m128i *)(src + j * stride));
    const __m128i b = j + 1 < taps ? _mm_loadu_si128((const __m128i *)(src + (j + 1) * stride))
                                   : _mm_setzero_si128();
    const __m256i kh = _mm256_set1_epi32(k[0]), kl = _mm256_set1_epi32(k[1]);
    const __m256i p = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(a, b)),
                  q = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(a, b));
    high0 = _mm256_add_epi32(high0, _mm256_madd_epi16(p, kh));
    low0 = _mm256_add_epi32(low0, _mm256_madd_epi16(p, kl));
    high1 = _mm256_add_epi32(high1, _mm256_madd_epi16(q, kh));
    low1 = _mm256_add_epi32(low1, _mm256_madd_epi16(q, kl));
  }
  const __m256i half = _mm256_set1_epi32(1 << (weight_bits - 1));
  __m256i p = _mm256_add_epi32(_mm256_add_epi32(_mm256_slli_epi32(high0, 12), low0), half);
  __m256i q = _mm256_add_epi32(_mm256_add_epi32(_mm256_slli_epi32(high1, 12), low1), half);
  p = _mm256_srai_epi32(p, weight_bits);
  q = _mm256_srai_epi32(q, weight_bits);
  // packs works within 128-bit lanes: p0-3 q0-3 | p4-7 q4-7, put back in order by the permutation.
  const __m256i s = _mm256_permute4x64_epi64(_mm256_packs_epi32(p, q), 0xd8);
  _mm_storeu_si128((__m128i *)dst,
                   _mm_packus_epi16(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1)));
}

AVX2 void dit_resample_cols(uint8_t *dst, const uint8_t *src, int samples, int y0,
                            const int32_t *lo, const int32_t *off, const int32_t *pairs,
                            const int32_t *taps, int n) {
  for (int i = 0; i < n; i++) {
    const uint8_t *from = src + (long)(lo[i] - y0) * samples;
    uint8_t *to = dst + (long)i * samples;
    for (int x = 0; x + 16 <= samples; x += 16)
      sixteen(to + x, from + x, samples, pairs + 2 * (long)off[i], taps[i]);
    // What is left is made by a last step that overlaps the one before.
    if (samples % 16)
      sixteen(to + samples - 16, from + samples - 16, samples, pairs + 2 * (long)off[i], taps[i]);
  }
}
