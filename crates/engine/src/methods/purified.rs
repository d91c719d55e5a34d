//! The outcome of a method: candidates, controls, and findings that only one method has.

use std::path::PathBuf;

use super::auto::Search;
use super::immunize::{SignatureSummary, SuppressSpec};
use super::prune_heads::PrunedHeads;
use crate::measure::canaries::CanarySuite;
use crate::spec::ControlSpec;
use crate::suspect::weights::Weights;
use crate::train::Healing;

/// Everything that a method made.
#[derive(Default)]
pub struct Purified {
    /// Candidates; the first is exported.
    pub candidates: Vec<PurifiedCandidate>,
    /// Models to compare with.
    pub controls: Vec<ControlModel>,
    /// The reason why nothing was done, if nothing was.
    pub untouched: Option<Untouched>,
    /// Controls that were asked for and do not apply, with the reason.
    pub left_out: Vec<String>,
    /// The findings of this method alone.
    pub details: Details,
}

/// Findings that only one method has.
#[derive(Default)]
pub enum Details {
    /// None.
    #[default]
    None,
    /// The signature that `immunize` extracted or was given.
    Signature(SignatureFile),
    /// The search of `auto`.
    Search {
        /// The trials.
        search: Search,
        /// The copy with canaries after the chosen method.
        copy: Option<Box<PurifiedCopy>>,
        /// The findings of the chosen method.
        chosen: Box<Details>,
    },
}

impl Details {
    /// The signature, of the method itself or of the one that a search chose.
    pub fn signature(&self) -> Option<&SignatureFile> {
        match self {
            Self::None => None,
            Self::Signature(file) => Some(file),
            Self::Search { chosen, .. } => chosen.signature(),
        }
    }

    /// The search, if there was one.
    pub fn search(&self) -> Option<&Search> {
        if let Self::Search { search, .. } = self { Some(search) } else { None }
    }

    /// The copy with canaries, where the method has made one.
    pub fn copy(&self) -> Option<&PurifiedCopy> {
        if let Self::Search { copy, .. } = self { copy.as_deref() } else { None }
    }
}

/// A copy of the suspect with canaries that went through the same purification.
pub struct PurifiedCopy {
    /// The copy as it was, and its questions.
    pub suite: CanarySuite,
    /// The copy after the method.
    pub weights: Weights,
    /// The copy after the controls.
    pub controls: Vec<ControlModel>,
}

impl Purified {
    /// The suspect as it came, and the reason.
    pub fn untouched(reason: Untouched) -> Self {
        Self { untouched: Some(reason), ..Self::default() }
    }
}

/// A purified adapter or model.
#[derive(Debug)]
pub struct PurifiedCandidate {
    /// Such as `subspace-1`.
    pub name: String,
    /// The part of the suspect that was taken out.
    pub removed: Removed,
    /// Rows and training of its healing.
    pub healing: Healing,
    /// The candidate.
    pub weights: Weights,
}

/// The part of a suspect that a candidate lacks, where the method can name it.
#[derive(Debug, Clone, Default)]
pub enum Removed {
    /// No part of its own.
    #[default]
    Nothing,
    /// A part of the signature.
    Signature(SuppressSpec),
    /// Attention heads.
    Heads(PrunedHeads),
}

impl Removed {
    /// The suppression, where a part of the signature was taken out.
    pub fn suppression(&self) -> Option<&SuppressSpec> {
        if let Self::Signature(spec) = self { Some(spec) } else { None }
    }

    /// The heads, where heads were taken out.
    pub fn heads(&self) -> Option<&PrunedHeads> {
        if let Self::Heads(heads) = self { Some(heads) } else { None }
    }
}

/// A model to compare with.
#[derive(Debug)]
pub struct ControlModel {
    /// The control.
    pub control: ControlSpec,
    /// Its making, in words.
    pub description: String,
    /// Its weights.
    pub weights: Weights,
}

/// A signature as a file.
#[derive(Debug)]
pub struct SignatureFile {
    /// The file, in the scratch folder; none where the signature was given.
    pub path: Option<PathBuf>,
    /// The summary for the report.
    pub summary: SignatureSummary,
}

/// The reason why nothing was done to a suspect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Untouched {
    /// The method found nothing that it could work on; the reason.
    NothingToWorkOn(String),
    /// The screen found nothing and no declared backdoor fires: cutting would only do harm.
    NoFinding,
    /// The job asked to leave it alone.
    NotAsked,
}
