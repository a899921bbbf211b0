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

const char *dit_jpeg_version(void);
int dit_webp_version(void);

#endif
