//! Attention heads: their scores, their selection, and the channels of the attention matrices that belong to
//! them.
//!
//! `s(layer, head)` sums, over queries, keys, values and output, the channel score (Eq. 2) of the head's
//! block: rows of the query matrix, columns of the output matrix, rows of its group for keys and values.
//! Group g = floor(h G / H) belongs to the query heads that share its keys and values; all of them share its
//! part of the score. Source: arXiv 2603.13461; the released code divides grouped keys and values among all
//! query heads, which is not repeated here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use antigen_models::{AttentionHeads, ModuleKind, ModuleShape};

use super::report::SelectedHead;
use super::score::score_channels;
use super::setting::MatrixDeltas;
use super::spec::{HeadPart, HeadsScope, HeadsSpec, ScoreSpec};
use crate::error::Result;
use crate::lab::Lab;

/// One score a query head, by layer, from the deltas of attention matrices.
///
/// # Errors
/// Those of the deltas.
pub(super) fn score_heads<D: MatrixDeltas>(
    attention: &[(&ModuleShape, D)],
    shape: AttentionHeads,
    spec: &ScoreSpec,
    lab: &Lab,
) -> Result<BTreeMap<usize, Vec<f32>>> {
    let mut scores = BTreeMap::<usize, Vec<f64>>::new();
    for (module, deltas) in attention {
        lab.check_cancel()?;
        let products = deltas.products()?;
        let layer = scores.entry(module.layer).or_insert_with(|| vec![0.0; shape.heads]);
        for (_, blocks) in parts(module.kind, shape) {
            for (sum, score) in layer.iter_mut().zip(score_channels(&products.of_blocks(&blocks), spec)) {
                *sum += score;
            }
        }
    }
    Ok(scores.into_iter().map(|(layer, scores)| (layer, scores.into_iter().map(|s| s as f32).collect())).collect())
}

/// The parts of heads that a matrix holds: for each part the channels of every query head, in the order of
/// heads.
fn parts(kind: ModuleKind, shape: AttentionHeads) -> Vec<(HeadPart, Vec<Range<usize>>)> {
    let AttentionHeads { heads, key_value_heads, head_width } = shape;
    let block = |first: usize, index: usize| first + index * head_width..first + (index + 1) * head_width;
    let own = |first: usize| (0..heads).map(|head| block(first, head)).collect();
    let grouped = |first: usize| (0..heads).map(|head| block(first, group_of(head, shape))).collect();
    let (keys, values) = (heads * head_width, (heads + key_value_heads) * head_width);
    match kind {
        ModuleKind::Query => vec![(HeadPart::Q, own(0))],
        ModuleKind::Key => vec![(HeadPart::K, grouped(0))],
        ModuleKind::Value => vec![(HeadPart::V, grouped(0))],
        ModuleKind::Output => vec![(HeadPart::O, own(0))],
        ModuleKind::QueryKeyValue => {
            vec![(HeadPart::Q, own(0)), (HeadPart::K, grouped(keys)), (HeadPart::V, grouped(values))]
        }
        ModuleKind::Gate | ModuleKind::Up | ModuleKind::GateUp | ModuleKind::Down => Vec::new(),
    }
}

fn group_of(head: usize, shape: AttentionHeads) -> usize {
    head * shape.key_value_heads / shape.heads
}

/// The highest-scoring heads, highest first; ties go to the lower layer and head.
pub(super) fn select(scores: &BTreeMap<usize, Vec<f32>>, spec: &HeadsSpec) -> Vec<SelectedHead> {
    let ranked = |mut heads: Vec<SelectedHead>| {
        heads.sort_by(|a, b| b.score.total_cmp(&a.score).then((a.layer, a.head).cmp(&(b.layer, b.head))));
        heads
    };
    let in_layer = |(&layer, scores): (&usize, &Vec<f32>)| -> Vec<SelectedHead> {
        scores.iter().enumerate().map(|(head, score)| SelectedHead { layer, head, score: (*score).into() }).collect()
    };
    let layers = scores.iter().map(in_layer);
    match spec.scope {
        HeadsScope::Model => {
            let mut heads = ranked(layers.flatten().collect());
            heads.truncate(spec.count);
            heads
        }
        HeadsScope::Layer => ranked(layers.flat_map(|heads| ranked(heads).into_iter().take(spec.count)).collect()),
    }
}

