//! The settings of `magnitude_prune`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Result;
use crate::methods::{Facts, MethodRecipe, Request};
use crate::spec::healing::{resolve_optional, validate_optional};
use crate::spec::{HealRecipe, HealSpec, Known, SubjectKind, limits};

/// Request for pruning the smallest channels or weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MagnitudePruneSpec {
    /// The unit of pruning: channels or single weights.
    pub structure: PruneStructure,
    /// Share of such units in each matrix; null means as published: 0.35, and 0.03 of a whole model's
    /// channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// True to heal the model afterwards. Published pruning of weights does not.
    pub healed: bool,
    /// Rows and training of healing; null means those of `fine_tune`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealSpec>,
}

/// The unit of pruning: channels or single weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PruneStructure {
    /// Channels of the MLP, by norm.
    #[default]
    Channels,
    /// Single weights of every linear layer in the blocks, of an adapter single entries of its factors.
    Weights,
}

/// Everything `magnitude_prune` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MagnitudePruneRecipe {
    /// The unit of pruning: channels or single weights.
    pub structure: PruneStructure,
    /// Share of such units in each matrix.
    pub ratio: f64,
    /// Healing; null where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealRecipe>,
}

impl Default for MagnitudePruneSpec {
    fn default() -> Self {
        Self { structure: PruneStructure::Channels, ratio: None, healed: true, heal: None }
    }
}

/// Sparsity of single weights that the paper prunes Llama to; Mistral to 0.65.
const PUBLISHED_SPARSITY: f64 = 0.35;

impl MagnitudePruneSpec {
    /// The complete recipe for a suspect of which this is known.
    pub fn resolve(&self, known: &Known) -> MagnitudePruneRecipe {
        let published = match self.structure {
            PruneStructure::Channels => known.kind.published_ratio(),
            PruneStructure::Weights => PUBLISHED_SPARSITY,
        };
        MagnitudePruneRecipe {
            structure: self.structure,
            ratio: self.ratio.unwrap_or(published),
            heal: resolve_optional(self.healed, self.heal.as_ref(), known),
        }
    }
}

impl Request for MagnitudePruneSpec {
    fn validate(&self, at: &str) -> Result<()> {
        self.ratio.map_or(Ok(()), |ratio| limits::above(&format!("{at}/ratio"), ratio, 0.0, 1.0))?;
        validate_optional(at, self.healed, self.heal.as_ref())
    }

    fn recipe(&self, known: &Known) -> MethodRecipe {
        self.resolve(known).into()
    }

    fn published(&self) -> Vec<(&'static str, MethodRecipe)> {
        let weights = Self { structure: PruneStructure::Weights, healed: false, ..Self::default() };
        vec![("weights_published", weights.recipe(&Known::of_seven_billion(SubjectKind::Checkpoint)))]
    }

    fn facts(&self) -> Facts {
        Facts {
            summary: "Zeroes the channels, or the single weights, of the smallest magnitude",
            source: Some("arXiv 2603.13461, its baseline; the single weights as in arXiv 2306.11695"),
            needs: &["nothing, or clean rows where it heals"],
            failures: &[
                "backdoors do not sit in small weights: published and own runs of single weights leave nearly all of the attack success, of channels 2.5 to 90.5 % on six adapters",
            ],
        }
    }
}
