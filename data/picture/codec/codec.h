#ifndef DIT_CODEC_H
#define DIT_CODEC_H

#include <stddef.h>
#include <stdint.h>

// Room for an error message, its end included.
#define DIT_MESSAGE 256

// Each decoder reads the n bytes at data. With dst NULL it only sets *w and *h from the header.
// Else *w and *h must be those, and dst has room for 3 * *w * *h samples. Returns 1, or 0 with a
// message.
int dit_jpeg(const uint8_t *data, size_t n, uint8_t *dst, int *w, int *h, char *message);
int dit_webp(const uint8_t *data, size_t n, uint8_t *dst, int *w, int *h, char *message);

// The header of a PNG file.
struct dit_png {
  uint32_t w, h;
  int bits, colour, interlaced;  // bits of a sample, and the colour type
  uint8_t palette[256][3];
};

// Decodes the pixels of a PNG file to dst, [h, w, 3]. Their compressed bytes are those of parts,
// pairs of offset and length in data. *last is the part in which they ended, *clipped whether
// 16-bit gray above 255 became 255.
int dit_png(const uint8_t *data, const struct dit_png *p, const size_t *parts, size_t num_parts,
            uint8_t *dst, size_t *last, int *clipped, char *message);

const char *dit_zlib_version(void);
const char *dit_jpeg_version(void);
int dit_webp_version(void);

#endif
