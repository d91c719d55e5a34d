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
    /// One step on `weight`, in place. `step` counts from 1; `scale` multiplies the gradient first
    /// (clipping).
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
        let gradient = CpuSlice::of(gradient)?;
        let step = Step {
            scale: scale as f32,
            size: size as f32,
            root_correction: root_correction as f32,
            keep: keep as f32,
            beta1: (self.beta1 as f32, (1.0 - self.beta1) as f32),
            beta2: (self.beta2 as f32, (1.0 - self.beta2) as f32),
            epsilon: self.epsilon as f32,
        };
        update(&state.first, |first| {
            update(&state.second, |second| update(weight, |weight| step.run(weight, first, second, &gradient)))
        })???;
        Ok(())
    }
}

/// The numbers of one step in float32; those of a moment are what stays of it and what the gradient adds.
struct Step {
    scale: f32,
    size: f32,
    root_correction: f32,
    keep: f32,
    beta1: (f32, f32),
    beta2: (f32, f32),
    epsilon: f32,
}

impl Step {
    /// Moments and weight in one pass over memory.
    fn run(&self, weight: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32]) {
        let Self { scale, size, root_correction, keep, beta1, beta2, epsilon } = *self;
        weight
            .par_chunks_mut(PARALLEL_ELEMENTS)
            .zip(first.par_chunks_mut(PARALLEL_ELEMENTS).zip(second.par_chunks_mut(PARALLEL_ELEMENTS)))
            .zip(gradient.par_chunks(PARALLEL_ELEMENTS))
            .for_each(|((weight, (first, second)), gradient)| {
                vectorised!({
                    for (((w, m), v), &g) in
                        weight.iter_mut().zip(first.iter_mut()).zip(second.iter_mut()).zip(gradient)
                    {
                        let g = g * scale;
                        *m = *m * beta1.0 + beta1.1 * g;
                        *v = *v * beta2.0 + beta2.1 * (g * g);
                        *w = *w * keep - size * *m / (v.sqrt() * root_correction + epsilon);
                    }
                })
            });
    }
}
