//! Normalisation of each row: by its root mean square (Zhang and Sennrich, arXiv 1910.07467),
//! `y = w * x / sqrt(mean(x²) + epsilon)`, or by mean and variance (Ba et al., arXiv 1607.06450),
//! `y = w * (x - mean) / sqrt(var + epsilon) + b`.

use candle_core::Tensor;
use rayon::prelude::*;

use super::math::{dot, sum, vectorised};
use super::{CpuSlice, PARALLEL_ELEMENTS, cuda, output, unwritten};
use crate::error::Result;

/// Divides each row of `x` by its root mean square and scales it by `offset + weight`: the offset is 1 in
/// Gemma, whose weights are stored as deviations from 1, and 0 elsewhere.
///
/// # Shapes
/// `x` `[t, d]`, `weight` `[d]` -> `[t, d]`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, offset: f32, epsilon: f64) -> Result<Tensor> {
    if cuda::serves(x) {
        return cuda::rms_norm(x, weight, offset, epsilon);
    }
    let (t, d) = x.dims2()?;
    let (x, weight) = (CpuSlice::of(x)?, CpuSlice::of(weight)?);
    let mut y = unwritten(t * d);
    y.par_chunks_mut(d).zip(x.par_chunks(d)).with_min_len(PARALLEL_ELEMENTS / d + 1).for_each(|(y, x)| {
        vectorised!({
            let inverse = inverse_rms(x, epsilon);
            for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight.iter()) {
                *y = x * inverse * (offset + w);
            }
        })
    });
    output(y, (t, d))
}

/// Gradient with respect to `x`. With `n = x / rms` and `g = (offset + w) * dy`:
/// `dx = (g - n * mean(g n)) / rms`.
///
/// # Shapes
/// `x`, `dy` `[t, d]`, `weight` `[d]` -> `[t, d]`.
pub fn rms_norm_backward(x: &Tensor, weight: &Tensor, offset: f32, dy: &Tensor, epsilon: f64) -> Result<Tensor> {
    if cuda::serves(x) {
        return cuda::rms_norm_backward(x, weight, offset, dy, epsilon);
    }
    let (t, d) = x.dims2()?;
    let (x, weight, dy) = (CpuSlice::of(x)?, CpuSlice::of(weight)?, CpuSlice::of(dy)?);
    let mut dx = unwritten(t * d);
    dx.par_chunks_mut(d).zip(x.par_chunks(d)).zip(dy.par_chunks(d)).with_min_len(PARALLEL_ELEMENTS / d + 1).for_each(
        |((dx, x), dy)| {
            vectorised!({
                let inverse = inverse_rms(x, epsilon);
                for ((dx, &dy), &w) in dx.iter_mut().zip(dy).zip(weight.iter()) {
                    *dx = dy * (offset + w);
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

/// Gradient with respect to the weight, whatever the offset: the column sums of `dy * x / rms`, added up row
/// by row in order.
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
    vectorised!({
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

/// Takes each row's mean off, divides by its deviation, scales by `weight` and adds `bias`.
///
/// # Shapes
/// `x` `[t, d]`, `weight` and `bias` `[d]` -> `[t, d]`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f64) -> Result<Tensor> {
    if cuda::serves(x) {
        return cuda::layer_norm(x, weight, bias, epsilon);
    }
    let (t, d) = x.dims2()?;
    let (x, weight, bias) = (CpuSlice::of(x)?, CpuSlice::of(weight)?, CpuSlice::of(bias)?);
    let mut y = unwritten(t * d);
    y.par_chunks_mut(d).zip(x.par_chunks(d)).with_min_len(PARALLEL_ELEMENTS / d + 1).for_each(|(y, x)| {
        vectorised!({
            let (mean, inverse) = mean_and_inverse_deviation(x, epsilon);
            for (((y, &x), &w), &b) in y.iter_mut().zip(x).zip(weight.iter()).zip(bias.iter()) {
                *y = (x - mean) * inverse * w + b;
            }
        })
    });
    output(y, (t, d))
}

/// Gradient with respect to `x`. With `n = (x - mean) / deviation` and `g = w * dy`:
/// `dx = (g - mean(g) - n * mean(g n)) / deviation`.
///
/// # Shapes
/// `x`, `dy` `[t, d]`, `weight` `[d]` -> `[t, d]`.
pub fn layer_norm_backward(x: &Tensor, weight: &Tensor, dy: &Tensor, epsilon: f64) -> Result<Tensor> {
    if cuda::serves(x) {
        return cuda::layer_norm_backward(x, weight, dy, epsilon);
    }
    let (t, d) = x.dims2()?;
    let (x, weight, dy) = (CpuSlice::of(x)?, CpuSlice::of(weight)?, CpuSlice::of(dy)?);
    let mut dx = unwritten(t * d);
    dx.par_chunks_mut(d).zip(x.par_chunks(d)).zip(dy.par_chunks(d)).with_min_len(PARALLEL_ELEMENTS / d + 1).for_each(
        |((dx, x), dy)| {
            vectorised!({
                let (mean, inverse) = mean_and_inverse_deviation(x, epsilon);
                for ((dx, &dy), &w) in dx.iter_mut().zip(dy).zip(weight.iter()) {
                    *dx = dy * w;
                }
                let along_mean = sum(dx, |g| g) / d as f32;
                let along_row = (dot(x, dx) / d as f32 - mean * along_mean) * inverse * inverse;
                for (dx, &x) in dx.iter_mut().zip(x) {
                    *dx = (*dx - along_mean - (x - mean) * along_row) * inverse;
                }
            })
        },
    );
    output(dx, (t, d))
}

/// Gradient with respect to the weight: the column sums of `dy * (x - mean) / deviation`, added up row by row
/// in order. That of the bias is [`super::column_sums`] of `dy`.
///
/// # Shapes
/// `x`, `dy` `[t, d]` -> `[d]`.
pub fn layer_norm_weight_gradient(x: &Tensor, dy: &Tensor, epsilon: f64) -> Result<Tensor> {
    if cuda::serves(x) {
        return cuda::layer_norm_weight_gradient(x, dy, epsilon);
    }
    let (_, d) = x.dims2()?;
    let (x, dy) = (CpuSlice::of(x)?, CpuSlice::of(dy)?);
    let mut gradient = vec![0f32; d];
    vectorised!({
        for (x, dy) in x.chunks(d).zip(dy.chunks(d)) {
            let (mean, inverse) = mean_and_inverse_deviation(x, epsilon);
            for ((g, &x), &dy) in gradient.iter_mut().zip(x).zip(dy) {
                *g += (x - mean) * inverse * dy;
            }
        }
    });
    output(gradient, d)
}

/// The variance is taken around the mean, in a second pass over the row: the shorter formula cancels.
#[inline(always)]
fn mean_and_inverse_deviation(x: &[f32], epsilon: f64) -> (f32, f32) {
    let d = x.len() as f64;
    let mean = (f64::from(sum(x, |x| x)) / d) as f32;
    let variance = f64::from(sum(x, |x| (x - mean) * (x - mean))) / d;
    (mean, (1.0 / (variance + epsilon).sqrt()) as f32)
}
