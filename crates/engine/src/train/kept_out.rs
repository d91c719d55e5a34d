//! Directions that a weight must not get back while it is trained.

use antigen_models::kernels::{add_matmul, matmul, matmul_nt};
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
    /// `[d, k]`.
    transposed: Tensor,
    of_rows: bool,
}

impl KeptOut {
    /// Nothing where the model has no such weight.
    pub(super) fn bind(&self, model: &Model) -> Result<Option<Projection>> {
        let Some(id) = model.params().find(&self.weight) else { return Ok(None) };
        let weight = model.params().get(id).clone();
        let directions = Tensor::new(self.directions.clone(), weight.device())?;
        let transposed = directions.t()?.contiguous()?;
        Ok(Some(Projection { weight, directions, transposed, of_rows: self.of_rows }))
    }
}

impl Projection {
    /// Takes the directions out of the weight, in place: `W - (W V^T) V`, or `W - V^T (V W)`.
    pub fn apply(&self) -> Result<()> {
        let (w, v) = (&self.weight, &self.directions);
        let rows = 0..w.dims2()?.0;
        match self.of_rows {
            true => add_matmul(w, rows, &matmul_nt(w, v)?, v, -1.0)?,
            false => add_matmul(w, rows, &self.transposed, &matmul(v, w)?, -1.0)?,
        }
        Ok(())
    }
}
