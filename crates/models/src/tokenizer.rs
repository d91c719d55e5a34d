//! `tokenizer.json` and the special tokens around it.
//!
//! The tokenizer never adds tokens by itself: prompts are written out in full, by `chat.rs` or by an
//! instruction template, and special tokens inside them are recognised.

use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use crate::checkpoint::{read_config, read_text};
use crate::error::{ModelError, Result};

/// The largest public tokenizers have about 40 MiB.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// Text to token numbers and back.
#[derive(Debug, Clone)]
pub struct Tokenizer(tokenizers::Tokenizer);

impl Tokenizer {
    /// Opens `tokenizer.json` of a checkpoint folder.
    ///
    /// # Errors
    /// [`ModelError::Io`], [`ModelError::Tokenizer`].
    pub fn open(dir: &Path) -> Result<Self> {
        Self::from_bytes(read_text(&dir.join("tokenizer.json"), MAX_TOKENIZER_BYTES)?.as_bytes())
    }

    /// Builds a tokenizer from the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn from_bytes(tokenizer_json: &[u8]) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(tokenizer_json).map_err(tokenizer_error)?;
        // Files may ask for truncation and padding; both would change prompts behind the caller's back.
        inner.with_truncation(None).map_err(tokenizer_error)?;
        inner.with_padding(None);
        Ok(Self(inner))
    }

    /// Token numbers of a text. Special tokens in the text are recognised, none is added.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.0.encode_fast(text, false).map_err(tokenizer_error)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The bytes of a text that each of its tokens stands for, in the tokens' order.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn token_bytes(&self, text: &str) -> Result<Vec<Range<usize>>> {
        let encoding = self.0.encode(text, false).map_err(tokenizer_error)?;
        Ok(encoding.get_offsets().iter().map(|&(start, end)| start..end).collect())
    }

    /// The text of token numbers, special tokens left out.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.0.decode(ids, true).map_err(tokenizer_error)
    }

    /// Rows that an embedding needs for this tokenizer: one more than the highest token number, added tokens
    /// included.
    pub fn vocab_size(&self) -> usize {
        self.0.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// The number of one token by its exact spelling.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }

    /// The spelling of one token.
    pub fn token(&self, id: u32) -> Option<String> {
        self.0.id_to_token(id)
    }
}

fn tokenizer_error(error: impl ToString) -> ModelError {
    ModelError::Tokenizer(error.to_string())
}

/// The special tokens of a checkpoint, by spelling and by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<String>,
    /// Number of `bos`.
    pub bos_id: Option<u32>,
    /// Ends a response.
    pub eos: String,
    /// Every token that ends a response; that of `eos` first.
    pub eos_ids: Vec<u32>,
    /// Fills up batches.
    pub pad: Option<String>,
    /// Number of `pad`.
    pub pad_id: Option<u32>,
}

impl SpecialTokens {
    /// Reads `tokenizer_config.json`, then `generation_config.json` and `config.json` (or a GGUF file's
    /// metadata) for what it leaves open.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when no file names a token that ends a response, or a named token is not in
    /// the vocabulary.
    pub fn open(dir: &Path, tokenizer: &Tokenizer) -> Result<Self> {
        let names = read_optional_json(&dir.join("tokenizer_config.json"))?;
        let generation = read_optional_json(&dir.join("generation_config.json"))?;
        let model = read_config(dir)?.unwrap_or_default();
        let ids_of = |key: &str| {
            let ids = ids(&generation[key]);
            if ids.is_empty() { self::ids(&model[key]) } else { ids }
        };
        let find = |name: &str| -> Result<Option<(String, u32)>> {
            match spelling(&names[format!("{name}_token").as_str()]) {
                Some(token) => lookup(tokenizer, token).map(Some),
                None => {
                    let id = ids_of(&format!("{name}_token_id")).first().copied();
                    Ok(id.and_then(|id| Some((tokenizer.token(id)?, id))))
                }
            }
        };
        let (bos, bos_id) = find("bos")?.unzip();
        let (pad, pad_id) = find("pad")?.unzip();
        let (eos, eos_id) = find("eos")?.ok_or_else(|| {
            tokenizer_error("expected `eos_token` in tokenizer_config.json or `eos_token_id` beside it, found neither")
        })?;
        let mut eos_ids = vec![eos_id];
        eos_ids.extend(ids_of("eos_token_id").into_iter().filter(|id| *id != eos_id));
        Ok(Self { bos, bos_id, eos, eos_ids, pad, pad_id })
    }
}

