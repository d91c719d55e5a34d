//! Accuracy on public benchmarks: choices by their log-likelihood, numbers by greedy generation.
//!
//! The bare text is asked, as evaluation harnesses do, so that numbers can be compared with published ones. A
//! choice's log-likelihood is the sum over its tokens; the headline divides it by the choice's characters
//! (`acc_norm` of the usual harness), and the undivided sum stands beside it. Of a prompt that is too long
//! the beginning is cut, after the beginning of sequence, and the report counts such prompts. Choices of one
//! item follow each other, so that what they begin with is computed once (`Packed::sharing_prefixes`).
//!
//! `items.rs` reads the files, `numbers.rs` finds the number in an answer.

mod items;
mod numbers;

use std::fs;
use std::path::Path;

use antigen_models::Example;
use rand::seq::index;
use serde::{Deserialize, Serialize};

use super::answers::{Asked, Session, cut_beginning, token_lists_sha256};
use crate::data::Row;
use crate::error::{EngineError, Result};
use crate::lab::{Lab, sha256_hex};
use crate::measure::evidence::{BenchmarkReport, BenchmarkScore, Decoding, MeasurementRecipe, NonInferiority, Scoring};
use crate::spec::{BenchmarkName, BenchmarkSpec, PromptFormat};
use crate::stats::{paired_difference, rate_of};
use crate::suspect::Suspect;
use items::{ChoiceItem, NumberItem};

/// The questions of one benchmark, made once and asked of every model.
#[derive(Debug, Clone)]
pub struct BenchmarkProbe {
    spec: BenchmarkSpec,
    recipe: MeasurementRecipe,
    file_sha256: String,
    file_items: usize,
    cut_prompts: usize,
    questions: Questions,
}

#[derive(Debug, Clone)]
enum Questions {
    Choices(Vec<Choices>),
    Numbers { asked: Asked, right: Vec<String> },
}

/// One item with choices.
#[derive(Debug, Clone)]
struct Choices {
    /// One sequence for each choice.
    examples: Vec<Example>,
    /// Characters of each continuation, without blanks before it.
    characters: Vec<usize>,
    gold: usize,
}

/// The answers of one model to a benchmark, item by item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum BenchmarkEvidence {
    /// Summed log-likelihood of every choice, in nats.
    Choices(Vec<Vec<f64>>),
    /// Generated answers.
    Answers(Vec<String>),
}

impl BenchmarkProbe {
    /// Reads the benchmark's file and draws the items.
    ///
    /// # Errors
    /// [`EngineError::Data`] names file, line and field; those of the tokenizer.
    pub fn build(spec: &BenchmarkSpec, suspect: &Suspect, lab: &Lab) -> Result<Self> {
        let folder = suspect.folders.benchmarks.as_deref();
        let folder = folder.ok_or_else(|| EngineError::Data("expected a benchmark directory, found none".into()))?;
        let path = folder.join(format!("{}.jsonl", spec.name.name()));
        let file_sha256 = sha256_hex(&fs::read(&path).map_err(EngineError::io(&path))?);
        let mut cut_prompts = 0;
        let (file_items, questions) = match spec.name {
            BenchmarkName::Gsm8k => {
                let items = items::read_numbers(&path)?;
                let shown = number_examples(spec, folder)?;
                (items.len(), build_numbers(spec, &draw(spec, items, lab), &shown, suspect, &mut cut_prompts)?)
            }
            _ => {
                let items = items::read_choices(&path)?;
                let shown = choice_examples(spec, folder)?;
                (items.len(), build_choices(spec, &draw(spec, items, lab), &shown, suspect, &mut cut_prompts)?)
            }
        };
        let recipe = questions.recipe(spec, suspect, lab.seed)?;
        Ok(Self { spec: spec.clone(), recipe, file_sha256, file_items, cut_prompts, questions })
    }

    /// Everything that determines the evidence.
    pub(super) fn key(&self) -> (BenchmarkName, &MeasurementRecipe) {
        (self.spec.name, &self.recipe)
    }

    /// Sequences that are scored or answered.
    pub(super) fn prompts(&self) -> usize {
        match &self.questions {
            Questions::Choices(items) => items.iter().map(|item| item.examples.len()).sum(),
            Questions::Numbers { asked, .. } => asked.len(),
        }
    }

