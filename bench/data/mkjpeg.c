// mkjpeg: writes the kinds of JPEG files that Pillow reads but cannot write. For parity.py.
//
//   mkjpeg WIDTH HEIGHT COMPONENTS SAMPLING OPTIONS QUALITY <raw >jpeg
//
// raw is [height, width, components]. SAMPLING is one digit pair HV a component ("221111" is
// 4:2:0). OPTIONS is any of p progressive, a arithmetic coding, r restart markers, n no Adobe or
// JFIF marker, R components kept as RGB, Y CMYK as YCCK, "-" none.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

int main(int argc, char **argv) {
  if (argc != 7) return 2;
  int w = atoi(argv[1]), h = atoi(argv[2]), n = atoi(argv[3]);
  const char *sampling = argv[4], *options = argv[5];
  unsigned char *row = malloc((size_t)w * n);
  struct jpeg_compress_struct c;
  struct jpeg_error_mgr err;
  c.err = jpeg_std_error(&err);
  jpeg_create_compress(&c);
  jpeg_stdio_dest(&c, stdout);
  c.image_width = w;
  c.image_height = h;
  c.input_components = n;
  c.in_color_space = n == 1 ? JCS_GRAYSCALE : n == 3 ? JCS_RGB : n == 4 ? JCS_CMYK : JCS_UNKNOWN;
  jpeg_set_defaults(&c);
  if (strchr(options, 'R')) jpeg_set_colorspace(&c, JCS_RGB);
  if (strchr(options, 'Y')) jpeg_set_colorspace(&c, JCS_YCCK);
  jpeg_set_quality(&c, atoi(argv[6]), TRUE);
  for (int i = 0; i < n; i++) {
    c.comp_info[i].h_samp_factor = sampling[2 * i] - '0';
    c.comp_info[i].v_samp_factor = sampling[2 * i + 1] - '0';
  }
  if (strchr(options, 'p')) jpeg_simple_progression(&c);
  if (strchr(options, 'a')) c.arith_code = TRUE;
  if (strchr(options, 'r')) c.restart_in_rows = 1;
  if (strchr(options, 'n')) c.write_JFIF_header = c.write_Adobe_marker = FALSE;
  jpeg_start_compress(&c, TRUE);
  for (int y = 0; y < h; y++) {
    if (fread(row, 1, (size_t)w * n, stdin) != (size_t)w * n) return 1;
    jpeg_write_scanlines(&c, &row, 1);
  }
  jpeg_finish_compress(&c);
  return 0;
}
