/* What the kernels of a transformer block take and write. Matrices are dense, in row-major order,
 * in the memory of the device. Those that are void * are float32 or bfloat16, all of a call the
 * same. Pure C. */
#ifndef DITRUN_KERNELS_BLOCK_H
#define DITRUN_KERNELS_BLOCK_H

#include <stdint.h>

/* Rows of shift, scale, gate and their gradients may be parts of wider ones. Widths and strides are
 * multiples of four, n is at most 65,535, and pointers are aligned to four elements; ada_norm takes
 * widths up to 4,096. Other sizes are an error. */

/* out = LayerNorm(x) (1 + scale) + shift; the norm has no weights of its own. With a gate it is
 * that of sum = x + gate y. */
typedef struct {
  int64_t n, tokens;
  int32_t width;
  float eps;
  const float *x;                   /* [n, tokens, width] */
  const void *shift, *scale, *gate; /* [n, width]; gate may be NULL */
  int64_t stride;                   /* of these three: elements from a sample to the next */
  const void *y;                    /* [n, tokens, width], with a gate */
  float *sum;                       /* the same */
  void *out;                        /* [n, tokens, width] */
  float *mean, *rstd;               /* [n, tokens], for the backward pass, or both NULL */
} dt_ada_norm_args;

/* Its gradients. */
typedef struct {
  int64_t n, tokens;
  int32_t width;
  const float *x;                /* [n, tokens, width]; with a gate the sum */
  const void *scale, *gate;      /* [n, width]; gate may be NULL */
  int64_t stride;                /* of these two */
  const float *mean, *rstd;      /* [n, tokens] */
  const void *dout;              /* [n, tokens, width] */
  const float *add;              /* the same: another gradient of x, to be added; may be NULL */
  float *dx;                     /* the same; may be add */
  const void *y;                 /* the same, with a gate */
  void *dy;                      /* the same, with a gate */
  void *dshift, *dscale, *dgate; /* [n, width]; dgate with a gate */
  int64_t dstride;               /* of these three */
  void *workspace;               /* ada_norm_workspace bytes, gate 1 where there is one */
} dt_ada_norm_backward_args;

/* sum = x + gate y */
typedef struct {
  int64_t n, tokens;
  int32_t width;
  const float *x;   /* [n, tokens, width] */
  const void *gate; /* [n, width] */
  int64_t stride;
  const void *y; /* [n, tokens, width] */
  float *sum;    /* the same; may be x */
} dt_gated_add_args;

/* Its gradients; that of x is dsum itself. */
typedef struct {
  int64_t n, tokens;
  int32_t width;
  const float *dsum; /* [n, tokens, width] */
  const void *gate;  /* [n, width] */
  int64_t stride;
  const void *y; /* [n, tokens, width] */
  void *dy;      /* the same */
  void *dgate;   /* [n, width] */
  int64_t dstride;
  void *workspace; /* sums_workspace(n, tokens, width) bytes */
} dt_gated_add_backward_args;

/* The gradients of GELU(x + bias), with the tanh; that of bias is the sum over the rows of dx. */
typedef struct {
  int64_t rows;
  int32_t width;
  const void *x;    /* [rows, width] */
  const void *bias; /* [width]; NULL: none */
  const void *dy;   /* [rows, width] */
  void *dx;         /* [rows, width]; may be dy */
  void *dbias;      /* [width], bfloat16 where half_sums is 1, else float32 */
  int32_t half_sums;
  void *workspace; /* sums_workspace(1, rows, width) bytes */
} dt_bias_gelu_backward_args;

/* The sums of the columns of a matrix. */
typedef struct {
  int64_t rows;
  int32_t width;
  const void *x; /* [rows, width] */
  void *sums;    /* [width], bfloat16 where half_sums is 1, else float32 */
  int32_t half_sums;
  void *workspace; /* sums_workspace(1, rows, width) bytes */
} dt_column_sums_args;

/* The gradients of attention's q, k and v as that of the product they were cut from. */
typedef struct {
  int64_t n, tokens;
  int32_t heads, head_width;
  const void *dq, *dk, *dv;             /* [n, heads, tokens, head_width] */
  int64_t stride_n, stride_h, stride_t; /* of each, in elements; the last dimension is dense */
  void *dqkv;                           /* [n, tokens, 3, heads, head_width] */
} dt_pack_qkv_args;

enum { DT_ADAMW_WORKSPACE = 64 };

/* n elements of the buffers of AdamW, all NULL that is not there. Without a gradient weight, m and
 * v stay. */
typedef struct {
  int64_t n;
  float *weight, *m, *v, *average;
  void *copy; /* the weights in bfloat16 */
  const void *gradient;
} dt_adamw_part;

/* A step of AdamW: torch.optim.AdamW's, and then average = decay average + (1 - decay) weight. What
 * has no size is one number on the device. Where skip is not 0, weight, m, v, average and copy keep
 * every bit. */
typedef struct {
  const dt_adamw_part *parts; /* in the memory of the host */
  int64_t count;              /* of them */
  double beta1, beta2, eps, weight_decay;
  const double *lr, *decay; /* decay is read where there is an average */
  const float *step;        /* how many there are with this one */
  const float *skip;        /* NULL: 0 */
  const float *clip;        /* what the gradient is multiplied by; NULL: 1 */
  void *workspace;          /* DT_ADAMW_WORKSPACE bytes */
} dt_adamw_args;

#endif
