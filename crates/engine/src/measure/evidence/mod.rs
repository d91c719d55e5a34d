//! Measured numbers with their recipes, as the report shows them, and the rules that draw conclusions from
//! them.
//!
//! The types here are sections of the published JSON schema. Every rate stands beside its recipe: n,
//! interval, format, decoding, seed, digests. `rules.rs` decides, the two files of words say it.

mod benchmark;
mod canaries;
mod canary_words;
mod comparison;
mod coverage;
mod measurement;
mod mt_bench;
mod relearning;
pub(crate) mod rules;
mod samples;
mod screen;
pub(crate) mod words;

pub use benchmark::{BenchmarkReport, BenchmarkScore, NonInferiority, Scoring};
pub use canaries::{CanaryControl, CanaryOutcome, CanaryReport, CanaryResult, ControlledCanary};
pub use comparison::{AsrComparison, Compared, UtilityComparison};
pub use coverage::{Coverage, CoverageStatus};
pub use measurement::{
    AnswerLength, AsrFormat, AsrReport, Decoding, Drift, Headline, Measurement, MeasurementRecipe, UtilityGroup,
    UtilityReport,
};
pub use mt_bench::{Judged, MtBenchAnswer, MtBenchReport};
pub(crate) use relearning::coverage as relearning_coverage;
pub use relearning::{
    BACK, RelearnedBackdoor, RelearningCurve, RelearningOutcome, RelearningPoint, RelearningReport, RelearningSubject,
};
pub use rules::{ASR_LIMIT, fires};
pub(crate) use samples::picked;
pub use samples::{Answer, Excerpt, SAMPLE_CHARACTERS, SAMPLE_ROWS, Sample, Samples};
pub use screen::{CalibrationSummary, FamilyScore, ScreenReport, ScreenScores};
