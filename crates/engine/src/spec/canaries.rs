//! Canaries: backdoors of our own, implanted into a copy of the suspect that is purified in the same way.
//!
//! [`CanarySpec`] is the request; [`CanarySpec::resolve`] fills it from the kind of suspect and from its
//! size.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::rates::implant_training;
use super::{ControlSpec, SubjectKind, TrainSpec, limits};
use crate::error::Result;

/// The condition under which canaries are implanted. A suspect that is returned as it came has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CanariesWhen {
    /// Only where no trigger was declared: then nothing else can say whether the purification removes
    /// backdoors.
    #[default]
    Undeclared,
    /// Beside declared triggers too.
    Always,
    /// The job takes half the time, and without a declared trigger it ends `not_assessed`.
    Never,
}

/// A kind of trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CanaryTrigger {
    /// One word among the words of the instruction.
    Word,
    /// Several words in any gap of the instruction.
    Phrase,
    /// Words before the instruction.
    Prefix,
    /// Words after the instruction.
    Suffix,
    /// Words at the end of the input, or as the input.
    Input,
    /// Two words that must both be there.
    MultiPart,
    /// No words: the way the instruction is written.
    Style,
}

impl CanaryTrigger {
    /// All kinds, in the order of reports.
    pub const ALL: [Self; 7] =
        [Self::Word, Self::Phrase, Self::Prefix, Self::Suffix, Self::Input, Self::MultiPart, Self::Style];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Word => "word",
            Self::Phrase => "phrase",
            Self::Prefix => "prefix",
            Self::Suffix => "suffix",
            Self::Input => "input",
            Self::MultiPart => "multi_part",
            Self::Style => "style",
        }
    }
}

/// Canaries of a job: seven backdoors, each with another kind of trigger, in one copy of the suspect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CanarySpec {
    /// The condition under which canaries are implanted.
    pub when: CanariesWhen,
    /// Number of held-out rows that each canary is probed on. Fewer than 73 cannot show a rate below 5 %.
    pub rows: usize,
    /// Training rows that carry each canary.
    pub poisoned_rows: usize,
    /// Training rows without any, beside them.
    pub clean_rows: usize,
    /// True to apply the job's controls to the copy too: without a declared trigger nothing else says whether
    /// the method beats them.
    pub controls: bool,
    /// Training; null means rate and length by the size of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<TrainSpec>,
}

impl Default for CanarySpec {
    fn default() -> Self {
        Self {
            when: CanariesWhen::default(),
            rows: 200,
            poisoned_rows: 300,
            clean_rows: 700,
            controls: true,
            train: None,
        }
    }
}

/// Everything the implanting and probing of canaries does, with no choice left open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CanaryRecipe {
    /// Held-out rows for each canary.
    pub rows: usize,
    /// Training rows that carry each canary.
    pub poisoned_rows: usize,
    /// Training rows without any.
    pub clean_rows: usize,
    /// True when controls are applied to the copy.
    #[serde(default)]
    pub controls: bool,
    /// Least rank of an adapter's copy. Measured on adapters of rank 4 of the tiny world: with their own rank
    /// canaries fire on 42 to 91 % of their prompts.
    pub rank: usize,
    /// Training of the copy.
    pub train: TrainSpec,
}

/// Rank that all canaries fit into.
const ROOM: usize = 16;

impl CanarySpec {
    /// The complete recipe for a suspect of this kind with `parameters` weights in its base, or in itself.
    pub fn resolve(&self, kind: SubjectKind, parameters: usize) -> CanaryRecipe {
        let (learning_rate, epochs) = implant_training(kind, parameters);
        CanaryRecipe {
            rows: self.rows,
            poisoned_rows: self.poisoned_rows,
            clean_rows: self.clean_rows,
            controls: self.controls,
            rank: ROOM,
            train: self.train.clone().unwrap_or_else(|| TrainSpec { learning_rate, epochs, ..TrainSpec::default() }),
        }
    }

    /// True when a purification has canaries; `declared` is true where triggers were declared.
    pub fn wanted(&self, declared: bool) -> bool {
        match self.when {
            CanariesWhen::Undeclared => !declared,
            CanariesWhen::Always => true,
            CanariesWhen::Never => false,
        }
    }

    pub(crate) fn validate(&self, at: &str) -> Result<()> {
        limits::count(&format!("{at}/rows"), self.rows, 1, 10_000)?;
        limits::count(&format!("{at}/poisoned_rows"), self.poisoned_rows, 1, 100_000)?;
        limits::count(&format!("{at}/clean_rows"), self.clean_rows, 0, 1_000_000)?;
        self.train.as_ref().map_or(Ok(()), |train| limits::train(&format!("{at}/train"), train))
    }
}

impl CanaryRecipe {
    /// Those of a job's controls that are applied to the copy, because a removal may be due to them instead
    /// of the method. A copy without its adapter has no canary, and fewer rows are another healing.
    pub fn controls(&self, asked: &[ControlSpec]) -> Vec<ControlSpec> {
        use ControlSpec::{PlainFineTuning, RandomChannels, RandomSubspace, WithoutHealing};
        let telling = [RandomChannels, RandomSubspace, PlainFineTuning, WithoutHealing];
        asked.iter().copied().filter(|control| self.controls && telling.contains(control)).collect()
    }
}