/// The channels of one attention matrix that belong to the selected heads. Keys and values of a group only
/// when all its query heads are selected: the others still need them.
pub(super) fn channels(
    module: &ModuleShape,
    selected: &[SelectedHead],
    shape: AttentionHeads,
    wanted: &[HeadPart],
) -> Vec<usize> {
    let selected: BTreeSet<usize> = selected.iter().filter(|s| s.layer == module.layer).map(|s| s.head).collect();
    let is_whole_group = |head: usize| {
        let group = group_of(head, shape);
        (0..shape.heads).filter(|h| group_of(*h, shape) == group).all(|h| selected.contains(&h))
    };
    let mut channels = BTreeSet::new();
    for (part, blocks) in parts(module.kind, shape).into_iter().filter(|(part, _)| wanted.contains(part)) {
        let is_shared = matches!(part, HeadPart::K | HeadPart::V);
        let heads = selected.iter().filter(|head| !is_shared || is_whole_group(**head));
        channels.extend(heads.flat_map(|head| blocks[*head].clone()));
    }
    channels.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use antigen_models::Stored;

    use super::*;

    // Four query heads of width 2; heads 0 and 1 share the first group, 2 and 3 the second.
    const SHAPE: AttentionHeads = AttentionHeads { heads: 4, key_value_heads: 2, head_width: 2 };
    const ALL: [HeadPart; 4] = [HeadPart::Q, HeadPart::K, HeadPart::V, HeadPart::O];

    fn module(kind: ModuleKind) -> ModuleShape {
        ModuleShape { name: "attention".into(), kind, layer: 3, out_features: 8, in_features: 8, stored: Stored::OutIn }
    }

    fn heads(layer: usize, heads: &[usize]) -> Vec<SelectedHead> {
        heads.iter().map(|&head| SelectedHead { layer, head, score: 1.0 }).collect()
    }

    #[test]
    fn a_head_owns_its_queries_and_outputs_and_shares_its_keys_and_values() {
        let of = |kind, selected: &[usize]| channels(&module(kind), &heads(3, selected), SHAPE, &ALL);
        assert_eq!(of(ModuleKind::Query, &[2]), [4, 5]);
        assert_eq!(of(ModuleKind::Output, &[2, 0]), [0, 1, 4, 5]);
        assert!(of(ModuleKind::Key, &[2]).is_empty(), "head 3 still needs these keys");
        assert_eq!(of(ModuleKind::Value, &[2, 3, 0]), [2, 3]);
        assert!(of(ModuleKind::Gate, &[2]).is_empty());
    }

    #[test]
    fn a_fused_matrix_has_queries_then_keys_then_values() {
        let fused = module(ModuleKind::QueryKeyValue);
        let of = |parts: &[HeadPart]| channels(&fused, &heads(3, &[2, 3]), SHAPE, parts);
        assert_eq!(of(&[HeadPart::Q, HeadPart::O]), [4, 5, 6, 7]);
        assert_eq!(of(&[HeadPart::K]), [10, 11]);
        assert_eq!(of(&[HeadPart::V]), [14, 15]);
    }

    #[test]
    fn heads_of_another_layer_are_left_alone() {
        assert!(channels(&module(ModuleKind::Query), &heads(2, &[0, 1]), SHAPE, &ALL).is_empty());
    }

    #[test]
    fn heads_are_counted_over_the_model_or_in_each_layer() {
        let scores = [(0, vec![5.0, 1.0, 4.0]), (1, vec![2.0, 3.0, 3.0])].into();
        let select = |scope| {
            let spec = HeadsSpec { count: 2, scope, ..HeadsSpec::default() };
            select(&scores, &spec).iter().map(|head| (head.layer, head.head)).collect::<Vec<_>>()
        };
        assert_eq!(select(HeadsScope::Model), [(0, 0), (0, 2)]);
        assert_eq!(select(HeadsScope::Layer), [(0, 0), (0, 2), (1, 1), (1, 2)]);
    }
}
