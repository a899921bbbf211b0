#ifndef DIT_RESAMPLE_AMD64_H
#define DIT_RESAMPLE_AMD64_H

#include <stdint.h>

// Both filter with a table of weights for n outputs: output i is a sum over inputs lo[i] to
// lo[i]+taps[i]-1. The taps come in pairs, the last of an odd number filled up with a zero weight:
// those of output i begin at pairs[2*off[i]], two numbers for each pair, the high parts of both
// weights and the low parts, as 16-bit halves, where weight = 4096*high + low.

int dit_have_avx2(void);

// Filters rows [y0, y1) of src, which are w pixels wide, along x. tail has room for a row and 16
// bytes.
void dit_resample_rows(uint8_t *dst, const uint8_t *src, int w, int y0, int y1, const int32_t *lo,
                       const int32_t *off, const int32_t *pairs, int n, uint8_t *tail);

// Filters along y. Rows of src and dst have samples >= 16 bytes; row r of src is input row r+y0.
void dit_resample_cols(uint8_t *dst, const uint8_t *src, int samples, int y0, const int32_t *lo,
                       const int32_t *off, const int32_t *pairs, const int32_t *taps, int n);

#endif
