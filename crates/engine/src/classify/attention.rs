//! Where the first token looks: the variance of each head's attention, the score of PURE (Zhao et al., 2024).

use antigen_models::kernels::{add_to_rows, gather_rows, matmul_nt};
use antigen_models::layers::Rows;
use antigen_models::taps::Tap;
use antigen_models::{Model, ModuleShape, Tensor};

use super::classifier::{pack, plain_pass};
use super::heads::{HeadGrid, HeadIdx, HeadScores, attention_modules, weight_of};
use super::tokenizer::Encoded;
use crate::error::Result;

/// Length to which the published code pads every sentence.
pub const PADDED_TOKENS: usize = 128;
/// Sentences of one batch, as published.
const BATCH: usize = 32;

/// Variance score of every head: the unbiased variance over the first 127 entries of what the first token attends to, the sentence
/// padded to 128 tokens with attention 0; averaged over the sentences of a batch, then over batches.
///
/// The published code flattens the attention matrix `[128, 128]` and takes its first 127 entries: the row of the first token without
/// its last column.
///
/// # Errors
/// As [`super::heads::remove_heads`].
///
/// # Cost
/// One forward pass, and one more product with each key matrix.
pub fn attention_variance(model: &Model, sentences: &[Encoded]) -> Result<HeadScores> {
    let grid = HeadGrid::of(model);
    let mut scores = HeadScores::zero(grid);
    let batches = sentences.len().div_ceil(BATCH) as f64;
    for batch in sentences.chunks(BATCH) {
        let weight = 1.0 / (batch.len() as f64 * batches);
        for (layer, heads) in first_token_attention(model, batch)?.into_iter().enumerate() {
            for (head, sentences) in heads.into_iter().enumerate() {
                let sum: f64 = sentences.iter().map(|seen| padded_variance(seen, PADDED_TOKENS)).sum();
                scores.add(HeadIdx { layer, head }, weight * sum);
            }
        }
    }
    Ok(scores)
}

/// Unbiased variance over the first `padded - 1` entries of a row that goes on with zeros.
fn padded_variance(row: &[f32], padded: usize) -> f64 {
    let n = (padded - 1) as f64;
    let seen = &row[..row.len().min(padded - 1)];
    let mean = seen.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let squares: f64 = seen.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum();
    let zeros = n - seen.len() as f64;
    (squares + zeros * mean * mean) / (n - 1.0)
}

/// What the first token of each sentence attends to: by layer, head and sentence, a probability for each token.
fn first_token_attention(model: &Model, batch: &[Encoded]) -> Result<Vec<Vec<Vec<Vec<f32>>>>> {
    let (tokens, rows) = pack(batch);
    let mut inputs = BlockInputs { layers: model.config().layers(), states: Vec::new() };
    model.forward(model.embed(&tokens)?, plain_pass(model, &rows), &mut inputs)?;
    inputs.states.iter().enumerate().map(|(layer, x)| attention_of_layer(model, layer, x, &rows)).collect()
}

/// Keeps what each block reads. Encoders of the BERT family have no norm in front of their attention, so this is what it reads too.
struct BlockInputs {
    layers: usize,
    states: Vec<Tensor>,
}

impl Tap for BlockInputs {
    fn hidden_state(&mut self, index: usize, hidden: &Tensor) {
        if index < self.layers {
            self.states.push(hidden.clone());
        }
    }
}

fn attention_of_layer(model: &Model, layer: usize, x: &Tensor, rows: &Rows) -> Result<Vec<Vec<Vec<f32>>>> {
    let [query, key, ..] = attention_modules(model, layer)?;
    let firsts: Vec<u32> = rows.spans.iter().map(|span| span.queries.start as u32).collect();
    let queries = project(model, &query, &gather_rows(x, &firsts)?)?;
    let keys = project(model, &key, x)?;
    let sizes = model.config().attention_heads();
    let scale = 1.0 / (sizes.head_width as f32).sqrt();
    let of_head = |head: usize| {
        let own = head * sizes.head_width..(head + 1) * sizes.head_width;
        let sentences = rows.spans.iter().zip(&queries).map(|(span, query)| {
            let products = keys[span.keys.clone()]
                .iter()
                .map(|key| scale * query[own.clone()].iter().zip(&key[own.clone()]).map(|(q, k)| q * k).sum::<f32>());
            softmax(products.collect())
        });
        sentences.collect()
    };
    Ok((0..sizes.heads).map(of_head).collect())
}

fn project(model: &Model, module: &ModuleShape, x: &Tensor) -> Result<Vec<Vec<f32>>> {
    let y = matmul_nt(x, weight_of(model, module))?;
    if let Some(bias) = model.params().find(&format!("{}.bias", module.name)) {
        add_to_rows(&y, model.params().get(bias))?;
    }
    Ok(y.to_vec2()?)
}

/// `exp(x) / sum exp(x)`.
pub(super) fn softmax(mut x: Vec<f32>) -> Vec<f32> {
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
    fn the_variance_counts_padding_as_attention_of_zero_and_leaves_out_the_last_column() {
        // Padded to 5: the entries are 0.5, 0.25, 0.25, 0; mean 0.25; squares 0.0625 + 0.0625; over 3.
        assert!((padded_variance(&[0.5, 0.25, 0.25], 5) - 0.125 / 3.0).abs() < 1e-12);
        // Of five entries the last is left out: 0.2, 0.2, 0.2, 0.2 do not vary.
        assert!(padded_variance(&[0.2, 0.2, 0.2, 0.2, 0.2], 5).abs() < 1e-12);
    }

    #[test]
    fn softmax_is_shares_of_exponentials() {
        let found = softmax(vec![0.0, (3f32).ln()]);
        assert!((found[0] - 0.25).abs() < 1e-6 && (found[1] - 0.75).abs() < 1e-6);
    }
}
