// The part of CUDA C++ that our kernels use, for a host compiler. See emulator.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __launch_bounds__(threads)
// Blocks run one after another, so one copy of a block's memory is enough.
#define __shared__ static

using std::max;
using std::min;

struct Index {
    unsigned x, y, z;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

/// Of the thread that runs now.
extern Index threadIdx, blockIdx, blockDim, gridDim;

/// Waits until every thread of the block is here.
void __syncthreads();
/// Waits until every thread of the warp is here.
void emulator_synchronise_warp();
/// Two slots for each thread of the block, for shuffles of even and odd number: who writes for the next one
/// does not disturb who still reads for this one.
extern uint64_t emulator_slots[2][1024];
extern unsigned emulator_shuffles[1024];
/// The memory whose size the launch gives.
float *emulator_dynamic_shared();

template <typename T> T __shfl_xor_sync(unsigned, T value, unsigned distance) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves one word");
    uint64_t *slots = emulator_slots[emulator_shuffles[threadIdx.x]++ % 2];
    std::memcpy(&slots[threadIdx.x], &value, sizeof(T));
    emulator_synchronise_warp();
    std::memcpy(&value, &slots[threadIdx.x ^ distance], sizeof(T));
    return value;
}
