// RMS normalisation. One block a row, but for the gradient of the weight.
#include "common.cuh"

/// `1 / sqrt(mean(x^2) + epsilon)` of one row, in every thread of the block.
__device__ inline float inverse_rms(const float *x, unsigned d, float epsilon) {
    float squares = 0;
    for (unsigned i = threadIdx.x; i < d; i += blockDim.x) {
        squares += x[i] * x[i];
    }
    return 1 / sqrtf(sum_of_block(squares) / d + epsilon);
}

extern "C" __global__ void rms_norm(float *y, const float *x, const float *weight, unsigned d, float epsilon) {
    size_t row = size_t(blockIdx.x) * d;
    float inverse = inverse_rms(x + row, d, epsilon);
    for (unsigned i = threadIdx.x; i < d; i += blockDim.x) {
        y[row + i] = x[row + i] * inverse * weight[i];
    }
}

extern "C" __global__ void rms_norm_backward(
    float *dx, const float *x, const float *weight, const float *dy, unsigned d, float epsilon) {
    size_t row = size_t(blockIdx.x) * d;
    float inverse = inverse_rms(x + row, d, epsilon);
    float product = 0;
    for (unsigned i = threadIdx.x; i < d; i += blockDim.x) {
        product += x[row + i] * dy[row + i] * weight[i];
    }
    float mean = sum_of_block(product) * inverse * inverse / d;
    for (unsigned i = threadIdx.x; i < d; i += blockDim.x) {
        dx[row + i] = (dy[row + i] * weight[i] - x[row + i] * mean) * inverse;
    }
}

/// The inverse of each row's root mean square, `[t]`.
extern "C" __global__ void rms_norm_inverses(float *inverses, const float *x, unsigned d, float epsilon) {
    float inverse = inverse_rms(x + size_t(blockIdx.x) * d, d, epsilon);
    if (threadIdx.x == 0) {
        inverses[blockIdx.x] = inverse;
    }
}

/// Sums of `dy * x / rms` over runs of `run` rows, `[runs, d]`: block (columns, run), one thread a column.
/// `sum_columns` adds up the runs.
extern "C" __global__ void rms_norm_weight_gradient(
    float *partial, const float *x, const float *dy, const float *inverses, unsigned t, unsigned d, unsigned run) {
    unsigned column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= d) {
        return;
    }
    float sum = 0;
    for (unsigned row = blockIdx.y * run; row < min((blockIdx.y + 1) * run, t); row++) {
        sum += x[size_t(row) * d + column] * inverses[row] * dy[size_t(row) * d + column];
    }
    partial[size_t(blockIdx.y) * d + column] = sum;
}
