//! The way of token embeddings to the first block.

use candle_core::{DType, Tensor};

use super::{Gradients, Norm, Pass};
use crate::error::Result;
use crate::kernels::{add, add_rows_at, gather_rows, scale};
use crate::params::ParamId;

/// `norm(factor * x + positions + token type)`, each absent where a family has none. With none of them it is
/// nothing at all.
#[derive(Debug, Clone, Default)]
pub struct Stem {
    /// Factor on the embeddings (Gemma: `sqrt(d)`).
    pub factor: Option<f64>,
    /// Learned positions (GPT-2, BERT).
    pub positions: Option<LearnedPositions>,
    /// Table of token types; every token is of type 0 (BERT).
    pub token_types: Option<ParamId>,
    /// Norm of the sum (BERT).
    pub norm: Option<Norm>,
}

/// A table with one row for each position.
#[derive(Debug, Clone)]
pub struct LearnedPositions {
    /// The table `[positions, d]`.
    pub weight: ParamId,
    /// Row of position 0: RoBERTa begins behind the row of its padding token.
    pub offset: u32,
}

/// The input of the stem's norm, where it has one, which backward needs.
#[derive(Debug, Default)]
pub struct StemTrace {
    before_norm: Option<Tensor>,
}

impl Stem {
    /// `[t, d] -> [t, d]`.
    pub fn forward(&self, embedded: Tensor, pass: Pass<'_>) -> Result<(Tensor, StemTrace)> {
        let mut x = embedded;
        if let Some(factor) = self.factor {
            x = x.copy()?; // the caller may have kept it
            scale(&x, factor)?;
        }
        for (table, rows) in self.added_rows(pass) {
            x = add(&x, &gather_rows(pass.params.get(table), &rows)?)?;
        }
        let mut trace = StemTrace::default();
        if let Some(norm) = &self.norm {
            let normed = norm.forward(&x, pass)?;
            trace.before_norm = Some(std::mem::replace(&mut x, normed));
        }
        Ok((x, trace))
    }

    /// Gradient of the embedded input.
    pub fn backward(&self, trace: &StemTrace, dy: Tensor, pass: Pass<'_>, gradients: &mut Gradients) -> Result<Tensor> {
        let mut d = dy;
        if let (Some(norm), Some(before)) = (&self.norm, &trace.before_norm) {
            d = norm.backward(before, &d, pass, gradients)?;
        }
        for (table, rows) in self.added_rows(pass) {
            gradients.add_weight(table, || {
                let d_table = Tensor::zeros(pass.params.get(table).shape(), DType::F32, d.device())?;
                add_rows_at(&d_table, &rows, &d)?;
                Ok(d_table)
            })?;
        }
        if let Some(factor) = self.factor {
            d = d.copy()?; // a tap or a trace may share it
            scale(&d, factor)?;
        }
        Ok(d)
    }

    /// The tables that are added, with the row of each that belongs to each row of the pass.
    fn added_rows(&self, pass: Pass<'_>) -> impl Iterator<Item = (ParamId, Vec<u32>)> {
        let positions = &pass.rows.positions;
        let learned = self.positions.as_ref().map(|p| (p.weight, positions.iter().map(|i| i + p.offset).collect()));
        let types = self.token_types.map(|table| (table, vec![0; positions.len()]));
        learned.into_iter().chain(types)
    }
}
