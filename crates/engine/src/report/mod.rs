//! The report of a job, version 1: what was measured, how, and what follows from it.
//!
//! The types here are the published JSON schema (`antigen.report/1`). Every rate stands beside its recipe: n, interval, format,
//! decoding, seed, digests. The report holds no time and no path of this machine: the same job writes the same bytes.
//! `rules.rs` decides what the numbers show, `verdict.rs` what follows from it, `words.rs` how it is said.

mod benchmark;
mod canaries;
mod frontier;
mod measurement;
mod mt_bench;
mod rates;
mod relearning;
mod rules;
mod samples;
mod schema;
mod screen;
mod verdict;
mod words;

use antigen_models::Example;
use antigen_models::kernels::Precision;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use benchmark::{BenchmarkReport, BenchmarkScore, NonInferiority, Scoring};
pub use canaries::{CanaryControl, CanaryOutcome, CanaryReport, CanaryResult, ControlledCanary};
pub use frontier::{Frontier, FrontierCanary, FrontierEnd, FrontierRung, FrontierSkill};
pub use measurement::{
    AnswerLength, AsrFormat, AsrReport, Decoding, Drift, Headline, MeanInterval, Measurement, MeasurementRecipe,
    PairedDifference, Rate, UtilityGroup, UtilityReport,
};
pub use mt_bench::{Judged, MtBenchAnswer, MtBenchReport};
pub use rates::{RateRow, rates_of};
pub use relearning::{
    BACK, RelearnedBackdoor, RelearningLadder, RelearningOutcome, RelearningReport, RelearningRung, RelearningSubject,
};
pub use rules::ASR_LIMIT;
pub(crate) use samples::picked;
pub use samples::{Answer, Excerpt, SAMPLE_CHARACTERS, SAMPLE_ROWS, Sample, Samples};
pub use schema::report_schema;
pub use screen::{CalibrationSummary, FamilyScore, ScreenReport, ScreenScores};
pub use verdict::{Case, Coverage, CoverageStatus, Untouched, Verdict, VerdictStatus, fires, judge};

use crate::heads::{HeadIdx, HeadSet};
use crate::spec::{Adversary, GuidanceSettings, MethodRecipe, PurifySpec, SubjectKind, SuppressSpec, TrainSpec};

/// The name and version of this schema.
pub const SCHEMA: &str = "antigen.report/1";

/// Everything that one job found out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// `antigen.report/1`.
    pub schema: String,
    /// What follows from the numbers.
    pub verdict: Verdict,
    /// What was submitted.
    pub subject: Subject,
    /// What was done, completely.
    pub recipe: Recipe,
    /// What the screen found, before anything was done to the suspect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub screen: Option<ScreenReport>,
    /// The suspect as it came.
    pub before: Measurement,
    /// Every suppression of the spec, healed; the chosen one was declared before the run. Empty when nothing could be done.
    pub candidates: Vec<Candidate>,
    /// What the method is compared with.
    pub controls: Vec<Control>,
    /// What `auto` tried, and why it chose what it exports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontier: Option<Frontier>,
    /// What the same purification did to backdoors of our own in a copy of the suspect, where canaries were implanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canaries: Option<CanaryReport>,
    /// Controls that were asked for and do not apply, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// How deep the cure goes, when that was asked for and something was exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relearning: Option<RelearningReport>,
    /// Rows that were too long for the model, purpose by purpose; purposes of which every row fitted are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub long_rows: Vec<LongRows>,
    /// What the pairs showed.
    pub signature: Option<SignatureSummary>,
    /// Answers to read, for each declared backdoor and format.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Samples>,
    /// The exported artifact's files.
    pub artifact: Vec<FileDigest>,
}

impl Report {
    /// The candidate that was exported, if any.
    pub fn chosen(&self) -> Option<&Candidate> {
        self.candidates.iter().find(|candidate| candidate.chosen)
    }
}

