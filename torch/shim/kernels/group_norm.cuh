// SiLU(GroupNorm(x)) for x [N, H, W, C], which is how PyTorch stores channels_last images: the pair
// in front of every convolution of the autoencoder.
//
// x is read twice and y written once. Sums are in float32, of distances to a value that is near the
// mean, so that a mean that is large beside the deviation costs no digits. The result of a sample
// does not depend on the batch that it is in.
#pragma once

#include "device.cuh"

namespace dt {

// Mean of some values, and the sum of their squared distances to it.
struct Moments {
  float mean, m2;
};

// What a value of a group is normalised with: y = (x - mean) rstd.
struct Normaliser {
  float mean, rstd;
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

  NormTiles(int64_t n, int64_t all_pixels, int channels, int all_groups, int per_vector) {
    vectors = channels / all_groups / per_vector;
    const int most = vectors < kNormThreads ? kNormThreads / vectors : 1;
    slabs = (all_groups + most - 1) / most;
    groups = (all_groups + slabs - 1) / slabs;
    rows = groups * vectors < kNormThreads ? kNormThreads / (groups * vectors) : 1;
    pixels = rows * kNormPixels;
    chunks = (all_pixels + pixels - 1) / pixels;
    grid =
        dim3(static_cast<unsigned>(chunks), static_cast<unsigned>(slabs), static_cast<unsigned>(n));
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

template <class T, int V>
__global__ void __launch_bounds__(kNormThreads)
    group_norm_silu_kernel(const T *x, const float *weight, const float *bias,
                           const Normaliser *normalisers, int64_t pixels, int channels, int groups,
                           T *y) {
  const int column = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);  // of vectors
  const int group = column / (channels / groups / V), rows = static_cast<int>(blockDim.y);
  if (group >= groups) return;
  const Normaliser norm = normalisers[static_cast<int64_t>(blockIdx.z) * groups + group];
  float scale[V], shift[V];
  for (int v = 0; v < V; v++) {
    scale[v] = norm.rstd * weight[column * V + v];
    shift[v] = bias[column * V + v];
  }
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * rows * kNormPixels + threadIdx.y;
  const int num_pixels = norm_pixels(begin, rows, pixels);
  const int64_t start = (static_cast<int64_t>(blockIdx.z) * pixels + begin) * channels + column * V;
  for (int i = 0; i < num_pixels; i += kNormAtOnce) {
    Vector<T, V> values[kNormAtOnce];
    load_pixels(x + start, i, num_pixels, rows * channels, values);
    for (int j = 0; j < kNormAtOnce && i + j < num_pixels; j++) {
      for (int v = 0; v < V; v++) {
        const float h = (static_cast<float>(values[j].v[v]) - norm.mean) * scale[v] + shift[v];
        values[j].v[v] = static_cast<T>(h / (1 + expf(-h)));
      }
      *reinterpret_cast<Vector<T, V> *>(y + start + static_cast<int64_t>(i + j) * rows * channels) =
          values[j];
    }
  }
}

// Four channels at once where a group has a multiple of four.
inline int norm_vector(int channels, int groups) { return channels / groups % 4 == 0 ? 4 : 1; }

// What group_norm_silu can take: it has a thread for every vector of a group.
inline bool norm_takes(int64_t n, int channels, int groups) {
  return n <= 65535 && groups >= 1 && channels >= groups && channels % groups == 0 &&
         channels / groups <= kNormThreads * norm_vector(channels, groups);
}

// Bytes of memory that group_norm_silu needs for intermediate results.
inline int64_t group_norm_workspace(int64_t n, int64_t pixels, int channels, int groups) {
  if (!norm_takes(n, channels, groups)) return 0;
  const NormTiles tiles(n, pixels, channels, groups, norm_vector(channels, groups));
  return n * groups *
         (tiles.chunks * static_cast<int64_t>(sizeof(Moments)) +
          static_cast<int64_t>(sizeof(Normaliser)));
}

template <class T, int V>
int start_group_norm_silu(const T *x, const float *weight, const float *bias, int64_t n,
                          int64_t pixels, int channels, int groups, float eps, void *workspace,
                          T *y, Stream stream) {
  const NormTiles tiles(n, pixels, channels, groups, V);
  const int64_t rows = n * groups, per_group = channels / groups;
  auto *parts = static_cast<Moments *>(workspace);
  auto *normalisers = reinterpret_cast<Normaliser *>(parts + rows * tiles.chunks);
  int error = launch(group_moments_kernel<T, V>, tiles.grid, tiles.threads, stream, x, pixels,
                     channels, groups, parts);
  if (error) return error;
  const unsigned warps = kNormThreads / 32;
  error = launch(group_normaliser_kernel, dim3(static_cast<unsigned>((rows + warps - 1) / warps)),
                 dim3(32, warps), stream, parts, tiles.chunks, tiles.pixels * per_group,
                 pixels * per_group, rows, eps, normalisers);
  if (error) return error;
  return launch(group_norm_silu_kernel<T, V>, tiles.grid, tiles.threads, stream, x, weight, bias,
                normalisers, pixels, channels, groups, y);
}

// y = SiLU(GroupNorm(x)) for x and y [N, pixels, C] of float or bfloat16, weight and bias [C]; y is
// rounded once. Sizes it does not take are an error: more than 65,535 samples, groups of more than
// 256 channels, or of 1,024 where that is a multiple of four. In the latter case x and y must be
// aligned to four elements. y may be x.
template <class T>
int group_norm_silu(const T *x, const float *weight, const float *bias, int64_t n, int64_t pixels,
                    int channels, int groups, float eps, void *workspace, T *y, Stream stream) {
  if (!norm_takes(n, channels, groups)) return kInvalidValue;
  if (n == 0 || pixels == 0) return 0;
  if (norm_vector(channels, groups) == 1)
    return start_group_norm_silu<T, 1>(x, weight, bias, n, pixels, channels, groups, eps, workspace,
                                       y, stream);
  if ((reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(y)) % (4 * sizeof(T)))
    return kInvalidValue;
  return start_group_norm_silu<T, 4>(x, weight, bias, n, pixels, channels, groups, eps, workspace,
                                     y, stream);
}

}  // namespace dt