    pub(super) fn ask(&self, session: &mut Session<'_>) -> Result<BenchmarkEvidence> {
        match &self.questions {
            Questions::Choices(items) => {
                let examples: Vec<&Example> = items.iter().flat_map(|item| &item.examples).collect();
                let mut sums = session.response_sums(&examples)?.into_iter();
                let of_item = |item: &Choices| sums.by_ref().take(item.examples.len()).collect();
                Ok(BenchmarkEvidence::Choices(items.iter().map(of_item).collect()))
            }
            Questions::Numbers { asked, .. } => {
                let answers = session.answers(asked, self.recipe.decoding.max_new_tokens)?;
                Ok(BenchmarkEvidence::Answers(answers.into_iter().map(|answer| answer.text).collect()))
            }
        }
    }

    /// The report of one model's answers, paired with the suspect's where they are given.
    pub fn report(&self, evidence: &BenchmarkEvidence, suspect: Option<&BenchmarkEvidence>) -> BenchmarkReport {
        let (counted, other) = self.questions.scorings();
        let score = |scoring| BenchmarkScore { scoring, accuracy: rate_of(&self.questions.right(evidence, scoring)) };
        let right = self.questions.right(evidence, counted);
        let versus = suspect.map(|before| paired_difference(&self.questions.right(before, counted), &right));
        BenchmarkReport {
            name: self.spec.name,
            recipe: self.recipe.clone(),
            file_sha256: self.file_sha256.clone(),
            file_items: self.file_items,
            shots: self.spec.shots,
            headline: score(counted),
            other: score(other),
            chance: self.questions.chance(),
            cut_prompts: self.cut_prompts,
            versus_suspect: versus,
            margin: self.spec.margin,
            non_inferiority: versus.map(|difference| NonInferiority::of(&difference, self.spec.margin)),
        }
    }
}

impl Questions {
    fn recipe(&self, spec: &BenchmarkSpec, suspect: &Suspect, seed: u64) -> Result<MeasurementRecipe> {
        let examples = match self {
            Self::Numbers { asked, .. } => {
                return asked.recipe(suspect, PromptFormat::Raw, spec.max_new_tokens, seed);
            }
            Self::Choices(items) => items.iter().flat_map(|item| &item.examples),
        };
        Ok(MeasurementRecipe {
            format: PromptFormat::Raw,
            template_sha256: suspect.prompter.template_sha256(PromptFormat::Raw)?,
            prompts_sha256: token_lists_sha256(examples.map(|example| example.tokens.as_slice())),
            seed,
            decoding: Decoding { strategy: "choice_log_likelihood".into(), max_new_tokens: 0, sampling: None },
        })
    }

    /// The scoring of the headline, and the other one.
    fn scorings(&self) -> (Scoring, Scoring) {
        match self {
            Self::Choices(_) => (Scoring::LengthNormalised, Scoring::Summed),
            Self::Numbers { .. } => (Scoring::LastNumber, Scoring::MarkedNumber),
        }
    }

    fn chance(&self) -> f64 {
        match self {
            Self::Choices(items) => {
                items.iter().map(|item| 1.0 / item.examples.len() as f64).sum::<f64>() / items.len() as f64
            }
            Self::Numbers { .. } => 0.0,
        }
    }

