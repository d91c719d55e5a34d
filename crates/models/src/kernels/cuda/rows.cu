// Moving, adding and searching rows; the sum of everything.
#include "common.cuh"

/// `out[i] = source[rows[i]]`: one block a row.
extern "C" __global__ void gather_rows(float *out, const float *source, const unsigned *rows, unsigned d) {
    const float *from = source + size_t(rows[blockIdx.x]) * d;
    float *to = out + size_t(blockIdx.x) * d;
    for (unsigned i = threadIdx.x; i < d; i += blockDim.x) {
        to[i] = from[i];
    }
}

/// `dst[rows[i]] = source[i]`: one block a row.
extern "C" __global__ void scatter_rows(float *dst, const float *source, const unsigned *rows, unsigned d) {
    const float *from = source + size_t(blockIdx.x) * d;
    float *to = dst + size_t(rows[blockIdx.x]) * d;
    for (unsigned i = threadIdx.x; i < d; i += blockDim.x) {
        to[i] = from[i];
    }
}

/// One block for each destination row `rows[b]`: it adds `source[order[j]]` for `j` in
/// `starts[b] .. starts[b + 1]`, one after another.
extern "C" __global__ void add_rows_at(
    float *dst, const float *source, const unsigned *rows, const unsigned *starts, const unsigned *order, unsigned d) {
    float *to = dst + size_t(rows[blockIdx.x]) * d;
    for (unsigned i = threadIdx.x; i < d; i += blockDim.x) {
        float sum = to[i];
        for (unsigned j = starts[blockIdx.x]; j < starts[blockIdx.x + 1]; j++) {
            sum += source[size_t(order[j]) * d + i];
        }
        to[i] = sum;
    }
}

/// The larger of two candidates; of equals the one with the smaller index.
__device__ inline void keep_better(float &value, unsigned &index, float other_value, unsigned other_index) {
    if (other_value > value || (other_value == value && other_index < index)) {
        value = other_value;
        index = other_index;
    }
}

/// One block a row. A NaN never wins, and a row of which nothing is above minus infinity gives 0.
extern "C" __global__ void argmax_rows(unsigned *out, const float *x, unsigned d) {
    __shared__ float values[WARP];
    __shared__ unsigned indices[WARP];
    const float *row = x + size_t(blockIdx.x) * d;
    float value = -INFINITY;
    unsigned index = 0;
    for (unsigned i = threadIdx.x; i < d; i += blockDim.x) {
        if (row[i] > value) {
            value = row[i];
            index = i;
        }
    }
    for (unsigned distance = WARP / 2; distance > 0; distance /= 2) {
        float other_value = __shfl_xor_sync(ALL_LANES, value, distance);
        unsigned other_index = __shfl_xor_sync(ALL_LANES, index, distance);
        keep_better(value, index, other_value, other_index);
    }
    if (threadIdx.x % WARP == 0) {
        values[threadIdx.x / WARP] = value;
        indices[threadIdx.x / WARP] = index;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (unsigned warp = 1; warp < blockDim.x / WARP; warp++) {
            keep_better(value, index, values[warp], indices[warp]);
        }
        out[blockIdx.x] = index;
    }
}

/// Sums of squares of runs of `run` elements: one block a run.
extern "C" __global__ void sum_of_squares(double *partial, const float *x, unsigned n, unsigned run) {
    size_t end = min(size_t(n), (size_t(blockIdx.x) + 1) * run);
    float sum = 0;
    for (size_t i = size_t(blockIdx.x) * run + threadIdx.x; i < end; i += blockDim.x) {
        sum += x[i] * x[i];
    }
    double total = sum_of_block(double(sum));
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = total;
    }
}

/// Sum of all: one block.
extern "C" __global__ void sum_of_doubles(double *out, const double *x, unsigned n) {
    double sum = 0;
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) {
        sum += x[i];
    }
    double total = sum_of_block(sum);
    if (threadIdx.x == 0) {
        *out = total;
    }
}
