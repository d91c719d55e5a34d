//! Looking into a forward pass: what methods and tests may see of it.

use candle_core::Tensor;

/// Sees the residual stream as it passes. Tensors are shared, not copied; keeping one keeps its memory.
pub trait Tap {
    /// Hidden state `index`, `[t, d]`: 0 is the embedding, `i` the output of block `i`, and the last one (index `layers`)
    /// comes after the final norm, as Hugging Face numbers them.
    fn hidden_state(&mut self, index: usize, hidden: &Tensor);
}

/// Sees nothing.
pub struct NoTap;

impl Tap for NoTap {
    fn hidden_state(&mut self, _: usize, _: &Tensor) {}
}
