//! The report of a job, version 2: numbers, their recipes and the verdict that follows from them.
//!
//! The types here are the published JSON schema (`antigen.report/2`). Every rate stands beside its recipe: n,
//! interval, format, decoding, seed, digests. The report holds no time and no path of this machine: the same
//! job writes the same bytes. `rules.rs` draws the findings from the numbers, `verdict.rs` the result from
//! the findings, `words.rs` puts both into sentences.

mod rates;
mod read;
mod rules;
mod schema;
mod verdict;
mod words;

use antigen_models::kernels::Precision;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use rates::{RateRow, rates_of};
pub use read::read_report;
pub use schema::report_schema;
pub use verdict::{Case, Verdict, VerdictStatus, decide_verdict};

use crate::job::PurifySpec;
use crate::lab::LongRows;
use crate::measure::evidence::{
    AsrComparison, CanaryReport, Measurement, RelearningReport, Samples, ScreenReport, UtilityComparison,
};
use crate::methods::MethodRecipe;
use crate::methods::auto::Search;
use crate::methods::immunize::{SignatureSummary, SuppressSpec};
use crate::methods::prune_heads::PrunedHeads;
use crate::suspect::{FileDigest, Subject};
use crate::train::Healing;

/// The name and version of this schema.
pub const SCHEMA: &str = "antigen.report/2";

/// Everything that one job measured, with the verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// `antigen.report/2`.
    pub schema: String,
    /// The verdict that follows from the numbers.
    pub verdict: Verdict,
    /// The submission, by digests.
    pub subject: Subject,
    /// The complete recipe of the job.
    pub recipe: Recipe,
    /// The findings of the screen, before anything was done to the suspect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub screen: Option<ScreenReport>,
    /// The suspect as it came.
    pub before: Measurement,
    /// Every suppression of the spec, healed; the chosen one was declared before the run. Empty when nothing
    /// could be done.
    pub candidates: Vec<Candidate>,
    /// The controls that the method is compared with.
    pub controls: Vec<Control>,
    /// The search of `auto`: its trials, and the reason for its choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Search>,
    /// The effect of the same purification on backdoors of our own in a copy of the suspect, where canaries
    /// were implanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canaries: Option<CanaryReport>,
    /// Controls that were asked for and do not apply, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// Relearning depth, when it was asked for and something was exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relearning: Option<RelearningReport>,
    /// Rows that were too long for the model, purpose by purpose; purposes of which every row fitted are left
    /// out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub long_rows: Vec<LongRows>,
    /// A summary of the signature that the pairs showed.
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

/// The recipe of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Recipe {
    /// Version of the engine.
    pub engine: String,
    /// `cpu` or `cuda`.
    pub device: String,
    /// True when large products went to the processor's matrix unit, which rounds otherwise; absent where a
    /// GPU computed, and in reports of earlier releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matrix_unit: Option<bool>,
    /// Precision of the operands in products with weights: `bfloat16` where it was not float32.
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
    /// The part of the suspect that was removed; absent where nothing was cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suppression: Option<SuppressSpec>,
    /// The attention heads that were pruned, where heads were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<PrunedHeads>,
    /// Rows and training of its healing.
    pub healing: Healing,
    /// The numbers.
    pub measurement: Measurement,
    /// True of the exported artifact: always the first of the spec.
    pub chosen: bool,
}

/// Something that the method is compared with, measured in the same way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Control {
    /// Such as `plain_fine_tuning`.
    pub name: String,
    /// The control in words.
    pub description: String,
    /// The numbers.
    pub measurement: Measurement,
    /// The exported candidate against this control, per declared backdoor.
    pub asr_versus_chosen: Vec<AsrComparison>,
    /// The same for the utility groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub utility_versus_chosen: Vec<UtilityComparison>,
}
