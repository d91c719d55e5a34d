// One element, one thread: rotary embedding, activations, sums, AdamW.
#include "common.cuh"

/// Rotates the first `2 half` elements of every head of every row, in place: one thread for each pair
/// `(i, i + half)`. `sign` -1 turns back.
extern "C" __global__ void rotate(
    float *x, const float *cosines, const float *sines, const unsigned *positions, unsigned t, unsigned heads,
    unsigned head_width, unsigned half, float sign) {
    size_t pairs = size_t(t) * heads * half;
    for (size_t pair = first_element(); pair < pairs; pair += all_threads()) {
        unsigned i = pair % half;
        size_t head = pair / half;
        size_t angle = size_t(positions[head / heads]) * half + i;
        float c = cosines[angle], s = sines[angle] * sign;
        float *low = x + head * head_width + i, *high = low + half;
        float a = *low, b = *high;
        *low = a * c - b * s;
        *high = b * c + a * s;
    }
}

/// A function of one number, and its slope there.
struct Curve {
    float value, slope;
};

/// `Activation` in its order: SiLU, GELU, GELU by a hyperbolic tangent, ReLU, hyperbolic tangent.
__device__ inline Curve curve(unsigned activation, float x) {
    switch (activation) {
    case 0: {
        float s = 1 / (1 + expf(-x));
        return {x * s, s * (1 + x * (1 - s))};
    }
    case 1: {
        constexpr float INVERSE_SQRT_2 = 0.70710678f, INVERSE_SQRT_TAU = 0.39894228f;
        float below = 0.5f * erfcf(-x * INVERSE_SQRT_2);
        return {x * below, below + x * INVERSE_SQRT_TAU * expf(-0.5f * x * x)};
    }
    case 2: {
        constexpr float SQRT_2_OVER_PI = 0.7978846f, CUBIC = 0.044715f;
        float t = tanhf(SQRT_2_OVER_PI * x * (1 + CUBIC * x * x));
        float inner_slope = SQRT_2_OVER_PI * (1 + 3 * CUBIC * x * x);
        return {0.5f * x * (1 + t), 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * inner_slope};
    }
    case 3:
        return x > 0 ? Curve{x, 1} : Curve{0, 0};
    default: {
        float t = tanhf(x);
        return {t, 1 - t * t};
    }
    }
}

extern "C" __global__ void activate(float *y, const float *x, unsigned n, unsigned activation) {
    for (size_t i = first_element(); i < n; i += all_threads()) {
        y[i] = curve(activation, x[i]).value;
    }
}

extern "C" __global__ void activate_backward(float *dx, const float *x, const float *dy, unsigned n, unsigned activation) {
    for (size_t i = first_element(); i < n; i += all_threads()) {
        dx[i] = dy[i] * curve(activation, x[i]).slope;
    }
}

extern "C" __global__ void gated(float *y, const float *gate, const float *up, unsigned n, unsigned activation) {
    for (size_t i = first_element(); i < n; i += all_threads()) {
        y[i] = curve(activation, gate[i]).value * up[i];
    }
}

extern "C" __global__ void gated_backward(
    float *d_gate, float *d_up, const float *gate, const float *up, const float *dy, unsigned n, unsigned activation) {
    for (size_t i = first_element(); i < n; i += all_threads()) {
        Curve c = curve(activation, gate[i]);
        d_gate[i] = dy[i] * up[i] * c.slope;
        d_up[i] = dy[i] * c.value;
    }
}

extern "C" __global__ void cap(float *x, float limit, unsigned n) {
    for (size_t i = first_element(); i < n; i += all_threads()) {
        x[i] = limit * tanhf(x[i] / limit);
    }
}

/// Turns the gradient of capped values into that of the values before.
extern "C" __global__ void cap_backward(float *d, const float *capped, float limit, unsigned n) {
    for (size_t i = first_element(); i < n; i += all_threads()) {
        float share = capped[i] / limit;
        d[i] *= 1 - share * share;
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

/// Both moments and the step. `size` is the learning rate over the first moment's bias correction,
/// `root_correction` the inverse root of the second's.
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
