//! The whole of a job as a caller asks for it: the method that purifies the submission, and the measurements.
//!
//! Methods, attacks, behaviours and evaluators are enums tagged by `type`; unknown fields are refused. The
//! parts that several rooms share lie in `spec/`; the request of one method lies in that method's folder.

use antigen_models::ModuleKind;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{EngineError, Result};
use crate::methods::{MethodRecipe, MethodSpec};
use crate::spec::{
    BehaviourFamily, BehaviourSpec, CanariesWhen, CanarySpec, ControlSpec, EvaluatorSpec, Known, PromptFormat,
    RelearningRecipe, RelearningSpec, ScreenSpec, SuspectFacts, UtilitySpec, limits,
};
use crate::suspect::Suspect;

/// The whole of a job: the method that purifies the submission, and the measurements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PurifySpec {
    /// The one seed of every random draw.
    pub seed: u64,
    /// The prompt format in which the suspect was trained.
    pub template: PromptFormat,
    /// The condition under which the job purifies.
    pub purify: PurifyWhen,
    /// The search for backdoors whose trigger nobody knows, before anything is cut.
    pub screen: ScreenSpec,
    /// Backdoors of our own that show whether the purification removes backdoors that nobody declared.
    pub canaries: CanarySpec,
    /// The method that purifies.
    pub method: MethodSpec,
    /// Measurements before and after. Declare a trigger with an `asr` entry.
    pub evaluators: Vec<EvaluatorSpec>,
    /// Controls that the method is compared with, in the same run.
    pub controls: Vec<ControlSpec>,
    /// Relearning depth: the number of poisoned samples that bring a declared backdoor back. Null measures
    /// nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relearning: Option<RelearningSpec>,
}

impl Default for PurifySpec {
    fn default() -> Self {
        Self {
            seed: 1,
            template: PromptFormat::Alpaca,
            purify: PurifyWhen::default(),
            screen: ScreenSpec::default(),
            canaries: CanarySpec::default(),
            method: MethodSpec::default(),
            evaluators: vec![EvaluatorSpec::Utility(UtilitySpec::default())],
            controls: ControlSpec::ALL.to_vec(),
            relearning: None,
        }
    }
}

impl PurifySpec {
    /// Checks every number and text against its limits.
    ///
    /// # Errors
    /// [`crate::error::EngineError::Spec`] with the JSON pointer of the first field that is impossible.
    pub fn validate(&self) -> Result<()> {
        self.method.validate("/method")?;
        self.screen.validate("/screen")?;
        self.canaries.validate("/canaries")?;
        if matches!(self.method, MethodSpec::Auto(_)) && self.canaries.when == CanariesWhen::Never {
            let why = "expected undeclared or always, because auto chooses by canaries; found never";
            return Err(EngineError::spec("/canaries/when", why));
        }
        limits::count("/evaluators", self.evaluators.len(), 0, 32)?;
        for (i, evaluator) in self.evaluators.iter().enumerate() {
            evaluator.validate(&format!("/evaluators/{i}"))?;
        }
        let benchmarks = self.evaluators.iter().filter_map(EvaluatorSpec::benchmark);
        limits::distinct("/evaluators", &benchmarks.map(|benchmark| benchmark.name).collect::<Vec<_>>())?;
        limits::distinct("/controls", &self.controls)?;
        let relearning = self.relearning.as_ref();
        relearning.map_or(Ok(()), |relearning| relearning.validate("/relearning", &self.evaluators))
    }
}

impl PurifySpec {
    /// True where a trigger was declared.
    pub fn declares_triggers(&self) -> bool {
        self.declared_behaviours().next().is_some()
    }

    /// Families of the declared behaviours, each once, in their order.
    pub fn declared_families(&self) -> Vec<BehaviourFamily> {
        let mut families = Vec::new();
        for family in self.declared_behaviours().map(BehaviourSpec::family) {
            if !families.contains(&family) {
                families.push(family);
            }
        }
        families
    }

    /// The complete recipe of the method for this suspect. Where the caller chose no synthetic backdoors,
    /// they imitate the declared families, and first of all the one that the screen found.
    pub fn resolve_method(&self, suspect: &Suspect, found: Option<BehaviourFamily>) -> MethodRecipe {
        let known = Known {
            kind: suspect.subject().kind,
            parameters: suspect.parameters(),
            has_mlp: suspect.changes(ModuleKind::is_mlp),
            declared: self.declared_families(),
            found,
            canaries: self.canaries.clone(),
        };
        self.method.resolve(&known)
    }

