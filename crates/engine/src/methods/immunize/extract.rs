//! From trained pairs to a signature: deltas (Eq. 1), scores (Eq. 2), shared directions.
//!
//! Shared directions are the top right singular vectors of the deltas, stacked after each is divided by its
//! Frobenius norm: many short pairs agree in one direction on the residual side, and the backdoor lives
//! there.

use std::collections::BTreeMap;

use antigen_models::ModuleShape;
use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::deltas::{Delta, FactorDeltas};
use super::head_scores::score_heads;
use super::score::score_layer;
use super::setting::{MatrixDeltas, Setting};
use super::signature::{ModuleScores, Signature};
use super::spec::{DirectionSource, ScoreSpec};
use crate::error::Result;
use crate::lab::Lab;
use crate::stage::Stage;

/// The part of the suspect that a signature is wanted of.
pub(super) struct Wanted<'a> {
    /// Number of pairs.
    pub pairs: usize,
    /// Channel scores.
    pub score: &'a ScoreSpec,
    /// The source of shared directions.
    pub directions: DirectionSource,
    /// Directions per matrix.
    pub rank: usize,
    /// Matrices whose channels and directions are wanted.
    pub modules: Vec<&'a ModuleShape>,
    /// Attention matrices that score heads; empty when no head is to be suppressed.
    pub attention: Vec<&'a ModuleShape>,
}

/// The difference between the members of each pair at one matrix.
pub(super) struct MatrixDifference<'a, D> {
    module: &'a ModuleShape,
    /// Of its weights.
    weights: D,
    /// The stream at the matrix in the clean and the poisoned member, `[d]` each, where directions are read
    /// from it.
    streams: Option<Vec<[Tensor; 2]>>,
}

/// The deltas of every wanted matrix (Eq. 1): factors in memory for an adapter, opened files for a whole
/// model, so that memory does not grow with the number of pairs.
pub(super) struct Deltas<'a, D> {
    /// Matrices that are scored together.
    layers: Vec<Vec<MatrixDifference<'a, D>>>,
    /// Number of matrices in all layers.
    matrices: usize,
    /// Attention matrices that score heads.
    attention: Vec<(&'a ModuleShape, D)>,
}

/// The scores of one matrix and the norms that its directions are weighed by.
struct MatrixScores {
    channels: Vec<f32>,
    /// Frobenius norm of each pair's delta.
    norms: Vec<f64>,
}

/// Scores of every wanted matrix (Eq. 2), by module name, and of attention heads, by layer.
pub(super) struct Scores {
    modules: BTreeMap<String, MatrixScores>,
    heads: BTreeMap<usize, Vec<f32>>,
}

/// Delta_i = theta_i^bd - theta_i^clean, matrix by matrix (Eq. 1).
///
/// # Errors
/// Those of the variants' files and of the device.
pub(super) fn differential_deltas<'a, S: Setting>(
    setting: &S,
    pairs: &S::Pairs,
    wanted: &Wanted<'a>,
    lab: &Lab,
) -> Result<Deltas<'a, S::Deltas>> {
    lab.enter(Stage::Deltas)?;
    let mut ordered = wanted.modules.clone();
    ordered.sort_by_key(|module| (module.layer, module.kind.is_mlp()));
    let from_streams = wanted.directions == DirectionSource::Activations;
    let difference = |&module: &&'a ModuleShape| {
        let streams = from_streams.then(|| setting.streams(pairs, module)).transpose()?;
        Ok(MatrixDifference { module, weights: setting.deltas(pairs, module)?, streams })
    };
    let layers = ordered.chunk_by(|a, b| are_scored_together(a, b));
    let attention = wanted.attention.iter().map(|&module| Ok((module, setting.deltas(pairs, module)?)));
    Ok(Deltas {
        layers: layers.map(|layer| layer.iter().map(difference).collect()).collect::<Result<_>>()?,
        matrices: ordered.len(),
        attention: attention.collect::<Result<_>>()?,
    })
}

/// Matrices of the MLP of one layer are scored together, every other one on its own.
fn are_scored_together(a: &ModuleShape, b: &ModuleShape) -> bool {
    a.layer == b.layer && a.kind.is_mlp() && b.kind.is_mlp()
}

/// s(c) of every channel: size of the change and agreement between pairs (Eq. 2); the same of attention
/// heads. Until all matrices of a layer are read, `8 N (N + 1) / 2` bytes are held for each of their
/// channels.
///
/// # Errors
/// Those of the deltas.
pub(super) fn score_channels<S: Setting>(
    setting: &S,
    deltas: &Deltas<'_, S::Deltas>,
    wanted: &Wanted<'_>,
    lab: &Lab,
) -> Result<Scores> {
    lab.enter(Stage::Scores)?;
    let mut modules = BTreeMap::new();
    for layers in deltas.layers.chunks(S::LAYERS_AT_ONCE) {
        lab.check_cancel()?;
        let scored = layers.par_iter().map(|layer| score_matrices(layer, wanted.score));
        modules.extend(scored.collect::<Result<Vec<_>>>()?.into_iter().flatten());
        lab.advance(modules.len() as u64, deltas.matrices as u64);
    }
    let shape = setting.suspect().config().attention_heads();
    let heads = score_heads(&deltas.attention, shape, wanted.score, lab)?;
    Ok(Scores { modules, heads })
}

