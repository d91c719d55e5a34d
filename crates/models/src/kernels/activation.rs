//! Elementwise functions between two matrices: activations, gated activations, and the cap of Gemma 2's
//! logits.

use candle_core::Tensor;
use rayon::prelude::*;

use super::math::{exp, normal_cdf, sigmoid, tanh, vectorised};
use super::{CpuSlice, PARALLEL_ELEMENTS, cuda, output, unwritten, update};
use crate::error::Result;

/// A function applied to every element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * Phi(x)` with the normal distribution's `Phi` (Hendrycks and Gimpel, arXiv 1606.08415).
    Gelu,
    /// The same with `Phi` approximated by a hyperbolic tangent: `gelu_new` and `gelu_pytorch_tanh`.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// The hyperbolic tangent.
    Tanh,
}

impl Activation {
    /// The activation that configurations call by this name.
    pub fn find(name: &str) -> Option<Self> {
        match name {
            "silu" | "swish" => Some(Self::Silu),
            "gelu" => Some(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            "relu" => Some(Self::Relu),
            "tanh" => Some(Self::Tanh),
            _ => None,
        }
    }
}

/// Runs `$work` with `$curve` bound to the function of the activation, which gives value and slope. The match
/// stands outside the loops, so that each of them is compiled for one function and vectorised.
macro_rules! with_curve {
    ($activation:expr, $curve:ident => $work:expr) => {
        match $activation {
            Activation::Silu => {
                let $curve = silu;
                $work
            }
            Activation::Gelu => {
                let $curve = gelu;
                $work
            }
            Activation::GeluTanh => {
                let $curve = gelu_tanh;
                $work
            }
            Activation::Relu => {
                let $curve = relu;
                $work
            }
            Activation::Tanh => {
                let $curve = tanh_curve;
                $work
            }
        }
    };
}

#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    let s = sigmoid(x);
    (x * s, s * (1.0 + x * (1.0 - s)))
}

#[inline(always)]
fn gelu(x: f32) -> (f32, f32) {
    const INVERSE_SQRT_TAU: f32 = 0.398_942_3;
    let below = normal_cdf(x);
    (x * below, below + x * INVERSE_SQRT_TAU * exp(-0.5 * x * x))
}

#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    const CUBIC: f32 = 0.044_715;
    let t = tanh(SQRT_2_OVER_PI * x * (1.0 + CUBIC * x * x));
    let inner_slope = SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * x * x);
    (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner_slope)
}

#[inline(always)]
fn relu(x: f32) -> (f32, f32) {
    if x > 0.0 { (x, 1.0) } else { (0.0, 0.0) }
}

#[inline(always)]
fn tanh_curve(x: f32) -> (f32, f32) {
    let t = tanh(x);
    (t, 1.0 - t * t)
}

/// `activation(x)`, elementwise.
///
/// # Shapes
/// `[t, f]` -> `[t, f]`.
pub fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    if cuda::serves(x) {
        return cuda::activate(x, activation);
    }
    let shape = x.dims2()?;
    let x = CpuSlice::of(x)?;
    let mut y = unwritten(x.len());
    with_curve!(activation, curve => y.par_chunks_mut(PARALLEL_ELEMENTS).zip(x.par_chunks(PARALLEL_ELEMENTS)).for_each(|(y, x)| {
        vectorised!(for (y, &x) in y.iter_mut().zip(x) { *y = curve(x).0; })
    }));
    output(y, shape)
}

/// Gradient with respect to `x`: `dy * activation'(x)`.
///
/// # Shapes
/// `x`, `dy` `[t, f]` -> `[t, f]`.
pub fn activate_backward(x: &Tensor, dy: &Tensor, activation: Activation) -> Result<Tensor> {
    if cuda::serves(x) {
        return cuda::activate_backward(x, dy, activation);
    }
    let shape = x.dims2()?;
    let (x, dy) = (CpuSlice::of(x)?, CpuSlice::of(dy)?);
    let mut dx = unwritten(x.len());
    with_curve!(activation, curve => dx
    .par_chunks_mut(PARALLEL_ELEMENTS)
    .zip(x.par_chunks(PARALLEL_ELEMENTS).zip(dy.par_chunks(PARALLEL_ELEMENTS)))
    .for_each(|(dx, (x, dy))| {
        vectorised!(for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) { *dx = dy * curve(x).1; })
    }));
    output(dx, shape)
}

