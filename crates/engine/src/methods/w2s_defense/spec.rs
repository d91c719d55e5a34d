//! The settings of `w2s_defense`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{EngineError, Result};
use crate::methods::{CLEAN_ROWS, Facts, MethodRecipe, Request, TASK_ROWS};
use crate::spec::healing::{resolve_plain, validate_optional};
use crate::spec::rates::variants_rate;
use crate::spec::{GuidanceSettings, HealRecipe, HealSpec, Known, SubjectKind, SuspectFacts, TrainSpec, limits};

/// Request for fine-tuning beside a clean teacher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct W2sDefenseSpec {
    /// Divides the logits of teacher and student; above 0.
    pub temperature: f64,
    /// Weight of the divergence from the teacher against the loss on the answers; 0 is fine-tuning.
    pub weight: f64,
    /// Training of all weights of the base that the job names, which becomes the teacher, on the rows that
    /// heal; null means that of a pair's variants, five passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TrainSpec>,
    /// Rows and training of the student; null means those of `fine_tune`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealSpec>,
}

/// Everything `w2s_defense` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct W2sDefenseRecipe {
    /// The temperature and the weight of the teacher.
    pub guidance: GuidanceSettings,
    /// Training of the teacher.
    pub teacher: TrainSpec,
    /// Rows and training of the student.
    pub heal: HealRecipe,
}

impl Default for W2sDefenseSpec {
    // The published temperature. Published weights, against a loss on labels, are tuned to each attack with
    // the attack known.
    fn default() -> Self {
        Self { temperature: 2.0, weight: 1.0, teacher: None, heal: None }
    }
}

impl W2sDefenseSpec {
    /// The complete recipe for a suspect of which this is known.
    pub fn resolve(&self, known: &Known) -> W2sDefenseRecipe {
        let all_weights = || TrainSpec {
            learning_rate: variants_rate(SubjectKind::Checkpoint, known.parameters),
            ..TrainSpec::default()
        };
        W2sDefenseRecipe {
            guidance: GuidanceSettings { temperature: self.temperature, weight: self.weight },
            teacher: self.teacher.clone().unwrap_or_else(all_weights),
            heal: HealRecipe { counterexamples: 0, ..resolve_plain(self.heal.as_ref(), known) },
        }
    }
}

impl Request for W2sDefenseSpec {
    fn validate(&self, at: &str) -> Result<()> {
        limits::above(&format!("{at}/temperature"), self.temperature, 0.0, 100.0)?;
        limits::between(&format!("{at}/weight"), self.weight, 0.0, 1e3)?;
        self.teacher.as_ref().map_or(Ok(()), |train| limits::train(&format!("{at}/teacher"), train))?;
        validate_optional(at, true, self.heal.as_ref())
    }

    fn check_for(&self, at: &str, suspect: SuspectFacts) -> Result<()> {
        match suspect.speaks_as_base {
            Some(false) => Err(EngineError::spec(
                at,
                "expected a suspect with the tokenizer of the job's base, which teaches it token by token; found another",
            )),
            _ => Ok(()),
        }
    }

    fn recipe(&self, known: &Known) -> MethodRecipe {
        self.resolve(known).into()
    }

    fn facts(&self) -> Facts {
        Facts {
            summary: "Fine-tunes on clean rows beside a clean teacher, from the answers and from what the teacher finds likely at each of their \
                  tokens, and cuts nothing; published for classifiers, for models that generate it is our extension",
            source: Some("arXiv 2410.14425, for classifiers"),
            needs: &[
                CLEAN_ROWS,
                TASK_ROWS,
                "a base that is trusted and has the suspect's tokenizer: of an adapter its own, of a whole model the one that the job names",
            ],
            failures: &[
                "what the teacher does not know, the suspect unlearns: its task skill, unless task rows teach that to the teacher",
                "a backdoor that clean rows do not touch: the teacher speaks about clean prompts only",
            ],
        }
    }
}
