//! The MLP: two or three linear layers around one activation.

use candle_core::Tensor;

use super::{Gradients, Linear, LinearTrace, Pass};
use crate::error::Result;
use crate::kernels::{Activation, activate, activate_backward, gated, gated_backward, join_columns, split_columns};

/// The MLP of one block.
#[derive(Debug, Clone)]
pub enum Mlp {
    /// `down(activation(gate(x)) * up(x))`: the Llama family.
    Gated {
        /// `[t, d] -> [t, f]`, through the activation.
        gate: Linear,
        /// `[t, d] -> [t, f]`.
        up: Linear,
        /// The activation.
        activation: Activation,
        /// `[t, f] -> [t, d]`.
        down: Linear,
    },
    /// The same with gate and up-projection in one matrix, gate first: Phi 3.
    GatedFused {
        /// `[t, d] -> [t, 2 f]`.
        gate_up: Linear,
        /// The activation.
        activation: Activation,
        /// `[t, f] -> [t, d]`.
        down: Linear,
    },
    /// `down(activation(up(x)))`: GPT-2 and BERT.
    Plain {
        /// `[t, d] -> [t, f]`.
        up: Linear,
        /// The activation.
        activation: Activation,
        /// `[t, f] -> [t, d]`.
        down: Linear,
    },
}

/// The tensors that backward needs beside the input.
#[derive(Debug)]
pub struct MlpTrace {
    /// The input of the activation, or gate and up-projection, each `[t, f]`.
    before: Before,
    /// The traces of the reading layers.
    reading: Vec<LinearTrace>,
    pub(super) activated: Tensor,
    down: LinearTrace,
}

#[derive(Debug)]
enum Before {
    Gated { gate: Tensor, up: Tensor },
    Plain(Tensor),
}

impl Mlp {
    /// `[t, d] -> [t, d]`.
    pub fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Result<(Tensor, MlpTrace)> {
        let (before, reading) = self.read(x, pass)?;
        let (activation, down) = self.writing();
        let activated = match &before {
            Before::Gated { gate, up } => gated(gate, up, activation)?,
            Before::Plain(x) => activate(x, activation)?,
        };
        let (y, down) = down.forward(&activated, pass)?;
        Ok((y, MlpTrace { before, reading, activated, down }))
    }

    fn read(&self, x: &Tensor, pass: Pass<'_>) -> Result<(Before, Vec<LinearTrace>)> {
        Ok(match self {
            Self::Gated { gate, up, .. } => {
                let [(gate, gate_trace), (up, up_trace)] = Linear::forward_each([gate, up], x, pass)?;
                (Before::Gated { gate, up }, vec![gate_trace, up_trace])
            }
            Self::GatedFused { gate_up, .. } => {
                let (both, trace) = gate_up.forward(x, pass)?;
                let f = both.dims2()?.1 / 2;
                let [gate, up] = split_columns(&both, [f, f])?;
                (Before::Gated { gate, up }, vec![trace])
            }
            Self::Plain { up, .. } => {
                let (up, trace) = up.forward(x, pass)?;
                (Before::Plain(up), vec![trace])
            }
        })
    }

    /// The layers that read the block's stream, and the one that writes to it.
    pub(super) fn layers(&self) -> (Vec<&Linear>, &Linear) {
        match self {
            Self::Gated { gate, up, down, .. } => (vec![gate, up], down),
            Self::GatedFused { gate_up, down, .. } => (vec![gate_up], down),
            Self::Plain { up, down, .. } => (vec![up], down),
        }
    }

    fn writing(&self) -> (Activation, &Linear) {
        match self {
            Self::Gated { activation, down, .. }
            | Self::GatedFused { activation, down, .. }
            | Self::Plain { activation, down, .. } => (*activation, down),
        }
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
        let (activation, down) = self.writing();
        let d_activated = down.backward(&trace.activated, &trace.down, dy, pass, gradients)?;
        match (self, &trace.before, trace.reading.as_slice()) {
            (Self::Gated { gate, up, .. }, Before::Gated { gate: g, up: u }, [gate_trace, up_trace]) => {
                let (d_gate, d_up) = gated_backward(g, u, &d_activated, activation)?;
                let (traces, dys) = ([gate_trace, up_trace], [&d_gate, &d_up]);
                Linear::backward_each([gate, up], x, traces, dys, pass, gradients)
            }
            (Self::GatedFused { gate_up, .. }, Before::Gated { gate: g, up: u }, [fused]) => {
                let (d_gate, d_up) = gated_backward(g, u, &d_activated, activation)?;
                gate_up.backward(x, fused, &join_columns([&d_gate, &d_up])?, pass, gradients)
            }
            (Self::Plain { up, .. }, Before::Plain(before), [up_trace]) => {
                let d_before = activate_backward(before, &d_activated, activation)?;
                up.backward(x, up_trace, &d_before, pass, gradients)
            }
            _ => unreachable!("a trace is given back to the layer that made it"),
        }
    }
}
