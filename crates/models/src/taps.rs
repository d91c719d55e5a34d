//! Looking into a pass: what methods and tests may see of the residual stream, and how a loss on hidden states is trained.

use candle_core::Tensor;

use crate::error::Result;
use crate::layers::ModuleIdx;

/// Sees the residual stream as it passes and what the linear layers read of it, and may have a gradient of its own there. Tensors are
/// shared, not copied; keeping one keeps its memory.
pub trait Tap {
    /// Hidden state `index`, `[t, d]`: 0 is the embedding, `i` the output of block `i`, and the last one (index `layers`)
    /// comes after the final norm, as Hugging Face numbers them.
    fn hidden_state(&mut self, index: usize, hidden: &Tensor);

    /// What the adaptable linear layer `module` was given, `[t, in]`; block by block, in the order of [`crate::Model::linear_modules`]. Nobody
    /// looks unless this is overridden; showing it costs a call, because the tensors are there anyway.
    fn linear_input(&mut self, module: ModuleIdx, input: &Tensor) {
        let _ = (module, input);
    }

    /// The gradient of a loss on hidden state `index` with respect to it, `[t, d]`. Backward asks once for each hidden state, the last one
    /// first, and adds what it gets to the gradient that comes from behind; by default there is none.
    ///
    /// # Errors
    /// Those of the device.
    fn gradient(&mut self, _index: usize) -> Result<Option<Tensor>> {
        Ok(None)
    }
}

/// Sees nothing.
pub struct NoTap;

impl Tap for NoTap {
    fn hidden_state(&mut self, _: usize, _: &Tensor) {}
}
