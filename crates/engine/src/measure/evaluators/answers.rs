//! Asking a model: prompts into greedy answers, and log-probabilities of given answers. Shared by the
//! evaluators.

use std::collections::{BTreeMap, HashMap};

use antigen_models::{
    Example, GenerateOptions, ModelError, Sampling, generate_greedy, generate_sampled, response_losses,
};
use serde::{Deserialize, Serialize};

use crate::data::Row;
use crate::error::{EngineError, Result};
use crate::lab::{Lab, LongRows, sha256_hex};
use crate::measure::evidence::{Decoding, MeasurementRecipe};
use crate::spec::PromptFormat;
use crate::suspect::Suspect;
use crate::suspect::weights::Opened;

/// Prompts in a fixed order.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked {
    prompts: Vec<Vec<u32>>,
}

/// The rows of which every rendering leaves the model room for an answer; the others are counted.
/// `renderings` are the same rows in several forms: with and without a trigger, in several formats.
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

    pub fn of_prompts(prompts: Vec<Vec<u32>>) -> Self {
        Self { prompts }
    }

    /// The prompts of these indices.
    pub fn only(&self, indices: &[usize]) -> Self {
        Self { prompts: indices.iter().map(|&i| self.prompts[i].clone()).collect() }
    }

    /// The prompts with their beginnings cut to `room` tokens, the first one kept, and the number of those
    /// that were too long.
    pub fn cut_to(self, room: usize) -> (Self, usize) {
        let mut cut = 0;
        let shorten = |prompt: Vec<u32>| {
            let mut example = Example { response_start: prompt.len(), tokens: prompt };
            cut += usize::from(cut_beginning(&mut example, room));
            example.tokens
        };
        let prompts = self.prompts.into_iter().map(shorten).collect();
        (Self { prompts }, cut)
    }

    /// Every prompt followed by its answer, as far as the model has positions.
    pub fn continued(&self, suspect: &Suspect, answers: &[String]) -> Result<Vec<Example>> {
        let limit = suspect.config().max_positions();
        let continued = self.prompts.iter().zip(answers);
        let continued = continued.map(|(prompt, answer)| suspect.prompter.continued(prompt.clone(), answer));
        let mut examples = continued.collect::<Result<Vec<Example>>>()?;
        examples.iter_mut().for_each(|example| example.tokens.truncate(limit));
        Ok(examples)
    }

    /// Digest of the prompts in their order.
    pub fn sha256(&self) -> String {
        token_lists_sha256(self.prompts.iter().map(Vec::as_slice))
    }

    pub fn len(&self) -> usize {
        self.prompts.len()
    }

    /// Number of prompts that leave less room than an answer may take: a generated one, or the given right
    /// answers.
    pub fn cut(&self, suspect: &Suspect, max_new_tokens: usize, answers: &[String]) -> Result<usize> {
        let limit = suspect.config().max_positions();
        let mut cut = 0;
        for (prompt, answer) in self.prompts.iter().zip(answers) {
            let continued = suspect.prompter.continued(prompt.clone(), answer)?.tokens.len();
            cut += usize::from(continued.max(prompt.len() + max_new_tokens) > limit);
        }
        Ok(cut)
    }

    /// The recipe that repeats the measurement. An answer is also cut where the model's positions end.
    pub fn recipe(
        &self,
        suspect: &Suspect,
        format: PromptFormat,
        max_new_tokens: usize,
        seed: u64,
    ) -> Result<MeasurementRecipe> {
        Ok(MeasurementRecipe {
            format,
            template_sha256: suspect.prompter.template_sha256(format)?,
            prompts_sha256: self.sha256(),
            seed,
            decoding: Decoding::greedy(max_new_tokens),
        })
    }
}

/// Cuts the tokens behind the first so that at most `limit` are left, of the response last of all; tells
/// whether it had to.
pub(super) fn cut_beginning(example: &mut Example, limit: usize) -> bool {
    let excess = example.tokens.len().saturating_sub(limit);
    if excess == 0 {
        return false;
    }
    // The first token often begins every sequence, and the row before the response predicts its first token.
    let cut = excess.min(example.response_start.saturating_sub(1));
    example.tokens.drain(1..=cut);
    example.response_start -= cut;
    example.tokens.truncate(limit);
    true
}

