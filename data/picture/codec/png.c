#include "codec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if !__has_include(<zlib.h>)
#error "no zlib.h: make build in a clone, -tags installed elsewhere (docs/build.md)"
#endif
#include <zlib.h>

const char *dit_zlib_version(void) { return zlibVersion(); }

static int fail(char *message, const char *text) {
  snprintf(message, DIT_MESSAGE, "%s", text);
  return 0;
}

// The compressed pixels: the contents of the IDAT chunks, one after the other.
struct stream {
  z_stream z;
  const uint8_t *data;
  const size_t *parts;  // offset and length of each
  size_t num_parts, part, read;
  char *message;
};

// next gives inflate more to read, in blocks as Pillow does.
static int next(struct stream *s) {
  enum { block = 1 << 16 };
  while (s->part < s->num_parts && s->read == s->parts[2 * s->part + 1]) {
    s->part++;
    s->read = 0;
  }
  if (s->part == s->num_parts)
    return fail(s->message, "truncated: the pixel data end before the picture does");
  size_t n = s->parts[2 * s->part + 1] - s->read;
  if (n > block) n = block;
  s->z.next_in = (Bytef *)(s->data + s->parts[2 * s->part] + s->read);
  s->z.avail_in = (uInt)n;
  s->read += n;
  return 1;
}

// fill inflates n bytes. What comes behind the last row of a picture is not looked at.
static int fill(struct stream *s, uint8_t *out, size_t n) {
  s->z.next_out = out;
  s->z.avail_out = (uInt)n;
  while (s->z.avail_out > 0) {
    if (s->z.avail_in == 0 && !next(s)) return 0;
    int err = inflate(&s->z, Z_NO_FLUSH);
    if (err == Z_MEM_ERROR) return fail(s->message, "out of memory");
    if (err < 0 || err == Z_NEED_DICT) return fail(s->message, "damaged pixel data");
    if (err == Z_STREAM_END && s->z.avail_out > 0)
      return fail(s->message, "fewer pixels than the header says");
  }
  return 1;
}

static inline __attribute__((always_inline)) void unfilter_left(uint8_t *row, size_t n,
                                                                size_t bpp) {
  for (size_t i = bpp; i < n; i++) row[i] = (uint8_t)(row[i] + row[i - bpp]);
}

static inline __attribute__((always_inline)) void unfilter_average(uint8_t *row, const uint8_t *up,
                                                                   size_t n, size_t bpp) {
  for (size_t i = 0; i < bpp && i < n; i++) row[i] = (uint8_t)(row[i] + (up ? up[i] : 0) / 2);
  for (size_t i = bpp; i < n; i++)
    row[i] = (uint8_t)(row[i] + (row[i - bpp] + (up ? up[i] : 0)) / 2);
}

static inline __attribute__((always_inline)) void unfilter_paeth(uint8_t *row, const uint8_t *up,
                                                                 size_t n, size_t bpp) {
  for (size_t i = 0; i < bpp && i < n; i++) row[i] = (uint8_t)(row[i] + up[i]);
  for (size_t i = bpp; i < n; i++) {
    int a = row[i - bpp], b = up[i], c = up[i - bpp];
    int pa = b - c, pb = a - c, pc = pa + pb;
    pa = pa < 0 ? -pa : pa;
    pb = pb < 0 ? -pb : pb;
    pc = pc < 0 ? -pc : pc;
    int nearest = pb < pa ? b : a;
    int distance = pb < pa ? pb : pa;
    row[i] = (uint8_t)(row[i] + (pc < distance ? c : nearest));
  }
}

// unfilter undoes the filter of a row. up is the row above it, NULL above the first, which stands
// for zeros. The usual sizes of a pixel are constants, for speed.
static int unfilter(int filter, uint8_t *row, const uint8_t *up, size_t n, size_t bpp) {
  if (!up) filter = filter == 2 ? 0 : filter == 4 ? 1 : filter;
  switch (filter) {
    case 0: return 1;
    case 1:
      bpp == 3   ? unfilter_left(row, n, 3)
      : bpp == 4 ? unfilter_left(row, n, 4)
                 : unfilter_left(row, n, bpp);
      return 1;
    case 2:
      for (size_t i = 0; i < n; i++) row[i] = (uint8_t)(row[i] + up[i]);
      return 1;
    case 3:
      bpp == 3   ? unfilter_average(row, up, n, 3)
      : bpp == 4 ? unfilter_average(row, up, n, 4)
                 : unfilter_average(row, up, n, bpp);
      return 1;
    case 4:
      bpp == 3   ? unfilter_paeth(row, up, n, 3)
      : bpp == 4 ? unfilter_paeth(row, up, n, 4)
                 : unfilter_paeth(row, up, n, bpp);
      return 1;
  }
  return 0;
}