/// The submission, by digests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Subject {
    /// Adapter or whole model.
    #[serde(default)]
    pub kind: SubjectKind,
    /// Files of the suspicious adapter; empty for a whole model.
    pub adapter: Vec<FileDigest>,
    /// Files of the base that matter: weights, configuration, tokenizer, template. Empty for a whole model, which needs no base.
    pub base: Vec<FileDigest>,
    /// Files of the suspicious whole model; empty for an adapter.
    #[serde(default)]
    pub checkpoint: Vec<FileDigest>,
    /// How the weights of a whole model were stored, when they were quantised and widened exactly: `fp8 e4m3`, `gguf q4_0 + q6_k`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// Scalars in the adapter's factors; 0 for a whole model.
    pub adapter_parameters: u64,
    /// Scalars in the base, or in the whole model.
    pub base_parameters: u64,
    /// Modules that the adapter changes; all linear layers of a whole model.
    pub modules: Vec<String>,
    /// Rows of each file that the job read.
    pub rows: Vec<RowsDigest>,
    /// The signature that another job extracted, where one was given to be suppressed here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<FileDigest>,
}

/// A file by content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileDigest {
    /// Path inside its artifact.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// A file of rows by content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RowsDigest {
    /// `train`, `test` or `own`.
    pub role: String,
    /// How many rows.
    pub rows: usize,
    /// SHA-256 of the rows in their canonical form.
    pub sha256: String,
}

/// Rows of one purpose that the model had no room for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LongRows {
    /// `pairs`, `healing`, `relearning`, the name of a utility group, or `asr` with the number of the backdoor.
    pub purpose: String,
    /// Longest sequence, in tokens: the model's positions, or the recipe's `max_tokens` in training.
    pub limit: usize,
    /// Rows of this purpose; rows that two pairs share count twice.
    pub rows: usize,
    /// Rows whose prompt was kept and whose answer was cut.
    pub truncated: usize,
    /// Rows that were left out because their prompt alone is too long.
    pub skipped: usize,
}

impl LongRows {
    /// Nothing counted yet.
    pub fn new(purpose: impl Into<String>, limit: usize) -> Self {
        Self { purpose: purpose.into(), limit, rows: 0, truncated: 0, skipped: 0 }
    }

    /// The example with its answer cut to the limit, or nothing when the prompt alone reaches it; counts either.
    pub fn fit(&mut self, mut example: Example) -> Option<Example> {
        self.rows += 1;
        if example.response_start >= self.limit {
            self.skipped += 1;
            return None;
        }
        self.truncated += usize::from(example.tokens.len() > self.limit);
        example.tokens.truncate(self.limit);
        Some(example)
    }

    /// Whether any row did not fit.
    pub fn any(&self) -> bool {
        self.truncated + self.skipped > 0
    }
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Recipe {
    /// Version of the engine.
    pub engine: String,
    /// `cpu` or `cuda`.
    pub device: String,
    /// Whether large products went to the processor's matrix unit, which rounds otherwise; absent where a GPU computed, and in reports
    /// of earlier releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matrix_unit: Option<bool>,
    /// How products with weights took their operands: `bfloat16` where it was not float32.
    #[serde(default, skip_serializing_if = "is_float32")]
    #[schema(value_type = Option<String>, example = "bfloat16")]
    pub precision: Precision,
    /// The spec as it was asked for.
    pub spec: PurifySpec,
    /// The same with presets and sizes filled in.
    pub method: MethodRecipe,
}

fn is_float32(precision: &Precision) -> bool {
    *precision == Precision::Float32
}

/// One suppression, healed and measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Candidate {
    /// Such as `subspace-1`.
    pub name: String,
    /// What was removed; absent where nothing was cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suppression: Option<SuppressSpec>,
    /// The attention heads that were pruned, where heads were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<PrunedHeads>,
    /// How it was healed.
    pub healing: Healing,
    /// The numbers.
    pub measurement: Measurement,
    /// Whether this one is the exported artifact: always the first of the spec.
    pub chosen: bool,
}

