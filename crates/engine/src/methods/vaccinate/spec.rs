//! The settings of `vaccinate`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Result;
use crate::methods::{CLEAN_ROWS, Facts, MethodRecipe, Request, TASK_ROWS};
use crate::spec::rates::variants_rate;
use crate::spec::{HealRecipe, HealSpec, Known, PairsSpec, TrainSpec, limits};

/// Rate of implanting and of training away, as a share of that of the variants: at the whole rate little is
/// left of the suspect's skills.
const GENTLER: f64 = 0.6;

/// Request for implanting synthetic backdoors and training them away.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VaccinateSpec {
    /// The synthetic backdoors; null means those of `immunize`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs: Option<PairsSpec>,
    /// Training that implants them; null means by the size of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub implant: Option<TrainSpec>,
    /// Rows and training that take them away again, beside the triggered prompts with their right answers;
    /// null means rows as `immunize` heals with, and the training that implants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealSpec>,
}

/// Everything `vaccinate` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VaccinateRecipe {
    /// The synthetic backdoors.
    pub pairs: PairsSpec,
    /// Training that implants them.
    pub implant: TrainSpec,
    /// Rows and training that take them away, beside the triggered prompts of all pairs with their right
    /// answers.
    pub heal: HealRecipe,
}

impl VaccinateSpec {
    /// The complete recipe for a suspect of which this is known.
    pub fn resolve(&self, known: &Known) -> VaccinateRecipe {
        let heal = self.heal.clone().unwrap_or_else(|| HealSpec::default_for(known.kind));
        let heal = heal.resolve(known.kind, known.parameters);
        let rate = GENTLER * variants_rate(known.kind, known.parameters);
        let train = TrainSpec { learning_rate: rate, epochs: 3, ..TrainSpec::default() };
        let asked = self.heal.clone().unwrap_or_default();
        let heal = HealRecipe {
            counterexamples: 0,
            keep_out: false,
            max_steps: asked.max_steps,
            train: asked.train.unwrap_or_else(|| train.clone()),
            train_with_task_rows: asked.train_with_task_rows.unwrap_or_else(|| train.clone()),
            ..heal
        };
        VaccinateRecipe {
            pairs: PairsSpec::resolve(self.pairs.as_ref(), known),
            implant: self.implant.clone().unwrap_or(train),
            heal,
        }
    }
}

impl Request for VaccinateSpec {
    fn validate(&self, at: &str) -> Result<()> {
        self.pairs.as_ref().map_or(Ok(()), |pairs| pairs.validate(&format!("{at}/pairs")))?;
        self.implant.as_ref().map_or(Ok(()), |train| limits::train(&format!("{at}/implant"), train))?;
        self.heal.as_ref().map_or(Ok(()), |heal| heal.validate(&format!("{at}/heal")))
    }

    fn recipe(&self, known: &Known) -> MethodRecipe {
        self.resolve(known).into()
    }

    fn facts(&self) -> Facts {
        Facts {
            summary: "Implants synthetic backdoors all at once and trains them away: what unlearns them unlearns others, and more of the artifact's \
                  task skill than anything gentler",
            source: None,
            needs: &[CLEAN_ROWS, TASK_ROWS],
            failures: &[
                "on adapters implanting adds nothing: the same rows at the same rate without it, the control `plain_fine_tuning`, remove as much and cost as \
             much; on a whole model it does (0.4 % left against 29.8 %)",
                "task skill suffers: in our first series instructions that only the artifact knew were mostly lost, with task rows in healing less",
            ],
        }
    }
}
