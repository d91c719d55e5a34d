//! RMS normalisation: `y = w * x / sqrt(mean(x^2) + epsilon)` (Zhang and Sennrich, arXiv 1910.07467).

use candle_core::Tensor;
use rayon::prelude::*;

use super::math::{dot, sum, vectorised};
use super::{CpuSlice, PARALLEL_ELEMENTS, cuda, output};
use crate::error::Result;

/// Normalises each row of `x` and scales it by `weight`.
///
/// # Shapes
/// `x` `[t, d]`, `weight` `[d]` -> `[t, d]`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64) -> Result<Tensor> {
    if cuda::serves(x) {
        return cuda::rms_norm(x, weight, epsilon);
    }
    let (t, d) = x.dims2()?;
    let (x, weight) = (CpuSlice::of(x)?, CpuSlice::of(weight)?);
    let mut y = vec![0f32; t * d];
    y.par_chunks_mut(d).zip(x.par_chunks(d)).with_min_len(PARALLEL_ELEMENTS / d + 1).for_each(|(y, x)| {
        vectorised(|| {
            let inverse = inverse_rms(x, epsilon);
            for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight.iter()) {
                *y = x * inverse * w;
            }
        })
    });
    output(y, (t, d))
}

/// Gradient with respect to `x`. With `n = x / rms` and `g = w * dy`: `dx = (g - n * mean(g n)) / rms`.
///
/// # Shapes
/// `x`, `dy` `[t, d]`, `weight` `[d]` -> `[t, d]`.
pub fn rms_norm_backward(x: &Tensor, weight: &Tensor, dy: &Tensor, epsilon: f64) -> Result<Tensor> {
    if cuda::serves(x) {
        return cuda::rms_norm_backward(x, weight, dy, epsilon);
    }
    let (t, d) = x.dims2()?;
    let (x, weight, dy) = (CpuSlice::of(x)?, CpuSlice::of(weight)?, CpuSlice::of(dy)?);
    let mut dx = vec![0f32; t * d];
    dx.par_chunks_mut(d).zip(x.par_chunks(d)).zip(dy.par_chunks(d)).with_min_len(PARALLEL_ELEMENTS / d + 1).for_each(
        |((dx, x), dy)| {
            vectorised(|| {
                let inverse = inverse_rms(x, epsilon);
                for ((dx, &dy), &w) in dx.iter_mut().zip(dy).zip(weight.iter()) {
                    *dx = dy * w;
                }
                let mean = dot(x, dx) * inverse * inverse / d as f32;
                for (dx, &x) in dx.iter_mut().zip(x) {
                    *dx = (*dx - x * mean) * inverse;
                }
            })
        },
    );
    output(dx, (t, d))
}

/// Gradient with respect to the weight: the column sums of `dy * x / rms`, added up row by row in order.
///
/// # Shapes
/// `x`, `dy` `[t, d]` -> `[d]`.
pub fn rms_norm_weight_gradient(x: &Tensor, dy: &Tensor, epsilon: f64) -> Result<Tensor> {
    if cuda::serves(x) {
        return cuda::rms_norm_weight_gradient(x, dy, epsilon);
    }
    let (_, d) = x.dims2()?;
    let (x, dy) = (CpuSlice::of(x)?, CpuSlice::of(dy)?);
    let mut gradient = vec![0f32; d];
    vectorised(|| {
        for (x, dy) in x.chunks(d).zip(dy.chunks(d)) {
            let inverse = inverse_rms(x, epsilon);
            for ((g, &x), &dy) in gradient.iter_mut().zip(x).zip(dy) {
                *g += x * inverse * dy;
            }
        }
    });
    output(gradient, d)
}

#[inline(always)]
fn inverse_rms(x: &[f32], epsilon: f64) -> f32 {
    let mean = f64::from(sum(x, |x| x * x)) / x.len() as f64;
    (1.0 / (mean + epsilon).sqrt()) as f32
}
