//! Looking into a pass: what methods and tests may see of the residual stream, and how a loss on hidden
//! states is trained.

use candle_core::Tensor;

use crate::error::Result;
use crate::kernels::AttentionSettings;
use crate::modules::ModuleIdx;
use crate::rows::Rows;

/// Sees the residual stream as it passes and what the linear layers read of it, may add something to it, and
/// may have a gradient of its own there. Tensors are shared, not copied; keeping one keeps its memory.
pub trait Tap {
    /// Hidden state `index`, `[t, d]`: 0 is the embedding, `i` the output of block `i`, and the last one
    /// (index `layers`) comes after the final norm, as Hugging Face numbers them.
    fn hidden_state(&mut self, index: usize, hidden: &Tensor);

    /// The shift that is added to hidden state `index`, which was just seen, before block `index` reads it,
    /// `[t, d]`; by default none.
    ///
    /// # Errors
    /// Those of the device.
    fn shift(&mut self, _index: usize) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// Sees the input of the adaptable linear layer `module`, `[t, in]`; block by block, in the order of
    /// [`crate::Model::linear_modules`]. Nobody looks unless this is overridden; showing it costs a call,
    /// because the tensors are there anyway.
    fn linear_input(&mut self, module: ModuleIdx, input: &Tensor) {
        let _ = (module, input);
    }

    /// Sees the attention of block `layer`. Nobody does unless this is overridden, and nothing is computed
    /// until asked for.
    fn attention(&mut self, layer: usize, attention: &Attention<'_>) {
        let _ = (layer, attention);
    }

    /// The gradient that backward brings to hidden state `index`, `[t, d]`: that of all losses behind it.
    fn reached(&mut self, index: usize, gradient: &Tensor) {
        let _ = (index, gradient);
    }

    /// The gradient of a loss on hidden state `index` with respect to it, `[t, d]`. Backward asks once for
    /// each hidden state, the last one first, and adds what it gets to the gradient that comes from behind;
    /// by default there is none.
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

/// One block's attention over the rows of a pass.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// As they meet the keys, `[t, h * k]`.
    pub(crate) query: &'a Tensor,
    /// As the queries meet them, `[t, g * k]`.
    pub(crate) key: &'a Tensor,
    pub(crate) rows: &'a Rows,
    pub(crate) settings: AttentionSettings,
}

impl Attention<'_> {
    /// The attention of each of these rows, by row and head: shares that add up to 1, one for each key of the
    /// row's sequence from the first that it sees to the last.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// When a row is in no sequence of the pass.
    pub fn shares(&self, rows: &[u32]) -> Result<Vec<Vec<Vec<f32>>>> {
        let (queries, keys) = (self.query.to_vec2::<f32>()?, self.rows.gather_keys(self.key)?.to_vec2::<f32>()?);
        let of_row = |&row: &u32| {
            let row = row as usize;
            let span = self.rows.spans.iter().find(|span| span.queries.contains(&row)).expect("a row of a sequence");
            let position = span.offset + row - span.queries.start;
            let seen = self.settings.seen(position, span.keys.len());
            self.shares_of(&queries[row], &keys[span.keys.clone()][seen])
        };
        Ok(rows.iter().map(of_row).collect())
    }

    /// By head, of one query over the keys that it sees.
    fn shares_of(&self, query: &[f32], keys: &[Vec<f32>]) -> Vec<Vec<f32>> {
        let width = self.settings.head_width;
        let heads = query.len() / width;
        let sharing = heads * width / keys.first().map_or(width, Vec::len);
        let of_head = |head: usize| {
            let (own, its_key) = (head * width..(head + 1) * width, head / sharing * width);
            let scores = keys.iter().map(|key| {
                let key = &key[its_key..its_key + width];
                let product: f32 = query[own.clone()].iter().zip(key).map(|(q, k)| q * k).sum();
                self.settings.score(product)
            });
            softmax(scores.collect())
        };
        (0..heads).map(of_head).collect()
    }
}

/// `exp(x) / sum exp(x)`.
pub fn softmax(mut x: Vec<f32>) -> Vec<f32> {
    let highest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    x.iter_mut().for_each(|x| *x = (*x - highest).exp());
    let sum: f32 = x.iter().sum();
    x.iter_mut().for_each(|x| *x /= sum);
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_is_shares_of_exponentials() {
        let found = softmax(vec![0.0, (3f32).ln()]);
        assert!((found[0] - 0.25).abs() < 1e-6 && (found[1] - 0.75).abs() < 1e-6);
    }
}
