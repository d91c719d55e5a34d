//! The settings of `auto`: its rungs, what a rung must hold, and the budget.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    CanaryRecipe, FineTuneSpec, ImmunizeSpec, Known, MethodRecipe, MethodSpec, SoftTriggersSpec, SubspacePlace,
    SuppressSpec, SuspectFacts, VaccinateSpec, limits,
};
use crate::error::{EngineError, Result};

/// Request for the gentlest method that suffices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AutoSpec {
    /// Methods to try, the gentlest first; null means fine-tuning, fine-tuning with counterexamples, soft triggers, the shared subspace of
    /// rank 1, 2 and 4, the published channels, vaccination. Of an `immunize` with several suppressions the first counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(no_recursion)]
    pub rungs: Option<Vec<MethodSpec>>,
    /// General rows on which rungs are judged, set aside from the training rows: neither trained on nor measured with.
    pub validation_rows: usize,
    /// Own rows on which rungs are judged: such as are not needed for healing, otherwise at most a quarter of those that heal.
    pub validation_own_rows: usize,
    /// Largest loss of exact match on them, in general and of the artifact's own skill.
    pub margin: f64,
    /// Where to stop without a rung that holds.
    pub budget: AutoBudget,
}

/// Whichever is reached first ends the search; a rung that has begun is finished.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AutoBudget {
    /// Steps of training spent on the suspect, those against an adversary as often as they cost; null means no limit.
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
    pub rungs: Vec<MethodRecipe>,
    /// The canaries that judge them.
    pub canaries: CanaryRecipe,
    /// General rows on which rungs are judged.
    pub validation_rows: usize,
    /// Own rows on which rungs are judged, at most.
    pub validation_own_rows: usize,
    /// Largest loss of exact match on them.
    pub margin: f64,
    /// Where to stop without a rung that holds.
    pub budget: AutoBudget,
}

impl Default for AutoSpec {
    fn default() -> Self {
        Self {
            rungs: None,
            validation_rows: 150,
            validation_own_rows: 150,
            margin: 0.05,
            budget: AutoBudget::default(),
        }
    }
}

impl AutoSpec {
    /// The complete recipe for a suspect of which this is known.
    pub fn resolve(&self, known: &Known) -> AutoRecipe {
        let specs = self.rungs.clone().unwrap_or_else(|| default_rungs(known));
        AutoRecipe {
            rungs: specs.iter().map(|rung| rung.resolve(known).alone()).collect(),
            canaries: known.canaries.resolve(known.kind, known.parameters),
            validation_rows: self.validation_rows,
            validation_own_rows: self.validation_own_rows,
            margin: self.margin,
            budget: self.budget.clone(),
        }
    }

    pub(super) fn validate(&self, at: &str) -> Result<()> {
        limits::count(&format!("{at}/validation_rows"), self.validation_rows, 73, 10_000)?;
        limits::count(&format!("{at}/validation_own_rows"), self.validation_own_rows, 0, 10_000)?;
        limits::between(&format!("{at}/margin"), self.margin, 0.0, 1.0)?;
        if let Some(steps) = self.budget.steps {
            limits::count(&format!("{at}/budget/steps"), steps, 1, usize::MAX)?;
        }
        if let Some(minutes) = self.budget.minutes {
            limits::above(&format!("{at}/budget/minutes"), minutes, 0.0, 1e6)?;
        }
        let Some(rungs) = &self.rungs else { return Ok(()) };
        limits::count(&format!("{at}/rungs"), rungs.len(), 1, 16)?;
        for (i, rung) in rungs.iter().enumerate() {
            if matches!(rung, MethodSpec::Auto(_)) {
                let why = "expected a method that does one thing, found auto";
                return Err(EngineError::spec(format!("{at}/rungs/{i}"), why));
            }
            rung.validate(&format!("{at}/rungs/{i}"))?;
        }
        Ok(())
    }

    pub(super) fn check_for(&self, at: &str, suspect: SuspectFacts) -> Result<()> {
        let rungs = self.rungs.iter().flatten().enumerate();
        rungs.into_iter().try_for_each(|(i, rung)| rung.check_for(&format!("{at}/rungs/{i}"), suspect))
    }
}

impl AutoRecipe {
    /// Own rows that some rung heals on, at most.
    pub fn own_rows(&self) -> usize {
        self.rungs.iter().map(MethodRecipe::own_rows).max().unwrap_or(0)
    }
}

fn default_rungs(known: &Known) -> Vec<MethodSpec> {
    let on = if known.has_mlp { SubspacePlace::Mlp } else { SubspacePlace::AttentionOutput };
    let remove = |what| MethodSpec::Immunize(ImmunizeSpec { suppress: Some(vec![what]), ..ImmunizeSpec::default() });
    let fine_tune = |counterexamples| MethodSpec::FineTune(FineTuneSpec { counterexamples, heal: None });
    let subspaces = [1, 2, 4].map(|rank| remove(SuppressSpec::Subspace { rank, on, strength: 1.0 }));
    let channels = known.has_mlp.then(|| remove(known.kind.published_channels()));
    let gentle = [0, 200].map(fine_tune);
    gentle
        .into_iter()
        .chain([MethodSpec::SoftTriggers(SoftTriggersSpec::default())])
        .chain(subspaces)
        .chain(channels)
        .chain([MethodSpec::Vaccinate(VaccinateSpec::default())])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::SubjectKind;

    #[test]
    fn the_rungs_go_from_fine_tuning_over_soft_triggers_and_cuts_to_vaccination() {
        let names = |kind, has_mlp| -> Vec<String> {
            let known = Known { kind, parameters: 1_250_000, has_mlp, ..Known::default() };
            AutoSpec::default().resolve(&known).rungs.iter().map(MethodRecipe::short_name).collect()
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