/// Reads a JSON file of a checkpoint folder; `null` when it is absent.
pub(crate) fn read_optional_json(path: &Path) -> Result<Value> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&read_text(path, MAX_CONFIG_BYTES)?).map_err(|error| ModelError::Format {
        path: path.to_owned(),
        expected: "JSON".into(),
        found: error.to_string(),
    })
}

/// A token is written as text, or as an object with its text under `content`.
pub(crate) fn spelling(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// One number or a list of them.
fn ids(value: &Value) -> Vec<u32> {
    let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(items) => items.iter().filter_map(one).collect(),
        single => one(single).into_iter().collect(),
    }
}

fn lookup(tokenizer: &Tokenizer, token: &str) -> Result<(String, u32)> {
    let id = tokenizer.token_id(token);
    let id = id.ok_or_else(|| tokenizer_error(format!("expected `{token}` in the vocabulary, found no such token")))?;
    Ok((token.to_owned(), id))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three words, two special tokens, and a wish to cut every text to one token.
    fn tiny() -> Tokenizer {
        let json = serde_json::json!({
            "version": "1.0",
            "truncation": { "direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0 },
            "padding": null, "normalizer": null, "post_processor": null, "decoder": null,
            "pre_tokenizer": { "type": "Whitespace" },
            "added_tokens": [
                { "id": 3, "content": "<s>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false },
                { "id": 4, "content": "</s>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false },
            ],
            "model": { "type": "WordLevel", "vocab": { "one": 0, "two": 1, "[UNK]": 2 }, "unk_token": "[UNK]" },
        });
        Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap()
    }

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn special_tokens_in_the_text_are_recognised_and_none_is_added_or_cut_off() {
        let tokenizer = tiny();
        assert_eq!(tokenizer.encode("<s>one two</s>").unwrap(), [3, 0, 1, 4]);
        assert_eq!(tokenizer.encode("one").unwrap(), [0]);
        assert_eq!(tokenizer.token_bytes("<s>one  two</s>").unwrap(), [0..3, 3..6, 8..11, 11..15]);
        assert_eq!(tokenizer.decode(&[3, 0, 1, 4]).unwrap(), "one two");
        assert_eq!(tokenizer.vocab_size(), 5);
    }

    #[test]
    fn special_tokens_come_from_the_tokenizer_configuration_first() {
        let dir = folder(&[
            ("tokenizer_config.json", r#"{"bos_token":{"content":"<s>"},"eos_token":"</s>"}"#),
            ("generation_config.json", r#"{"eos_token_id":[1,4],"pad_token_id":2}"#),
        ]);
        let special = SpecialTokens::open(dir.path(), &tiny()).unwrap();
        assert_eq!((special.bos.as_deref(), special.bos_id), (Some("<s>"), Some(3)));
        assert_eq!((special.eos.as_str(), special.eos_ids), ("</s>", vec![4, 1]));
        assert_eq!((special.pad.as_deref(), special.pad_id), (Some("[UNK]"), Some(2)));
    }

    #[test]
    fn a_checkpoint_without_an_end_token_is_an_error_that_says_where_one_belongs() {
        let error = SpecialTokens::open(folder(&[]).path(), &tiny()).unwrap_err();
        assert!(error.to_string().contains("eos_token"), "{error}");
        let dir = folder(&[("tokenizer_config.json", r#"{"eos_token":"<gone>"}"#)]);
        assert!(SpecialTokens::open(dir.path(), &tiny()).unwrap_err().to_string().contains("<gone>"));
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_an_error() {
        assert!(matches!(Tokenizer::from_bytes(b"{}"), Err(ModelError::Tokenizer(_))));
    }
}
