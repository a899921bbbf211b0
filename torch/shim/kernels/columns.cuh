// Passes over a matrix whose threads own neighbouring columns: values of a column (a bias, a gate)
// are read once, and sums over rows stay in registers. Op says what is done:
//
//   T, kVector      the columns of a thread, as many as it owns
//   kSums           0, or 1 for a sum over rows
//   kAtOnce         rows of a thread that are loaded before the first is used
//   Values          what is loaded of a row
//   start(sample, column)        loads what belongs to a column
//   load(at)                     loads Values of the elements from at on
//   apply(values, at, sums)      computes, stores, adds to sums
#pragma once

#include "sums.cuh"

namespace dt {

// The rows are [samples, rows, width]; parts [samples, chunks, width]. A block has 32 V columns
// (grid x) of chunk rows (grid y) of a sample (grid z).
template <class Op>
__global__ void __launch_bounds__(32 * kSumWarps)
    columns_kernel(Op op, int64_t rows, int64_t chunk, int width, float *parts) {
  constexpr int V = Op::kVector, kColumns = 32 * V;
  const int block_column = static_cast<int>(blockIdx.x) * kColumns;
  const int lane_column = static_cast<int>(threadIdx.x) * V, column = block_column + lane_column;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * chunk, sample = blockIdx.z;
  const int64_t end = begin + chunk < rows ? begin + chunk : rows;
  float sums[V] = {};
  if (column < width) {
    op.start(sample, column);
    for (int64_t first = begin + threadIdx.y; first < end; first += kSumWarps * Op::kAtOnce) {
      const int64_t at = (sample * rows + first) * width + column;
      typename Op::Values values[Op::kAtOnce];
      for (int j = 0; j < Op::kAtOnce; j++)
        if (first + j * kSumWarps < end)
          values[j] = op.load(at + static_cast<int64_t>(j) * kSumWarps * width);
      for (int j = 0; j < Op::kAtOnce; j++)
        if (first + j * kSumWarps < end)
          op.apply(values[j], at + static_cast<int64_t>(j) * kSumWarps * width, sums);
    }
  }
  if constexpr (Op::kSums > 0) {
    DT_SHARED(all, float[kSumWarps][kColumns]);
    for (int v = 0; v < V; v++) all[threadIdx.y][lane_column + v] = sums[v];
    float *part = parts + (sample * gridDim.y + blockIdx.y) * width + block_column;
    sum_rows(all, [&](int i, float total) {
      if (block_column + i < width) part[i] = total;
    });
  }
}

// Rows of a block: few where there are few, so that all of the GPU is busy.
inline int64_t column_chunk(int64_t rows) { return rows < 8192 ? 32 : 256; }

// Bytes of memory for the sums of a pass over [samples, rows, width].
inline int64_t columns_workspace(int64_t samples, int64_t rows, int64_t width) {
  return samples * sum_chunks(rows, column_chunk(rows)) * width *
         static_cast<int64_t>(sizeof(float));
}

inline bool columns_take(int64_t samples, int64_t rows, int width) {
  return samples <= 65535 && sum_chunks(rows, column_chunk(rows)) <= 65535 && width >= 1;
}

template <class Op>
int start_columns(const Op &op, int64_t samples, int64_t rows, int width, float *parts,
                  Stream stream) {
  if (samples == 0 || rows == 0) return 0;
  const int64_t chunk = column_chunk(rows);
  constexpr int kColumns = 32 * Op::kVector;
  return launch(
      columns_kernel<Op>,
      dim3(static_cast<unsigned>((width + kColumns - 1) / kColumns),
           static_cast<unsigned>(sum_chunks(rows, chunk)), static_cast<unsigned>(samples)),
      dim3(32, kSumWarps), stream, op, rows, chunk, width, parts);
}

}  // namespace dt
