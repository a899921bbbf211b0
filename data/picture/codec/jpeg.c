#include "codec.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if !__has_include(<jpeglib.h>)
#error "no jpeglib.h: make build in a clone, -tags installed elsewhere (docs/build.md)"
#endif
#include <jerror.h>
#include <jpeglib.h>

#define STRING2(x) #x
#define STRING(x) STRING2(x)

const char *dit_jpeg_version(void) { return STRING(LIBJPEG_TURBO_VERSION); }

// A progressive file of a few bytes may ask for any number of passes over a large picture. Real
// ones have about ten.
enum { max_scans = 500 };

struct failure {
  struct jpeg_error_mgr base;
  jmp_buf out;
  char *message;
};

static void fail(j_common_ptr c) {
  struct failure *f = (struct failure *)c->err;
  char text[JMSG_LENGTH_MAX];
  f->base.format_message(c, text);
  int marker = f->base.msg_parm.i[0] & 255;
  if (f->base.msg_code == JERR_SOF_UNSUPPORTED)
    snprintf(text, sizeof text, "lossless or hierarchical coding (%02x): not supported, convert it",
             marker);
  if (f->base.msg_code == JERR_UNKNOWN_MARKER && marker == 0xf7)
    snprintf(text, sizeof text, "JPEG-LS: not supported, convert it");
  snprintf(f->message, DIT_MESSAGE, "%s", text);
  longjmp(f->out, 1);
}

static void fail_with(j_common_ptr c, const char *text) {
  struct failure *f = (struct failure *)c->err;
  snprintf(f->message, DIT_MESSAGE, "%s", text);
  longjmp(f->out, 1);
}

static void silent(j_common_ptr c) { (void)c; }

static void start_source(j_decompress_ptr d) { (void)d; }

// libjpeg's own memory source would add an end marker and go on with gray.
static boolean end_of_input(j_decompress_ptr d) {
  fail_with((j_common_ptr)d, "truncated: the file ends before the picture does");
  return FALSE;
}

static void skip(j_decompress_ptr d, long n) {
  if (n <= 0) return;
  if ((size_t)n > d->src->bytes_in_buffer) end_of_input(d);
  d->src->next_input_byte += n;
  d->src->bytes_in_buffer -= (size_t)n;
}

static void count_scans(j_common_ptr c) {
  if (((j_decompress_ptr)c)->input_scan_number > max_scans) fail_with(c, "more than 500 scans");
}

// Four components are ink. What is stored is inverted, as Adobe does it, marker or no marker.
static void from_cmyk(uint8_t *rgb, const uint8_t *stored, int w) {
  for (int x = 0; x < w; x++) {
    int n = stored[4 * x + 3];  // 255 - K
    for (int i = 0; i < 3; i++) {
      int t = (255 - stored[4 * x + i]) * n + 128;
      int v = n - ((t + (t >> 8)) >> 8);
      rgb[3 * x + i] = (uint8_t)(v < 0 ? 0 : v);
    }
  }
}

int dit_jpeg(const uint8_t *data, size_t n, uint8_t *dst, int *w, int *h, char *message) {
  struct jpeg_decompress_struct d;
  struct failure f;
  struct jpeg_source_mgr source;
  struct jpeg_progress_mgr progress;
  uint8_t *volatile ink = NULL;

  memset(&d, 0, sizeof d);
  d.err = jpeg_std_error(&f.base);
  f.base.error_exit = fail;
  f.base.output_message = silent;
  f.message = message;
  if (setjmp(f.out)) {
    jpeg_destroy_decompress(&d);
    free(ink);
    return 0;
  }
  jpeg_create_decompress(&d);
  source.next_input_byte = data;
  source.bytes_in_buffer = n;
  source.init_source = start_source;
  source.fill_input_buffer = end_of_input;
  source.skip_input_data = skip;
  source.resync_to_restart = jpeg_resync_to_restart;
  source.term_source = start_source;
  d.src = &source;
  memset(&progress, 0, sizeof progress);
  progress.progress_monitor = count_scans;
  d.progress = &progress;

  jpeg_read_header(&d, TRUE);
  if (d.data_precision != 8)
    fail_with((j_common_ptr)&d, "more than 8 bits a sample: not supported, convert it");
  if (d.num_components != 1 && d.num_components != 3 && d.num_components != 4) {
    snprintf(message, DIT_MESSAGE, "%d components: want 1, 3 or 4", d.num_components);
    longjmp(f.out, 1);
  }
  if (!dst) {
    *w = (int)d.image_width;
    *h = (int)d.image_height;
    jpeg_destroy_decompress(&d);
    return 1;
  }
  if (*w != (int)d.image_width || *h != (int)d.image_height)
    fail_with((j_common_ptr)&d, "changed while it was read");
  d.out_color_space = d.num_components == 4 ? JCS_CMYK : JCS_RGB;
  jpeg_start_decompress(&d);
  size_t row = 3 * (size_t)d.output_width;
  if (d.num_components == 4) {
    ink = malloc(4 * (size_t)d.output_width);
    if (!ink) fail_with((j_common_ptr)&d, "out of memory");
  }
  while (d.output_scanline < d.output_height) {
    uint8_t *at = dst + row * d.output_scanline;
    JSAMPROW rows[4];
    if (ink) {
      rows[0] = ink;
      if (jpeg_read_scanlines(&d, rows, 1) == 1) from_cmyk(at, ink, (int)d.output_width);
      continue;
    }
    int most = d.rec_outbuf_height < 4 ? d.rec_outbuf_height : 4;
    for (int i = 0; i < most; i++) {
      // Lines past the last are asked for but never written.
      rows[i] = at + row * (d.output_scanline + (unsigned)i < d.output_height ? (size_t)i : 0);
    }
    jpeg_read_scanlines(&d, rows, (JDIMENSION)most);
  }
  jpeg_finish_decompress(&d);
  jpeg_destroy_decompress(&d);
  free(ink);
  return 1;
}
