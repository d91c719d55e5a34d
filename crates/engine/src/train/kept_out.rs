//! Directions that a weight must not get back while it is trained.

use std::ops::Range;

use antigen_models::kernels::{add_matmul, matmul, matmul_nt};
use antigen_models::{Model, Tensor};
use serde::Serialize;

use crate::error::Result;

/// Directions on one side of a weight, which training leaves out of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeptOut {
    /// Name of the weight, a matrix as it lies: `[rows, columns]`.
    pub weight: String,
    /// The directions.
    pub directions: Directions,
    /// True when the rows lose their part in the directions, false when the columns do.
    pub of_rows: bool,
}

/// Directions on one side of a weight.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Directions {
    /// Orthonormal: `[columns]` each where rows lose their part in them, otherwise `[rows]`.
    Any(Vec<Vec<f32>>),
    /// Those of single numbers: whole columns where rows lose their part in them, otherwise whole rows.
    Axes(Vec<Range<usize>>),
}

/// [`KeptOut`], bound to a model's own tensor.
pub(super) struct Projection {
    weight: Tensor,
    out: Out,
    of_rows: bool,
}

/// The part that goes out of the weight.
enum Out {
    /// Directions `[k, d]`, and the same transposed.
    Directions(Tensor, Tensor),
    /// Zeros, and where they go.
    Zeros(Vec<(Tensor, usize)>),
}

impl KeptOut {
    /// Nothing where the model has no such weight.
    pub(super) fn bind(&self, model: &Model) -> Result<Option<Projection>> {
        let Some(id) = model.params().find(&self.weight) else { return Ok(None) };
        let weight = model.params().get(id).clone();
        let out = match &self.directions {
            Directions::Any(directions) => {
                let directions = Tensor::new(directions.clone(), weight.device())?;
                let transposed = directions.t()?.contiguous()?;
                Out::Directions(directions, transposed)
            }
            Directions::Axes(runs) => {
                let zeros = |run: &Range<usize>| {
                    let part = weight.narrow(usize::from(self.of_rows), run.start, run.len())?;
                    Ok((part.zeros_like()?, run.start))
                };
                Out::Zeros(runs.iter().map(zeros).collect::<Result<_>>()?)
            }
        };
        Ok(Some(Projection { weight, out, of_rows: self.of_rows }))
    }
}

impl Projection {
    /// Takes the directions out of the weight, in place: `W - (W V^T) V`, or `W - V^T (V W)`.
    pub fn apply(&self) -> Result<()> {
        let w = &self.weight;
        let rows = 0..w.dims2()?.0;
        match (&self.out, self.of_rows) {
            (Out::Directions(v, _), true) => add_matmul(w, rows, &matmul_nt(w, v)?, v, -1.0)?,
            (Out::Directions(v, transposed), false) => add_matmul(w, rows, transposed, &matmul(v, w)?, -1.0)?,
            (Out::Zeros(parts), of_rows) => {
                for (zeros, start) in parts {
                    w.slice_set(zeros, usize::from(of_rows), *start)?;
                }
            }
        }
        Ok(())
    }
}
