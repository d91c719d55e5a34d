//! RMS normalisation with a learned scale.

use candle_core::Tensor;

use super::{Gradients, Pass};
use crate::error::Result;
use crate::kernels::{rms_norm, rms_norm_backward, rms_norm_weight_gradient};
use crate::params::ParamId;

/// `y = w * x / rms(x)`, row by row; its trace is its input.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    /// The scale `[d]`.
    pub weight: ParamId,
    /// Added to the mean square.
    pub epsilon: f64,
}

impl RmsNorm {
    /// `[t, d] -> [t, d]`.
    pub fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        rms_norm(x, pass.params.get(self.weight), self.epsilon)
    }

    /// Gradient of the input `x`.
    pub fn backward(&self, x: &Tensor, dy: &Tensor, pass: Pass<'_>, gradients: &mut Gradients) -> Result<Tensor> {
        gradients.add_weight(self.weight, || rms_norm_weight_gradient(x, dy, self.epsilon))?;
        rms_norm_backward(x, pass.params.get(self.weight), dy, self.epsilon)
    }
}