/// `activation(gate) * up`, elementwise (Shazeer, arXiv 2002.05202).
///
/// # Shapes
/// `gate`, `up` `[t, f]` -> `[t, f]`.
pub fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    if cuda::serves(gate) {
        return cuda::gated(gate, up, activation);
    }
    let shape = gate.dims2()?;
    let (gate, up) = (CpuSlice::of(gate)?, CpuSlice::of(up)?);
    let mut y = unwritten(gate.len());
    with_curve!(activation, curve => y
    .par_chunks_mut(PARALLEL_ELEMENTS)
    .zip(gate.par_chunks(PARALLEL_ELEMENTS))
    .zip(up.par_chunks(PARALLEL_ELEMENTS))
    .for_each(|((y, gate), up)| {
        vectorised!({
            for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
                *y = curve(g).0 * u;
            }
        })
    }));
    output(y, shape)
}

/// Gradients with respect to `gate` and `up`: `dy * up * activation'(gate)` and `dy * activation(gate)`.
///
/// # Shapes
/// all `[t, f]`.
pub fn gated_backward(gate: &Tensor, up: &Tensor, dy: &Tensor, activation: Activation) -> Result<(Tensor, Tensor)> {
    if cuda::serves(gate) {
        return cuda::gated_backward(gate, up, dy, activation);
    }
    let shape = gate.dims2()?;
    let (gate, up, dy) = (CpuSlice::of(gate)?, CpuSlice::of(up)?, CpuSlice::of(dy)?);
    let (mut d_gate, mut d_up) = (unwritten(gate.len()), unwritten(gate.len()));
    with_curve!(activation, curve => d_gate
    .par_chunks_mut(PARALLEL_ELEMENTS)
    .zip(d_up.par_chunks_mut(PARALLEL_ELEMENTS))
    .zip(gate.par_chunks(PARALLEL_ELEMENTS))
    .zip(up.par_chunks(PARALLEL_ELEMENTS).zip(dy.par_chunks(PARALLEL_ELEMENTS)))
    .for_each(|(((d_gate, d_up), gate), (up, dy))| {
        vectorised!({
            for ((((dg, du), &g), &u), &dy) in d_gate.iter_mut().zip(d_up.iter_mut()).zip(gate).zip(up).zip(dy) {
                let (value, slope) = curve(g);
                *dg = dy * u * slope;
                *du = dy * value;
            }
        })
    }));
    Ok((output(d_gate, shape)?, output(d_up, shape)?))
}

/// `x -> limit * tanh(x / limit)`, in place (Gemma 2, arXiv 2408.00118).
pub fn cap(x: &Tensor, limit: f32) -> Result<()> {
    if cuda::serves(x) {
        return cuda::cap(x, limit);
    }
    update(x, |x| {
        x.par_chunks_mut(PARALLEL_ELEMENTS).for_each(|x| {
            vectorised!(for x in x.iter_mut() {
                *x = limit * tanh(*x / limit);
            })
        });
    })
}

/// Turns the gradient of capped values into that of the values before, in place:
/// `d *= 1 - (capped / limit)²`.
///
/// # Shapes
/// `d` and `capped` alike.
pub fn cap_backward(d: &Tensor, capped: &Tensor, limit: f32) -> Result<()> {
    if cuda::serves(d) {
        return cuda::cap_backward(d, capped, limit);
    }
    let capped = CpuSlice::of(capped)?;
    let inverse = 1.0 / limit;
    update(d, |d| {
        d.par_chunks_mut(PARALLEL_ELEMENTS).zip(capped.par_chunks(PARALLEL_ELEMENTS)).for_each(|(d, capped)| {
            vectorised!(for (d, &y) in d.iter_mut().zip(capped) {
                *d *= 1.0 - y * inverse * (y * inverse);
            })
        });
    })
}