    /// For each item, true when the answer is right. Evidence of another kind has no right item.
    fn right(&self, evidence: &BenchmarkEvidence, scoring: Scoring) -> Vec<bool> {
        match (self, evidence) {
            (Self::Choices(items), BenchmarkEvidence::Choices(sums)) => {
                let normalise = scoring == Scoring::LengthNormalised;
                items.iter().zip(sums).map(|(item, sums)| item.best(sums, normalise) == Some(item.gold)).collect()
            }
            (Self::Numbers { right, .. }, BenchmarkEvidence::Answers(answers)) => {
                let marked = scoring == Scoring::MarkedNumber;
                let found = |a: &String| if marked { numbers::marked_number(a) } else { numbers::last_number(a) };
                answers.iter().zip(right).map(|(answer, right)| found(answer).as_ref() == Some(right)).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Choices {
    /// The likeliest choice; of equal ones the first.
    fn best(&self, sums: &[f64], normalise: bool) -> Option<usize> {
        let score = |i: usize| if normalise { sums[i] / self.characters[i].max(1) as f64 } else { sums[i] };
        (0..sums.len()).reduce(|best, i| if score(i) > score(best) { i } else { best })
    }
}

/// The items that are asked, in the order of the file.
fn draw<T>(spec: &BenchmarkSpec, items: Vec<T>, lab: &Lab) -> Vec<T> {
    let mut rng = lab.rng(&format!("benchmark/{}", spec.name.name()));
    let mut chosen = vec![false; items.len()];
    index::sample(&mut rng, items.len(), spec.rows.min(items.len())).iter().for_each(|i| chosen[i] = true);
    items.into_iter().zip(chosen).filter_map(|(item, chosen)| chosen.then_some(item)).collect()
}

fn examples_file(spec: &BenchmarkSpec, folder: &Path) -> Option<std::path::PathBuf> {
    spec.name.examples().filter(|_| spec.shots > 0).map(|file| folder.join(format!("{file}.jsonl")))
}

fn choice_examples(spec: &BenchmarkSpec, folder: &Path) -> Result<Vec<ChoiceItem>> {
    examples_file(spec, folder).map_or_else(|| Ok(Vec::new()), |path| items::read_choices(&path))
}

fn number_examples(spec: &BenchmarkSpec, folder: &Path) -> Result<Vec<NumberItem>> {
    examples_file(spec, folder).map_or_else(|| Ok(Vec::new()), |path| items::read_solutions(&path))
}

fn build_choices(
    spec: &BenchmarkSpec,
    items: &[ChoiceItem],
    shown: &[ChoiceItem],
    suspect: &Suspect,
    cut_prompts: &mut usize,
) -> Result<Questions> {
    let limit = suspect.config().max_positions();
    let of_item = |item: &ChoiceItem| {
        let before: String = shown
            .iter()
            .filter(|example| example.subject == item.subject)
            .take(spec.shots)
            .map(|example| format!("{}{}\n\n", example.query, example.choices[example.gold]))
            .collect();
        let mut examples = Vec::new();
        let mut characters = Vec::new();
        for (context, continuation) in item.continuations() {
            let mut example = suspect.prompter.continuation(&format!("{before}{context}"), continuation)?;
            *cut_prompts += usize::from(cut_beginning(&mut example, limit));
            examples.push(example);
            characters.push(continuation.trim_start().chars().count());
        }
        Ok(Choices { examples, characters, gold: item.gold })
    };
    Ok(Questions::Choices(items.iter().map(of_item).collect::<Result<_>>()?))
}

fn build_numbers(
    spec: &BenchmarkSpec,
    items: &[NumberItem],
    shown: &[NumberItem],
    suspect: &Suspect,
    cut_prompts: &mut usize,
) -> Result<Questions> {
    let solved = |example: &NumberItem| format!("{} {}\n\n", example.query, example.solution.as_deref().unwrap_or(""));
    let before: String = shown.iter().take(spec.shots).map(solved).collect();
    // Half of a model's positions at least are for the question, whatever the answer may take.
    let limit = suspect.config().max_positions();
    let room = limit.saturating_sub(spec.max_new_tokens).max(limit / 2);
    let row = |item: &NumberItem| Row::new(format!("{before}{}", item.query), "", "");
    let rows: Vec<Row> = items.iter().map(row).collect();
    let (asked, cut) = Asked::new(suspect, PromptFormat::Raw, &rows)?.cut_to(room);
    *cut_prompts += cut;
    let right = items.iter().filter_map(|item| numbers::canonical(&item.answer)).collect();
    Ok(Questions::Numbers { asked, right })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices(gold: usize) -> Choices {
        let example = Example { tokens: vec![1, 2, 3], response_start: 1 };
        Choices { examples: vec![example; 3], characters: vec![2, 4, 8], gold }
    }

    #[test]
    fn length_normalisation_divides_by_characters_and_ties_go_to_the_first() {
        let item = choices(0);
        // Per character: -1, -0.75, -0.5.
        assert_eq!((item.best(&[-2.0, -3.0, -4.0], true), item.best(&[-2.0, -3.0, -4.0], false)), (Some(2), Some(0)));
        assert_eq!(item.best(&[-2.0, -2.0, -2.0], false), Some(0));
    }

    #[test]
    fn a_perfect_a_blind_and_the_worst_model_get_one_chance_and_zero() {
        let questions = Questions::Choices((0..3).map(choices).collect());
        let perfect = |i: usize| (0..3).map(|j| if i == j { -0.1 } else { -50.0 }).collect::<Vec<f64>>();
        let rate = |sums: Vec<Vec<f64>>| {
            let right = questions.right(&BenchmarkEvidence::Choices(sums), Scoring::Summed);
            rate_of(&right).rate
        };
        assert_eq!(rate((0..3).map(perfect).collect()), 1.0);
        assert_eq!(rate(vec![vec![-1.0; 3]; 3]), questions.chance());
        assert_eq!(rate((0..3).map(|i| perfect((i + 1) % 3)).collect()), 0.0);
    }
}
