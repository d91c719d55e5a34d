//! One block: attention, then MLP, each added to the residual stream.
//!
//! Families differ in where they normalise; [`Norms`] says it once for both parts.

use candle_core::Tensor;

use super::{AttentionTrace, Gradients, Mlp, MlpTrace, Norm, Pass, Rows, SelfAttention};
use crate::error::Result;
use crate::kernels::add;
use crate::taps::{Attention, Tap};

/// Attention and MLP on the residual stream.
#[derive(Debug, Clone)]
pub struct Block {
    /// Norms around attention.
    pub attention_norms: Norms,
    /// The attention.
    pub attention: SelfAttention,
    /// Norms around the MLP.
    pub mlp_norms: Norms,
    /// The MLP.
    pub mlp: Mlp,
}

/// The norms around one part of a block: `of_sum(x + after(part(before(x))))`, each absent where a family has
/// none.
#[derive(Debug, Clone, Default)]
pub struct Norms {
    /// On what the part reads (Llama, GPT-2).
    pub before: Option<Norm>,
    /// On what the part writes (Gemma 2, beside `before`).
    pub after: Option<Norm>,
    /// On the residual stream behind the part (BERT).
    pub of_sum: Option<Norm>,
}

/// Everything that backward needs of one block.
#[derive(Debug)]
pub struct BlockTrace {
    x: Tensor,
    attention_input: Tensor,
    attention: AttentionTrace,
    attended: Written,
    middle: Tensor,
    mlp_input: Tensor,
    mlp: MlpTrace,
    written: Written,
}

/// The inputs of the norms behind a part, which they keep for backward.
#[derive(Debug)]
struct Written {
    output: Option<Tensor>,
    sum: Option<Tensor>,
}

impl Block {
    /// `[t, d] -> [t, d]`.
    pub fn forward(&self, x: &Tensor, layer: usize, pass: Pass<'_>) -> Result<(Tensor, BlockTrace)> {
        let attention_input = self.attention_norms.enter(x, pass)?;
        let (attended, attention) = self.attention.forward(&attention_input, layer, pass)?;
        let (middle, attended) = self.attention_norms.leave(x, attended, pass)?;
        let mlp_input = self.mlp_norms.enter(&middle, pass)?;
        let (written, mlp) = self.mlp.forward(&mlp_input, pass)?;
        let (y, written) = self.mlp_norms.leave(&middle, written, pass)?;
        Ok((y, BlockTrace { x: x.clone(), attention_input, attention, attended, middle, mlp_input, mlp, written }))
    }

    /// Shows what the block's attention looked at and what each of its linear layers was given.
    pub(crate) fn show(&self, trace: &BlockTrace, layer: usize, rows: &Rows, tap: &mut dyn Tap) {
        let (query, key) = (&trace.attention.query, &trace.attention.key);
        tap.attention(layer, &Attention { query, key, rows, settings: self.attention.settings });
        let reading = self.attention.inputs.layers().into_iter().map(|layer| (layer, &trace.attention_input));
        let output = std::iter::once((&self.attention.output, &trace.attention.heads));
        let (mlp_reading, down) = self.mlp.layers();
        let mlp = mlp_reading.into_iter().map(|layer| (layer, &trace.mlp_input));
        let down = std::iter::once((down, &trace.mlp.activated));
        for (layer, input) in reading.chain(output).chain(mlp).chain(down) {
            if let Some(module) = layer.module {
                tap.linear_input(module, input);
            }
        }
    }

    /// Gradient of the block's input.
    pub fn backward(
        &self,
        trace: &BlockTrace,
        dy: &Tensor,
        pass: Pass<'_>,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let (d_sum, d_written) = self.mlp_norms.leave_backward(&trace.written, dy, pass, gradients)?;
        let d_input = self.mlp.backward(&trace.mlp_input, &trace.mlp, &d_written, pass, gradients)?;
        let d_middle = self.mlp_norms.enter_backward(&trace.middle, &d_sum, d_input, pass, gradients)?;
        let (d_sum, d_attended) = self.attention_norms.leave_backward(&trace.attended, &d_middle, pass, gradients)?;
        let d_input =
            self.attention.backward(&trace.attention_input, &trace.attention, &d_attended, pass, gradients)?;
        self.attention_norms.enter_backward(&trace.x, &d_sum, d_input, pass, gradients)
    }
}

impl Norms {
    /// Only in front of the part, as in most decoders.
    pub fn before(norm: Norm) -> Self {
        Self { before: Some(norm), ..Self::default() }
    }

    /// Only behind the sum, as in BERT.
    pub fn of_sum(norm: Norm) -> Self {
        Self { of_sum: Some(norm), ..Self::default() }
    }

    /// The input of the part.
    fn enter(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        self.before.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.forward(x, pass))
    }

    /// The residual stream behind the part that wrote `output`.
    fn leave(&self, x: &Tensor, output: Tensor, pass: Pass<'_>) -> Result<(Tensor, Written)> {
        let mut written = Written { output: None, sum: None };
        let mut y = match &self.after {
            Some(norm) => {
                let normed = add(x, &norm.forward(&output, pass)?)?;
                written.output = Some(output);
                normed
            }
            None => add(x, &output)?,
        };
        if let Some(norm) = &self.of_sum {
            let normed = norm.forward(&y, pass)?;
            written.sum = Some(std::mem::replace(&mut y, normed));
        }
        Ok((y, written))
    }

    /// Gradients of the sum and of what the part wrote.
    fn leave_backward(
        &self,
        written: &Written,
        dy: &Tensor,
        pass: Pass<'_>,
        gradients: &mut Gradients,
    ) -> Result<(Tensor, Tensor)> {
        let d_sum = match (&self.of_sum, &written.sum) {
            (Some(norm), Some(sum)) => norm.backward(sum, dy, pass, gradients)?,
            _ => dy.clone(),
        };
        let d_output = match (&self.after, &written.output) {
            (Some(norm), Some(output)) => norm.backward(output, &d_sum, pass, gradients)?,
            _ => d_sum.clone(),
        };
        Ok((d_sum, d_output))
    }

    /// Gradient of the residual stream in front of the part, from those of the sum and of what the part read.
    fn enter_backward(
        &self,
        x: &Tensor,
        d_sum: &Tensor,
        d_input: Tensor,
        pass: Pass<'_>,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        match &self.before {
            Some(norm) => add(d_sum, &norm.backward(x, &d_input, pass, gradients)?),
            None => add(d_sum, &d_input),
        }
    }
}
