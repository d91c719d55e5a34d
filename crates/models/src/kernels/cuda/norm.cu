// Normalisation, by the root mean square or by mean and deviation. One block a row, but for the gradient of
// the weight.
#include "common.cuh"

/// `1 / sqrt(mean(x^2) + epsilon)` of one row, in every thread of the block.
__device__ inline float inverse_rms(const float *x, unsigned d, float epsilon) {
    float squares = 0;
    for (unsigned i = threadIdx.x; i < d; i += blockDim.x) {
        squares += x[i] * x[i];
    }
    return 1 / sqrtf(sum_of_block(squares) / d + epsilon);
}

/// `y = x / rms * (offset + weight)`.
extern "C" __global__ void rms_norm(
    float *y, const float *x, const float *weight, float offset, unsigned d, float epsilon) {
    size_t row = size_t(blockIdx.x) * d;
    float inverse = inverse_rms(x + row, d, epsilon);
    for (unsigned i = threadIdx.x; i < d; i += blockDim.x) {
        y[row + i] = x[row + i] * inverse * (offset + weight[i]);
    }
}

extern "C" __global__ void rms_norm_backward(
    float *dx, const float *x, const float *weight, float offset, const float *dy, unsigned d, float epsilon) {
    size_t row = size_t(blockIdx.x) * d;
    float inverse = inverse_rms(x + row, d, epsilon);
    float product = 0;
    for (unsigned i = threadIdx.x; i < d; i += blockDim.x) {
        product += x[row + i] * dy[row + i] * (offset + weight[i]);
    }
    float mean = sum_of_block(product) * inverse * inverse / d;
    for (unsigned i = threadIdx.x; i < d; i += blockDim.x) {
        dx[row + i] = (dy[row + i] * (offset + weight[i]) - x[row + i] * mean) * inverse;
    }
}

/// The inverse of each row's root mean square, `[t]`.
extern "C" __global__ void rms_norm_inverses(float *inverses, const float *x, unsigned d, float epsilon) {
    float inverse = inverse_rms(x + size_t(blockIdx.x) * d, d, epsilon);
    if (threadIdx.x == 0) {
        inverses[blockIdx.x] = inverse;
    }
}

struct Spread {
    float mean, inverse;
};

/// Mean and `1 / sqrt(variance + epsilon)` of one row, in every thread of the block; the variance is taken
/// around the mean.
__device__ inline Spread spread(const float *x, unsigned d, float epsilon) {
    float sum = 0;
    for (unsigned i = threadIdx.x; i < d; i += blockDim.x) {
        sum += x[i];
    }
    float mean = sum_of_block(sum) / d;
    float squares = 0;
    for (unsigned i = threadIdx.x; i < d; i += blockDim.x) {
        squares += (x[i] - mean) * (x[i] - mean);
    }
    return {mean, 1 / sqrtf(sum_of_block(squares) / d + epsilon)};
}

extern "C" __global__ void layer_norm(
    float *y, const float *x, const float *weight, const float *bias, unsigned d, float epsilon) {
    size_t row = size_t(blockIdx.x) * d;
    Spread s = spread(x + row, d, epsilon);
    for (unsigned i = threadIdx.x; i < d; i += blockDim.x) {
        y[row + i] = (x[row + i] - s.mean) * s.inverse * weight[i] + bias[i];
    }
}

extern "C" __global__ void layer_norm_backward(
    float *dx, const float *x, const float *weight, const float *dy, unsigned d, float epsilon) {
    size_t row = size_t(blockIdx.x) * d;
    Spread s = spread(x + row, d, epsilon);
    float sum = 0, product = 0;
    for (unsigned i = threadIdx.x; i < d; i += blockDim.x) {
        float g = dy[row + i] * weight[i];
        sum += g;
        product += g * (x[row + i] - s.mean);
    }
    float along_mean = sum_of_block(sum) / d;
    float along_row = sum_of_block(product) / d * s.inverse * s.inverse;
    for (unsigned i = threadIdx.x; i < d; i += blockDim.x) {
        dx[row + i] = (dy[row + i] * weight[i] - along_mean - (x[row + i] - s.mean) * along_row) * s.inverse;
    }
}

/// Mean and inverse deviation of each row, `[t]` each.
extern "C" __global__ void layer_norm_spreads(float *means, float *inverses, const float *x, unsigned d, float epsilon) {
    Spread s = spread(x + size_t(blockIdx.x) * d, d, epsilon);
    if (threadIdx.x == 0) {
        means[blockIdx.x] = s.mean;
        inverses[blockIdx.x] = s.inverse;
    }
}

/// Sums of `dy * (x - mean) * inverse` over runs of `run` rows, `[runs, d]`: block (columns, run), one thread
/// a column. `sum_columns` adds up the runs.
extern "C" __global__ void norm_weight_gradient(
    float *partial, const float *x, const float *dy, const float *means, const float *inverses, unsigned t, unsigned d,
    unsigned run) {
    unsigned column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= d) {
        return;
    }
    float sum = 0;
    for (unsigned row = blockIdx.y * run; row < min((blockIdx.y + 1) * run, t); row++) {
        size_t i = size_t(row) * d + column;
        sum += (x[i] - means[row]) * inverses[row] * dy[i];
    }
    partial[size_t(blockIdx.y) * d + column] = sum;
}
