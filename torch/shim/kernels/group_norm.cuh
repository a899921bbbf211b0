// SiLU(GroupNorm(x)) for x [N, H, W, C], which is how PyTorch stores channels_last images: the pair
// in front of every convolution of the autoencoder; and GroupNorm alone, in front of its attention.
// Forward and backward.
//
// Forward reads x twice and writes y once, backward reads x and dy twice and writes dx once. Sums
// are in float32; those of moments of distances to a value that is near the mean, so that a mean
// that is large beside the deviation costs no digits. The result of a sample does not depend on the
// batch that it is in.
#pragma once

#include <initializer_list>

#include "device.cuh"
#include "plugin.h"

namespace dt {

// Mean of some values, and the sum of their squared distances to it.
struct Moments {
  float mean, m2;
};

// What a value of a group is normalised with: (x - mean) rstd.
struct Normaliser {
  float mean, rstd;
};

// Sums over what was normalised with h = (x - mean) rstd, and of which g are the gradients: of g h
// and of g.
struct NormSums {
  float gh, g;
};

constexpr int kNormThreads = 256;
constexpr int kNormPixels = 16;  // of a thread
constexpr int kNormAtOnce = 4;   // of them: loads under way together

// How an image is divided. A block takes some pixels (grid x) of some groups (grid y) of a sample
// (grid z). Threads that are next to each other in x take neighbouring vectors of a pixel, in y
// neighbouring pixels; a thread keeps its channels, so all its values are of one group.
struct NormTiles {
  int vectors;     // that make up a group in a pixel
  int groups;      // of a block
  int slabs;       // blocks that make up all groups
  int rows;        // pixels at once
  int pixels;      // of a block
  int64_t chunks;  // blocks that make up all pixels
  dim3 grid, threads;

  NormTiles(const dt_norm_shape &norm, int per_vector) {
    vectors = norm.channels / norm.groups / per_vector;
    const int most = vectors < kNormThreads ? kNormThreads / vectors : 1;
    slabs = (norm.groups + most - 1) / most;
    groups = (norm.groups + slabs - 1) / slabs;
    rows = groups * vectors < kNormThreads ? kNormThreads / (groups * vectors) : 1;
    pixels = rows * kNormPixels;
    chunks = (norm.pixels + pixels - 1) / pixels;
    grid = dim3(static_cast<unsigned>(chunks), static_cast<unsigned>(slabs),
                static_cast<unsigned>(norm.n));
    threads = dim3(static_cast<unsigned>(groups * vectors), static_cast<unsigned>(rows));
  }
};

// How many pixels a thread takes: begin, begin + rows, ...
__device__ inline int norm_pixels(int64_t begin, int rows, int64_t pixels) {
  const int64_t left = (pixels - begin + rows - 1) / rows;
  return left < 0 ? 0 : left < kNormPixels ? static_cast<int>(left) : kNormPixels;
}

// Loads a thread's vectors i, i + 1, ..., as far as there are num_pixels; they lie stride elements
// apart. With a store between them, each load would wait for the one before.
template <class T, int V>
__device__ inline void load_pixels(const T *start, int i, int num_pixels, int stride,
                                   Vector<T, V> (&values)[kNormAtOnce]) {
  for (int j = 0; j < kNormAtOnce; j++)
    if (i + j < num_pixels)
      values[j] =
          *reinterpret_cast<const Vector<T, V> *>(start + static_cast<int64_t>(i + j) * stride);
}

// parts [N, groups, chunks]
template <class T, int V>
__global__ void __launch_bounds__(kNormThreads)
    group_moments_kernel(const T *x, int64_t pixels, int channels, int groups, Moments *parts) {
  DT_SHARED(moments, Moments[kNormThreads]);
  DT_SHARED(counts, int[kNormThreads]);
  const int vectors = channels / groups / V, columns = static_cast<int>(blockDim.x);
  const int block_groups = columns / vectors, first = static_cast<int>(blockIdx.y) * block_groups;
  const int column = static_cast<int>(threadIdx.x), row = static_cast<int>(threadIdx.y);
  const int rows = static_cast<int>(blockDim.y);
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * rows * kNormPixels + row;
  float shift = 0, sum = 0, squares = 0;
  const int num_pixels = first + column / vectors < groups ? norm_pixels(begin, rows, pixels) : 0;
  if (num_pixels > 0) {
    const T *start = x + (static_cast<int64_t>(blockIdx.z) * pixels + begin) * channels +
                     (first * vectors + column) * V;
    shift = static_cast<float>(*start);
    for (int i = 0; i < num_pixels; i += kNormAtOnce) {
      Vector<T, V> values[kNormAtOnce];
      load_pixels(start, i, num_pixels, rows * channels, values);
      for (int j = 0; j < kNormAtOnce && i + j < num_pixels; j++)
        for (int v = 0; v < V; v++) {
          const float d = static_cast<float>(values[j].v[v]) - shift;
          sum += d;
          squares += d * d;
        }
    }
  }
  const int count = num_pixels * V;
  const float offset = count ? sum / static_cast<float>(count) : 0;
  const int thread = row * columns + column;
  moments[thread] = Moments{shift + offset, squares - sum * offset};
  counts[thread] = count;
  __syncthreads();

  // A thread a group. Row 0 has a pixel in every block.
  const int group = first + thread;
  if (thread >= block_groups || group >= groups) return;
  const float pivot = moments[thread * vectors].mean;
  float distances = 0, total = 0;
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < vectors; i++) {
      const int from = r * columns + thread * vectors + i;
      const float k = static_cast<float>(counts[from]);
      distances += k * (moments[from].mean - pivot);
      total += k;
    }
  const float mean = pivot + distances / total;
  float m2 = 0;
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < vectors; i++) {
      const int from = r * columns + thread * vectors + i;
      const float d = moments[from].mean - mean;
      m2 += moments[from].m2 + static_cast<float>(counts[from]) * d * d;
    }
  parts[(static_cast<int64_t>(blockIdx.z) * groups + group) * gridDim.x + blockIdx.x] =
      Moments{mean, m2};
}

