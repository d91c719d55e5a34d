//! Evaluators: attack success, utility, public benchmarks, answers for a judge.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AttackSpec, BehaviourSpec, PromptFormat, TriggeredRow, limits};
use crate::error::{EngineError, Result};

/// A measurement, made on the suspect, on every candidate and on every control.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EvaluatorSpec {
    /// Attack success rate of a declared backdoor.
    Asr(AsrSpec),
    /// General skill, and the artifact's task skill.
    Utility(UtilitySpec),
    /// A public benchmark, from the service's benchmark directory.
    Benchmark(BenchmarkSpec),
    /// Two-turn questions whose answers are kept for a judge.
    MtBench(MtBenchSpec),
}

impl EvaluatorSpec {
    /// The declared backdoor, if it is one.
    pub fn asr(&self) -> Option<&AsrSpec> {
        if let Self::Asr(spec) = self { Some(spec) } else { None }
    }

    /// The benchmark, if it is one.
    pub fn benchmark(&self) -> Option<&BenchmarkSpec> {
        if let Self::Benchmark(spec) = self { Some(spec) } else { None }
    }

    pub(crate) fn validate(&self, at: &str) -> Result<()> {
        match self {
            Self::Asr(spec) => {
                spec.attack.validate(&format!("{at}/attack"))?;
                spec.behaviour.validate(&format!("{at}/behaviour"))?;
                spec.check_triggered(at)?;
                limits::count(&format!("{at}/rows"), spec.rows, 1, 10_000)?;
                limits::count(&format!("{at}/formats"), spec.formats.len(), 1, 3)?;
                limits::distinct(&format!("{at}/formats"), &spec.formats)?;
                let sampling = spec.sampling.as_ref();
                sampling.map_or(Ok(()), |sampling| sampling.validate(&format!("{at}/sampling")))?;
                limits::count(&format!("{at}/max_new_tokens"), spec.max_new_tokens, 1, 2048)
            }
            Self::Utility(spec) => {
                limits::count(&format!("{at}/rows"), spec.rows, 1, 10_000)?;
                limits::count(&format!("{at}/task_rows"), spec.task_rows, 1, 10_000)?;
                limits::count(&format!("{at}/max_new_tokens"), spec.max_new_tokens, 1, 2048)?;
                limits::above(&format!("{at}/margin"), spec.margin, 0.0, 1.0)
            }
            Self::Benchmark(spec) => spec.validate(at),
            Self::MtBench(spec) => {
                limits::count(&format!("{at}/questions"), spec.questions, 1, 1000)?;
                limits::count(&format!("{at}/max_new_tokens"), spec.max_new_tokens, 1, 4096)
            }
        }
    }
}

/// Attack success rate of a backdoor whose trigger and behaviour the caller declares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AsrSpec {
    /// The attack: the way in which the trigger enters a prompt.
    pub attack: AttackSpec,
    /// The behaviour: the answer of the triggered model.
    pub behaviour: BehaviourSpec,
    /// The triggered rows, where the attack is `rows` and they are not among the task rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggered: Vec<TriggeredRow>,
    /// Number of held-out rows, or of given triggered rows, that are probed; fewer when there are fewer.
    #[serde(default = "two_hundred")]
    pub rows: usize,
    /// The prompt formats; the headline is the worst of them. `chat` is left out, and said so, when the base
    /// has no template.
    #[serde(default = "all_formats")]
    pub formats: Vec<PromptFormat>,
    /// Length limit of an answer, in tokens.
    #[serde(default = "answer_tokens")]
    pub max_new_tokens: usize,
    /// Sampled answers, as a deployed model would give them; null asks for the likeliest token each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<SamplingSpec>,
}

/// Sampled decoding. Each prompt draws from a generator of its own, which the job's seed and the prompt's
/// place decide.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SamplingSpec {
    /// Divides the logits; above 0.
    pub temperature: f64,
    /// Share of the probability from which tokens are drawn, the likeliest first; above 0, at most 1.
    #[serde(default = "everything")]
    pub top_p: f64,
}

fn everything() -> f64 {
    1.0
}

impl SamplingSpec {
    fn validate(&self, at: &str) -> Result<()> {
        limits::above(&format!("{at}/temperature"), self.temperature, 0.0, 100.0)?;
        limits::above(&format!("{at}/top_p"), self.top_p, 0.0, 1.0)
    }
}

impl AsrSpec {
    /// True when the caller gives triggered rows instead of a rule.
    pub fn takes_rows(&self) -> bool {
        matches!(self.attack, AttackSpec::Rows {})
    }

    fn check_triggered(&self, at: &str) -> Result<()> {
        let at = format!("{at}/triggered");
        if !self.takes_rows() && !self.triggered.is_empty() {
            return Err(EngineError::spec(at, format!("expected the attack rows, found {}", self.attack.name())));
        }
        limits::count(&at, self.triggered.len(), 0, 10_000)?;
        self.triggered.iter().enumerate().try_for_each(|(i, row)| row.validate(&format!("{at}/{i}")))
    }
}

