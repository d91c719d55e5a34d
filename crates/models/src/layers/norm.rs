//! Normalisation of each row, with a learned scale.

use candle_core::Tensor;

use super::{Gradients, Pass};
use crate::error::Result;
use crate::kernels::{
    column_sums, layer_norm, layer_norm_backward, layer_norm_weight_gradient, rms_norm, rms_norm_backward,
    rms_norm_weight_gradient,
};
use crate::params::ParamId;

/// One norm; its trace is its input.
#[derive(Debug, Clone)]
pub enum Norm {
    /// `w * x / rms(x)`.
    Rms {
        /// The scale `[d]`.
        weight: ParamId,
        /// Added to the mean square.
        epsilon: f64,
    },
    /// `(1 + w) * x / rms(x)`: Gemma stores scales as deviations from 1.
    RmsPlusOne {
        /// The scale less 1, `[d]`.
        weight: ParamId,
        /// Added to the mean square.
        epsilon: f64,
    },
    /// `w * (x - mean(x)) / deviation(x) + b`.
    Layer {
        /// The scale `[d]`.
        weight: ParamId,
        /// The shift `[d]`.
        bias: ParamId,
        /// Added to the variance.
        epsilon: f64,
    },
}

impl Norm {
    /// `[t, d] -> [t, d]`.
    pub fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        let get = |id| pass.params.get(id);
        match *self {
            Self::Rms { weight, epsilon } => rms_norm(x, get(weight), 0.0, epsilon),
            Self::RmsPlusOne { weight, epsilon } => rms_norm(x, get(weight), 1.0, epsilon),
            Self::Layer { weight, bias, epsilon } => layer_norm(x, get(weight), get(bias), epsilon),
        }
    }

    /// Gradient of the input `x`.
    pub fn backward(&self, x: &Tensor, dy: &Tensor, pass: Pass<'_>, gradients: &mut Gradients) -> Result<Tensor> {
        let (weight, offset, epsilon) = match *self {
            Self::Rms { weight, epsilon } => (weight, 0.0, epsilon),
            Self::RmsPlusOne { weight, epsilon } => (weight, 1.0, epsilon),
            Self::Layer { weight, bias, epsilon } => {
                gradients.add_weight(weight, || layer_norm_weight_gradient(x, dy, epsilon))?;
                gradients.add_weight(bias, || column_sums(dy))?;
                return layer_norm_backward(x, pass.params.get(weight), dy, epsilon);
            }
        };
        gradients.add_weight(weight, || rms_norm_weight_gradient(x, dy, epsilon))?;
        rms_norm_backward(x, pass.params.get(weight), offset, dy, epsilon)
    }
}
