//! Purification methods. A door: `MethodSpec` and [`build_method`]; one folder or file per method. Methods never import each other.

mod immunize;

use std::path::PathBuf;

use antigen_models::ModuleKind;

use crate::data::OwnRows;
use crate::error::Result;
use crate::lab::Lab;
use crate::report::{Healing, LongRows, SignatureSummary, Untouched};
use crate::spec::{BehaviourFamily, ControlSpec, ImmunizeRecipe, MethodSpec, PurifySpec, SuppressSpec};
use crate::suspect::Suspect;
use crate::weights::Weights;

/// A way of purifying adapters and whole models.
pub trait Method {
    /// Makes the candidates and the controls. Never looks at test rows or declared triggers.
    ///
    /// # Errors
    /// Those of training, of the device and of the scratch folder.
    fn purify(&self, suspect: &Suspect, own: &OwnRows, lab: &Lab) -> Result<Purified>;
}

/// What a method made.
#[derive(Debug, Default)]
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
    /// What was removed.
    pub suppression: SuppressSpec,
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
    /// The file, in the scratch folder.
    pub path: PathBuf,
    /// The summary for the report.
    pub summary: SignatureSummary,
}

/// The method of a spec, with presets and sizes filled in for this suspect. What was found in it, and then what was declared, decides
/// about the synthetic backdoors where the caller did not.
pub fn build_method(
    spec: &PurifySpec,
    suspect: &Suspect,
    found: Option<BehaviourFamily>,
) -> (Box<dyn Method>, ImmunizeRecipe) {
    match &spec.method {
        MethodSpec::Immunize(immunize) => {
            let mut recipe = immunize.resolve(suspect.subject().kind, suspect.parameters());
            if immunize.suppress.is_none() && !suspect.changes(ModuleKind::is_mlp) {
                recipe.suppress_attention_output();
            }
            if immunize.pairs.is_none() {
                recipe.pairs.imitate(&spec.declared_families(), found);
            }
            (Box::new(immunize::Immunize { recipe: recipe.clone(), controls: spec.controls.clone() }), recipe)
        }
    }
}

/// The same method without its controls and without candidates beside the exported one.
pub fn build_method_alone(spec: &PurifySpec, suspect: &Suspect, found: Option<BehaviourFamily>) -> Box<dyn Method> {
    let (_, mut recipe) = build_method(spec, suspect, found);
    recipe.suppress.truncate(1);
    Box::new(immunize::Immunize { recipe, controls: Vec::new() })
}
