//! Purification methods. A door: `MethodSpec`, [`resolve_method`] and [`build_recipe`]; one folder or file per method. Methods never import
//! each other (`auto` builds others through the door); what several of them use is in `pairs.rs`, `controls.rs`, `uncut.rs` (healing
//! alone), `edit.rs` (the course of methods that edit weights once) and the healing room.

mod auto;
mod controls;
mod crow;
mod edit;
mod fine_prune;
mod fine_tune;
mod immunize;
mod magnitude_prune;
mod merge_with_base;
mod pairs;
mod prune_heads;
mod quantize;
mod read_rows;
mod soft_triggers;
mod streams;
mod task_negation;
mod uncut;
mod vaccinate;
mod variants;
mod w2s_defense;
mod wanda;

use std::path::PathBuf;

use antigen_models::ModuleKind;

use self::edit::Edited;
use crate::canaries::Aviary;
use crate::data::OwnRows;
use crate::error::Result;
use crate::lab::Lab;
use crate::report::{Frontier, Healing, LongRows, PrunedHeads, SignatureSummary, Untouched};
use crate::spec::{BehaviourFamily, ControlSpec, Known, MethodRecipe, PurifySpec, SuppressSpec};
use crate::suspect::Suspect;
use crate::weights::Weights;

/// A way of purifying adapters and whole models.
pub trait Method {
    /// Refuses a suspect with what it brings along, before any work is done on it.
    ///
    /// # Errors
    /// What was expected and what was found.
    fn check(&self, _suspect: &Suspect) -> Result<()> {
        Ok(())
    }

    /// Makes the candidates and the controls. Never looks at test rows or declared triggers.
    ///
    /// # Errors
    /// Those of training, of the device and of the scratch folder.
    fn purify(&self, suspect: &Suspect, own: &OwnRows, lab: &Lab) -> Result<Purified>;
}

/// What a method made.
#[derive(Default)]
pub struct Purified {
    /// Candidates; the first is exported.
    pub candidates: Vec<PurifiedCandidate>,
    /// What to compare with.
    pub controls: Vec<ControlModel>,
    /// What it found, as a file.
    pub signature: Option<SignatureFile>,
    /// Why nothing was done, if nothing was.
    pub untouched: Option<Untouched>,
    /// Controls that were asked for and do not apply, with the reason.
    pub left_out: Vec<String>,
    /// Training rows that were too long.
    pub long_rows: Vec<LongRows>,
    /// What `auto` tried.
    pub frontier: Option<Frontier>,
    /// The copy with canaries after the chosen method, where the method has made one.
    pub copy: Option<PurifiedCopy>,
}

/// A copy of the suspect with canaries that went through the same purification.
pub struct PurifiedCopy {
    /// The copy as it was, and what it is asked.
    pub aviary: Aviary,
    /// What became of it.
    pub weights: Weights,
    /// What became of it by the controls.
    pub controls: Vec<ControlModel>,
}

impl Purified {
    /// The suspect as it came, and why.
    pub fn untouched(reason: Untouched) -> Self {
        Self { untouched: Some(reason), ..Self::default() }
    }
}

/// A purified adapter or model.
#[derive(Debug)]
pub struct PurifiedCandidate {
    /// Such as `subspace-1`.
    pub name: String,
    /// What was removed; nothing where nothing is cut.
    pub suppression: Option<SuppressSpec>,
    /// The heads that were pruned, where heads were.
    pub heads: Option<PrunedHeads>,
    /// How it was healed.
    pub healing: Healing,
    /// What came out.
    pub weights: Weights,
}

/// Something to compare with.
#[derive(Debug)]
pub struct ControlModel {
    /// Which control.
    pub control: ControlSpec,
    /// What it is, in words.
    pub description: String,
    /// What it consists of.
    pub weights: Weights,
}

/// What a method found, as a file.
#[derive(Debug)]
pub struct SignatureFile {
    /// The file, in the scratch folder; none where the signature was given.
    pub path: Option<PathBuf>,
    /// The summary for the report.
    pub summary: SignatureSummary,
}

/// The complete recipe of a spec's method for this suspect. What was found in it, and then what was declared, decides about the synthetic
/// backdoors where the caller did not.
pub fn resolve_method(spec: &PurifySpec, suspect: &Suspect, found: Option<BehaviourFamily>) -> MethodRecipe {
    let known = Known {
        kind: suspect.subject().kind,
        parameters: suspect.parameters(),
        has_mlp: suspect.changes(ModuleKind::is_mlp),
        declared: spec.declared_families(),
        found,
        canaries: spec.canaries.clone(),
    };
    spec.method.resolve(&known)
}

/// The method of a recipe.
pub fn build_recipe(recipe: &MethodRecipe, controls: &[ControlSpec]) -> Box<dyn Method> {
    let controls = controls.to_vec();
    match recipe.clone() {
        MethodRecipe::Immunize(recipe) => Box::new(immunize::Immunize { recipe, controls }),
        MethodRecipe::FineTune(recipe) => Box::new(fine_tune::FineTune { recipe, controls }),
        MethodRecipe::Crow(recipe) => Box::new(crow::Crow { recipe, controls }),
        MethodRecipe::SoftTriggers(recipe) => Box::new(soft_triggers::SoftTriggers { recipe, controls }),
        MethodRecipe::Vaccinate(recipe) => Box::new(vaccinate::Vaccinate { recipe, controls }),
        MethodRecipe::W2sDefense(recipe) => Box::new(w2s_defense::W2sDefense { recipe, controls }),
        MethodRecipe::Auto(recipe) => Box::new(auto::Auto { recipe, controls }),
        MethodRecipe::TaskNegation(recipe) => {
            Box::new(Edited { edit: task_negation::TaskNegation { recipe }, controls })
        }
        MethodRecipe::MergeWithBase(recipe) => {
            Box::new(Edited { edit: merge_with_base::MergeWithBase { recipe }, controls })
        }
        MethodRecipe::Quantize(recipe) => Box::new(Edited { edit: quantize::Quantize { recipe }, controls }),
        MethodRecipe::FinePrune(recipe) => Box::new(Edited { edit: fine_prune::FinePrune { recipe }, controls }),
        MethodRecipe::PruneHeads(recipe) => Box::new(Edited { edit: prune_heads::PruneHeads { recipe }, controls }),
        MethodRecipe::Wanda(recipe) => Box::new(Edited { edit: wanda::Wanda { recipe }, controls }),
        MethodRecipe::MagnitudePrune(recipe) => {
            Box::new(Edited { edit: magnitude_prune::MagnitudePrune { recipe }, controls })
        }
    }
}
