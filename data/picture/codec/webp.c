#include "codec.h"

#include <stdio.h>
#include <string.h>

#if !__has_include(<webp/demux.h>)
#error "no webp/demux.h: make build in a clone, -tags installed elsewhere (docs/build.md)"
#endif
#include <webp/decode.h>
#include <webp/demux.h>

int dit_webp_version(void) { return WebPGetDecoderVersion(); }

static int fail(char *message, const char *text) {
  snprintf(message, DIT_MESSAGE, "%s", text);
  return 0;
}

static int size(const WebPData *file, int *w, int *h, char *message) {
  WebPDemuxer *m = WebPDemux(file);
  if (!m) return fail(message, "truncated or damaged");
  *w = (int)WebPDemuxGetI(m, WEBP_FF_CANVAS_WIDTH);
  *h = (int)WebPDemuxGetI(m, WEBP_FF_CANVAS_HEIGHT);
  WebPDemuxDelete(m);
  return 1;
}

// The animation decoder reads plain files too, and lays a first frame that is smaller than its
// canvas as Pillow does, which uses it for all.
int dit_webp(const uint8_t *data, size_t n, uint8_t *dst, int *w, int *h, char *message) {
  WebPData file = {data, n};
  int cw, ch;
  if (!size(&file, &cw, &ch, message)) return 0;
  if (!dst) {
    *w = cw;
    *h = ch;
    return 1;
  }
  if (*w != cw || *h != ch) return fail(message, "changed while it was read");
  WebPAnimDecoderOptions o;
  if (!WebPAnimDecoderOptionsInit(&o)) return fail(message, "headers and library do not match");
  o.color_mode = MODE_RGBA;
  WebPAnimDecoder *d = WebPAnimDecoderNew(&file, &o);
  if (!d) return fail(message, "damaged, or out of memory");
  uint8_t *rgba;
  int timestamp;
  if (!WebPAnimDecoderGetNext(d, &rgba, &timestamp)) {
    WebPAnimDecoderDelete(d);
    return fail(message, "truncated or damaged");
  }
  for (size_t i = 0; i < (size_t)cw * (size_t)ch; i++) memcpy(dst + 3 * i, rgba + 4 * i, 3);
  WebPAnimDecoderDelete(d);
  return 1;
}
