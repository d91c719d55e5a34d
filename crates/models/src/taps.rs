//! Looking into a forward pass: what methods and tests may see of it.

use candle_core::Tensor;

use crate::layers::ModuleIdx;

/// Sees the residual stream as it passes, and what the linear layers read of it. Tensors are shared, not copied; keeping one keeps its memory.
pub trait Tap {
    /// Hidden state `index`, `[t, d]`: 0 is the embedding, `i` the output of block `i`, and the last one (index `layers`)
    /// comes after the final norm, as Hugging Face numbers them.
    fn hidden_state(&mut self, index: usize, hidden: &Tensor);

    /// What the adaptable linear layer `module` was given, `[t, in]`; block by block, in the order of [`crate::Model::linear_modules`]. Nobody
    /// looks unless this is overridden; showing it costs a call, because the tensors are there anyway.
    fn linear_input(&mut self, module: ModuleIdx, input: &Tensor) {
        let _ = (module, input);
    }
}

/// Sees nothing.
pub struct NoTap;

impl Tap for NoTap {
    fn hidden_state(&mut self, _: usize, _: &Tensor) {}
}
