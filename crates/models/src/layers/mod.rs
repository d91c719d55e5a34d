//! The arithmetic of each layer: a hand-derived pair `forward -> (output, trace)` and
//! `backward(trace, d_output) -> d_input`.
//!
//! `forward` keeps in its trace exactly what `backward` needs. `backward` always computes the gradient of its
//! input, and gradients of weights only where something is trained: a frozen base costs no gradient work and
//! no gradient memory. The names of layers in a checkpoint and their wiring are the business of `families/`.
//!
//! Read `linear.rs` first, then `block.rs`.

mod attention;
mod block;
mod classifier;
mod gradients;
mod linear;
mod mlp;
mod norm;
mod output_head;
mod stem;

use std::ops::Range;

pub use attention::{AttentionInputs, AttentionTrace, HeadNorms, KvCache, SelfAttention};
pub use block::{Block, BlockTrace, Norms};
pub(crate) use classifier::label_losses;
pub use classifier::{Classified, Classifier, LabelTarget, ReadRow};
pub use gradients::{FactorGradients, GradientGroup, Gradients};
pub use linear::{Linear, LinearTrace};
pub use mlp::{Mlp, MlpTrace};
pub use norm::Norm;
pub use output_head::{Guide, OutputHead, Target};
pub use stem::{LearnedPositions, Stem, StemTrace};

pub use crate::modules::ModuleIdx;
pub use crate::rows::Rows;

use crate::factors::{BoundAdapter, LoraFactors};
use crate::kernels::Prepared;
use crate::params::{ParamId, Params};

/// The surroundings of every layer in one forward or backward pass.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    /// The weights.
    pub params: &'a Params,
    /// The arrangement of the rows.
    pub rows: &'a Rows,
    /// One adapter for each of `rows.groups`, or none at all.
    pub adapters: &'a [BoundAdapter],
    /// Keys and values of earlier rows, and the cache rows that this pass fills, one for each of its rows (or
    /// of `rows.key_rows`); `None` in training.
    pub cache: Option<(&'a KvCache, &'a [u32])>,
}

impl Pass<'_> {
    /// The place in which a weight stays packed from one pass to the next, while tokens are generated.
    fn prepared(&self, weight: ParamId) -> Option<&Prepared> {
        self.cache.and_then(|(cache, _)| cache.prepared.get(weight.0))
    }

    /// Each adapter's rows and its factors on one module; variants that do not adapt it are skipped.
    fn adapted(&self, module: Option<ModuleIdx>) -> impl Iterator<Item = (usize, Range<usize>, &LoraFactors)> {
        self.rows
            .groups
            .iter()
            .zip(self.adapters)
            .enumerate()
            .filter_map(move |(variant, (rows, adapter))| Some((variant, rows.clone(), adapter.factors(module?)?)))
    }
}
