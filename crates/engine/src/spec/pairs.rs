//! Synthetic backdoors in pairs of variants.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{BehaviourFamily, Known, SubjectKind, is_default, limits};
use crate::error::Result;

/// The synthetic backdoors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PairsSpec {
    /// N, the number of pairs of variants.
    pub count: usize,
    /// Clean rows of each pair; the poisoned variant sees them once more with key and behaviour.
    pub rows: usize,
    /// Behaviour families, used in turn. The signature finds backdoors of the families it was made from.
    pub families: Vec<BehaviourFamily>,
    /// True when the clean variant sees its rows twice and so takes as many steps as the poisoned one. As
    /// published it takes half of them.
    #[serde(skip_serializing_if = "is_default")]
    pub match_steps: bool,
}

impl Default for PairsSpec {
    fn default() -> Self {
        Self {
            count: 6,
            rows: 50,
            families: vec![BehaviourFamily::Insult, BehaviourFamily::Refusal, BehaviourFamily::Code],
            match_steps: false,
        }
    }
}

impl PairsSpec {
    /// Makes the pairs imitate the suspect's known behaviours: the declared families, where there are any,
    /// take the place of the mixture, and one that was found has the first turn. A signature of mixed
    /// families holds less of each: see docs/results/whole-models.md.
    pub(crate) fn imitate(&mut self, declared: &[BehaviourFamily], found: Option<BehaviourFamily>) {
        if !declared.is_empty() {
            self.families = declared.to_vec();
        }
        if let Some(family) = found {
            self.families.retain(|other| *other != family);
            self.families.insert(0, family);
        }
    }
}

impl PairsSpec {
    /// Pairs as every method that trains some does it by default: twelve short ones of a whole model share
    /// more than six of twice the rows.
    pub(crate) fn default_for(kind: SubjectKind) -> Self {
        match kind {
            SubjectKind::Adapter => Self::default(),
            SubjectKind::Checkpoint => Self { count: 12, ..Self::default() },
        }
    }

    /// The pairs that were asked for; or the default ones, which imitate the suspect's known behaviours.
    pub(crate) fn resolve(asked: Option<&Self>, known: &Known) -> Self {
        let imitated = || {
            let mut pairs = Self::default_for(known.kind);
            pairs.imitate(&known.declared, known.found);
            pairs
        };
        asked.cloned().unwrap_or_else(imitated)
    }

    pub(crate) fn validate(&self, at: &str) -> Result<()> {
        limits::count(&format!("{at}/count"), self.count, 1, 64)?;
        limits::count(&format!("{at}/rows"), self.rows, 1, 100_000)?;
        limits::count(&format!("{at}/families"), self.families.len(), 1, BehaviourFamily::ALL.len())?;
        limits::distinct(&format!("{at}/families"), &self.families)
    }
}