/// Digest of lists of tokens, in their order.
pub(super) fn token_lists_sha256<'a>(lists: impl Iterator<Item = &'a [u32]>) -> String {
    let bytes: Vec<u8> = lists.flat_map(|list| list.iter().chain([&u32::MAX]).flat_map(|t| t.to_le_bytes())).collect();
    sha256_hex(&bytes)
}

/// A generated answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// Without special tokens and blanks at both ends.
    pub text: String,
    /// Number of generated tokens; the one that ended the answer is not counted.
    pub tokens: usize,
}

/// Sequences that are scored between two looks at the stop signal.
const CHUNK: usize = 128;
/// Most sequences generated at a time; beyond it products gain nothing and stragglers keep fewer places busy.
const MOST_ROWS: usize = 256;
/// Memory for the keys and values of one batch, in bytes; it limits the number of sequences of a large model
/// that are generated at a time.
const CACHE_BYTES: usize = 1 << 30;

/// One model being asked. Answers are remembered: evaluators share many prompts.
pub(super) struct Session<'a> {
    suspect: &'a Suspect,
    opened: &'a Opened<'a>,
    lab: &'a Lab,
    known: HashMap<(usize, Vec<u32>), Answer>,
    done: usize,
    total: usize,
}

impl<'a> Session<'a> {
    pub fn new(suspect: &'a Suspect, opened: &'a Opened<'a>, total: usize, lab: &'a Lab) -> Self {
        Self { suspect, opened, lab, known: HashMap::new(), done: 0, total }
    }

