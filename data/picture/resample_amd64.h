#ifndef DIT_RESAMPLE_AMD64_H
#define DIT_RESAMPLE_AMD64_H

#include <stdint.h>

// Both filter with a table of weights for n outputs: output i is a sum over inputs from lo[i] on.
// The taps come in pairs, as many for each output, filled up with weights of zero. Those of output
// i begin at k[2*pairs*i], two numbers for each pair, the high parts of both weights and the low
// parts, as 16-bit halves, where weight = 4096*high + low.

int dit_have_avx2(void);

// Filters rows [y0, y1) of src, which are w pixels wide, along x. Up to 6*pairs + 16 bytes from the
// first tap of an output on are read: a row has that many at least, and tail has room for so many
// more than a row.
void dit_resample_rows(uint8_t *dst, const uint8_t *src, int w, int y0, int y1, const int32_t *lo,
                       const int32_t *k, int pairs, int n, uint8_t *tail);

// Filters along y. Rows of src and dst have samples >= 32 bytes; row r of src is input row r+y0.
// Only inputs lo[i] to lo[i]+taps[i]-1 are read.
void dit_resample_cols(uint8_t *dst, const uint8_t *src, int samples, int y0, const int32_t *lo,
                       const int32_t *taps, const int32_t *k, int pairs, int n);

#endif
