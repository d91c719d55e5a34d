//! The settings of `auto`: its trials, the margin that a trial must keep to, and the budget.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{EngineError, Result};
use crate::methods::fine_tune::FineTuneSpec;
use crate::methods::immunize::{ImmunizeSpec, SubspacePlace, SuppressSpec};
use crate::methods::soft_triggers::SoftTriggersSpec;
use crate::methods::vaccinate::VaccinateSpec;
use crate::methods::{CLEAN_ROWS, Facts, MethodRecipe, MethodSpec, Request, TASK_ROWS};
use crate::spec::{CanaryRecipe, Known, SuspectFacts, limits};

/// Request for the gentlest method that suffices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AutoSpec {
    /// Methods to try, the gentlest first; null means fine-tuning, fine-tuning with counterexamples, soft
    /// triggers, the shared subspace of rank 1, 2 and 4, the published channels, vaccination. Of an
    /// `immunize` with several suppressions the first counts.
    #[serde(alias = "rungs", skip_serializing_if = "Option::is_none")]
    #[schema(no_recursion)]
    pub trials: Option<Vec<MethodSpec>>,
    /// General rows on which trials are judged, set aside from the training rows: neither trained on nor
    /// measured with.
    pub validation_rows: usize,
    /// Task rows on which trials are judged: such as are not needed for healing, otherwise at most a quarter
    /// of those that heal.
    #[serde(alias = "validation_own_rows")]
    pub validation_task_rows: usize,
    /// Largest loss of exact match on them, in general and of the artifact's task skill.
    pub margin: f64,
    /// The limit at which the search stops without a trial that holds.
    pub budget: AutoBudget,
}

/// Limits of a search: the first one that is reached ends it; a trial that has begun is finished.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AutoBudget {
    /// Steps of training spent on the suspect, those against an adversary as often as they cost; null means
    /// no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Minutes; null means no limit. A limit that is reached makes the result depend on the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minutes: Option<f64>,
}

/// Everything `auto` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AutoRecipe {
    /// Methods to try, in this order.
    #[schema(no_recursion)]
    pub trials: Vec<MethodRecipe>,
    /// The canaries that judge them.
    pub canaries: CanaryRecipe,
    /// General rows on which trials are judged.
    pub validation_rows: usize,
    /// Task rows on which trials are judged, at most.
    pub validation_task_rows: usize,
    /// Largest loss of exact match on them.
    pub margin: f64,
    /// The limit at which the search stops without a trial that holds.
    pub budget: AutoBudget,
}

impl Default for AutoSpec {
    fn default() -> Self {
        Self {
            trials: None,
            validation_rows: 150,
            validation_task_rows: 150,
            margin: 0.05,
            budget: AutoBudget::default(),
        }
    }
}

impl AutoSpec {
    /// The complete recipe for a suspect of which this is known.
    pub fn resolve(&self, known: &Known) -> AutoRecipe {
        let specs = self.trials.clone().unwrap_or_else(|| default_trials(known));
        AutoRecipe {
            trials: specs.iter().map(|trial| trial.resolve(known).only_exported()).collect(),
            canaries: known.canaries.resolve(known.kind, known.parameters),
            validation_rows: self.validation_rows,
            validation_task_rows: self.validation_task_rows,
            margin: self.margin,
            budget: self.budget.clone(),
        }
    }
}

fn default_trials(known: &Known) -> Vec<MethodSpec> {
    let on = if known.has_mlp { SubspacePlace::Mlp } else { SubspacePlace::AttentionOutput };
    let remove = |what| MethodSpec::Immunize(ImmunizeSpec { suppress: Some(vec![what]), ..ImmunizeSpec::default() });
    let fine_tune = |counterexamples| MethodSpec::FineTune(FineTuneSpec { counterexamples, heal: None });
    let subspaces = [1, 2, 4].map(|rank| remove(SuppressSpec::Subspace { rank, on, strength: 1.0 }));
    let channels = known.has_mlp.then(|| remove(SuppressSpec::published_channels(known.kind)));
    let gentle = [0, 200].map(fine_tune);
    gentle
        .into_iter()
        .chain([MethodSpec::SoftTriggers(SoftTriggersSpec::default())])
        .chain(subspaces)
        .chain(channels)
        .chain([MethodSpec::Vaccinate(VaccinateSpec::default())])
        .collect()
}

impl Request for AutoSpec {
    fn validate(&self, at: &str) -> Result<()> {
        limits::count(&format!("{at}/validation_rows"), self.validation_rows, 73, 10_000)?;
        limits::count(&format!("{at}/validation_task_rows"), self.validation_task_rows, 0, 10_000)?;
        limits::between(&format!("{at}/margin"), self.margin, 0.0, 1.0)?;
        if let Some(steps) = self.budget.steps {
            limits::count(&format!("{at}/budget/steps"), steps, 1, usize::MAX)?;
        }
        if let Some(minutes) = self.budget.minutes {
            limits::above(&format!("{at}/budget/minutes"), minutes, 0.0, 1e6)?;
        }
        let Some(trials) = &self.trials else { return Ok(()) };
        limits::count(&format!("{at}/trials"), trials.len(), 1, 16)?;
        for (i, trial) in trials.iter().enumerate() {
            if matches!(trial, MethodSpec::Auto(_)) {
                let why = "expected a method that does one thing, found auto";
                return Err(EngineError::spec(format!("{at}/trials/{i}"), why));
            }
            trial.validate(&format!("{at}/trials/{i}"))?;
        }
        Ok(())
    }

    fn check_for(&self, at: &str, suspect: SuspectFacts) -> Result<()> {
        let trials = self.trials.iter().flatten().enumerate();
        trials.into_iter().try_for_each(|(i, trial)| trial.check_for(&format!("{at}/trials/{i}"), suspect))
    }

    fn recipe(&self, known: &Known) -> MethodRecipe {
        self.resolve(known).into()
    }

    fn facts(&self) -> Facts {
        Facts {
            summary: "Tries methods from the gentlest on, judges each by canaries in a copy and by the suspect's skills on rows set aside for that, \
                  and stops at the first that holds",
            source: None,
            needs: &[
                CLEAN_ROWS,
                TASK_ROWS,
                "time: every trial is done twice, to the suspect and to its copy with canaries",
            ],
            failures: &["a backdoor that lies deeper than its canaries: it stops at a trial that leaves the backdoor"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::SubjectKind;

    #[test]
    fn the_trials_go_from_fine_tuning_over_soft_triggers_and_cuts_to_vaccination() {
        let names = |kind, has_mlp| -> Vec<String> {
            let known = Known { kind, parameters: 1_250_000, has_mlp, ..Known::default() };
            AutoSpec::default().resolve(&known).trials.iter().map(|trial| trial.method().name()).collect()
        };
        let gentle = ["fine_tune", "fine_tune-counterexamples-200", "soft_triggers"];
        let cuts = ["subspace-1", "subspace-2", "subspace-4"];
        for (kind, channels) in [(SubjectKind::Adapter, "channels-0.35"), (SubjectKind::Checkpoint, "channels-0.03")] {
            assert_eq!(names(kind, true), [&gentle[..], &cuts[..], &[channels, "vaccinate"]].concat());
        }
        let cuts = cuts.map(|name| format!("{name}-attention-output"));
        assert_eq!(names(SubjectKind::Adapter, false)[3..6], cuts);
    }
}
