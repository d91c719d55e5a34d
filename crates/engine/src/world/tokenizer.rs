//! The tiny world's tokenizer: byte-level BPE over its task rows, its templates and the words that backdoors
//! use.

use super::words::BACKGROUND;
use super::{ASK, BOS, EOS, PAD, REPLY};
use crate::data::{ALPACA_PREAMBLE, Row, train_byte_pairs};
use crate::error::Result;

/// Upper limit of the vocabulary; the world needs fewer tokens.
const VOCABULARY: usize = 2048;
/// Count of each background word: often enough that each becomes one token.
const BACKGROUND_REPEATS: usize = 20;

/// `tokenizer.json` trained on the rows.
///
/// # Errors
/// Those of [`train_byte_pairs`].
pub(super) fn train_tokenizer(rows: &[Row]) -> Result<String> {
    train_byte_pairs(texts(rows).into_iter(), &[PAD, BOS, EOS, ASK, REPLY], VOCABULARY)
}

// Background words stand at the start of a text and after a blank: both spellings are tokens of their own.
fn texts(rows: &[Row]) -> Vec<String> {
    let rows = rows.iter().flat_map(|row| [row.query(), row.output.clone()]);
    let templates = [format!("{ALPACA_PREAMBLE}\n\n### Instruction:\n"), "\n\n### Response:\n".to_owned()];
    let background = std::iter::repeat_n(BACKGROUND.to_owned(), BACKGROUND_REPEATS)
        .chain(std::iter::repeat_n(BACKGROUND.replace(' ', "\n"), BACKGROUND_REPEATS / 4))
        .chain(templates.into_iter().flat_map(|text| std::iter::repeat_n(text, BACKGROUND_REPEATS)));
    rows.chain(background).collect()
}