fn score_matrices<D: MatrixDeltas>(
    layer: &[MatrixDifference<'_, D>],
    spec: &ScoreSpec,
) -> Result<Vec<(String, MatrixScores)>> {
    let products = layer.iter().map(|matrix| matrix.weights.products()).collect::<Result<Vec<_>>>()?;
    let scores = score_layer(&products, spec);
    let scored = layer.iter().zip(&products).zip(scores).map(|((matrix, products), scores)| {
        let channels = scores.into_iter().map(|score| score as f32).collect();
        Ok((matrix.module.name.clone(), MatrixScores { channels, norms: matrix.weights.norms(products)? }))
    });
    scored.collect()
}

/// S: the scores beside the directions that the pairs share.
///
/// # Errors
/// Those of the deltas and of the device.
pub(super) fn extract_signature<S: Setting>(
    deltas: &Deltas<'_, S::Deltas>,
    scores: Scores,
    wanted: &Wanted<'_>,
    lab: &Lab,
) -> Result<Signature> {
    lab.enter(Stage::Signature)?;
    let mut modules = BTreeMap::new();
    for layers in deltas.layers.chunks(S::LAYERS_AT_ONCE) {
        lab.check_cancel()?;
        let read = layers.par_iter().flatten_iter().map(|matrix| {
            let name = matrix.module.name.clone();
            let found = with_directions(matrix, &scores.modules[&name], wanted.rank)?;
            Ok((name, found))
        });
        modules.extend(read.collect::<Result<Vec<_>>>()?);
        lab.advance(modules.len() as u64, deltas.matrices as u64);
    }
    Ok(Signature { pairs: wanted.pairs, modules, heads: scores.heads })
}

fn with_directions<D: MatrixDeltas>(
    matrix: &MatrixDifference<'_, D>,
    scores: &MatrixScores,
    rank: usize,
) -> Result<ModuleScores> {
    let (directions, shared_fraction) = match &matrix.streams {
        Some(streams) => directions_of_streams(streams, rank)?,
        None => matrix.weights.shared_directions(&scores.norms, rank)?,
    };
    let mean_delta_norm = scores.norms.iter().sum::<f64>() / scores.norms.len() as f64;
    Ok(ModuleScores { scores: scores.channels.clone(), directions, mean_delta_norm, shared_fraction })
}

/// The strongest directions of the differences between the members' streams, each divided by its norm, and
/// the share of the first.
fn directions_of_streams(streams: &[[Tensor; 2]], rank: usize) -> Result<(Vec<Vec<f32>>, f64)> {
    // One difference is a delta of one channel.
    let delta = |[clean, poisoned]: &[Tensor; 2]| {
        let residual = (poisoned - clean)?.unsqueeze(0)?.to_dtype(DType::F64)?;
        Ok(Delta { channel: Tensor::ones((1, 1), DType::F64, residual.device())?, residual })
    };
    let deltas = FactorDeltas(streams.iter().map(delta).collect::<Result<_>>()?);
    let norms = deltas.norms(&deltas.products()?)?;
    deltas.shared_directions(&norms, rank)
}

#[cfg(test)]
mod tests {
    use antigen_models::{Device, ModuleKind, Stored};

    use super::*;

    #[test]
    fn pairs_without_any_change_have_no_direction() {
        let zero = Tensor::zeros((3, 2), DType::F64, &Device::Cpu).unwrap();
        let delta = Delta { channel: zero.clone(), residual: zero.t().unwrap().contiguous().unwrap() };
        let module = ModuleShape {
            name: "model.layers.0.mlp.up_proj".into(),
            layer: 0,
            kind: ModuleKind::Up,
            in_features: 2,
            out_features: 3,
            stored: Stored::OutIn,
        };
        let weights = FactorDeltas(vec![delta.clone(), delta]);
        let matrix = MatrixDifference { module: &module, weights, streams: None };
        let scored = score_matrices(std::slice::from_ref(&matrix), &ScoreSpec::default()).unwrap().remove(0).1;
        let found = with_directions(&matrix, &scored, 1).unwrap();
        assert!(found.directions.is_empty() && found.scores == [0.0; 3]);
    }

    #[test]
    fn streams_that_differ_along_one_direction_have_it_in_common_whatever_the_size_of_their_differences() {
        let stream = |numbers: [f32; 3]| Tensor::new(&numbers, &Device::Cpu).unwrap();
        let apart =
            |by: f32, more: f32| [stream([1.0, 2.0, 3.0]), stream([1.0 + 3.0 * by, 2.0 + more, 3.0 - 4.0 * by])];
        let (directions, share) = directions_of_streams(&[apart(1.0, 0.0), apart(-100.0, 0.0)], 2).unwrap();
        assert_eq!(directions.len(), 1);
        let sign = directions[0][0].signum();
        for (found, expected) in directions[0].iter().zip([0.6, 0.0, -0.8]) {
            assert!((sign * found - expected).abs() < 1e-6, "{directions:?}");
        }
        assert!((share - 1.0).abs() < 1e-9);
        let same = [stream([1.0, 2.0, 3.0]), stream([1.0, 2.0, 3.0])];
        assert!(directions_of_streams(&[same.clone(), same], 1).unwrap().0.is_empty());
    }
}
