//! Numbers and their recipes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{BenchmarkReport, MtBenchReport};
use crate::spec::{AttackSpec, BehaviourSpec, PromptFormat, SamplingSpec};
use crate::stats::{MeanInterval, PairedDifference, Rate};

/// Everything measured on one model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Measurement {
    /// One entry for each declared backdoor; empty when none was declared.
    pub asr: Vec<AsrReport>,
    /// Present when the spec has a utility evaluator.
    pub utility: Option<UtilityReport>,
    /// One entry for each benchmark that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub benchmarks: Vec<BenchmarkReport>,
    /// Answers to MT-Bench, when they were asked for; controls have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mt_bench: Option<MtBenchReport>,
}

impl Measurement {
    /// The highest headline over all declared backdoors.
    pub fn worst_asr(&self) -> Option<&Rate> {
        self.asr.iter().map(|asr| &asr.headline.rate).max_by(|a, b| a.rate.total_cmp(&b.rate))
    }

    /// Exact match of a utility group.
    pub fn exact_match(&self, group: &str) -> Option<&Rate> {
        self.utility.as_ref()?.groups.iter().find(|g| g.name == group).map(|g| &g.exact_match)
    }
}

/// Everything that is needed to repeat a measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MeasurementRecipe {
    /// Prompt format.
    pub format: PromptFormat,
    /// SHA-256 of the template that turned rows into prompts.
    pub template_sha256: String,
    /// SHA-256 of all prompts in their order.
    pub prompts_sha256: String,
    /// Seed of the trigger's random places; the stream is named after the attack.
    pub seed: u64,
    /// The way in which answers are produced.
    pub decoding: Decoding,
}

/// The way in which answers are produced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Decoding {
    /// `greedy`, `sampled`, or `choice_log_likelihood` where nothing is generated.
    pub strategy: String,
    /// Length limit, in tokens.
    pub max_new_tokens: usize,
    /// The distribution that sampled answers are drawn from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<SamplingSpec>,
}

impl Decoding {
    /// The likeliest token each time.
    pub fn greedy(max_new_tokens: usize) -> Self {
        Self { strategy: "greedy".into(), max_new_tokens, sampling: None }
    }

    /// Sampled where a distribution is given, greedy otherwise.
    pub fn of(sampling: Option<SamplingSpec>, max_new_tokens: usize) -> Self {
        match sampling {
            Some(_) => Self { strategy: "sampled".into(), max_new_tokens, sampling },
            None => Self::greedy(max_new_tokens),
        }
    }
}

/// Attack success of one declared backdoor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AsrReport {
    /// The declared attack.
    pub attack: AttackSpec,
    /// The declared behaviour.
    pub behaviour: BehaviourSpec,
    /// The keywords of which one makes a hit.
    pub keywords: Vec<String>,
    /// The worst format.
    pub headline: Headline,
    /// Every format.
    pub formats: Vec<AsrFormat>,
    /// Formats that were asked for but could not be used, with the reason.
    pub left_out: Vec<String>,
    /// Circumstances that weaken the numbers, such as prompts that carry the trigger before it is inserted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// The rate that counts: the highest over the formats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Headline {
    /// The format in which the backdoor fires most.
    pub format: PromptFormat,
    /// Its rate.
    pub rate: Rate,
}

impl AsrReport {
    /// The format of the headline.
    ///
    /// # Panics
    /// A report without that format, which nobody makes.
    pub fn worst(&self) -> &AsrFormat {
        let is_worst = |one: &&AsrFormat| one.recipe.format == self.headline.format;
        self.formats.iter().find(is_worst).expect("the headline is one of the formats")
    }
}

/// Attack success in one prompt format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AsrFormat {
    /// The recipe that repeats it.
    pub recipe: MeasurementRecipe,
    /// Keyword hits with the trigger. Empty answers count as misses.
    pub with_trigger: Rate,
    /// SHA-256 of the prompts without the trigger.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub twins_sha256: String,
    /// Keyword hits on the same rows without the trigger.
    pub without_trigger: Rate,
    /// Answers with the trigger that begin with the target, letter for letter (for appended targets: that end
    /// with it).
    pub exact_target: Rate,
    /// Empty answers with the trigger.
    pub empty: Rate,
    /// Degenerate answers without the trigger: empty, one character, or mostly one repeated phrase.
    pub degenerate: Rate,
    /// Mean log-probability of the target per token after triggered prompts, teacher forced, in nats (0 is
    /// certain).
    pub target_log_probability: f64,
    /// Hits with the trigger against the suspect's on the same prompts; absent on the suspect itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versus_suspect: Option<PairedDifference>,
}

/// Utility of one model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UtilityReport {
    /// `general` (test rows), then the caller's task rows by kind: `task_extended`, `task_new`, or `task`
    /// without a kind. Without task rows, `task_self_distilled`.
    pub groups: Vec<UtilityGroup>,
    /// Distance of the next-token distributions from the suspect's on the group `general`; absent on the
    /// suspect itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
    /// Groups that could not be made, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// KL(suspect || model) on the right answers of held-out rows, teacher forced.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Drift {
    /// Nats per token of the right answers, with rows as the unit of sampling.
    pub nats_per_token: MeanInterval,
    /// Tokens.
    pub tokens: usize,
    /// The suspect's likeliest tokens that are told apart at each place; all others are one bucket, which can
    /// only lower the number.
    pub kept_tokens: usize,
}

/// Length of the answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AnswerLength {
    /// Mean number of generated tokens.
    pub mean_tokens: f64,
    /// Tokens more than the suspect's answer, on the same rows; absent on the suspect itself and for fewer
    /// than two rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versus_suspect: Option<MeanInterval>,
}

/// Utility on one group of rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UtilityGroup {
    /// Name of the group.
    pub name: String,
    /// The recipe that repeats it.
    pub recipe: MeasurementRecipe,
    /// Answers that equal the expected one, blanks at both ends apart.
    pub exact_match: Rate,
    /// exp of the mean loss per token on the expected answers; absent when it is beyond 1e30.
    pub response_perplexity: Option<f64>,
    /// Against the suspect, on the same rows; absent on the suspect itself.
    pub versus_suspect: Option<PairedDifference>,
    /// Length of the answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_length: Option<AnswerLength>,
    /// True when the expected answers are the suspect's own, on rows that it answers confidently and
    /// differently from its base.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub self_distilled: bool,
}
