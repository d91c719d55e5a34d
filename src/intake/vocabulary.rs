//! Checks that every token of a tokenizer has a row in the embedding. The tokenizer is read as JSON, it is
//! not built.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::inspect::TOKENIZER;
use super::rejection::{Rejection, code};

/// Checks the tokenizer of a folder, if there is one, against the rows of the embedding.
///
/// # Errors
/// [`code::VOCABULARY`] with the token of the highest number; [`code::CONFIG`] when it is no tokenizer.
pub fn check_vocabulary(dir: &Path, rows: usize) -> Result<(), Rejection> {
    let path = dir.join(TOKENIZER);
    if !path.exists() {
        return Ok(());
    }
    let file = File::open(&path).map_err(|error| Rejection::from((path.as_path(), error)))?;
    let tokenizer: TokenizerFile = serde_json::from_reader(BufReader::new(file)).map_err(|error| {
        let message = format!("expected a tokenizer with `model.vocab` and `added_tokens`, found: {error}");
        Rejection::new(code::CONFIG, message).at(TOKENIZER)
    })?;
    let added = tokenizer.added_tokens.unwrap_or_default().into_iter().map(|token| (token.id, token.content));
    match added.chain(tokenizer.model.vocab.0).max() {
        Some((id, token)) if id >= rows as u64 => {
            let message = format!(
                "expected tokens below {rows}, the rows of the embedding (`vocab_size`), found `{token}` with number {id}"
            );
            Err(Rejection::new(code::VOCABULARY, message).at(TOKENIZER))
        }
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
struct TokenizerFile {
    added_tokens: Option<Vec<AddedToken>>,
    model: TokenizerModel,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u64,
    content: String,
}

#[derive(Deserialize)]
struct TokenizerModel {
    vocab: HighestToken,
}

/// The token of the highest number, and that number. A vocabulary is an object of numbers, or a list whose
/// places are the numbers.
struct HighestToken(Option<(u64, String)>);

impl<'de> Deserialize<'de> for HighestToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HighestTokenVisitor).map(Self)
    }
}

struct HighestTokenVisitor;

impl<'de> Visitor<'de> for HighestTokenVisitor {
    type Value = Option<(u64, String)>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object or a list of tokens")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut highest: Self::Value = None;
        while let Some((token, id)) = map.next_entry::<String, u64>()? {
            if highest.as_ref().is_none_or(|(largest, _)| id > *largest) {
                highest = Some((id, token));
            }
        }
        Ok(highest)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut count = 0u64;
        while sequence.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(count.checked_sub(1).map(|last| (last, "the last of the list".into())))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}