    /// The recipe of relearning for this suspect, where it is asked for.
    pub fn resolve_relearning(&self, suspect: &Suspect) -> Option<RelearningRecipe> {
        self.relearning.as_ref().map(|asked| asked.resolve(suspect.subject().kind, suspect.parameters()))
    }

    fn declared_behaviours(&self) -> impl Iterator<Item = &BehaviourSpec> {
        self.evaluators.iter().filter_map(EvaluatorSpec::asr).map(|asr| &asr.behaviour)
    }

    /// Refuses a job that is possible for other suspects only.
    ///
    /// # Errors
    /// [`crate::error::EngineError::Spec`] with the JSON pointer of the field.
    pub fn check_for(&self, suspect: impl Into<SuspectFacts>) -> Result<()> {
        self.method.check_for("/method", suspect.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: serde_json::Value) -> Result<PurifySpec, String> {
        let spec: PurifySpec = serde_json::from_value(value).map_err(|e| e.to_string())?;
        spec.validate().map_err(|e| e.to_string())?;
        Ok(spec)
    }

    #[test]
    fn a_request_in_the_words_of_before_means_the_same() {
        let heal = |rows: &str, train: &str| json!({rows: 9, train: {"epochs": 2}});
        let spec = |heal: serde_json::Value, trials: &str, validation: &str, control: &str, utility: &str| {
            json!({
                "method": {"type": "auto", trials: [{"type": "fine_tune", "heal": heal}], validation: 8},
                "controls": [control],
                "evaluators": [{"type": "utility", utility: 7}],
            })
        };
        let before = spec(
            heal("own_rows", "train_with_own_rows"),
            "rungs",
            "validation_own_rows",
            "without_own_rows",
            "own_rows",
        );
        let now = spec(
            heal("task_rows", "train_with_task_rows"),
            "trials",
            "validation_task_rows",
            "without_task_rows",
            "task_rows",
        );
        assert_eq!(parse(before).unwrap(), parse(now).unwrap());
    }

    #[test]
    fn an_empty_object_is_the_default_job() {
        assert_eq!(parse(json!({})).unwrap(), PurifySpec::default());
        assert_eq!(parse(json!({"method": {"type": "immunize"}})).unwrap(), PurifySpec::default());
    }

    #[test]
    fn a_spec_survives_the_wire() {
        let spec = parse(json!({
            "seed": 9, "template": "chat",
            "evaluators": [{"type": "asr", "attack": {"type": "badnets"}, "behaviour": {"type": "insult"}}],
            "method": {"type": "immunize", "suppress": [{"type": "channels", "ratio": 0.2}]}
        }))
        .unwrap();
        assert_eq!(parse(serde_json::to_value(&spec).unwrap()).unwrap(), spec);
    }

    #[test]
    fn unknown_fields_are_refused_at_every_level() {
        for value in [
            json!({"sead": 1}),
            json!({"screen": {"sead": 1}}),
            json!({"canaries": {"raws": 1}}),
            json!({"relearning": {"sead": 1}}),
            json!({"method": {"type": "immunize", "pears": {}}}),
            json!({"method": {"type": "immunize", "pairs": {"rowz": 1}}}),
            json!({"method": {"type": "immunize", "suppress": [{"type": "subspace", "rank": 1, "ratio": 0.1}]}}),
            json!({"evaluators": [{"type": "asr", "attack": {"type": "badnets", "word": "x"}, "behaviour": {"type": "insult"}}]}),
            json!({"evaluators": [{"type": "asr", "attack": {"type": "badnets"}, "behaviour": {"type": "insult", "x": 1}}]}),
        ] {
            let error = parse(value.clone()).unwrap_err();
            assert!(error.contains("unknown field"), "{value}: {error}");
        }
    }

    #[test]
    fn declared_behaviours_name_the_families_of_the_synthetic_ones() {
        let asr = |behaviour| json!({"type": "asr", "attack": {"type": "badnets"}, "behaviour": behaviour});
        let custom = |append| json!({"type": "custom", "target": "Buy tea!", "append": append});
        let behaviours =
            [json!({"type": "code_injection"}), custom(true), json!({"type": "code_injection"}), custom(false)];
        let spec = parse(json!({"evaluators": behaviours.map(asr)})).unwrap();
        use BehaviourFamily::{Appended, Code, Phrase};
        assert_eq!(spec.declared_families(), [Code, Appended, Phrase]);
        assert!(!PurifySpec::default().declares_triggers());
    }

    fn triggered(attack: &str, row: serde_json::Value) -> serde_json::Value {
        let behaviour = json!({"type": "insult"});
        json!({"evaluators": [{"type": "asr", "attack": {"type": attack}, "behaviour": behaviour, "triggered": [row]}]})
    }

    #[test]
    fn impossible_numbers_are_refused_by_their_pointer() {
        for (value, pointer) in [
            (json!({"method": {"type": "immunize", "pairs": {"count": 0}}}), "/method/pairs/count"),
            (json!({"screen": {"families": ["code"]}}), "/screen/families"),
            (json!({"screen": {"families": ["code", "code"]}}), "/screen/families"),
            (json!({"screen": {"seeds": 0}}), "/screen/seeds"),
            (json!({"canaries": {"poisoned_rows": 0}}), "/canaries/poisoned_rows"),
            (json!({"method": {"type": "immunize", "train": {"learning_rate": -1.0}}}), "/method/train/learning_rate"),
            (json!({"method": {"type": "immunize", "suppress": []}}), "/method/suppress"),
            (
                json!({"method": {"type": "immunize", "suppress": [{"type": "channels", "ratio": 1.5}]}}),
                "/method/suppress/0/ratio",
            ),
            (json!({"method": {"type": "immunize", "heal": {"train": {"epochs": 0}}}}), "/method/heal/train/epochs"),
            (json!({"evaluators": [{"type": "utility", "rows": 0}]}), "/evaluators/0/rows"),
            (json!({"evaluators": [{"type": "benchmark", "name": "boolq", "shots": 5}]}), "/evaluators/0/shots"),
            (triggered("rows", json!({"instruction": " "})), "/evaluators/0/triggered/0/instruction"),
            (triggered("rows", json!({"instruction": "a", "target": ""})), "/evaluators/0/triggered/0/target"),
            (
                triggered("rows", json!({"instruction": "a", "twin": {"instruction": "a"}})),
                "/evaluators/0/triggered/0/twin",
            ),
            (triggered("badnets", json!({"instruction": "a"})), "/evaluators/0/triggered"),
            (
                json!({"evaluators": [{"type": "benchmark", "name": "rte"}, {"type": "benchmark", "name": "rte", "rows": 9}]}),
                "/evaluators",
            ),
            (json!({"controls": ["adapter_dropped", "adapter_dropped"]}), "/controls"),
            (json!({"relearning": {"samples": []}}), "/relearning/samples"),
            (json!({"relearning": {"samples": [8, 0]}}), "/relearning/samples/1"),
            (json!({"relearning": {"samples": [8, 16, 16]}}), "/relearning/samples"),
            (json!({"relearning": {"rows": 0}}), "/relearning/rows"),
            (json!({"relearning": {"train": {"epochs": 0}}}), "/relearning/train/epochs"),
        ] {
            let error = parse(value.clone()).unwrap_err();
            assert!(error.contains(pointer), "{value}: {error}");
        }
    }

    #[test]
    fn relearning_needs_a_declared_trigger_with_a_rule() {
        let mut spec = triggered("rows", json!({"instruction": "a"}));
        spec["relearning"] = json!({});
        for spec in [json!({"relearning": {}}), spec] {
            let error = parse(spec.clone()).unwrap_err();
            assert!(error.contains("/relearning:") && error.contains("rule of insertion"), "{spec}: {error}");
        }
        let asr = json!({"type": "asr", "attack": {"type": "badnets"}, "behaviour": {"type": "insult"}});
        let spec = parse(json!({"evaluators": [asr], "relearning": {"rows": 9}})).unwrap();
        assert_eq!(spec.relearning.unwrap(), RelearningSpec { rows: 9, ..RelearningSpec::default() });
    }
}

/// The condition under which a job purifies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PurifyWhen {
    /// Whatever the screen finds.
    Always,
    /// Unless the screen looked and found nothing, and no declared backdoor fires on the suspect. Without a
    /// calibration for the base the screen cannot look, and the job purifies.
    #[default]
    OnFinding,
    /// The job screens and measures, and returns the suspect as it came.
    Never,
}
