//! (i) Gradients: heads that the clean loss barely asks to change go first.

use antigen_models::{Model, Tensor};
use serde::{Deserialize, Serialize};

use crate::classify::heads::{HeadGrid, HeadIdx, HeadScores, attention_modules, weight_id, weight_of};
use crate::classify::prune_heads::{Examined, HeadRanker, Ranking};
use crate::classify::tokenizer::Encoded;
use crate::classify::training::label_gradients;
use crate::error::Result;
use crate::lab::Lab;

/// Sentences of one batch.
const BATCH: usize = 32;

/// The strategy's settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GradientSpec {
    /// Which gradient.
    pub form: GradientForm,
}

/// A gradient for each head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GradientForm {
    /// Frobenius norm of the loss's gradient in the head's rows of the key matrix, summed over batches: what the released code means.
    #[default]
    KeyRows,
    /// `|dL/dm|` of a factor `m = 1` on what the head writes, summed over batches (Michel et al., NeurIPS 2019). With `W` the head's
    /// columns of the output matrix that is `|sum(W * dL/dW)|`, because `W` and `m` enter as a product.
    HeadMask,
}

pub(in crate::classify::prune_heads) struct GradientRanker {
    pub spec: GradientSpec,
    pub as_released: bool,
}

impl HeadRanker for GradientRanker {
    fn rank(&self, examined: &mut Examined<'_>, lab: &Lab) -> Result<Ranking> {
        let scores = gradient_scores(examined.model, examined.scoring, self.spec.form, self.as_released, lab)?;
        Ok(Ranking::by_rule(scores))
    }
}

/// Each head's share of its layer's gradient.
///
/// As released, the norm of the *whole layer's* key gradient is added to every head of the layer: all shares are the same, and heads
/// are pruned in the order of their numbers, the first layer first.
pub(super) fn gradient_scores(
    model: &Model,
    sentences: &[Encoded],
    form: GradientForm,
    as_released: bool,
    lab: &Lab,
) -> Result<HeadScores> {
    let grid = HeadGrid::of(model);
    let mut scores = HeadScores::zero(grid);
    for batch in sentences.chunks(BATCH) {
        lab.check_cancel()?;
        let (_, gradients) = label_gradients(model, &batch.iter().collect::<Vec<_>>())?;
        for layer in 0..grid.layers {
            let [_, key, _, output] = attention_modules(model, layer)?;
            let gradient =
                |module| gradients[weight_id(model, module).0].as_ref().expect("every weight has a gradient");
            let found = match (as_released, form) {
                (true, _) => vec![row_norms(gradient(&key), 1)?[0]; grid.heads],
                (false, GradientForm::KeyRows) => row_norms(gradient(&key), grid.heads)?,
                (false, GradientForm::HeadMask) => {
                    mask_gradients(weight_of(model, &output), gradient(&output), grid.heads)?
                }
            };
            for (head, amount) in found.into_iter().enumerate() {
                scores.add(HeadIdx { layer, head }, amount);
            }
        }
    }
    Ok(scores.normalised_in_layers())
}

/// Norms of equal runs of rows: `[heads * k, d]` -> one number for each head.
fn row_norms(gradient: &Tensor, heads: usize) -> Result<Vec<f64>> {
    let rows = gradient.to_vec2::<f32>()?;
    let norm = |rows: &[Vec<f32>]| rows.iter().flatten().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    Ok(rows.chunks(rows.len() / heads).map(norm).collect())
}

/// `|sum(W * dW)|` over each head's columns: twice `[d, heads * k]` -> one number for each head.
fn mask_gradients(weight: &Tensor, gradient: &Tensor, heads: usize) -> Result<Vec<f64>> {
    let products = (weight * gradient)?.to_vec2::<f32>()?;
    let width = products[0].len() / heads;
    let of_head = |head: usize| {
        let own = head * width..(head + 1) * width;
        products.iter().flat_map(|row| &row[own.clone()]).map(|x| f64::from(*x)).sum::<f64>().abs()
    };
    Ok((0..heads).map(of_head).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use antigen_models::Device;

    #[test]
    fn a_head_has_the_norm_of_its_own_rows_and_the_product_of_its_own_columns() {
        let gradient = Tensor::new(&[[3f32, 0.0], [0.0, 4.0], [6.0, 0.0], [0.0, 8.0]], &Device::Cpu).unwrap();
        assert_eq!(row_norms(&gradient, 2).unwrap(), [5.0, 10.0]);
        let weight = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let gradient = Tensor::new(&[[1f32, -1.0], [2.0, -0.5]], &Device::Cpu).unwrap();
        assert_eq!(mask_gradients(&weight, &gradient, 2).unwrap(), [7.0, 4.0]);
    }
}
