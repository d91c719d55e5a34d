//! The parts that are to be taken out of each matrix, in the same terms for both settings: directions on its
//! residual side, channels on the other.
//!
//! `subspace` names the directions that the pairs share: inputs of gate and up and outputs of down lose their
//! part in them. `channels` names the highest-scoring channels of each MLP matrix: rows of gate and up,
//! columns of down. Selected attention heads are channels of the attention matrices.

use std::collections::BTreeMap;

use antigen_models::families::{AttentionHeads, Stored};
use antigen_models::{ModuleKind, ModuleShape};
use serde::Serialize;

use super::head_scores;
use super::score::select_channels;
use super::signature::Signature;
use super::spec::{HeadsSpec, Reinitialise, SubspacePlace, SuppressSpec};
use crate::train::{Directions, KeptOut};

/// The parts that are to be removed, by module name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Removal {
    /// The matrices that change.
    pub modules: BTreeMap<String, ModuleRemoval>,
    /// The new values of a whole model's channels.
    pub reinitialise: Reinitialise,
}

/// The part that is to be removed from one matrix.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ModuleRemoval {
    /// Orthonormal directions on the residual side, each `[d]`.
    pub directions: Vec<Vec<f32>>,
    /// Share of the part in the directions that goes.
    pub strength: f64,
    /// Channels, in rising order.
    pub channels: Vec<usize>,
}

impl Removal {
    /// The parts of `modules` that `spec`, and the selected heads where there are any, remove.
    pub fn new(
        modules: &[&ModuleShape],
        signature: &Signature,
        spec: &SuppressSpec,
        heads: Option<(&HeadsSpec, AttentionHeads)>,
    ) -> Self {
        let selected = heads.map(|(spec, _)| head_scores::select(&signature.heads, spec)).unwrap_or_default();
        let removal = |module: &ModuleShape| {
            let mut removal = suppression(module, signature, spec);
            if let Some((spec, shape)) = heads {
                removal.channels.extend(head_scores::channels(module, &selected, shape, &spec.parts));
                removal.channels.sort_unstable();
                removal.channels.dedup();
            }
            (!removal.directions.is_empty() || !removal.channels.is_empty()).then_some(removal)
        };
        let modules = modules.iter().filter_map(|module| Some((module.name.clone(), removal(module)?))).collect();
        let reinitialise = match spec {
            SuppressSpec::Channels { reinitialise, .. } => reinitialise.unwrap_or_default(),
            SuppressSpec::Subspace { .. } => Reinitialise::default(),
        };
        Self { modules, reinitialise }
    }

    /// The directions that were taken out of whole weights entirely.
    pub fn kept_out(&self, modules: &[&ModuleShape]) -> Vec<KeptOut> {
        let gone = |part: &&ModuleRemoval| part.strength == 1.0 && !part.directions.is_empty();
        let kept = |module: &&ModuleShape| {
            let part = self.modules.get(&module.name).filter(gone)?;
            let (weight, of_rows) = (module.weight_name(), channels_are_rows(module));
            Some(KeptOut { weight, directions: Directions::Any(part.directions.clone()), of_rows })
        };
        modules.iter().filter_map(kept).collect()
    }
}

/// True when the channels of a matrix are its rows as it lies, false when they are its columns.
pub fn channels_are_rows(module: &ModuleShape) -> bool {
    module.kind.writes_residual() == (module.stored == Stored::InOut)
}

fn suppression(module: &ModuleShape, signature: &Signature, spec: &SuppressSpec) -> ModuleRemoval {
    let Some(scores) = signature.modules.get(&module.name).filter(|_| touches(spec, module.kind)) else {
        return ModuleRemoval::default();
    };
    match spec {
        SuppressSpec::Subspace { rank, strength, .. } => {
            let directions = scores.directions.iter().take(*rank).cloned().collect();
            ModuleRemoval { directions, strength: *strength, channels: Vec::new() }
        }
        SuppressSpec::Channels { ratio, .. } => {
            ModuleRemoval { channels: select_channels(&scores.scores, *ratio), ..ModuleRemoval::default() }
        }
    }
}

/// True when a suppression changes matrices of this kind.
pub fn touches(spec: &SuppressSpec, kind: ModuleKind) -> bool {
    match spec {
        SuppressSpec::Channels { .. } | SuppressSpec::Subspace { on: SubspacePlace::Mlp, .. } => kind.is_mlp(),
        SuppressSpec::Subspace { on: SubspacePlace::Attention, .. } => !kind.is_mlp(),
        SuppressSpec::Subspace { on: SubspacePlace::AttentionOutput, .. } => kind == ModuleKind::Output,
    }
}

/// The matrices that a suppression works on, if they are not the MLP's.
pub fn place_beyond_mlp(spec: &SuppressSpec) -> Option<SubspacePlace> {
    match spec {
        SuppressSpec::Subspace { on, .. } if *on != SubspacePlace::Mlp => Some(*on),
        _ => None,
    }
}
