//! What makes a training harder, as data: a part of recipes and reports.

use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::consistency::{Consistency, ConsistencySettings};
use super::lesson::Objective;
use super::soft_triggers::{SoftTriggerSettings, SoftTriggers};

/// What makes a training harder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Adversary {
    /// Free vectors in the prompt that make the right answer unlikely.
    SoftTriggers(SoftTriggerSettings),
    /// Perturbed embeddings that make hidden states jump from block to block.
    Consistency(ConsistencySettings),
}

impl Adversary {
    /// How many plain steps one step against it costs.
    pub fn cost(&self) -> usize {
        match self {
            Self::SoftTriggers(settings) => settings.inner_steps + 2,
            Self::Consistency(settings) => {
                if settings.alpha > 0.0 {
                    3
                } else {
                    1
                }
            }
        }
    }

    /// Tokens by which it makes rows longer, somewhere among their own words.
    pub fn added_tokens(&self) -> usize {
        match self {
            Self::SoftTriggers(settings) => settings.vectors,
            Self::Consistency(_) => 0,
        }
    }

    /// What a training against it minimises. `places` says of each training row which of its tokens are its own words; it is read only by
    /// one that makes rows longer.
    pub fn objective(&self, places: Vec<Range<usize>>, rng: ChaCha8Rng) -> Objective {
        match self {
            Self::SoftTriggers(settings) => {
                Objective::SoftTriggers(Box::new(SoftTriggers::new(settings.clone(), places, rng)))
            }
            Self::Consistency(settings) => Objective::Consistency(Consistency::new(*settings)),
        }
    }
}
