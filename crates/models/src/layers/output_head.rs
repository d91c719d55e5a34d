//! The language-model head: logits and loss at the rows that carry a target, and nowhere else.

use candle_core::{DType, Tensor};

use super::{Gradients, Pass};
use crate::error::Result;
use crate::kernels::{add, add_rows_at, cap, cap_backward, cross_entropy, gather_rows};
use crate::params::ParamId;

/// Logits held at one time, in scalars (16 MiB of float32): rows are taken in chunks of this size.
const CHUNK_SCALARS: usize = 4 << 20;
/// The same on a GPU (512 MiB), where a product of few rows leaves most of the processor idle.
const CHUNK_SCALARS_ON_GPU: usize = 128 << 20;

/// One row whose next token is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Row of the pass.
    pub row: u32,
    /// The token that should follow.
    pub token: u32,
    /// Weight of this row's loss in the sum that is differentiated.
    pub weight: f32,
}

/// A teacher's word on targets, beside the tokens that should follow:
/// `weight * temperature^2 * KL(teacher || student)` of both distributions at that temperature joins the loss
/// of each target.
#[derive(Debug, Clone)]
pub struct Guide {
    /// The teacher's logits, `[targets, v]`.
    pub logits: Tensor,
    /// Divides both models' logits.
    pub temperature: f64,
    /// Of the divergence, against the loss on the token itself.
    pub weight: f64,
}

impl Guide {
    /// The gradient of the divergence with respect to the student's logits of some targets, `[m, v]`, of
    /// which the first is number `start`: `weight * temperature * (softmax(student / temperature) -
    /// softmax(teacher / temperature))`, times the target's own weight.
    fn gradient(&self, logits: &Tensor, start: usize, weights: &[f32]) -> Result<Tensor> {
        let soft = |logits: &Tensor| -> candle_core::Result<Tensor> {
            let scaled = (logits / self.temperature)?;
            let shares = scaled.broadcast_sub(&scaled.max_keepdim(1)?)?.exp()?;
            shares.broadcast_div(&shares.sum_keepdim(1)?)
        };
        let teacher = self.logits.narrow(0, start, weights.len())?;
        let factors: Vec<f32> = weights.iter().map(|w| w * (self.weight * self.temperature) as f32).collect();
        let factors = Tensor::new(factors, logits.device())?.unsqueeze(1)?;
        Ok((soft(logits)? - soft(&teacher)?)?.broadcast_mul(&factors)?)
    }
}

/// The matrix `[v, d]` that turns hidden states into logits; with tied embeddings it is the embedding.
#[derive(Debug, Clone)]
pub struct OutputHead {
    /// The weight `[v, d]`.
    pub weight: ParamId,
    /// If set, a logit `z` becomes `cap * tanh(z / cap)` (Gemma 2).
    pub softcap: Option<f32>,
}

impl OutputHead {
    /// Logits of the given rows: `[t, d] -> [rows, v]`.
    pub fn logits(&self, hidden: &Tensor, rows: &[u32], pass: Pass<'_>) -> Result<Tensor> {
        self.logits_of(&gather_rows(hidden, rows)?, pass)
    }

    /// `[m, d] -> [m, v]`.
    fn logits_of(&self, selected: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        let (weight, precision) = (pass.params.get(self.weight), pass.params.precision());
        let logits = match pass.prepared(self.weight) {
            Some(place) => {
                let [logits] = precision.matmul_prepared(selected, [(weight, place)], true)?;
                logits
            }
            None => precision.matmul_nt(selected, weight)?,
        };
        if let Some(limit) = self.softcap {
            cap(&logits, limit)?;
        }
        Ok(logits)
    }

    /// Loss of every target in nats, in the targets' order.
    pub fn losses(&self, hidden: &Tensor, targets: &[Target], pass: Pass<'_>) -> Result<Vec<f32>> {
        let mut losses = Vec::with_capacity(targets.len());
        for chunk in targets.chunks(self.chunk_rows(pass)?) {
            let (rows, tokens) = split(chunk);
            losses.extend(cross_entropy(&self.logits(hidden, &rows, pass)?, &tokens, None)?.losses);
        }
        Ok(losses)
    }

    /// Losses as [`OutputHead::losses`], and the gradient of their weighted sum with respect to `hidden`,
    /// `[t, d]`; with a guide also that of what it adds, which is not among the losses.
    pub fn losses_and_gradient(
        &self,
        hidden: &Tensor,
        (targets, guide): (&[Target], Option<&Guide>),
        pass: Pass<'_>,
        gradients: &mut Gradients,
    ) -> Result<(Vec<f32>, Tensor)> {
        let (weight, precision) = (pass.params.get(self.weight), pass.params.precision());
        let d_hidden = Tensor::zeros(hidden.shape(), DType::F32, hidden.device())?;
        let mut losses = Vec::with_capacity(targets.len());
        for chunk in targets.chunks(self.chunk_rows(pass)?) {
            let (rows, tokens) = split(chunk);
            let weights: Vec<f32> = chunk.iter().map(|t| t.weight).collect();
            let selected = gather_rows(hidden, &rows)?;
            let logits = self.logits_of(&selected, pass)?;
            let entropy = cross_entropy(&logits, &tokens, Some(&weights))?;
            let mut d_logits = entropy.gradient.expect("a gradient was asked for by giving weights");
            if let Some(guide) = guide {
                d_logits = add(&d_logits, &guide.gradient(&logits, losses.len(), &weights)?)?;
            }
            if let Some(limit) = self.softcap {
                cap_backward(&d_logits, &logits, limit)?;
            }
            losses.extend(entropy.losses);
            add_rows_at(&d_hidden, &rows, &precision.matmul(&d_logits, weight)?)?;
            gradients.add_weight(self.weight, || precision.matmul_tn(&d_logits, &selected))?;
        }
        Ok((losses, d_hidden))
    }

    fn chunk_rows(&self, pass: Pass<'_>) -> Result<usize> {
        let weight = pass.params.get(self.weight);
        let scalars = if weight.device().is_cuda() { CHUNK_SCALARS_ON_GPU } else { CHUNK_SCALARS };
        Ok((scalars / weight.dims2()?.0).max(1))
    }
}

fn split(targets: &[Target]) -> (Vec<u32>, Vec<u32>) {
    targets.iter().map(|t| (t.row, t.token)).unzip()
}