static int samples_of(int colour) {
  return colour == 2 ? 3 : colour == 4 ? 2 : colour == 6 ? 4 : 1;
}

// expand writes w pixels of a row as RGB, each step bytes behind the one before.
static void expand(const struct dit_png *p, const uint8_t *row, size_t w, uint8_t *out, size_t step,
                   int *clipped) {
  size_t bytes = (size_t)samples_of(p->colour) * (size_t)p->bits / 8;
  if (p->colour == 2 && p->bits == 8 && step == 3) {
    memcpy(out, row, 3 * w);
  } else if (p->colour == 2 || p->colour == 6) {
    size_t sample = (size_t)p->bits / 8;
    for (size_t x = 0; x < w; x++, out += step, row += bytes) {
      out[0] = row[0];
      out[1] = row[sample];
      out[2] = row[2 * sample];
    }
  } else if (p->colour == 0 && p->bits == 16) {
    for (size_t x = 0; x < w; x++, out += step, row += 2) {
      uint8_t v = row[0] ? 255 : row[1];
      *clipped |= row[0] != 0;
      out[0] = out[1] = out[2] = v;
    }
  } else if (p->bits >= 8 && p->colour != 3) {
    for (size_t x = 0; x < w; x++, out += step, row += bytes) out[0] = out[1] = out[2] = row[0];
  } else {
    int mask = (1 << p->bits) - 1;
    for (size_t x = 0; x < w; x++, out += step) {
      size_t bit = x * (size_t)p->bits;
      int v = row[bit / 8] >> (8 - p->bits - (int)(bit % 8)) & mask;
      if (p->colour == 3) {
        memcpy(out, p->palette[v], 3);
      } else {
        out[0] = out[1] = out[2] = (uint8_t)(v * 255 / mask);
      }
    }
  }
}

static const struct pass {
  uint32_t x0, y0, dx, dy;
} whole = {0, 0, 1, 1}, adam7[7] = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4},
                                    {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}};

static int decode_pass(struct stream *s, const struct dit_png *p, const struct pass *a,
                       uint8_t *rows[2], uint8_t *dst, int *clipped) {
  if (p->w <= a->x0 || p->h <= a->y0) return 1;
  size_t w = (p->w - a->x0 + a->dx - 1) / a->dx,
         bits = (size_t)samples_of(p->colour) * (size_t)p->bits;
  size_t n = (w * bits + 7) / 8;
  const uint8_t *up = NULL;
  int i = 0;
  for (size_t y = a->y0; y < p->h; y += a->dy, i ^= 1) {
    uint8_t *row = rows[i];
    if (!fill(s, row, n + 1)) return 0;
    if (!unfilter(row[0], row + 1, up, n, (bits + 7) / 8))
      return fail(s->message, "a filter that is not known");
    expand(p, row + 1, w, dst + 3 * (y * p->w + a->x0), 3 * a->dx, clipped);
    up = row + 1;
  }
  return 1;
}

int dit_png(const uint8_t *data, const struct dit_png *p, const size_t *parts, size_t num_parts,
            uint8_t *dst, size_t *last, int *clipped, char *message) {
  struct stream s;
  memset(&s, 0, sizeof s);
  s.data = data;
  s.parts = parts;
  s.num_parts = num_parts;
  s.message = message;
  size_t n = (p->w * (size_t)samples_of(p->colour) * (size_t)p->bits + 7) / 8 + 1;
  if (n > INT32_MAX) return fail(message, "rows too long");
  uint8_t *rows[2] = {malloc(n), NULL};
  if (p->h > 1) rows[1] = malloc(n);
  int ok = rows[0] && (rows[1] || p->h == 1) && inflateInit(&s.z) == Z_OK;
  if (!ok) fail(message, "out of memory");
  *clipped = 0;
  if (ok) {
    for (int i = 0; ok && i < (p->interlaced ? 7 : 1); i++)
      ok = decode_pass(&s, p, p->interlaced ? &adam7[i] : &whole, rows, dst, clipped);
    inflateEnd(&s.z);
  }
  free(rows[0]);
  free(rows[1]);
  *last = s.part;
  return ok;
}