// A warp joins the parts of a group of a sample, each of chunk values, the last of what is left.
__global__ void __launch_bounds__(kNormThreads)
    group_normaliser_kernel(const Moments *parts, int64_t chunks, int64_t chunk, int64_t values,
                            int64_t rows, float eps, Normaliser *out) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  parts += row * chunks;
  const float pivot = parts[0].mean;
  float distances = 0;
  for (int64_t i = threadIdx.x; i < chunks; i += 32) {
    const float k = static_cast<float>(i + 1 < chunks ? chunk : values - i * chunk);
    distances += k * (parts[i].mean - pivot);
  }
  const float mean = pivot + warp_sum(distances) / static_cast<float>(values);
  float m2 = 0;
  for (int64_t i = threadIdx.x; i < chunks; i += 32) {
    const float k = static_cast<float>(i + 1 < chunks ? chunk : values - i * chunk);
    const float d = parts[i].mean - mean;
    m2 += parts[i].m2 + k * d * d;
  }
  const float variance = warp_sum(m2) / static_cast<float>(values);
  if (threadIdx.x == 0) out[row] = Normaliser{mean, 1 / sqrtf(variance + eps)};
}

// Where a thread's work begins: its first channel and pixel, and how far they are from the start.
template <int V>
struct NormThread {
  int channel, group, num_pixels, stride;  // stride: elements to the thread's next pixel
  int64_t start;

  __device__ NormThread(int64_t pixels, int channels, int groups) {
    channel = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * V;
    group = channel / (channels / groups);
    const int rows = static_cast<int>(blockDim.y);
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * rows * kNormPixels + threadIdx.y;
    num_pixels = group < groups ? norm_pixels(begin, rows, pixels) : 0;
    stride = rows * channels;
    start = (static_cast<int64_t>(blockIdx.z) * pixels + begin) * channels + channel;
  }
};

template <class T, int V>
__global__ void __launch_bounds__(kNormThreads)
    group_norm_kernel(const T *x, const float *weight, const float *bias,
                      const Normaliser *normalisers, int64_t pixels, int channels, int groups,
                      bool silu, T *y) {
  const NormThread<V> me(pixels, channels, groups);
  if (me.num_pixels == 0) return;
  const Normaliser norm = normalisers[static_cast<int64_t>(blockIdx.z) * groups + me.group];
  float scale[V], shift[V];
  for (int v = 0; v < V; v++) {
    scale[v] = norm.rstd * weight[me.channel + v];
    shift[v] = bias[me.channel + v];
  }
  for (int i = 0; i < me.num_pixels; i += kNormAtOnce) {
    Vector<T, V> values[kNormAtOnce];
    load_pixels(x + me.start, i, me.num_pixels, me.stride, values);
    for (int j = 0; j < kNormAtOnce && i + j < me.num_pixels; j++) {
      for (int v = 0; v < V; v++) {
        const float h = (static_cast<float>(values[j].v[v]) - norm.mean) * scale[v] + shift[v];
        values[j].v[v] = static_cast<T>(silu ? h / (1 + expf(-h)) : h);
      }
      *reinterpret_cast<Vector<T, V> *>(y + me.start + static_cast<int64_t>(i + j) * me.stride) =
          values[j];
    }
  }
}

