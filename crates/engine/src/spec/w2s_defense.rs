//! The settings of `w2s_defense`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::immunize::{HealRecipe, HealSpec, variants_rate};
use super::{FineTuneSpec, GuidanceSettings, Known, SubjectKind, SuspectFacts, TrainSpec, healing, limits};
use crate::error::{EngineError, Result};

/// Request for fine-tuning beside a clean teacher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct W2sDefenseSpec {
    /// Divides the logits of teacher and student; above 0.
    pub temperature: f64,
    /// Weight of the divergence from the teacher against the loss on the answers; 0 is fine-tuning.
    pub weight: f64,
    /// Training of all weights of the base that the job names, which becomes the teacher, on the rows that heal; null means that of a pair's
    /// variants, five passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TrainSpec>,
    /// Rows and training of the student; null means those of `fine_tune`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealSpec>,
}

/// Everything `w2s_defense` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct W2sDefenseRecipe {
    /// How much the teacher counts.
    pub guidance: GuidanceSettings,
    /// Training of the teacher.
    pub teacher: TrainSpec,
    /// Rows and training of the student.
    pub heal: HealRecipe,
}

impl Default for W2sDefenseSpec {
    // The published temperature. Published weights, against a loss on labels, are tuned to each attack with the attack known.
    fn default() -> Self {
        Self { temperature: 2.0, weight: 1.0, teacher: None, heal: None }
    }
}

impl W2sDefenseSpec {
    /// The complete recipe for a suspect of which this is known.
    pub fn resolve(&self, known: &Known) -> W2sDefenseRecipe {
        let fine_tune = FineTuneSpec { counterexamples: 0, heal: self.heal.clone() };
        let all_weights = || TrainSpec {
            learning_rate: variants_rate(SubjectKind::Checkpoint, known.parameters),
            ..TrainSpec::default()
        };
        W2sDefenseRecipe {
            guidance: GuidanceSettings { temperature: self.temperature, weight: self.weight },
            teacher: self.teacher.clone().unwrap_or_else(all_weights),
            heal: fine_tune.resolve(known.kind, known.parameters).heal,
        }
    }

    pub(super) fn validate(&self, at: &str) -> Result<()> {
        limits::above(&format!("{at}/temperature"), self.temperature, 0.0, 100.0)?;
        limits::between(&format!("{at}/weight"), self.weight, 0.0, 1e3)?;
        self.teacher.as_ref().map_or(Ok(()), |train| limits::train(&format!("{at}/teacher"), train))?;
        healing::validate(at, true, self.heal.as_ref())
    }

    pub(super) fn check_for(at: &str, suspect: SuspectFacts) -> Result<()> {
        match suspect.speaks_as_base {
            Some(false) => Err(EngineError::spec(
                at,
                "expected a suspect with the tokenizer of the job's base, which teaches it token by token; found another",
            )),
            _ => Ok(()),
        }
    }
}

impl W2sDefenseRecipe {
    /// Steps of training when the caller gives this many own rows: the teacher's, and the student's, of which each has a forward pass of the
    /// teacher beside it, a third of a step.
    pub fn steps(&self, own_rows: usize) -> usize {
        let own = own_rows.min(self.heal.own_rows);
        let rows = self.heal.generic_rows(own).end() + own;
        self.teacher.steps(rows) + self.heal.steps(own_rows) * 4 / 3
    }
}