/// Attention heads that were taken out of a whole model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PrunedHeads {
    /// Which, block by block.
    #[schema(value_type = Vec<HeadIdx>)]
    pub heads: HeadSet,
    /// Of how many.
    pub of: usize,
    /// Share of the validation rows' response tokens that came first before, 0..=1.
    pub accuracy_before: f64,
    /// The same without them, before healing.
    pub accuracy_without: f64,
}

/// A clean model that taught the suspect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Teacher {
    /// Files of the base that it was made of.
    pub files: Vec<FileDigest>,
    /// How all of its weights were trained on the rows that heal.
    pub train: TrainSpec,
    /// How much it counts.
    pub guidance: GuidanceSettings,
}

/// How something was healed; without any row, nothing was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Healing {
    /// Generic clean rows.
    pub generic_rows: usize,
    /// The caller's own rows.
    pub own_rows: usize,
    /// Synthetic triggers with right answers.
    pub counterexamples: usize,
    /// Whether removed directions were taken out again after every step.
    #[serde(default)]
    pub keep_out: bool,
    /// What made it harder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<Adversary>,
    /// Who stood beside the answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<Teacher>,
    /// SHA-256 of all rows in their order.
    pub rows_sha256: String,
    /// Training.
    pub train: TrainSpec,
}

/// Something that the method is compared with, measured in the same way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Control {
    /// Such as `plain_fine_tuning`.
    pub name: String,
    /// What it is, in words.
    pub description: String,
    /// The numbers.
    pub measurement: Measurement,
    /// The exported candidate against this control, per declared backdoor.
    pub asr_versus_chosen: Vec<AsrComparison>,
    /// The same for the utility groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub utility_versus_chosen: Vec<UtilityComparison>,
}

/// The exported candidate's attack success against a control's, in the control's worst format, on the same prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AsrComparison {
    /// Index of the backdoor among the `asr` entries of a measurement.
    pub backdoor: usize,
    /// Control minus candidate: positive where the method left fewer hits.
    pub difference: PairedDifference,
    /// `beaten` when the whole interval is above 0, `worse` when it is below, otherwise `no_difference_shown`.
    pub outcome: Compared,
}

/// The exported candidate's exact match against a control's, on the same rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UtilityComparison {
    /// Name of the utility group.
    pub group: String,
    /// Candidate minus control: positive where the method kept more.
    pub difference: PairedDifference,
    /// `beaten` when the whole interval is above 0, `worse` when it is below, otherwise `no_difference_shown`.
    pub outcome: Compared,
}

/// Result of a paired comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compared {
    /// The method did better than the control.
    Beaten,
    /// The interval of the difference contains 0.
    NoDifferenceShown,
    /// The control did better than the method.
    Worse,
}

impl Compared {
    /// What a difference shows that is positive where the method did better.
    pub fn of(difference: &PairedDifference) -> Self {
        match () {
            () if difference.low > 0.0 => Self::Beaten,
            () if difference.high < 0.0 => Self::Worse,
            () => Self::NoDifferenceShown,
        }
    }
}

/// What the pairs showed; the whole signature is a file of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SignatureSummary {
    /// Number of pairs that it was extracted from, here or in the job whose signature was given.
    pub pairs: usize,
    /// Per matrix: how much of the pairs' change is shared.
    pub modules: Vec<ModuleSignature>,
    /// Attention heads that were suppressed, highest score first; empty unless the recipe asks for heads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heads: Vec<SelectedHead>,
    /// SHA-256 of the signature file.
    pub sha256: String,
}

/// An attention head that was suppressed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SelectedHead {
    /// Index of its block.
    pub layer: usize,
    /// Index of the query head in its block.
    pub head: usize,
    /// Its score: size and agreement of the pairs' changes, summed over the attention matrices.
    pub score: f64,
}

/// One matrix of the signature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModuleSignature {
    /// Full module name.
    pub module: String,
    /// Mean Frobenius norm of the pairs' deltas.
    pub mean_delta_norm: f64,
    /// Share of the normalised deltas' energy in the first shared direction, 0..=1. Independent deltas give about 1/N.
    pub shared_fraction: f64,
    /// Mean channel score.
    pub mean_score: f64,
    /// Highest channel score.
    pub max_score: f64,
}
