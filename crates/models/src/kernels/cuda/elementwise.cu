// One element, one thread: rotary embedding, the gated activation, sums, AdamW.
#include "common.cuh"

/// Rotates every head of every row, in place: one thread for each pair `(i, i + half)`. `sign` -1 turns back.
extern "C" __global__ void rotate(
    float *x, const float *cosines, const float *sines, const unsigned *positions, unsigned t, unsigned heads,
    unsigned half, float sign) {
    size_t pairs = size_t(t) * heads * half;
    for (size_t pair = first_element(); pair < pairs; pair += all_threads()) {
        unsigned i = pair % half;
        size_t head = pair / half;
        size_t angle = size_t(positions[head / heads]) * half + i;
        float c = cosines[angle], s = sines[angle] * sign;
        float *low = x + head * 2 * half + i, *high = low + half;
        float a = *low, b = *high;
        *low = a * c - b * s;
        *high = b * c + a * s;
    }
}

__device__ inline float sigmoid(float x) { return 1 / (1 + expf(-x)); }

extern "C" __global__ void swiglu(float *y, const float *gate, const float *up, unsigned n) {
    for (size_t i = first_element(); i < n; i += all_threads()) {
        y[i] = gate[i] * sigmoid(gate[i]) * up[i];
    }
}

extern "C" __global__ void swiglu_backward(
    float *d_gate, float *d_up, const float *gate, const float *up, const float *dy, unsigned n) {
    for (size_t i = first_element(); i < n; i += all_threads()) {
        float g = gate[i], s = sigmoid(g);
        d_gate[i] = dy[i] * up[i] * s * (1 + g * (1 - s));
        d_up[i] = dy[i] * g * s;
    }
}

extern "C" __global__ void add(float *sum, const float *a, const float *b, unsigned n) {
    for (size_t i = first_element(); i < n; i += all_threads()) {
        sum[i] = a[i] + b[i];
    }
}

extern "C" __global__ void scale(float *x, float factor, unsigned n) {
    for (size_t i = first_element(); i < n; i += all_threads()) {
        x[i] *= factor;
    }
}

/// Both moments and the step. `size` is the learning rate over the first moment's bias correction, `root_correction` the inverse
/// root of the second's.
extern "C" __global__ void adamw(
    float *weight, float *first, float *second, const float *gradient, unsigned n, float gradient_scale, float beta1,
    float rest1, float beta2, float rest2, float size, float root_correction, float keep, float epsilon) {
    for (size_t i = first_element(); i < n; i += all_threads()) {
        float g = gradient[i] * gradient_scale;
        float m = first[i] * beta1 + rest1 * g;
        float v = second[i] * beta2 + rest2 * (g * g);
        first[i] = m;
        second[i] = v;
        weight[i] = weight[i] * keep - size * m / (sqrtf(v) * root_correction + epsilon);
    }
}
