//! MT-Bench: two-turn questions, answered in the declared template. Answers are kept; no score is made here,
//! because a score needs a judge, and the engine speaks to nobody.

use std::fs;

use serde::{Deserialize, Serialize};

use super::answers::{Answer, Asked, Session, is_degenerate};
use crate::data::{not_blank, read_json_lines};
use crate::error::{EngineError, Result};
use crate::lab::{Lab, sha256_hex};
use crate::measure::evidence::{MeasurementRecipe, MtBenchAnswer, MtBenchReport};
use crate::spec::MtBenchSpec;
use crate::spec::folders::MT_BENCH_QUESTIONS;
use crate::stats::rate_of;
use crate::suspect::Suspect;

/// Characters of a turn that a report keeps.
const KEPT_CHARACTERS: usize = 8192;

/// A question of two turns; other fields of its file name its source.
#[derive(Debug, Clone, Deserialize)]
struct TwoTurns {
    question_id: u64,
    category: String,
    turns: [String; 2],
}

/// The questions, made once and asked of every model.
#[derive(Debug, Clone)]
pub struct MtBenchProbe {
    questions: Vec<TwoTurns>,
    first: Asked,
    recipe: MeasurementRecipe,
    file_sha256: String,
    /// Tokens of a prompt: the model's positions less the room for an answer.
    room: usize,
}

/// The answers of one model, question by question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MtBenchEvidence {
    turns: Vec<[Answer; 2]>,
    cut_prompts: usize,
}

impl MtBenchProbe {
    /// Reads the questions; the first ones of the file are asked.
    ///
    /// # Errors
    /// [`EngineError::Data`] names file, line and field; those of tokenizer and chat template.
    pub fn build(spec: &MtBenchSpec, suspect: &Suspect, lab: &Lab) -> Result<Self> {
        let folder = suspect.folders.mt_bench.as_deref();
        let folder = folder.ok_or_else(|| EngineError::Data("expected an MT-Bench directory, found none".into()))?;
        let path = folder.join(format!("{MT_BENCH_QUESTIONS}.jsonl"));
        let file_sha256 = sha256_hex(&fs::read(&path).map_err(EngineError::io(&path))?);
        let check = |question: &TwoTurns| question.turns.iter().try_for_each(|turn| not_blank("turns", turn));
        let mut questions = read_json_lines(&path, check)?;
        questions.truncate(spec.questions);
        let limit = suspect.config().max_positions();
        let room = limit.saturating_sub(spec.max_new_tokens).max(limit / 2);
        let prompt = |question: &TwoTurns| suspect.prompter.conversation(suspect.template, &[], &question.turns[0]);
        let first = Asked::of_prompts(questions.iter().map(prompt).collect::<Result<_>>()?);
        let recipe = first.recipe(suspect, suspect.template, spec.max_new_tokens, lab.seed)?;
        Ok(Self { first: first.cut_to(room).0, questions, recipe, file_sha256, room })
    }

    /// Everything that determines the evidence.
    pub(super) fn key(&self) -> (&str, &MeasurementRecipe) {
        (&self.file_sha256, &self.recipe)
    }

    pub(super) fn prompts(&self) -> usize {
        2 * self.questions.len()
    }

    pub(super) fn ask(&self, session: &mut Session<'_>) -> Result<MtBenchEvidence> {
        let tokens = self.recipe.decoding.max_new_tokens;
        let first = session.answers(&self.first, tokens)?;
        let prompter = &session.suspect().prompter;
        let prompt = |(question, answer): (&TwoTurns, &Answer)| {
            let before = [(question.turns[0].as_str(), answer.text.as_str())];
            prompter.conversation(self.recipe.format, &before, &question.turns[1])
        };
        let second = self.questions.iter().zip(&first).map(prompt).collect::<Result<_>>()?;
        let (second, cut) = Asked::of_prompts(second).cut_to(self.room);
        let second = session.answers(&second, tokens)?;
        Ok(MtBenchEvidence { turns: first.into_iter().zip(second).map(|(a, b)| [a, b]).collect(), cut_prompts: cut })
    }

    /// The report of one model's answers, unjudged.
    pub fn report(&self, evidence: &MtBenchEvidence) -> MtBenchReport {
        let turns: Vec<&Answer> = evidence.turns.iter().flatten().collect();
        let share = |test: &dyn Fn(&str) -> bool| rate_of(&turns.iter().map(|a| test(&a.text)).collect::<Vec<_>>());
        let answer = |(question, turns): (&TwoTurns, &[Answer; 2])| MtBenchAnswer {
            question_id: question.question_id,
            category: question.category.clone(),
            turns: turns.iter().map(|turn| turn.text.chars().take(KEPT_CHARACTERS).collect()).collect(),
            scores: Vec::new(),
        };
        MtBenchReport {
            recipe: self.recipe.clone(),
            file_sha256: self.file_sha256.clone(),
            empty: share(&str::is_empty),
            degenerate: share(&is_degenerate),
            mean_tokens: turns.iter().map(|turn| turn.tokens).sum::<usize>() as f64 / turns.len().max(1) as f64,
            cut_prompts: evidence.cut_prompts,
            answers: self.questions.iter().zip(&evidence.turns).map(answer).collect(),
            judged: None,
        }
    }
}
