//! AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), as PyTorch computes it.

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::math::vectorised;
use super::{CpuSlice, PARALLEL_ELEMENTS, cuda, update};
use crate::error::Result;

/// The constants of one optimiser.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Weights shrink by `learning_rate * weight_decay` each step.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

/// First and second moment of one weight.
#[derive(Debug)]
pub struct AdamWState {
    first: Tensor,
    second: Tensor,
}

impl AdamWState {
    /// Zero moments for a weight.
    pub fn new(weight: &Tensor) -> Result<Self> {
        let zeros = || Tensor::zeros(weight.shape(), DType::F32, weight.device());
        Ok(Self { first: zeros()?, second: zeros()? })
    }
}

impl AdamW {
    /// One step on `weight`, in place. `step` counts from 1; `scale` multiplies the gradient first (clipping).
    pub fn update(
        &self,
        weight: &Tensor,
        gradient: &Tensor,
        state: &AdamWState,
        learning_rate: f64,
        scale: f64,
        step: usize,
    ) -> Result<()> {
        let step = i32::try_from(step).unwrap_or(i32::MAX);
        let size = learning_rate / (1.0 - self.beta1.powi(step));
        let root_correction = 1.0 / (1.0 - self.beta2.powi(step)).sqrt();
        let keep = 1.0 - learning_rate * self.weight_decay;
        if cuda::serves(weight) {
            let step = cuda::AdamWStep { gradient_scale: scale, size, root_correction, keep };
            return cuda::adamw(self, weight, (&state.first, &state.second), gradient, &step);
        }
        let scale = scale as f32;
        let gradient = CpuSlice::of(gradient)?;
        self.advance_moments(state, &gradient, scale)?;
        let (first, second) = (CpuSlice::of(&state.first)?, CpuSlice::of(&state.second)?);
        let (size, root_correction, keep) = (size as f32, root_correction as f32, keep as f32);
        let epsilon = self.epsilon as f32;
        update(weight, |weight| {
            weight
                .par_chunks_mut(PARALLEL_ELEMENTS)
                .zip(first.par_chunks(PARALLEL_ELEMENTS))
                .zip(second.par_chunks(PARALLEL_ELEMENTS))
                .for_each(|((weight, first), second)| {
                    vectorised(|| {
                        for ((w, &m), &v) in weight.iter_mut().zip(first).zip(second) {
                            *w = *w * keep - size * m / (v.sqrt() * root_correction + epsilon);
                        }
                    })
                });
        })
    }

    fn advance_moments(&self, state: &AdamWState, gradient: &[f32], scale: f32) -> Result<()> {
        let blend = |moment: &Tensor, beta: f64, square: bool| {
            let (old, new) = (beta as f32, (1.0 - beta) as f32);
            update(moment, |moment| {
                moment.par_chunks_mut(PARALLEL_ELEMENTS).zip(gradient.par_chunks(PARALLEL_ELEMENTS)).for_each(
                    |(moment, gradient)| {
                        vectorised(|| {
                            for (m, &g) in moment.iter_mut().zip(gradient) {
                                let g = g * scale;
                                *m = *m * old + new * if square { g * g } else { g };
                            }
                        })
                    },
                );
            })
        };
        blend(&state.first, self.beta1, false)?;
        blend(&state.second, self.beta2, true)
    }
}
