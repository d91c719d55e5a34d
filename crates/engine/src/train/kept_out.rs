//! Directions that a weight must not get back while it is trained.

use antigen_models::{Model, Tensor};
use serde::Serialize;

use crate::error::Result;

/// Directions on one side of a weight, which training leaves out of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeptOut {
    /// Name of the weight, a matrix as it lies: `[rows, columns]`.
    pub weight: String,
    /// Orthonormal: `[columns]` each where rows lose their part in them, otherwise `[rows]`.
    pub directions: Vec<Vec<f32>>,
    /// Whether it is the rows that lose their part, or the columns.
    pub of_rows: bool,
}

/// [`KeptOut`], bound to a model's own tensor.
pub(super) struct Projection {
    weight: Tensor,
    /// `[k, d]`.
    directions: Tensor,
    of_rows: bool,
}

impl KeptOut {
    /// Nothing where the model has no such weight.
    pub(super) fn bind(&self, model: &Model) -> Result<Option<Projection>> {
        let Some(id) = model.params().find(&self.weight) else { return Ok(None) };
        let weight = model.params().get(id).clone();
        let directions = Tensor::new(self.directions.clone(), weight.device())?;
        Ok(Some(Projection { weight, directions, of_rows: self.of_rows }))
    }
}

impl Projection {
    /// Takes the directions out of the weight, in place: `W - (W V^T) V`, or `W - V^T (V W)`.
    pub fn apply(&self) -> Result<()> {
        let (w, v) = (&self.weight, &self.directions);
        let part = if self.of_rows { w.matmul(&v.t()?)?.matmul(v)? } else { v.t()?.matmul(&v.matmul(w)?)? };
        Ok(w.slice_set(&(w - part)?, 0, 0)?)
    }
}
