// Columns: a bias for every row, sums of columns, columns copied from one matrix to another.
#include "common.cuh"

/// `x[row] += bias`.
extern "C" __global__ void add_to_rows(float *x, const float *bias, unsigned n, unsigned d) {
    for (size_t i = first_element(); i < n; i += all_threads()) {
        x[i] += bias[i % d];
    }
}

/// Sums of columns over runs of `run` rows, row after row, `[runs, d]`: block (columns, run), one thread a
/// column.
extern "C" __global__ void sum_columns(float *sums, const float *x, unsigned rows, unsigned d, unsigned run) {
    unsigned column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= d) {
        return;
    }
    float sum = 0;
    for (unsigned row = blockIdx.y * run; row < min((blockIdx.y + 1) * run, rows); row++) {
        sum += x[size_t(row) * d + column];
    }
    sums[size_t(blockIdx.y) * d + column] = sum;
}

/// Copies `width` columns of every row, from column `from_start` of `from` to column `to_start` of `to`: one
/// block a row.
extern "C" __global__ void copy_columns(
    float *to, const float *from, unsigned to_width, unsigned to_start, unsigned from_width, unsigned from_start,
    unsigned width) {
    to += size_t(blockIdx.x) * to_width + to_start;
    from += size_t(blockIdx.x) * from_width + from_start;
    for (unsigned i = threadIdx.x; i < width; i += blockDim.x) {
        to[i] = from[i];
    }
}