// The gradient at a, which SiLU took, where dy is that of its result.
__device__ inline float silu_backward(float a, float dy) {
  const float sigmoid = 1 / (1 + expf(-a));
  return dy * sigmoid * (1 + a * (1 - sigmoid));
}

// parts [N, chunks, C]: the sums over the pixels of a block, g being the gradients of what the
// weights gave.
template <class T, int V>
__global__ void __launch_bounds__(kNormThreads)
    group_norm_sums_kernel(const T *x, const T *dy, const float *weight, const float *bias,
                           const Normaliser *normalisers, int64_t pixels, int channels, int groups,
                           bool silu, NormSums *parts) {
  DT_SHARED(all, NormSums[kNormThreads * V]);
  const NormThread<V> me(pixels, channels, groups);
  const int rows = static_cast<int>(blockDim.y), columns = static_cast<int>(blockDim.x);
  NormSums sums[V] = {};
  if (me.num_pixels > 0) {
    const Normaliser norm = normalisers[static_cast<int64_t>(blockIdx.z) * groups + me.group];
    float scale[V], shift[V];
    for (int v = 0; v < V; v++) {
      scale[v] = weight[me.channel + v];
      shift[v] = bias[me.channel + v];
    }
    for (int i = 0; i < me.num_pixels; i += kNormAtOnce) {
      Vector<T, V> values[kNormAtOnce], grads[kNormAtOnce];
      load_pixels(x + me.start, i, me.num_pixels, me.stride, values);
      load_pixels(dy + me.start, i, me.num_pixels, me.stride, grads);
      for (int j = 0; j < kNormAtOnce && i + j < me.num_pixels; j++)
        for (int v = 0; v < V; v++) {
          const float h = (static_cast<float>(values[j].v[v]) - norm.mean) * norm.rstd;
          float g = static_cast<float>(grads[j].v[v]);
          if (silu) g = silu_backward(h * scale[v] + shift[v], g);
          sums[v].gh += g * h;
          sums[v].g += g;
        }
    }
  }
  const int column = static_cast<int>(threadIdx.x);
  for (int v = 0; v < V; v++)
    all[(static_cast<int>(threadIdx.y) * columns + column) * V + v] = sums[v];
  __syncthreads();
  if (threadIdx.y > 0 || me.group >= groups) return;
  NormSums *out =
      parts + (static_cast<int64_t>(blockIdx.z) * gridDim.x + blockIdx.x) * channels + me.channel;
  for (int v = 0; v < V; v++) {
    for (int r = 1; r < rows; r++) {
      const NormSums more = all[(r * columns + column) * V + v];
      sums[v].gh += more.gh;
      sums[v].g += more.g;
    }
    out[v] = sums[v];
  }
}

constexpr int kSumRows = 8;  // parts at once

// sums [N, C] of parts [N, chunks, C]. A block takes 32 channels of a sample.
__global__ void __launch_bounds__(32 * kSumRows)
    group_norm_join_kernel(const NormSums *parts, int64_t chunks, int channels, NormSums *sums) {
  DT_SHARED(all, NormSums[kSumRows][32]);
  const int channel = static_cast<int>(blockIdx.x * 32 + threadIdx.x);
  NormSums sum = {};
  if (channel < channels)
    for (int64_t i = threadIdx.y; i < chunks; i += kSumRows) {
      const NormSums part = parts[(blockIdx.y * chunks + i) * channels + channel];
      sum.gh += part.gh;
      sum.g += part.g;
    }
  all[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || channel >= channels) return;
  for (int r = 1; r < kSumRows; r++) {
    sum.gh += all[r][threadIdx.x].gh;
    sum.g += all[r][threadIdx.x].g;
  }
  sums[static_cast<int64_t>(blockIdx.y) * channels + channel] = sum;
}

