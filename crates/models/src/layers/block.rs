//! One pre-norm decoder block: `x + attention(norm(x))`, then `x + mlp(norm(x))`.

use candle_core::Tensor;

use super::{AttentionTrace, GatedMlp, Gradients, MlpTrace, Pass, RmsNorm, SelfAttention};
use crate::error::Result;
use crate::kernels::add;

/// Attention and MLP on the residual stream.
#[derive(Debug, Clone)]
pub struct Block {
    /// Before attention.
    pub attention_norm: RmsNorm,
    /// The attention.
    pub attention: SelfAttention,
    /// Before the MLP.
    pub mlp_norm: RmsNorm,
    /// The MLP.
    pub mlp: GatedMlp,
}

/// Everything that backward needs of one block.
#[derive(Debug)]
pub struct BlockTrace {
    x: Tensor,
    attention_input: Tensor,
    attention: AttentionTrace,
    middle: Tensor,
    mlp_input: Tensor,
    mlp: MlpTrace,
}

impl Block {
    /// `[t, d] -> [t, d]`.
    pub fn forward(&self, x: &Tensor, layer: usize, pass: Pass<'_>) -> Result<(Tensor, BlockTrace)> {
        let attention_input = self.attention_norm.forward(x, pass)?;
        let (attended, attention) = self.attention.forward(&attention_input, layer, pass)?;
        let middle = add(x, &attended)?;
        let mlp_input = self.mlp_norm.forward(&middle, pass)?;
        let (mlp_output, mlp) = self.mlp.forward(&mlp_input, pass)?;
        let y = add(&middle, &mlp_output)?;
        Ok((y, BlockTrace { x: x.clone(), attention_input, attention, middle, mlp_input, mlp }))
    }

    /// Gradient of the block's input.
    pub fn backward(
        &self,
        trace: &BlockTrace,
        dy: &Tensor,
        pass: Pass<'_>,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let d_mlp_input = self.mlp.backward(&trace.mlp_input, &trace.mlp, dy, pass, gradients)?;
        let d_middle = add(dy, &self.mlp_norm.backward(&trace.middle, &d_mlp_input, pass, gradients)?)?;
        let d_input = self.attention.backward(&trace.attention_input, &trace.attention, &d_middle, pass, gradients)?;
        add(&d_middle, &self.attention_norm.backward(&trace.x, &d_input, pass, gradients)?)
    }
}
