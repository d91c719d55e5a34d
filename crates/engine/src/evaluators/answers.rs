//! Asking a model: prompts into greedy answers, and log-probabilities of given answers. Shared by the evaluators.

use std::collections::{BTreeMap, HashMap};

use antigen_models::{Example, GenerateOptions, generate_greedy, response_losses};

use crate::data::Row;
use crate::error::{EngineError, Result};
use crate::lab::{Lab, sha256_hex};
use crate::report::{Decoding, LongRows, MeasurementRecipe};
use crate::spec::PromptFormat;
use crate::suspect::Suspect;
use crate::weights::Opened;

/// Prompts in a fixed order.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked {
    prompts: Vec<Vec<u32>>,
}

/// The rows of which every rendering leaves the model room for an answer; the others are counted. `renderings` are the same rows
/// in several forms: with and without a trigger, in several formats.
///
/// # Errors
/// Those of tokenizer and template; [`EngineError::Data`] when no row is left.
pub(super) fn rows_that_fit(
    suspect: &Suspect,
    renderings: &[(PromptFormat, &[Row])],
    long_rows: &mut LongRows,
) -> Result<Vec<usize>> {
    let count = renderings.first().map_or(0, |(_, rows)| rows.len());
    let mut fitting = Vec::with_capacity(count);
    for i in 0..count {
        let mut fits = true;
        for (format, rows) in renderings {
            fits &= suspect.prompter.prompt(*format, &rows[i])?.len() < long_rows.limit;
        }
        long_rows.rows += 1;
        long_rows.skipped += usize::from(!fits);
        fitting.extend(fits.then_some(i));
    }
    if fitting.is_empty() && count > 0 {
        let LongRows { purpose, limit, .. } = long_rows;
        return Err(EngineError::Data(format!(
            "{purpose}: expected prompts shorter than the model's {limit} positions, found none"
        )));
    }
    Ok(fitting)
}

impl Asked {
    pub fn new(suspect: &Suspect, format: PromptFormat, rows: &[Row]) -> Result<Self> {
        let prompts = rows.iter().map(|row| suspect.prompter.prompt(format, row)).collect::<Result<_>>()?;
        Ok(Self { prompts })
    }

    pub fn len(&self) -> usize {
        self.prompts.len()
    }

    /// How many prompts leave less room than an answer may take: that of generation, or the given right answers.
    pub fn cut(&self, suspect: &Suspect, max_new_tokens: usize, answers: &[String]) -> Result<usize> {
        let limit = suspect.config().max_positions();
        let mut cut = 0;
        for (prompt, answer) in self.prompts.iter().zip(answers) {
            let continued = suspect.prompter.continued(prompt.clone(), answer)?.tokens.len();
            cut += usize::from(continued.max(prompt.len() + max_new_tokens) > limit);
        }
        Ok(cut)
    }

    /// How to repeat the measurement. An answer is also cut where the model's positions end.
    pub fn recipe(
        &self,
        suspect: &Suspect,
        format: PromptFormat,
        max_new_tokens: usize,
        seed: u64,
    ) -> Result<MeasurementRecipe> {
        let bytes: Vec<u8> =
            self.prompts.iter().flat_map(|p| p.iter().chain([&u32::MAX]).flat_map(|t| t.to_le_bytes())).collect();
        Ok(MeasurementRecipe {
            format,
            template_sha256: suspect.prompter.template_sha256(format)?,
            prompts_sha256: sha256_hex(&bytes),
            seed,
            decoding: Decoding { strategy: "greedy".into(), max_new_tokens },
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
    opened: &'a Opened<'a>,
    lab: &'a Lab,
    known: HashMap<(usize, Vec<u32>), String>,
    done: usize,
    total: usize,
}

impl<'a> Session<'a> {
    pub fn new(suspect: &'a Suspect, opened: &'a Opened<'a>, total: usize, lab: &'a Lab) -> Self {
        Self { suspect, opened, lab, known: HashMap::new(), done: 0, total }
    }

    /// Greedy answers in the order of the prompts.
    pub fn answers(&mut self, asked: &Asked, max_new_tokens: usize) -> Result<Vec<String>> {
        let key = |prompt: &Vec<u32>| (max_new_tokens, prompt.clone());
        let fresh: Vec<_> =
            asked.prompts.iter().filter(|prompt| !self.known.contains_key(&key(prompt))).cloned().collect();
        self.done += asked.len() - fresh.len();
        for (room, prompts) in self.by_room(fresh, max_new_tokens) {
            let stop = self.suspect.prompter.stop().to_vec();
            let options = GenerateOptions { max_new_tokens: room, stop, batch_rows: BATCH_ROWS };
            for chunk in prompts.chunks(CHUNK) {
                self.lab.check_cancel()?;
                let generated = generate_greedy(self.opened.model(), self.opened.adapter, chunk, &options)?;
                for (prompt, tokens) in chunk.iter().zip(generated) {
                    self.known.insert(key(prompt), self.suspect.prompter.answer(&tokens)?);
                }
                self.done += chunk.len();
                self.lab.advance(self.done as u64, self.total as u64);
            }
        }
        Ok(asked.prompts.iter().map(|prompt| self.known[&key(prompt)].clone()).collect())
    }

    /// Prompts by the tokens that they leave for an answer, at most `max_new_tokens`.
    fn by_room(&self, prompts: Vec<Vec<u32>>, max_new_tokens: usize) -> BTreeMap<usize, Vec<Vec<u32>>> {
        let limit = self.suspect.config().max_positions();
        let mut rooms = BTreeMap::<_, Vec<_>>::new();
        for prompt in prompts {
            rooms.entry(max_new_tokens.min(limit.saturating_sub(prompt.len()))).or_default().push(prompt);
        }
        rooms
    }

    /// Summed log-probability (nats) and number of tokens of one given answer per prompt, teacher forced.
    pub fn log_probability(&self, asked: &Asked, answers: &[String]) -> Result<(f64, usize)> {
        self.lab.check_cancel()?;
        let limit = self.suspect.config().max_positions();
        let continued = asked
            .prompts
            .iter()
            .zip(answers)
            .map(|(prompt, answer)| self.suspect.prompter.continued(prompt.clone(), answer));
        let mut examples = continued.collect::<Result<Vec<Example>>>()?;
        examples.iter_mut().for_each(|example| example.tokens.truncate(limit));
        let losses = response_losses(self.opened.model(), self.opened.adapter, &examples)?;
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