// What sums [N, C] come to: for a thread of the first N groups the means over a group of a sample,
// g being the gradients of what was normalised, for one of the next C the gradients of a weight and
// a bias.
__global__ void __launch_bounds__(kNormThreads)
    group_norm_means_kernel(const NormSums *sums, const float *weight, int64_t n, int64_t pixels,
                            int channels, int groups, NormSums *means, float *dweight,
                            float *dbias) {
  int64_t i = static_cast<int64_t>(blockIdx.x) * kNormThreads + threadIdx.x;
  const int per_group = channels / groups;
  NormSums sum = {};
  if (i < n * groups) {
    const int first = static_cast<int>(i % groups) * per_group;
    for (int c = first; c < first + per_group; c++) {
      sum.gh += weight[c] * sums[i / groups * channels + c].gh;
      sum.g += weight[c] * sums[i / groups * channels + c].g;
    }
    const float count = static_cast<float>(pixels * per_group);
    means[i] = NormSums{sum.gh / count, sum.g / count};
    return;
  }
  i -= n * groups;
  if (i >= channels) return;
  for (int64_t k = 0; k < n; k++) {
    sum.gh += sums[k * channels + i].gh;
    sum.g += sums[k * channels + i].g;
  }
  dweight[i] = sum.gh;
  dbias[i] = sum.g;
}

// With h = (x - mean) rstd and g the gradient at h: dx = rstd (g - mean(g) - h mean(g h)).
template <class T, int V>
__global__ void __launch_bounds__(kNormThreads)
    group_norm_backward_kernel(const T *x, const T *dy, const float *weight, const float *bias,
                               const Normaliser *normalisers, const NormSums *means, int64_t pixels,
                               int channels, int groups, bool silu, T *dx) {
  const NormThread<V> me(pixels, channels, groups);
  if (me.num_pixels == 0) return;
  const int64_t row = static_cast<int64_t>(blockIdx.z) * groups + me.group;
  const Normaliser norm = normalisers[row];
  const NormSums mean = means[row];
  float scale[V], shift[V];
  for (int v = 0; v < V; v++) {
    scale[v] = weight[me.channel + v];
    shift[v] = bias[me.channel + v];
  }
  for (int i = 0; i < me.num_pixels; i += kNormAtOnce) {
    Vector<T, V> values[kNormAtOnce], grads[kNormAtOnce];
    load_pixels(x + me.start, i, me.num_pixels, me.stride, values);
    load_pixels(dy + me.start, i, me.num_pixels, me.stride, grads);
    for (int j = 0; j < kNormAtOnce && i + j < me.num_pixels; j++) {
      for (int v = 0; v < V; v++) {
        const float h = (static_cast<float>(values[j].v[v]) - norm.mean) * norm.rstd;
        float g = static_cast<float>(grads[j].v[v]);
        if (silu) g = silu_backward(h * scale[v] + shift[v], g);
        values[j].v[v] = static_cast<T>(norm.rstd * (g * scale[v] - mean.g - h * mean.gh));
      }
      *reinterpret_cast<Vector<T, V> *>(dx + me.start + static_cast<int64_t>(i + j) * me.stride) =
          values[j];
    }
  }
}

// Four channels at once where a group has a multiple of four.
inline int norm_vector(const dt_norm_shape &norm) {
  return norm.channels / norm.groups % 4 == 0 ? 4 : 1;
}

// What the kernels can take: there is a thread for every vector of a group. More than 65,535
// samples are refused, and groups of more than 256 channels, or of 1,024 where that is a multiple
// of four.
inline bool norm_takes(const dt_norm_shape &norm) {
  return norm.n <= 65535 && norm.groups >= 1 && norm.channels >= norm.groups &&
         norm.channels % norm.groups == 0 &&
         norm.channels / norm.groups <= kNormThreads * norm_vector(norm);
}

// Bytes of memory for intermediate results of group_norm, or of group_norm_backward; -1 where they
// do not take such sizes.
inline int64_t group_norm_workspace(const dt_norm_shape &norm, bool backward) {
  if (!norm_takes(norm)) return -1;
  const int64_t chunks = NormTiles(norm, norm_vector(norm)).chunks;
  if (!backward) return norm.n * norm.groups * chunks * static_cast<int64_t>(sizeof(Moments));
  return norm.n * ((chunks + 1) * norm.channels + norm.groups) *
         static_cast<int64_t>(sizeof(NormSums));
}

