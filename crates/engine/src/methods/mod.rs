//! Purification methods. A door: `MethodSpec` and [`build_method`]; one folder or file per method. Methods never import each other.

mod immunize;

use std::path::PathBuf;

use antigen_models::LoraAdapter;

use crate::data::OwnRows;
use crate::error::Result;
use crate::lab::Lab;
use crate::report::{Healing, SignatureSummary};
use crate::spec::{ControlSpec, ImmunizeRecipe, MethodSpec, PurifySpec, SuppressSpec};
use crate::suspect::Suspect;

/// A way of purifying adapters.
pub trait Method {
    /// Makes the candidates and the controls. Never looks at test rows or declared triggers.
    ///
    /// # Errors
    /// Those of training, of the device and of the scratch folder.
    fn purify(&self, suspect: &Suspect, own: &OwnRows, lab: &Lab) -> Result<Purified>;
}

/// What a method made.
#[derive(Debug)]
pub struct Purified {
    /// Candidates; the first is exported.
    pub candidates: Vec<PurifiedCandidate>,
    /// What to compare with.
    pub controls: Vec<ControlModel>,
    /// What it found, as a file.
    pub signature: Option<SignatureFile>,
    /// Why nothing was done, if nothing was.
    pub untouched: Option<String>,
}

impl Purified {
    fn untouched(reason: &str) -> Self {
        Self { candidates: Vec::new(), controls: Vec::new(), signature: None, untouched: Some(reason.into()) }
    }
}

/// A purified adapter.
#[derive(Debug)]
pub struct PurifiedCandidate {
    /// Such as `subspace-1`.
    pub name: String,
    /// What was removed.
    pub suppression: SuppressSpec,
    /// How it was healed.
    pub healing: Healing,
    /// The adapter.
    pub adapter: LoraAdapter,
}

/// Something to compare with.
#[derive(Debug)]
pub struct ControlModel {
    /// Which control.
    pub control: ControlSpec,
    /// What it is, in words.
    pub description: String,
    /// The adapter; `None` is the bare base.
    pub adapter: Option<LoraAdapter>,
}

/// What a method found, as a file.
#[derive(Debug)]
pub struct SignatureFile {
    /// The file, in the scratch folder.
    pub path: PathBuf,
    /// The summary for the report.
    pub summary: SignatureSummary,
}

/// The method of a spec, with presets and sizes filled in for a base of `parameters` weights.
pub fn build_method(spec: &PurifySpec, parameters: usize) -> (Box<dyn Method>, ImmunizeRecipe) {
    match &spec.method {
        MethodSpec::Immunize(immunize) => {
            let recipe = immunize.resolve(parameters);
            (Box::new(immunize::Immunize { recipe: recipe.clone(), controls: spec.controls.clone() }), recipe)
        }
    }
}
