//! Moving, adding, scaling and searching rows.

use candle_core::Tensor;
use rayon::prelude::*;

use super::math::{sum, vectorised};
use super::{CpuSlice, PARALLEL_ELEMENTS, cuda, output, unwritten, update};
use crate::error::Result;

/// `source[rows]`: `[n, d]` and `m` indices -> `[m, d]`.
pub fn gather_rows(source: &Tensor, rows: &[u32]) -> Result<Tensor> {
    if cuda::serves(source) {
        return cuda::gather_rows(source, rows);
    }
    let (_, d) = source.dims2()?;
    let source = CpuSlice::of(source)?;
    let mut out = Vec::with_capacity(rows.len() * d);
    for &row in rows {
        out.extend_from_slice(&source[row as usize * d..][..d]);
    }
    output(out, (rows.len(), d))
}

/// `dst[rows[i]] = source[i]`, in place.
pub fn scatter_rows(dst: &Tensor, rows: &[u32], source: &Tensor) -> Result<()> {
    if cuda::serves(dst) {
        return cuda::scatter_rows(dst, rows, source);
    }
    let (_, d) = dst.dims2()?;
    let source = CpuSlice::of(source)?;
    update(dst, |data| {
        for (&row, values) in rows.iter().zip(source.chunks(d)) {
            data[row as usize * d..][..d].copy_from_slice(values);
        }
    })
}

/// `dst[rows[i]] += source[i]`, in place and in order, so that repeated rows add up to the same bytes every
/// time.
pub fn add_rows_at(dst: &Tensor, rows: &[u32], source: &Tensor) -> Result<()> {
    if cuda::serves(dst) {
        return cuda::add_rows_at(dst, rows, source);
    }
    let (_, d) = dst.dims2()?;
    let source = CpuSlice::of(source)?;
    update(dst, |data| {
        for (&row, values) in rows.iter().zip(source.chunks(d)) {
            for (sum, value) in data[row as usize * d..][..d].iter_mut().zip(values) {
                *sum += value;
            }
        }
    })
}

/// Index of the largest element of each row, the first one of equals; a NaN never wins.
pub fn argmax_rows(x: &Tensor) -> Result<Vec<u32>> {
    if cuda::serves(x) {
        return cuda::argmax_rows(x);
    }
    let (_, d) = x.dims2()?;
    let x = CpuSlice::of(x)?;
    Ok(x.par_chunks(d)
        .map(|row| {
            let best = row
                .iter()
                .enumerate()
                .fold((0, f32::NEG_INFINITY), |best, (i, &value)| if value > best.1 { (i, value) } else { best });
            best.0 as u32
        })
        .collect())
}

/// Sum of squares of all elements: float32 within runs of 4,096, float64 over the runs, always in the same
/// order.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    if cuda::serves(x) {
        return cuda::sum_of_squares(x);
    }
    let x = CpuSlice::of(x)?;
    Ok(vectorised!(x.chunks(4096).map(|run| f64::from(sum(run, |x| x * x))).sum()))
}

/// `a + b`, elementwise.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if cuda::serves(a) {
        return cuda::add(a, b);
    }
    let shape = a.shape().clone();
    let (a, b) = (CpuSlice::of(a)?, CpuSlice::of(b)?);
    assert_eq!(a.len(), b.len(), "equal sizes are added");
    let mut sum = unwritten(a.len());
    sum.par_chunks_mut(PARALLEL_ELEMENTS)
        .zip(a.par_chunks(PARALLEL_ELEMENTS).zip(b.par_chunks(PARALLEL_ELEMENTS)))
        .for_each(|(sum, (a, b))| vectorised!(sum.iter_mut().zip(a).zip(b).for_each(|((s, a), b)| *s = a + b)));
    output(sum, shape)
}

/// `x *= factor`, in place.
pub fn scale(x: &Tensor, factor: f64) -> Result<()> {
    if cuda::serves(x) {
        return cuda::scale(x, factor);
    }
    let factor = factor as f32;
    update(x, |x| vectorised!(x.iter_mut().for_each(|x| *x *= factor)))
}
