//! The settings of `magnitude_prune`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::immunize::{HealRecipe, HealSpec};
use super::{Known, healing, limits};
use crate::error::Result;

/// Request for pruning what is smallest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MagnitudePruneSpec {
    /// What is pruned as one.
    pub structure: PruneStructure,
    /// Share of it in each matrix; null means as published: 0.35, and 0.03 of a whole model's channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// Whether it is healed. Published pruning of weights is not.
    pub healed: bool,
    /// Rows and training of healing; null means those of `fine_tune`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealSpec>,
}

/// What is pruned as one.
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
    /// What is pruned as one.
    pub structure: PruneStructure,
    /// Share of it in each matrix.
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
            heal: healing::resolve(self.healed, self.heal.as_ref(), known),
        }
    }

    pub(super) fn validate(&self, at: &str) -> Result<()> {
        self.ratio.map_or(Ok(()), |ratio| limits::above(&format!("{at}/ratio"), ratio, 0.0, 1.0))?;
        healing::validate(at, self.healed, self.heal.as_ref())
    }
}

impl MagnitudePruneRecipe {
    /// Such as `magnitude_prune-channels-0.35`.
    pub fn name(&self) -> String {
        let structure = match self.structure {
            PruneStructure::Channels => "channels",
            PruneStructure::Weights => "weights",
        };
        format!("magnitude_prune-{structure}-{}", self.ratio)
    }
}
