// What the kernels share: sums and maxima over a block, always in the same order.
//
// These sources are compiled twice: by nvcc for the GPU, and by a host compiler for the tests, which run
// every block on the CPU (tests/cuda_emulation). They keep to the small part of CUDA C++ that both know.
// Blocks have whole warps of threads.
#pragma once

#ifdef EMULATED
#include "emulator.h"
#define DYNAMIC_SHARED(name) float *name = emulator_dynamic_shared()
#else
#define DYNAMIC_SHARED(name) extern __shared__ float name[]
#endif

constexpr unsigned WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

/// Index of this thread in the whole grid, and the number of threads in it:
/// `for (size_t i = first_element(); i < n; i += all_threads())`.
__device__ inline size_t first_element() { return size_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline size_t all_threads() { return size_t(gridDim.x) * blockDim.x; }

/// Sum over the first `lanes` neighbours (a power of two) of a warp; every one of them gets it.
template <typename T> __device__ T sum_of_lanes(T x, unsigned lanes) {
    for (unsigned distance = lanes / 2; distance > 0; distance /= 2) {
        x += __shfl_xor_sync(ALL_LANES, x, distance);
    }
    return x;
}

/// Largest over the first `lanes` neighbours of a warp.
__device__ inline float maximum_of_lanes(float x, unsigned lanes) {
    for (unsigned distance = lanes / 2; distance > 0; distance /= 2) {
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, distance));
    }
    return x;
}

/// Sum over the block; every thread calls it and gets it.
template <typename T> __device__ T sum_of_block(T x) {
    __shared__ T partial[WARP];
    x = sum_of_lanes(x, WARP);
    __syncthreads(); // whoever still reads the partial sums of an earlier call is done
    if (threadIdx.x % WARP == 0) {
        partial[threadIdx.x / WARP] = x;
    }
    __syncthreads();
    T sum = 0;
    for (unsigned warp = 0; warp < blockDim.x / WARP; warp++) {
        sum += partial[warp];
    }
    return sum;
}

/// Largest over the block; every thread calls it and gets it.
__device__ inline float maximum_of_block(float x) {
    __shared__ float partial[WARP];
    x = maximum_of_lanes(x, WARP);
    __syncthreads();
    if (threadIdx.x % WARP == 0) {
        partial[threadIdx.x / WARP] = x;
    }
    __syncthreads();
    float maximum = partial[0];
    for (unsigned warp = 1; warp < blockDim.x / WARP; warp++) {
        maximum = fmaxf(maximum, partial[warp]);
    }
    return maximum;
}
