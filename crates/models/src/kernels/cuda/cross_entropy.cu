// Softmax cross-entropy: one block a row of logits.
#include "common.cuh"

/// `ln(sum(exp(row)))`, in every thread of the block.
__device__ inline float log_sum_exp(const float *row, unsigned v) {
    float maximum = -INFINITY;
    for (unsigned i = threadIdx.x; i < v; i += blockDim.x) {
        maximum = fmaxf(maximum, row[i]);
    }
    maximum = maximum_of_block(maximum);
    float sum = 0;
    for (unsigned i = threadIdx.x; i < v; i += blockDim.x) {
        sum += expf(row[i] - maximum);
    }
    return maximum + logf(sum_of_block(sum));
}

extern "C" __global__ void cross_entropy(float *losses, const float *logits, const unsigned *targets, unsigned v) {
    const float *row = logits + size_t(blockIdx.x) * v;
    float normaliser = log_sum_exp(row, v);
    if (threadIdx.x == 0) {
        losses[blockIdx.x] = normaliser - row[targets[blockIdx.x]];
    }
}

/// The loss, and `weight * (softmax - one_hot)`.
extern "C" __global__ void cross_entropy_gradient(
    float *losses, float *gradient, const float *logits, const unsigned *targets, const float *weights, unsigned v) {
    const float *row = logits + size_t(blockIdx.x) * v;
    float *d_row = gradient + size_t(blockIdx.x) * v;
    float normaliser = log_sum_exp(row, v);
    unsigned target = targets[blockIdx.x];
    float weight = weights[blockIdx.x];
    for (unsigned i = threadIdx.x; i < v; i += blockDim.x) {
        float softmax = expf(row[i] - normaliser) * weight;
        d_row[i] = i == target ? softmax - weight : softmax;
    }
    if (threadIdx.x == 0) {
        losses[blockIdx.x] = normaliser - row[target];
    }
}
