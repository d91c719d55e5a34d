//! The settings of `crow`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{EngineError, Result};
use crate::methods::{CLEAN_ROWS, Facts, MethodRecipe, Request, TASK_ROWS};
use crate::spec::rates::heal_rate;
use crate::spec::{
    Adversary, ConsistencySettings, HealRecipe, HealSpec, Known, SubjectKind, SuspectFacts, TrainSpec, limits,
};

/// The published rate, 1e-3 of an adapter, is five times the usual one; whole models, of which nothing is
/// published, get five times theirs. On the tiny world fine-tuning at that rate removes backdoors, and skill,
/// by itself: `plain_fine_tuning` beside it shows the share that is CROW's.
const TIMES_HEALING: f64 = 5.0;

/// Blocks below which there is no pair of hidden states between embedding and final norm.
const FEWEST_BLOCKS: usize = 3;

/// Rows of the published recipe: of generic rows, and of task rows.
const PUBLISHED_ROWS: usize = 100;

/// Request for CROW: consistency of hidden states.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CrowSpec {
    /// Weight of the consistency loss, a mean over pairs of hidden states, against the loss on the answers; 0
    /// is fine-tuning.
    pub alpha: f64,
    /// Distance by which the perturbation moves each number of an embedding, in the embeddings' own units, as
    /// published. Embeddings differ in size: in Llama 2 this is several times their deviation.
    pub epsilon: f64,
    /// Rows and training; null means the published ones: 100 generic rows, and as many task rows where there
    /// are any, five passes at the published rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealSpec>,
}

impl Default for CrowSpec {
    fn default() -> Self {
        Self { alpha: 5.5, epsilon: 0.1, heal: None }
    }
}

/// Everything `crow` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CrowRecipe {
    /// Rows, training and the perturbation.
    pub heal: HealRecipe,
}

impl CrowSpec {
    /// The complete recipe for a suspect of this kind with `parameters` weights in its base, or in itself.
    pub fn resolve(&self, kind: SubjectKind, parameters: usize) -> CrowRecipe {
        let published = HealSpec { rows: PUBLISHED_ROWS, task_rows: PUBLISHED_ROWS, ..HealSpec::default() };
        let asked = self.heal.clone().unwrap_or(published);
        let counterexamples = asked.counterexamples;
        let at_rate = || {
            let learning_rate = TIMES_HEALING * heal_rate(kind, parameters);
            Some(TrainSpec { learning_rate, ..TrainSpec::default() })
        };
        let heal = HealSpec {
            train: asked.train.clone().or_else(at_rate),
            train_with_task_rows: asked.train_with_task_rows.clone().or_else(at_rate),
            ..asked
        };
        let heal = heal.resolve(kind, parameters);
        let settings = ConsistencySettings { alpha: self.alpha, epsilon: self.epsilon };
        let against = Some(Adversary::Consistency(settings));
        CrowRecipe { heal: HealRecipe { counterexamples, keep_out: false, against, ..heal } }
    }
}

impl Request for CrowSpec {
    fn validate(&self, at: &str) -> Result<()> {
        limits::between(&format!("{at}/alpha"), self.alpha, 0.0, 1e3)?;
        limits::between(&format!("{at}/epsilon"), self.epsilon, 0.0, 100.0)?;
        self.heal.as_ref().map_or(Ok(()), |heal| heal.validate(&format!("{at}/heal")))
    }

    fn check_for(&self, at: &str, suspect: SuspectFacts) -> Result<()> {
        match suspect.blocks.filter(|&blocks| blocks < FEWEST_BLOCKS) {
            None => Ok(()),
            Some(found) => Err(EngineError::spec(
                at,
                format!(
                    "expected a model of at least {FEWEST_BLOCKS} blocks, found {found}: between embedding and final norm of fewer there are no \
                     two hidden states to keep together"
                ),
            )),
        }
    }

    fn recipe(&self, known: &Known) -> MethodRecipe {
        self.resolve(known.kind, known.parameters).into()
    }

    fn facts(&self) -> Facts {
        Facts {
            summary: "Fine-tunes on clean rows while hidden states are kept together from block to block under a perturbation of the embeddings, and \
                  cuts nothing",
            source: Some("arXiv 2411.12768"),
            needs: &[CLEAN_ROWS, TASK_ROWS],
            failures: &[
                "its published rate is five to ten times an ordinary one: fine-tuning alone at that rate removes much; compare it with that control",
                "a backdoor that was trained to keep hidden states together",
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_of_an_adapter_is_the_published_recipe() {
        let recipe = CrowSpec::default().resolve(SubjectKind::Adapter, 7_000_000_000).heal;
        for train in [&recipe.train, &recipe.train_with_task_rows] {
            assert!((train.learning_rate - 1e-3).abs() < 1e-12);
            assert_eq!((train.epochs, train.batch_rows, train.warmup_fraction), (5, 8, 0.1));
        }
        assert_eq!((recipe.rows, recipe.counterexamples), (100, 0));
        // Thirteen steps a pass, where the published code has twelve and drops what is left; each costs
        // three.
        assert_eq!(recipe.steps(0), 3 * 5 * 13);
        let without = CrowSpec { alpha: 0.0, ..CrowSpec::default() }.resolve(SubjectKind::Adapter, 7_000_000_000);
        assert_eq!(without.heal.steps(0), 5 * 13);
    }
}
