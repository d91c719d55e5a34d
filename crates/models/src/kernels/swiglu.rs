//! The gated activation of the Llama MLP: `silu(gate) * up` (Shazeer, arXiv 2002.05202).

use candle_core::Tensor;
use rayon::prelude::*;

use super::math::{sigmoid, vectorised};
use super::{CpuSlice, PARALLEL_ELEMENTS, cuda, output};
use crate::error::Result;

/// `silu(gate) * up`, elementwise.
///
/// # Shapes
/// `gate`, `up` `[t, f]` -> `[t, f]`.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if cuda::serves(gate) {
        return cuda::swiglu(gate, up);
    }
    let shape = gate.dims2()?;
    let (gate, up) = (CpuSlice::of(gate)?, CpuSlice::of(up)?);
    let mut y = vec![0f32; gate.len()];
    y.par_chunks_mut(PARALLEL_ELEMENTS)
        .zip(gate.par_chunks(PARALLEL_ELEMENTS))
        .zip(up.par_chunks(PARALLEL_ELEMENTS))
        .for_each(|((y, gate), up)| {
            vectorised(|| {
                for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
                    *y = g * sigmoid(g) * u;
                }
            })
        });
    output(y, shape)
}

/// Gradients with respect to `gate` and `up`: `dy * up * s * (1 + gate * (1 - s))` with `s = sigmoid(gate)`, and `dy * silu(gate)`.
///
/// # Shapes
/// all `[t, f]`.
pub fn swiglu_backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    if cuda::serves(gate) {
        return cuda::swiglu_backward(gate, up, dy);
    }
    let shape = gate.dims2()?;
    let (gate, up, dy) = (CpuSlice::of(gate)?, CpuSlice::of(up)?, CpuSlice::of(dy)?);
    let (mut d_gate, mut d_up) = (vec![0f32; gate.len()], vec![0f32; gate.len()]);
    d_gate
        .par_chunks_mut(PARALLEL_ELEMENTS)
        .zip(d_up.par_chunks_mut(PARALLEL_ELEMENTS))
        .zip(gate.par_chunks(PARALLEL_ELEMENTS))
        .zip(up.par_chunks(PARALLEL_ELEMENTS).zip(dy.par_chunks(PARALLEL_ELEMENTS)))
        .for_each(|(((d_gate, d_up), gate), (up, dy))| {
            vectorised(|| {
                for ((((dg, du), &g), &u), &dy) in d_gate.iter_mut().zip(d_up).zip(gate).zip(up).zip(dy) {
                    let s = sigmoid(g);
                    *dg = dy * u * s * (1.0 + g * (1.0 - s));
                    *du = dy * g * s;
                }
            })
        });
    Ok((output(d_gate, shape)?, output(d_up, shape)?))
}