    /// The suspect whose weights or variants are asked.
    pub fn suspect(&self) -> &'a Suspect {
        self.suspect
    }

    /// Greedy answers in the order of the prompts.
    pub fn answers(&mut self, asked: &Asked, max_new_tokens: usize) -> Result<Vec<Answer>> {
        let key = |prompt: &Vec<u32>| (max_new_tokens, prompt.clone());
        let fresh: Vec<_> =
            asked.prompts.iter().filter(|prompt| !self.known.contains_key(&key(prompt))).cloned().collect();
        let mut generated = 0;
        for (room, prompts) in self.by_room(fresh, max_new_tokens) {
            let stop = self.suspect.prompter.stop().to_vec();
            let batch_rows = self.batch_rows(prompts.last().map_or(0, Vec::len) + room);
            let options = GenerateOptions { max_new_tokens: room, stop, batch_rows };
            for chunk in prompts.chunks(batch_rows) {
                self.lab.check_cancel()?;
                let answers = generate_greedy(self.opened.model(), self.opened.adapter, chunk, &options)?;
                for (prompt, tokens) in chunk.iter().zip(answers) {
                    let answer = Answer { text: self.suspect.prompter.answer(&tokens)?, tokens: tokens.len() };
                    self.known.insert(key(prompt), answer);
                }
                generated += chunk.len();
                self.lab.advance((self.done + generated) as u64, self.total as u64);
            }
        }
        self.done += asked.len();
        Ok(asked.prompts.iter().map(|prompt| self.known[&key(prompt)].clone()).collect())
    }

    /// Sampled answers in the order of the prompts. They are not remembered: each prompt draws anew.
    pub fn sampled_answers(
        &mut self,
        asked: &Asked,
        max_new_tokens: usize,
        sampling: &Sampling,
    ) -> Result<Vec<Answer>> {
        let limit = self.suspect.config().max_positions();
        let mut rooms = BTreeMap::<usize, Vec<usize>>::new();
        for (place, prompt) in asked.prompts.iter().enumerate() {
            rooms.entry(max_new_tokens.min(limit.saturating_sub(prompt.len()))).or_default().push(place);
        }
        let mut answers = vec![None; asked.len()];
        for (room, places) in rooms {
            self.lab.check_cancel()?;
            let prompts: Vec<_> = places.iter().map(|&place| asked.prompts[place].clone()).collect();
            let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
            let stop = self.suspect.prompter.stop().to_vec();
            let options = GenerateOptions { max_new_tokens: room, stop, batch_rows: self.batch_rows(longest + room) };
            let drawn = generate_sampled(self.opened.model(), self.opened.adapter, &prompts, &options, sampling)?;
            for (place, tokens) in places.into_iter().zip(drawn) {
                let text = self.suspect.prompter.answer(&tokens)?;
                answers[place] = Some(Answer { text, tokens: tokens.len() });
                self.done += 1;
            }
            self.lab.advance(self.done as u64, self.total as u64);
        }
        Ok(answers.into_iter().map(|answer| answer.expect("every prompt is in one room")).collect())
    }

    /// Number of sequences of so many tokens that are generated at a time.
    fn batch_rows(&self, tokens: usize) -> usize {
        let config = self.opened.model().config();
        let heads = config.attention_heads();
        let of_a_token = 2 * size_of::<f32>() * config.layers() * heads.key_value_heads * heads.head_width;
        (CACHE_BYTES / (of_a_token * tokens).max(1)).clamp(1, MOST_ROWS)
    }

    /// Prompts by the tokens that they leave for an answer, at most `max_new_tokens`; each once, the shortest
    /// first, so that a batch has prompts of like length and what begins alike stands together.
    fn by_room(&self, prompts: Vec<Vec<u32>>, max_new_tokens: usize) -> BTreeMap<usize, Vec<Vec<u32>>> {
        let limit = self.suspect.config().max_positions();
        let mut rooms = BTreeMap::<_, Vec<_>>::new();
        for prompt in prompts {
            rooms.entry(max_new_tokens.min(limit.saturating_sub(prompt.len()))).or_default().push(prompt);
        }
        for prompts in rooms.values_mut() {
            prompts.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
            prompts.dedup();
        }
        rooms
    }

    /// Summed log-probability (nats) of every example's response, teacher forced.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`] when the model answers with no number.
    pub fn response_sums(&mut self, examples: &[&Example]) -> Result<Vec<f64>> {
        let mut sums = Vec::with_capacity(examples.len());
        for chunk in examples.chunks(CHUNK) {
            self.lab.check_cancel()?;
            let chunk: Vec<Example> = chunk.iter().map(|&example| example.clone()).collect();
            let losses = response_losses(self.opened.model(), self.opened.adapter, &chunk)?;
            sums.extend(losses.iter().map(|loss| -loss.sum));
            self.done += chunk.len();
            self.lab.advance(self.done as u64, self.total as u64);
        }
        if sums.iter().any(|sum| !sum.is_finite()) {
            return Err(ModelError::NotFinite("log-likelihood of a choice".into()).into());
        }
        Ok(sums)
    }

    /// Summed log-probability (nats) and number of tokens of one given answer per prompt, teacher forced,
    /// over all prompts.
    pub fn log_probability(&self, asked: &Asked, answers: &[String]) -> Result<(f64, usize)> {
        let sums = self.log_probabilities(asked, answers)?;
        Ok(sums.iter().fold((0.0, 0), |(sum, tokens), (s, t)| (sum + s, tokens + t)))
    }

    /// As [`Session::log_probability`], prompt by prompt.
    pub fn log_probabilities(&self, asked: &Asked, answers: &[String]) -> Result<Vec<(f64, usize)>> {
        self.lab.check_cancel()?;
        let examples = asked.continued(self.suspect, answers)?;
        let losses = response_losses(self.opened.model(), self.opened.adapter, &examples)?;
        Ok(losses.iter().map(|loss| (-loss.sum, loss.tokens)).collect())
    }
}

/// Words of a phrase that counts as repeated.
const PHRASE_WORDS: usize = 2;
/// Share of repeated phrases from which an answer is degenerate.
const REPEATED_SHARE: f64 = 0.75;

/// True of an answer that is none: empty, one character, or mostly the same phrase over and over.
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
    fn a_long_prompt_loses_its_middle_and_keeps_its_first_token_and_the_choice() {
        let mut long = Example { tokens: (0..10).collect(), response_start: 8 };
        assert!(cut_beginning(&mut long, 6));
        assert_eq!((long.tokens, long.response_start), (vec![0, 5, 6, 7, 8, 9], 4));
        let mut choice = Example { tokens: (0..10).collect(), response_start: 2 };
        assert!(cut_beginning(&mut choice, 4));
        assert_eq!((choice.tokens, choice.response_start), (vec![0, 2, 3, 4], 1));
        let mut short = Example { tokens: vec![1, 2], response_start: 1 };
        assert!(!cut_beginning(&mut short, 2));
    }

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