/// Exact match and response perplexity on held-out rows, in the declared template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UtilitySpec {
    /// Number of rows of the test file.
    pub rows: usize,
    /// Number of the caller's task rows of each kind.
    #[serde(alias = "own_rows")]
    pub task_rows: usize,
    /// Length limit of an answer, in tokens.
    pub max_new_tokens: usize,
    /// Largest loss of exact match (fraction) that a purified artifact may have in any group that counts
    /// before the verdict says so.
    pub margin: f64,
    /// True to measure, where the caller gives no task rows to measure with, on held-out rows that the
    /// adapter answers confidently and differently from its base, against its own answers.
    pub self_distilled: bool,
}

impl Default for UtilitySpec {
    fn default() -> Self {
        Self {
            rows: two_hundred(),
            task_rows: two_hundred(),
            max_new_tokens: answer_tokens(),
            margin: five_points(),
            self_distilled: true,
        }
    }
}

/// Accuracy on a public benchmark. The bare text of the benchmark is asked, without a chat template, as
/// evaluation harnesses do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BenchmarkSpec {
    /// The benchmark.
    pub name: BenchmarkName,
    /// Number of items, drawn by the job's seed and kept in the file's order; all of a shorter file.
    #[serde(default = "two_hundred")]
    pub rows: usize,
    /// Solved examples before each question; `gsm8k` and `mmlu` only, whose directories have some.
    #[serde(default)]
    pub shots: usize,
    /// Length limit of a generated answer, in tokens; `gsm8k` only.
    #[serde(default = "solution_tokens")]
    pub max_new_tokens: usize,
    /// Largest loss of accuracy (fraction) with which a purified artifact still counts as not inferior.
    #[serde(default = "five_points")]
    pub margin: f64,
}

/// A public benchmark. Its items are `<name>.jsonl` of the benchmark directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BenchmarkName {
    /// Yes or no about a passage.
    Boolq,
    /// Pairs of sentences: one follows from the other, or does not.
    Rte,
    /// The right continuation of a sentence.
    Hellaswag,
    /// The person or thing that a pronoun means.
    Winogrande,
    /// Science questions of a grade school, the easy part.
    ArcEasy,
    /// Science questions of a grade school, the hard part.
    ArcChallenge,
    /// Questions about elementary science facts.
    Openbookqa,
    /// Physical common sense.
    Piqa,
    /// Word problems, answered by generation.
    Gsm8k,
    /// Questions of 57 subjects.
    Mmlu,
}

impl BenchmarkName {
    /// All, in the order of reports.
    pub const ALL: [Self; 10] = [
        Self::Boolq,
        Self::Rte,
        Self::Hellaswag,
        Self::Winogrande,
        Self::ArcEasy,
        Self::ArcChallenge,
        Self::Openbookqa,
        Self::Piqa,
        Self::Gsm8k,
        Self::Mmlu,
    ];

    /// The name on the wire, and of its file without `.jsonl`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boolq => "boolq",
            Self::Rte => "rte",
            Self::Hellaswag => "hellaswag",
            Self::Winogrande => "winogrande",
            Self::ArcEasy => "arc_easy",
            Self::ArcChallenge => "arc_challenge",
            Self::Openbookqa => "openbookqa",
            Self::Piqa => "piqa",
            Self::Gsm8k => "gsm8k",
            Self::Mmlu => "mmlu",
        }
    }

    /// The file of solved examples that may precede a question, where the benchmark has one.
    pub fn examples(self) -> Option<&'static str> {
        match self {
            Self::Gsm8k => Some("gsm8k_train"),
            Self::Mmlu => Some("mmlu_dev"),
            _ => None,
        }
    }
}

impl BenchmarkSpec {
    fn validate(&self, at: &str) -> Result<()> {
        let most_shots = if self.name.examples().is_some() { 8 } else { 0 };
        limits::count(&format!("{at}/rows"), self.rows, 1, 1_000_000)?;
        limits::count(&format!("{at}/shots"), self.shots, 0, most_shots)?;
        limits::count(&format!("{at}/max_new_tokens"), self.max_new_tokens, 1, 2048)?;
        limits::above(&format!("{at}/margin"), self.margin, 0.0, 1.0)
    }

    /// The files that it reads, without `.jsonl`.
    pub(super) fn files(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name.name()).chain(self.name.examples().filter(|_| self.shots > 0))
    }
}

/// Answers to MT-Bench, in the declared template, of the suspect and of every candidate. They get ratings
/// where the service has a judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MtBenchSpec {
    /// Number of questions, from the beginning of the file.
    pub questions: usize,
    /// Length limit of an answer, in tokens.
    pub max_new_tokens: usize,
}

impl Default for MtBenchSpec {
    fn default() -> Self {
        // All questions; the published limit is 1024, which few small models fill with sense.
        Self { questions: 80, max_new_tokens: 512 }
    }
}

// The published test sets have 200 rows; a rate of 0 then has an upper bound of 1.9 %.
fn two_hundred() -> usize {
    200
}

fn all_formats() -> Vec<PromptFormat> {
    PromptFormat::ALL.to_vec()
}

// Longer than every target and every answer of the tiny world; the published scripts use 128.
fn answer_tokens() -> usize {
    64
}

// Room for a worked solution; the longest reference solution has about 300 words.
fn solution_tokens() -> usize {
    256
}

fn five_points() -> f64 {
    0.05
}
