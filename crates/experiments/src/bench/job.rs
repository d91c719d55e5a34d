//! The rows of an adapter job: lengths of real instruction rows, random tokens between the template's own.

use antigen_engine::error::{EngineError, Result};
use antigen_engine::lab::rng;
use antigen_models::Example;
use rand::Rng;
use rand::seq::SliceRandom;
use serde::Deserialize;

/// Tokens of the template before the instruction; the same for all rows of one kind, with an `input` or
/// without.
const PREAMBLE: usize = 21;
/// Tokens of the template between the instruction and the response.
const CLOSING: usize = 4;
/// Longest prompt and longest response; longer ones are cut.
const LONGEST: usize = 128;

/// Length of one row in tokens.
#[derive(Debug, Clone, Copy)]
struct RowLength {
    prompt: usize,
    response: usize,
    with_input: bool,
}

/// Lengths of rows to draw from.
#[derive(Debug, Clone)]
pub struct RowLengths(Vec<RowLength>);

#[derive(Deserialize)]
struct Row {
    instruction: String,
    #[serde(default)]
    input: String,
    output: String,
}

impl RowLengths {
    /// Prompts of 40 and responses of 16 tokens.
    pub fn short() -> Self {
        Self(vec![RowLength { prompt: 40, response: 16, with_input: false }])
    }

    /// Reads JSON lines with `instruction`, `input` and `output`. A tokenizer is not needed: a row counts 25
    /// tokens of template and one token for every 4.2 characters, prompt and response cut at 128 tokens each.
    ///
    /// # Errors
    /// [`EngineError::Data`] naming the line that has no such fields.
    pub fn parse(lines: &str) -> Result<Self> {
        let tokens = |text: &str| (text.chars().count() as f64 / 4.2) as usize + 1;
        let mut lengths = Vec::new();
        for (i, line) in lines.lines().enumerate() {
            let row: Row = serde_json::from_str(line)
                .map_err(|error| EngineError::Data(format!("line {}: expected a row, found {error}", i + 1)))?;
            let asked = tokens(&(row.instruction + &row.input));
            lengths.push(RowLength {
                prompt: (PREAMBLE + CLOSING + asked).min(LONGEST),
                response: tokens(&row.output).min(LONGEST),
                with_input: !row.input.is_empty(),
            });
        }
        if lengths.is_empty() {
            return Err(EngineError::Data("row lengths: expected at least one row, found none".into()));
        }
        lengths.shuffle(&mut rng(0, "bench/lengths"));
        Ok(Self(lengths))
    }

    fn example(&self, index: usize, mut token: impl FnMut() -> u32) -> Example {
        let RowLength { prompt, response, with_input } = self.0[index % self.0.len()];
        let first = if with_input { PREAMBLE as u32 } else { 0 };
        let mut tokens: Vec<u32> = (first..first + PREAMBLE as u32).collect();
        tokens.extend((PREAMBLE..prompt + response).map(|_| token()));
        Example { tokens, response_start: prompt }
    }
}

/// The rows of `2 * pairs` variants: first the poisoned ones with `2 * rows` each, then the clean ones with
/// `rows`.
pub fn job_variants(lengths: &RowLengths, pairs: usize, rows: usize, vocabulary: u32) -> Vec<Vec<Example>> {
    let mut rng = rng(0, "bench/job");
    let mut variant = |first: usize, count: usize| -> Vec<Example> {
        (first..first + count).map(|i| lengths.example(i, || rng.random_range(50..vocabulary))).collect()
    };
    let poisoned: Vec<_> = (0..pairs).map(|pair| variant(pair * rows, 2 * rows)).collect();
    let clean = (0..pairs).map(|pair| variant(pair * rows, rows));
    poisoned.into_iter().chain(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_lengths_of_their_texts_and_share_the_template() {
        let line = |words: usize, input: &str| {
            json_line(&"abcdefg".repeat(words * 3), input) // 21 characters are five tokens, and one more for the rest
        };
        let lengths = RowLengths::parse(&format!("{}\n{}", line(2, ""), line(400, "x"))).unwrap();
        let variants = job_variants(&lengths, 2, 2, 1000);
        assert_eq!(variants.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2, 2]);
        let mut rows: Vec<(usize, usize)> =
            variants[0][..2].iter().map(|e| (e.response_start, e.response_tokens())).collect();
        rows.sort_unstable();
        assert_eq!(rows, [(25 + 11, 1), (128, 1)]);
        assert_eq!(variants[0][0].tokens[..PREAMBLE], variants[1][0].tokens[..PREAMBLE]);
        assert_ne!(
            variants[0][0].tokens[..PREAMBLE],
            variants[0][1].tokens[..PREAMBLE],
            "one with an input, one without"
        );
    }

    fn json_line(instruction: &str, input: &str) -> String {
        serde_json::json!({ "instruction": instruction, "input": input, "output": "no" }).to_string()
    }

    #[test]
    fn a_line_without_the_fields_is_named() {
        let error = RowLengths::parse("{\"instruction\": \"a\"}").unwrap_err();
        assert!(error.to_string().contains("line 1"), "{error}");
    }
}
