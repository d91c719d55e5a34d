//! (i) Gradients: heads that the clean loss barely asks to change go first.

use antigen_models::{Model, Stored, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::lab::Lab;
use crate::methods::shared::head_pruning::removal::{key_module, output_module};
use crate::methods::shared::head_pruning::{Examined, HeadGrid, HeadIdx, HeadRanker, HeadScores, HeadTask, Ranking};

/// The strategy's settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GradientSpec {
    /// The form of the gradient.
    pub form: GradientForm,
}

/// A gradient for each head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GradientForm {
    /// Frobenius norm of the loss's gradient in the head's rows of the key matrix, summed over batches: the
    /// intention of the released code. Only for models in which every head has a key of its own.
    #[default]
    KeyRows,
    /// `|dL/dm|` of a factor `m = 1` on the head's output, summed over batches (Michel et al., NeurIPS 2019).
    /// With `W` the head's columns of the output matrix that is `|sum(W * dL/dW)|`, because `W` and `m` enter
    /// as a product.
    HeadMask,
}

pub(in crate::methods::shared::head_pruning) struct GradientRanker {
    pub spec: GradientSpec,
    pub as_released: bool,
}

impl HeadRanker for GradientRanker {
    fn rank(&self, examined: &mut Examined<'_>, lab: &Lab) -> Result<Ranking> {
        let scores = gradient_scores(examined.model, examined.task, self.spec.form, self.as_released, lab)?;
        Ok(Ranking::by_rule(scores))
    }
}

/// Each head's share of its layer's gradient.
///
/// As released, the norm of the *whole layer's* gradient is added to every head of the layer: all shares are
/// the same, and heads are pruned in the order of their numbers, the first layer first.
pub(super) fn gradient_scores(
    model: &Model,
    task: &dyn HeadTask,
    form: GradientForm,
    as_released: bool,
    lab: &Lab,
) -> Result<HeadScores> {
    let grid = HeadGrid::of(model);
    let mut scores = HeadScores::zero(grid);
    task.gradients(model, &mut |gradients| {
        lab.check_cancel()?;
        for layer in 0..grid.layers {
            let found = gradients_of_layer(model, (layer, grid.heads), gradients, form, as_released)?;
            for (head, amount) in found.into_iter().enumerate() {
                scores.add(HeadIdx { layer, head }, amount);
            }
        }
        Ok(())
    })?;
    Ok(scores.normalised_in_layers())
}

/// One number for each head of a layer.
fn gradients_of_layer(
    model: &Model,
    (layer, heads): (usize, usize),
    gradients: &[Option<Tensor>],
    form: GradientForm,
    as_released: bool,
) -> Result<Vec<f64>> {
    let module = match form {
        GradientForm::KeyRows => key_module(model, layer)?,
        GradientForm::HeadMask => output_module(model, layer),
    };
    let gradient = gradients[model.weight_id(module).0].as_ref().expect("every weight has a gradient");
    if as_released {
        return Ok(vec![row_norms(gradient, 1)?[0]; heads]);
    }
    match form {
        GradientForm::KeyRows => row_norms(gradient, heads),
        GradientForm::HeadMask => {
            let products = (model.weight_of(module) * gradient)?;
            // [in, out], whichever way round the weight lies.
            let by_input = if module.stored == Stored::OutIn { products.t()? } else { products };
            sums_of_rows(&by_input, heads)
        }
    }
}

/// Norms of equal runs of rows: `[heads * k, d]` -> one number for each head.
fn row_norms(gradient: &Tensor, heads: usize) -> Result<Vec<f64>> {
    by_head(gradient, heads, |numbers| numbers.map(|x| x * x).sum::<f64>().sqrt())
}

/// Magnitude of the sum over equal runs of rows: `[heads * k, d]` -> one number for each head.
fn sums_of_rows(products: &Tensor, heads: usize) -> Result<Vec<f64>> {
    by_head(products, heads, |numbers| numbers.sum::<f64>().abs())
}

fn by_head(matrix: &Tensor, heads: usize, number: impl Fn(&mut dyn Iterator<Item = f64>) -> f64) -> Result<Vec<f64>> {
    let rows = matrix.to_vec2::<f32>()?;
    let of_head = |rows: &[Vec<f32>]| number(&mut rows.iter().flatten().map(|x| f64::from(*x)));
    Ok(rows.chunks(rows.len() / heads).map(of_head).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use antigen_models::Device;

    #[test]
    fn a_head_has_the_norm_or_the_sum_of_its_own_rows() {
        let rows = Tensor::new(&[[3f32, 0.0], [0.0, -4.0], [6.0, 0.0], [0.0, 8.0]], &Device::Cpu).unwrap();
        assert_eq!(row_norms(&rows, 2).unwrap(), [5.0, 10.0]);
        assert_eq!(sums_of_rows(&rows, 2).unwrap(), [1.0, 14.0]);
    }
}
