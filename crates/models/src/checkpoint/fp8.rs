//! Weights in 8-bit floating point (E4M3) with scales: what belongs to which tensor, and the multiplication.
//!
//! A weight `q` of E4M3 comes with `{name}_scale` (vLLM, compressed-tensors, FBGEMM, ModelOpt) or
//! `{name}_scale_inv` (DeepSeek and transformers). Despite the name both are multiplied: `w = q · s`, with
//! one `s` for the tensor, for each row, or for each block of `weight_block_size`. That product in float32 is
//! the weight by definition; scales of *activations* only say how a server rounds, and are left out.

use std::collections::BTreeMap;

use serde_json::Value;

use super::header::{Dtype, TensorEntry};
use crate::error::{ModelError, Result};

/// Scales of one tensor: `values[(row / rows) * columns_of_grid + column / columns]`.
#[derive(Debug)]
pub(super) struct ScaleGrid {
    pub values: Vec<f32>,
    pub spread: Spread,
}

/// The block of numbers of a tensor that share one scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spread {
    /// Columns of the tensor.
    width: u64,
    /// Rows that share a scale.
    rows: u64,
    /// Columns that share a scale.
    columns: u64,
}

impl ScaleGrid {
    /// Multiplies numbers that begin at this element of the tensor.
    pub fn multiply(&self, first: u64, mut numbers: &mut [f32]) {
        let Spread { width, rows, columns } = self.spread;
        let mut element = first;
        while !numbers.is_empty() {
            let (row, column) = (element / width, element % width);
            // All numbers up to the end of the block or of the row share one scale.
            let run = (columns - column % columns).min(width - column).min(numbers.len() as u64);
            let scale = self.values[(row / rows * width.div_ceil(columns) + column / columns) as usize];
            let (shared, rest) = numbers.split_at_mut(run as usize);
            shared.iter_mut().for_each(|number| *number *= scale);
            numbers = rest;
            element += run;
        }
    }
}

/// An fp8 tensor and the tensor of its scales.
#[derive(Debug)]
pub(super) struct Scaled {
    pub weight: String,
    pub scales: String,
    pub spread: Spread,
}

/// Finds the scales of every E4M3 tensor, and the tensors that are no weights: scales, and numbers for
/// rounding activations.
///
/// # Errors
/// [`ModelError::Tensor`] for a weight without scales, with two, or with scales of a shape that fits nothing.
pub(super) fn plan(entries: &BTreeMap<&str, &TensorEntry>, settings: &Value) -> Result<(Vec<Scaled>, Vec<String>)> {
    let (mut scaled, mut left_out) = (Vec::new(), Vec::new());
    let block = block_size(settings);
    for (name, entry) in entries.iter().filter(|(_, entry)| entry.dtype == Dtype::F8E4M3) {
        let candidates = ["_scale", "_scale_inv"].map(|ending| entries.get(format!("{name}{ending}").as_str()));
        let scales = match candidates {
            [Some(one), None] | [None, Some(one)] => one,
            [None, None] => return Err(misfit(name, "`_scale` or `_scale_inv` beside it", "neither")),
            [Some(_), Some(_)] => return Err(misfit(name, "`_scale` or `_scale_inv` beside it", "both")),
        };
        if !matches!(scales.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16) {
            return Err(misfit(&scales.name, "scales of F32, F16 or BF16", scales.dtype.name()));
        }
        let spread = find_spread(&entry.shape, &scales.shape, block).ok_or_else(|| {
            let blocks =
                block.map_or("".into(), |[rows, columns]| format!(", or one for each block of {rows} x {columns}"));
            let expected = format!("one scale, or one for each row of {:?}{blocks}", entry.shape);
            misfit(&scales.name, &expected, &format!("shape {:?}", scales.shape))
        })?;
        left_out.push(scales.name.clone());
        scaled.push(Scaled { weight: (*name).to_owned(), scales: scales.name.clone(), spread });
    }
    let of_activations = entries.values().filter(|entry| is_of_activations(entry));
    left_out.extend(of_activations.map(|entry| entry.name.clone()));
    Ok((scaled, left_out))
}

fn misfit(tensor: &str, expected: &str, found: &str) -> ModelError {
    ModelError::Tensor { tensor: tensor.to_owned(), expected: expected.to_owned(), found: found.to_owned() }
}

/// Numbers by which a server rounds activations or its key-value cache; one for a layer.
fn is_of_activations(entry: &TensorEntry) -> bool {
    let last = entry.name.rsplit('.').next().unwrap_or_default();
    let kinds = ["input_scale", "activation_scale", "activation_scale_inv", "input_scale_ub", "k_scale", "v_scale"];
    kinds.contains(&last) && entry.elements() == 1
}

/// `weight_block_size` of a `quantization_config`, or `block_structure` of compressed-tensors.
fn block_size(settings: &Value) -> Option<[u64; 2]> {
    let groups = settings["config_groups"].as_object();
    let of_groups =
        groups.into_iter().flat_map(|groups| groups.values()).map(|group| &group["weights"]["block_structure"]);
    std::iter::once(&settings["weight_block_size"]).chain(of_groups).find_map(|size| {
        match size.as_array()?.as_slice() {
            [rows, columns] => Some([rows.as_u64()?, columns.as_u64()?]).filter(|size| size.iter().all(|n| *n > 0)),
            _ => None,
        }
    })
}

fn find_spread(weight: &[usize], scales: &[usize], block: Option<[u64; 2]>) -> Option<Spread> {
    let width = weight.last().map_or(1, |width| (*width).max(1) as u64);
    let whole = Spread { width, rows: u64::MAX, columns: u64::MAX };
    if scales.iter().product::<usize>() == 1 {
        return Some(whole);
    }
    let [rows, columns] = *weight else { return None };
    let (rows, columns) = (rows as u64, columns as u64);
    let scales: Vec<u64> = scales.iter().map(|extent| *extent as u64).collect();
    let in_blocks = block.filter(|[high, wide]| scales == [rows.div_ceil(*high), columns.div_ceil(*wide)]);
    match (in_blocks, scales.as_slice()) {
        (Some([rows, columns]), _) => Some(Spread { width, rows, columns }),
        (None, [one_each] | [one_each, 1]) if *one_each == rows => Some(Spread { rows: 1, ..whole }),
        _ => None,
    }
}
