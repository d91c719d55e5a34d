//! Taking heads out of a model, and finding the weights that belong to them.

use std::collections::BTreeSet;
use std::ops::Range;

use antigen_models::params::ParamId;
use antigen_models::{Model, ModelError, ModuleKind, ModuleShape, Stored, Tensor};

use super::{HeadGrid, HeadIdx, HeadSet};
use crate::error::Result;

/// The weights that [`remove_heads`] replaced.
#[must_use = "the weights as they were"]
pub struct Removed(Vec<(ParamId, Tensor)>);

impl Removed {
    /// Puts the heads back.
    pub fn restore(self, model: &mut Model) {
        for (id, weight) in self.0 {
            model.params_mut().set(id, weight);
        }
    }
}

/// Takes heads out: their inputs of the output matrix become zero, and where every head has a key and a value
/// of its own, their rows of the query, key and value matrices and of those biases too. That is the published
/// removal: a head without values adds nothing, whatever it attends to. Where heads share keys, or where
/// queries, keys and values are one matrix, only the output matrix loses something: the model's function is
/// the same.
///
/// After the published removal all weights of a head have gradients of exactly zero, so that fine-tuning does
/// not bring it back. The inputs of the output matrix alone would come back: see [`output_inputs`].
///
/// # Errors
/// Those of the device.
pub fn remove_heads(model: &mut Model, heads: &HeadSet) -> Result<Removed> {
    let layers: BTreeSet<usize> = heads.iter().map(|head| head.layer).collect();
    let mut removed = Vec::new();
    for layer in layers {
        let mut kept = vec![1f32; model.config().attention_heads().query_width()];
        for head in heads.iter().filter(|head| head.layer == layer) {
            kept[own_numbers(model, *head)].fill(0.0);
        }
        let kept = Tensor::new(kept, model.device())?;
        let output = output_module(model, layer).clone();
        removed.push(multiply(model, &output.weight_name(), &along_inputs(&output, &kept)?)?);
        for module in own_inputs(model, layer).map(|own| own.map(Clone::clone)).into_iter().flatten() {
            removed.push(multiply(model, &module.weight_name(), &kept.unsqueeze(1)?)?);
            removed.push(multiply(model, &format!("{}.bias", module.name), &kept)?);
        }
    }
    Ok(Removed(removed.into_iter().flatten().collect()))
}

/// The output matrices that lose something with these heads, and the ranges of inputs that they lose.
pub fn output_inputs<'a>(model: &'a Model, heads: &HeadSet) -> Vec<(&'a ModuleShape, Vec<Range<usize>>)> {
    let of_layer = |layer: usize| {
        let of_layer = heads.iter().filter(|head| head.layer == layer);
        let own: Vec<_> = of_layer.map(|&head| own_numbers(model, head)).collect();
        (!own.is_empty()).then(|| (output_module(model, layer), own))
    };
    (0..HeadGrid::of(model).layers).filter_map(of_layer).collect()
}

/// The head's range among the numbers of all queries, and among all outputs of the heads.
fn own_numbers(model: &Model, head: HeadIdx) -> Range<usize> {
    let width = model.config().attention_heads().head_width;
    head.head * width..(head.head + 1) * width
}

/// A vector over a module's inputs, in the shape that multiplies its weight.
fn along_inputs(module: &ModuleShape, inputs: &Tensor) -> Result<Tensor> {
    Ok(inputs.unsqueeze(if module.stored == Stored::OutIn { 0 } else { 1 })?)
}

/// A vector over a module's outputs, in the shape that multiplies its weight.
pub(super) fn along_outputs(module: &ModuleShape, outputs: &Tensor) -> Result<Tensor> {
    Ok(outputs.unsqueeze(if module.stored == Stored::OutIn { 1 } else { 0 })?)
}

/// Replaces a weight by its product with `mask`; returns the weight before, or nothing where there is no such
/// weight.
pub(super) fn multiply(model: &mut Model, name: &str, mask: &Tensor) -> Result<Option<(ParamId, Tensor)>> {
    let Some(id) = model.params().find(name) else { return Ok(None) };
    let old = model.params().get(id).clone();
    let new = old.broadcast_mul(mask)?.contiguous()?;
    model.params_mut().set(id, new);
    Ok(Some((id, old)))
}

/// The output matrix of one block's attention.
pub(super) fn output_module(model: &Model, layer: usize) -> &ModuleShape {
    find_module(model, layer, ModuleKind::Output).expect("every attention has an output")
}

/// Query, key and value of one block, where every head has its own and each is a matrix with one row for each
/// of its outputs.
pub(super) fn own_inputs(model: &Model, layer: usize) -> Option<[&ModuleShape; 3]> {
    let sizes = model.config().attention_heads();
    let find = |kind| find_module(model, layer, kind).filter(|module| module.stored == Stored::OutIn);
    match [ModuleKind::Query, ModuleKind::Key, ModuleKind::Value].map(find) {
        [Some(query), Some(key), Some(value)] if sizes.heads == sizes.key_value_heads => Some([query, key, value]),
        _ => None,
    }
}

/// The key matrix of one block, where every head has its own.
///
/// # Errors
/// [`ModelError::Unsupported`] otherwise.
pub(super) fn key_module(model: &Model, layer: usize) -> Result<&ModuleShape> {
    let shared = || ModelError::Unsupported {
        what: "gradients of each head's keys, where heads share keys or keys are part of a larger matrix".into(),
        instead: "the gradient of a mask on what each head writes".into(),
    };
    Ok(own_inputs(model, layer).map(|[_, key, _]| key).ok_or_else(shared)?)
}

/// The matrices of one block's attention, whatever their form.
pub(super) fn attention_modules(model: &Model, layer: usize) -> impl Iterator<Item = &ModuleShape> {
    model.linear_modules().iter().filter(move |module| module.layer == layer && !module.kind.is_mlp())
}

fn find_module(model: &Model, layer: usize, kind: ModuleKind) -> Option<&ModuleShape> {
    model.linear_modules().iter().find(|module| module.layer == layer && module.kind == kind)
}
