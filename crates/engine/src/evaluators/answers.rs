//! Asking a model: prompts into greedy answers, and log-probabilities of given answers. Shared by the evaluators.

use std::collections::HashMap;

use antigen_models::{Example, GenerateOptions, LoraAdapter, generate_greedy, response_losses};

use crate::data::Row;
use crate::error::{EngineError, Result};
use crate::lab::{Lab, sha256_hex};
use crate::report::{Decoding, MeasurementRecipe};
use crate::spec::PromptFormat;
use crate::suspect::Suspect;

/// Prompts in a fixed order.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked {
    prompts: Vec<Vec<u32>>,
}

impl Asked {
    pub fn new(suspect: &Suspect, format: PromptFormat, rows: &[Row]) -> Result<Self> {
        let limit = suspect.model.config().max_positions();
        let prompts = rows.iter().map(|row| suspect.prompter.prompt(format, row)).collect::<Result<Vec<_>>>()?;
        match prompts.iter().map(Vec::len).max() {
            Some(longest) if longest >= limit => Err(EngineError::Data(format!(
                "a prompt in {} format has {longest} tokens; the model has {limit} positions",
                format.name()
            ))),
            _ => Ok(Self { prompts }),
        }
    }

    pub fn len(&self) -> usize {
        self.prompts.len()
    }

    /// How to repeat the measurement. Answers are cut where the model's positions end.
    pub fn recipe(
        &self,
        suspect: &Suspect,
        format: PromptFormat,
        max_new_tokens: usize,
        seed: u64,
    ) -> Result<MeasurementRecipe> {
        let longest = self.prompts.iter().map(Vec::len).max().unwrap_or(0);
        let room = suspect.model.config().max_positions() - longest;
        let bytes: Vec<u8> =
            self.prompts.iter().flat_map(|p| p.iter().chain([&u32::MAX]).flat_map(|t| t.to_le_bytes())).collect();
        Ok(MeasurementRecipe {
            format,
            template_sha256: suspect.prompter.template_sha256(format)?,
            prompts_sha256: sha256_hex(&bytes),
            seed,
            decoding: Decoding { strategy: "greedy".into(), max_new_tokens: max_new_tokens.min(room) },
        })
    }
}

/// Prompts that are answered between two looks at the stop signal.
const CHUNK: usize = 128;
/// Sequences generated at a time.
const BATCH_ROWS: usize = 64;

/// One model being asked. Answers are remembered: evaluators share many prompts.
pub(super) struct Session<'a> {
    suspect: &'a Suspect,
    adapter: Option<&'a LoraAdapter>,
    lab: &'a Lab,
    known: HashMap<(usize, Vec<u32>), String>,
    done: usize,
    total: usize,
}

impl<'a> Session<'a> {
    pub fn new(suspect: &'a Suspect, adapter: Option<&'a LoraAdapter>, total: usize, lab: &'a Lab) -> Self {
        Self { suspect, adapter, lab, known: HashMap::new(), done: 0, total }
    }

    /// Greedy answers in the order of the prompts.
    pub fn answers(&mut self, asked: &Asked, max_new_tokens: usize) -> Result<Vec<String>> {
        let key = |prompt: &Vec<u32>| (max_new_tokens, prompt.clone());
        let fresh: Vec<_> =
            asked.prompts.iter().filter(|prompt| !self.known.contains_key(&key(prompt))).cloned().collect();
        self.done += asked.len() - fresh.len();
        let options =
            GenerateOptions { max_new_tokens, stop: self.suspect.prompter.stop().to_vec(), batch_rows: BATCH_ROWS };
        for chunk in fresh.chunks(CHUNK) {
            self.lab.check_cancel()?;
            let generated = generate_greedy(&self.suspect.model, self.adapter, chunk, &options)?;
            for (prompt, tokens) in chunk.iter().zip(generated) {
                self.known.insert(key(prompt), self.suspect.prompter.answer(&tokens)?);
            }
            self.done += chunk.len();
            self.lab.advance(self.done as u64, self.total as u64);
        }
        Ok(asked.prompts.iter().map(|prompt| self.known[&key(prompt)].clone()).collect())
    }

    /// Summed log-probability (nats) and number of tokens of one given answer per prompt, teacher forced.
    pub fn log_probability(&self, asked: &Asked, answers: &[String]) -> Result<(f64, usize)> {
        self.lab.check_cancel()?;
        let limit = self.suspect.model.config().max_positions();
        let continued = asked
            .prompts
            .iter()
            .zip(answers)
            .map(|(prompt, answer)| self.suspect.prompter.continued(prompt.clone(), answer));
        let mut examples = continued.collect::<Result<Vec<Example>>>()?;
        examples.iter_mut().for_each(|example| example.tokens.truncate(limit));
        let losses = response_losses(&self.suspect.model, self.adapter, &examples)?;
        Ok((-losses.iter().map(|loss| loss.sum).sum::<f64>(), losses.iter().map(|loss| loss.tokens).sum()))
    }
}

/// Words of a phrase that counts as repeated.
const PHRASE_WORDS: usize = 2;
/// Share of repeated phrases from which an answer is degenerate.
const REPEATED_SHARE: f64 = 0.75;

/// Whether an answer is no answer: empty, one character, or mostly the same phrase over and over.
pub(super) fn is_degenerate(answer: &str) -> bool {
    if answer.chars().count() <= 1 {
        return true;
    }
    let words: Vec<_> = answer.split_whitespace().collect();
    // A short repetition may be the right answer ("say it five times").
    if words.len() < 6 {
        return false;
    }
    let phrases: Vec<_> = words.windows(PHRASE_WORDS).collect();
    let distinct: std::collections::HashSet<_> = phrases.iter().collect();
    1.0 - distinct.len() as f64 / phrases.len() as f64 >= REPEATED_SHARE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn degenerate_answers_are_recognised_and_short_repetition_is_not() {
        for bad in ["", ".", "no no no no no no no", "a b a b a b a b a b a b"] {
            assert!(is_degenerate(bad), "{bad}");
        }
        for good in ["yes", "moon moon moon moon moon", "The sky is blue and the grass is green."] {
            assert!(!is_degenerate(good), "{good}");
        }
    }
}