template <class T, int V>
int start_group_norm(const dt_norm_shape &norm, const T *x, const float *weight, const float *bias,
                     void *workspace, Normaliser *normalisers, T *y, Stream stream) {
  const NormTiles tiles(norm, V);
  const int64_t rows = norm.n * norm.groups, per_group = norm.channels / norm.groups;
  auto *parts = static_cast<Moments *>(workspace);
  int error = launch(group_moments_kernel<T, V>, tiles.grid, tiles.threads, stream, x, norm.pixels,
                     norm.channels, norm.groups, parts);
  if (error) return error;
  const unsigned warps = kNormThreads / 32;
  error = launch(group_normaliser_kernel, dim3(static_cast<unsigned>((rows + warps - 1) / warps)),
                 dim3(32, warps), stream, parts, tiles.chunks, tiles.pixels * per_group,
                 norm.pixels * per_group, rows, norm.eps, normalisers);
  if (error) return error;
  return launch(group_norm_kernel<T, V>, tiles.grid, tiles.threads, stream, x, weight, bias,
                normalisers, norm.pixels, norm.channels, norm.groups, norm.silu != 0, y);
}

template <class T, int V>
int start_group_norm_backward(const dt_norm_shape &norm, const T *x, const T *dy,
                              const float *weight, const float *bias, const Normaliser *normalisers,
                              void *workspace, T *dx, float *dweight, float *dbias, Stream stream) {
  const NormTiles tiles(norm, V);
  auto *parts = static_cast<NormSums *>(workspace);
  NormSums *sums = parts + norm.n * tiles.chunks * norm.channels,
           *means = sums + norm.n * norm.channels;
  int error =
      launch(group_norm_sums_kernel<T, V>, tiles.grid, tiles.threads, stream, x, dy, weight, bias,
             normalisers, norm.pixels, norm.channels, norm.groups, norm.silu != 0, parts);
  if (error) return error;
  const auto blocks = [](int64_t threads, int block) {
    return static_cast<unsigned>((threads + block - 1) / block);
  };
  error =
      launch(group_norm_join_kernel, dim3(blocks(norm.channels, 32), static_cast<unsigned>(norm.n)),
             dim3(32, kSumRows), stream, parts, tiles.chunks, norm.channels, sums);
  if (error) return error;
  error = launch(group_norm_means_kernel,
                 dim3(blocks(norm.n * norm.groups + norm.channels, kNormThreads)),
                 dim3(kNormThreads), stream, sums, weight, norm.n, norm.pixels, norm.channels,
                 norm.groups, means, dweight, dbias);
  if (error) return error;
  return launch(group_norm_backward_kernel<T, V>, tiles.grid, tiles.threads, stream, x, dy, weight,
                bias, normalisers, means, norm.pixels, norm.channels, norm.groups, norm.silu != 0,
                dx);
}

// Whether memory can be read and written in the vectors of norm.
template <class T>
bool norm_aligned(const dt_norm_shape &norm, std::initializer_list<const T *> pointers) {
  uintptr_t bits = 0;
  for (const T *p : pointers) bits |= reinterpret_cast<uintptr_t>(p);
  return bits % (static_cast<size_t>(norm_vector(norm)) * sizeof(T)) == 0;
}

// y = SiLU(GroupNorm(x)) for x and y [N, pixels, C] of float or bfloat16; y is rounded once.
// normalisers [N, groups] are for group_norm_backward. What norm_takes refuses is an error, and
// memory that is not aligned to four elements where a group has a multiple of four. y may be x.
template <class T>
int group_norm(const dt_norm_shape &norm, const T *x, const float *weight, const float *bias,
               void *workspace, Normaliser *normalisers, T *y, Stream stream) {
  if (!norm_takes(norm) || !norm_aligned(norm, {x, static_cast<const T *>(y)}))
    return kInvalidValue;
  if (norm.n == 0 || norm.pixels == 0) return 0;
  return (norm_vector(norm) == 4
              ? start_group_norm<T, 4>
              : start_group_norm<T, 1>)(norm, x, weight, bias, workspace, normalisers, y, stream);
}

// The gradients of what group_norm took, from dy, that of its result: dx is rounded once. dx may be
// x or dy. Of no values dweight and dbias are not written.
template <class T>
int group_norm_backward(const dt_norm_shape &norm, const T *x, const T *dy, const float *weight,
                        const float *bias, const Normaliser *normalisers, void *workspace, T *dx,
                        float *dweight, float *dbias, Stream stream) {
  if (!norm_takes(norm) || !norm_aligned(norm, {x, dy, static_cast<const T *>(dx)}))
    return kInvalidValue;
  if (norm.n == 0 || norm.pixels == 0) return 0;
  return (norm_vector(norm) == 4 ? start_group_norm_backward<T, 4>
                                 : start_group_norm_backward<T, 1>)(norm, x, dy, weight, bias,
                                                                    normalisers, workspace, dx,
                                                                    dweight, dbias, stream);
}

}  // namespace dt
