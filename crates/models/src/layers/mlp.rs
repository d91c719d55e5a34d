//! The gated MLP of the Llama family: `down(silu(gate(x)) * up(x))`.

use candle_core::Tensor;

use super::{Gradients, Linear, LinearTrace, Pass};
use crate::error::Result;
use crate::kernels::{swiglu, swiglu_backward};

/// Three linear layers around one activation.
#[derive(Debug, Clone)]
pub struct GatedMlp {
    /// `[t, d] -> [t, f]`, through the activation.
    pub gate: Linear,
    /// `[t, d] -> [t, f]`.
    pub up: Linear,
    /// `[t, f] -> [t, d]`.
    pub down: Linear,
}

/// What backward needs beside the input.
#[derive(Debug)]
pub struct MlpTrace {
    gate: (Tensor, LinearTrace),
    up: (Tensor, LinearTrace),
    activated: Tensor,
    down: LinearTrace,
}

impl GatedMlp {
    /// `[t, d] -> [t, d]`.
    pub fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Result<(Tensor, MlpTrace)> {
        let gate = self.gate.forward(x, pass)?;
        let up = self.up.forward(x, pass)?;
        let activated = swiglu(&gate.0, &up.0)?;
        let (y, down) = self.down.forward(&activated, pass)?;
        Ok((y, MlpTrace { gate, up, activated, down }))
    }

    /// Gradient of the input `x`.
    pub fn backward(
        &self,
        x: &Tensor,
        trace: &MlpTrace,
        dy: &Tensor,
        pass: Pass<'_>,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let d_activated = self.down.backward(&trace.activated, &trace.down, dy, pass, gradients, None)?;
        let (d_gate, d_up) = swiglu_backward(&trace.gate.0, &trace.up.0, &d_activated)?;
        let dx = self.gate.backward(x, &trace.gate.1, &d_gate, pass, gradients, None)?;
        self.up.backward(x, &trace.up.1, &d_up, pass, gradients, Some(dx))
    }
}
