//! Column by column: a bias for every row, its gradient, and fused matrices taken apart and put together
//! again.

use candle_core::Tensor;
use rayon::prelude::*;

use super::math::vectorised;
use super::{CpuSlice, PARALLEL_ELEMENTS, cuda, output, update};
use crate::error::Result;

/// Adds `bias` to every row of `x`, in place.
///
/// # Shapes
/// `x` `[t, n]`, `bias` `[n]`.
pub fn add_to_rows(x: &Tensor, bias: &Tensor) -> Result<()> {
    if cuda::serves(x) {
        return cuda::add_to_rows(x, bias);
    }
    let (_, n) = x.dims2()?;
    let bias = CpuSlice::of(bias)?;
    assert_eq!(n, bias.len(), "a bias has one number for each column");
    update(x, |x| {
        x.par_chunks_mut(n).with_min_len(PARALLEL_ELEMENTS / n + 1).for_each(|row| {
            vectorised!(row.iter_mut().zip(bias.iter()).for_each(|(x, b)| *x += b));
        });
    })
}

/// Sum of each column, added up row by row in order: the gradient of a bias.
///
/// # Shapes
/// `[t, n]` -> `[n]`.
pub fn column_sums(x: &Tensor) -> Result<Tensor> {
    if cuda::serves(x) {
        return cuda::column_sums(x);
    }
    let (_, n) = x.dims2()?;
    let x = CpuSlice::of(x)?;
    let mut sums = vec![0f32; n];
    vectorised!(x.chunks(n).for_each(|row| sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x)));
    output(sums, n)
}

/// Takes a matrix apart: the first `widths[0]` columns, the next `widths[1]`, and so on.
///
/// # Shapes
/// `[t, sum of widths]` -> `[t, width]` for each width.
pub fn split_columns<const N: usize>(x: &Tensor, widths: [usize; N]) -> Result<[Tensor; N]> {
    if cuda::serves(x) {
        return cuda::split_columns(x, widths);
    }
    let (t, n) = x.dims2()?;
    assert_eq!(n, widths.iter().sum::<usize>(), "the parts make up the whole");
    let x = CpuSlice::of(x)?;
    let mut start = 0;
    let parts: Result<Vec<Tensor>> = widths
        .into_iter()
        .map(|width| {
            let mut part = Vec::with_capacity(t * width);
            x.chunks(n).for_each(|row| part.extend_from_slice(&row[start..start + width]));
            start += width;
            output(part, (t, width))
        })
        .collect();
    Ok(parts?.try_into().expect("as many parts as widths"))
}

/// Puts matrices side by side: what [`split_columns`] took apart.
///
/// # Shapes
/// `[t, width]` each -> `[t, sum of widths]`.
pub fn join_columns<const N: usize>(parts: [&Tensor; N]) -> Result<Tensor> {
    if cuda::serves(parts[0]) {
        return cuda::join_columns(parts);
    }
    let t = parts[0].dims2()?.0;
    let slices = parts.iter().map(|part| Ok((CpuSlice::of(part)?, part.dims2()?.1))).collect::<Result<Vec<_>>>()?;
    let n = slices.iter().map(|(_, width)| width).sum();
    let mut joined = Vec::with_capacity(t * n);
    for row in 0..t {
        slices.iter().for_each(|(part, width)| joined.extend_from_slice(&part[row * width..(row + 1) * width]));
    }
    output(joined, (t, n))
}
