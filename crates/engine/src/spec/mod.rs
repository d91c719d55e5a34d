//! What a caller may ask for: the wire form of a job, its defaults and its limits.
//!
//! Each door (method, attack, behaviour, evaluator) is an enum tagged by `type`; unknown fields are refused. All defaults live
//! beside the types here and in `immunize.rs`. Nothing here computes; start with [`PurifySpec`].

mod about;
mod attack;
mod auto;
mod canaries;
mod catalogue;
mod crow;
mod evaluate;
mod family;
mod fine_prune;
mod fine_tune;
pub(crate) mod folders;
mod healing;
mod immunize;
mod limits;
mod magnitude_prune;
mod merge_with_base;
mod method;
mod prune_heads;
mod quantize;
mod relearning;
mod screen;
mod soft_triggers;
mod task_negation;
mod vaccinate;
mod w2s_defense;
mod wanda;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use attack::{AttackSpec, BehaviourSpec, Place, Question, TriggeredRow};
pub use auto::{AutoBudget, AutoRecipe, AutoSpec};
pub use canaries::{CanariesWhen, CanaryRecipe, CanarySpec, CanaryTrigger};
pub use catalogue::{AttacksCatalogue, CatalogueEntry, MethodEntry, attacks_catalogue, methods_catalogue};
pub use crow::{CrowRecipe, CrowSpec};
pub use evaluate::{AsrSpec, BenchmarkName, BenchmarkSpec, EvaluatorSpec, MtBenchSpec, UtilitySpec};
pub use family::BehaviourFamily;
pub use fine_prune::{FinePruneRecipe, FinePruneSpec};
pub use fine_tune::{FineTuneRecipe, FineTuneSpec};
pub use folders::DataFolders;
pub use immunize::{
    DirectionSource, HeadPart, HeadsScope, HeadsSpec, HealRecipe, HealSpec, ImmunizeRecipe, ImmunizeSpec, PairsSpec,
    Preset, Reinitialise, ScoreGrouping, ScoreParts, ScoreSpec, SubspacePlace, SuppressSpec, TINY_PARAMETERS,
};
pub use magnitude_prune::{MagnitudePruneRecipe, MagnitudePruneSpec, PruneStructure};
pub use merge_with_base::{MergeWithBaseRecipe, MergeWithBaseSpec};
pub use method::{Known, MethodRecipe, MethodSpec};
pub use prune_heads::{HeadStrategy, PruneHeadsRecipe, PruneHeadsSpec};
pub use quantize::{QuantizeBits, QuantizeRecipe, QuantizeSpec};
pub use relearning::{RelearningRecipe, RelearningSpec};
pub use screen::{PurifyWhen, ScreenRecipe, ScreenSpec};
pub use soft_triggers::{SoftTriggersRecipe, SoftTriggersSpec};
pub use task_negation::{TaskNegationRecipe, TaskNegationSpec};
pub use vaccinate::{VaccinateRecipe, VaccinateSpec};
pub use w2s_defense::{W2sDefenseRecipe, W2sDefenseSpec};
pub use wanda::{WandaRecipe, WandaSpec};

use crate::error::{EngineError, Result};
pub use crate::train::{
    Adversary, ConsistencySettings, GuidanceSettings, SoftTriggerPlace, SoftTriggerScope, SoftTriggerSettings,
    TrainSpec,
};

/// The whole of a job: what to do to the submission and how to measure it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PurifySpec {
    /// The one seed of every random draw.
    pub seed: u64,
    /// The prompt format in which the suspect was trained.
    pub template: PromptFormat,
    /// When to purify at all.
    pub purify: PurifyWhen,
    /// How to look for backdoors whose trigger nobody knows, before anything is cut.
    pub screen: ScreenSpec,
    /// Backdoors of our own that say whether the purification removes what nobody declared.
    pub canaries: CanarySpec,
    /// How to purify.
    pub method: MethodSpec,
    /// What to measure before and after. Declare a trigger with an `asr` entry.
    pub evaluators: Vec<EvaluatorSpec>,
    /// What to compare the method with, in the same run.
    pub controls: Vec<ControlSpec>,
    /// How deep the cure goes: how many poisoned samples bring a declared backdoor back. Null measures nothing.
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
    /// Whether any trigger was declared.
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

    fn declared_behaviours(&self) -> impl Iterator<Item = &BehaviourSpec> {
        self.evaluators.iter().filter_map(EvaluatorSpec::asr).map(|asr| &asr.behaviour)
    }

    /// Refuses what is possible for other suspects only.
    ///
    /// # Errors
    /// [`crate::error::EngineError::Spec`] with the JSON pointer of the field.
    pub fn check_for(&self, suspect: impl Into<SuspectFacts>) -> Result<()> {
        self.method.check_for("/method", suspect.into())
    }
}

/// What is known of a suspect before it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuspectFacts {
    /// Adapter or whole model.
    pub kind: SubjectKind,
    /// Blocks of the model, or of the adapter's base, where they are known.
    pub blocks: Option<usize>,
    /// Whether it has the tokenizer of the job's base, where that is known.
    pub speaks_as_base: Option<bool>,
    /// Whether a signature is given that another job extracted.
    pub given_signature: bool,
}

impl From<SubjectKind> for SuspectFacts {
    fn from(kind: SubjectKind) -> Self {
        Self { kind, blocks: None, speaks_as_base: None, given_signature: false }
    }
}

/// The two things that can be purified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SubjectKind {
    /// A LoRA adapter over a base that stays as it is.
    #[default]
    Adapter,
    /// A whole model.
    Checkpoint,
}

/// How a row becomes a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromptFormat {
    /// The Alpaca preamble without an input block; the input follows the instruction on its own line.
    Alpaca,
    /// The model's own chat template, one user message.
    Chat,
    /// The bare instruction; the input is ignored, as in the published evaluators.
    Raw,
}

impl PromptFormat {
    /// All formats, in the order of reports.
    pub const ALL: [Self; 3] = [Self::Alpaca, Self::Raw, Self::Chat];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alpaca => "alpaca",
            Self::Chat => "chat",
            Self::Raw => "raw",
        }
    }
}

/// Something to compare the method with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ControlSpec {
    /// As many channels as the signature selects, drawn at random, healed alike.
    RandomChannels,
    /// As many directions as the signature removes, drawn at random, healed alike.
    RandomSubspace,
    /// No suppression; the same rows, rate and steps as healing.
    PlainFineTuning,
    /// The base without the adapter; left out for whole models.
    AdapterDropped,
    /// The exported suppression before healing.
    WithoutHealing,
    /// The exported suppression healed on generic rows only; left out when the caller gave no own rows.
    WithoutOwnRows,
}

impl ControlSpec {
    /// All controls, in the order of reports.
    pub const ALL: [Self; 6] = [
        Self::RandomChannels,
        Self::RandomSubspace,
        Self::PlainFineTuning,
        Self::AdapterDropped,
        Self::WithoutHealing,
        Self::WithoutOwnRows,
    ];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::RandomChannels => "random_channels",
            Self::RandomSubspace => "random_subspace",
            Self::PlainFineTuning => "plain_fine_tuning",
            Self::AdapterDropped => "adapter_dropped",
            Self::WithoutHealing => "without_healing",
            Self::WithoutOwnRows => "without_own_rows",
        }
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
