//! Parts of a job's specification that several rooms share: attacks, behaviours, evaluators, formats,
//! trainings, limits.
//!
//! Attacks, behaviours and evaluators are enums tagged by `type`; unknown fields are refused. Defaults live
//! beside the types, learning rates in `rates.rs`. Nothing here computes. The whole of a job is
//! [`crate::job::PurifySpec`].

mod attack;
mod canaries;
mod choice;
mod evaluate;
mod family;
pub(crate) mod folders;
pub(crate) mod healing;
mod known;
pub(crate) mod limits;
mod pairs;
pub(crate) mod rates;
mod relearning;
mod screen;
mod training;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use attack::{AttackSpec, BehaviourSpec, Place, Question, TriggeredRow};
pub use canaries::{CanariesWhen, CanaryRecipe, CanarySpec, CanaryTrigger};
pub use choice::{parse_choice, parse_word};
pub use evaluate::{AsrSpec, BenchmarkName, BenchmarkSpec, EvaluatorSpec, MtBenchSpec, SamplingSpec, UtilitySpec};
pub use family::BehaviourFamily;
pub use folders::DataFolders;
pub use healing::{HealRecipe, HealSpec};
pub use known::Known;
pub use pairs::PairsSpec;
pub use rates::TINY_PARAMETERS;
pub use relearning::{RelearningRecipe, RelearningSpec};
pub use screen::{ScreenRecipe, ScreenSpec};
pub use training::{
    Adversary, ConsistencySettings, GuidanceSettings, SoftTriggerPlace, SoftTriggerScope, SoftTriggerSettings,
    TrainSpec,
};

/// True of values that need not be written out.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Facts about a suspect that are known before it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuspectFacts {
    /// Adapter or whole model.
    pub kind: SubjectKind,
    /// Blocks of the model, or of the adapter's base, where they are known.
    pub blocks: Option<usize>,
    /// True when it has the tokenizer of the job's base, where that is known.
    pub speaks_as_base: Option<bool>,
    /// True when a signature is given that another job extracted.
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

/// A template by which a row becomes a prompt.
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

/// A model that the method is compared with.
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
    /// The exported suppression healed on generic rows only; left out when the caller gave no task rows.
    #[serde(alias = "without_own_rows")]
    WithoutTaskRows,
}

impl ControlSpec {
    /// All controls, in the order of reports.
    pub const ALL: [Self; 6] = [
        Self::RandomChannels,
        Self::RandomSubspace,
        Self::PlainFineTuning,
        Self::AdapterDropped,
        Self::WithoutHealing,
        Self::WithoutTaskRows,
    ];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::RandomChannels => "random_channels",
            Self::RandomSubspace => "random_subspace",
            Self::PlainFineTuning => "plain_fine_tuning",
            Self::AdapterDropped => "adapter_dropped",
            Self::WithoutHealing => "without_healing",
            Self::WithoutTaskRows => "without_task_rows",
        }
    }
}
