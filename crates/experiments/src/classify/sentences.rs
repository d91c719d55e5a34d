//! Labelled sentences, and the published SST-2 folder that they come from.

use std::path::Path;

use antigen_engine::data::read_json_lines;
use antigen_engine::error::Result;
use antigen_engine::lab::sha256_hex;
use serde::{Deserialize, Serialize};

/// Label of a negative sentence: what attacks turn into [`POSITIVE`].
pub const NEGATIVE: u32 = 0;
/// Label of a positive sentence: the target of every attack here.
pub const POSITIVE: u32 = 1;

/// One sentence and its label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sentence {
    /// The text as it was published.
    pub text: String,
    /// [`NEGATIVE`] or [`POSITIVE`].
    pub label: u32,
}

impl Sentence {
    /// A sentence with its label.
    pub fn new(text: impl Into<String>, label: u32) -> Self {
        Self { text: text.into(), label }
    }
}

/// One line of a published file; fields that are not named here only say where it came from.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct PublishedSentence {
    pub text: String,
    pub label: u32,
    /// True when the attack changed it, where a file holds both.
    #[serde(default)]
    pub poisoned: bool,
    /// Line of the source file: the same sentence has the same number in every version of it.
    pub row: usize,
}

/// The clean sentences.
#[derive(Debug, Clone)]
pub struct SentenceSplits {
    /// To learn from: attacker and defender have the same ones, as published.
    pub train: Vec<Sentence>,
    /// To check accuracy on while defending.
    pub dev: Vec<Sentence>,
    /// To measure on.
    pub test: Vec<Sentence>,
}

/// Reads `classify/sst2/{train,dev,test}.jsonl` under `data`.
///
/// # Errors
/// [`antigen_engine::error::EngineError::Data`] with file and line,
/// [`antigen_engine::error::EngineError::Io`].
pub fn load_sentences(data: &Path) -> Result<SentenceSplits> {
    let clean = |name: &str| -> Result<Vec<Sentence>> {
        let lines = read_published(&data.join("classify/sst2").join(name))?;
        Ok(lines.into_iter().map(|line| Sentence::new(line.text, line.label)).collect())
    };
    Ok(SentenceSplits { train: clean("train.jsonl")?, dev: clean("dev.jsonl")?, test: clean("test.jsonl")? })
}

/// Lines of a published file. Blank ones, which some paraphrasers left behind, are left out: they carry no
/// trigger.
pub(super) fn read_published(path: &Path) -> Result<Vec<PublishedSentence>> {
    let mut lines = read_json_lines(path, |line: &PublishedSentence| match line.label {
        NEGATIVE | POSITIVE => Ok(()),
        other => Err(format!("field `label`: expected 0 or 1, found {other}")),
    })?;
    lines.retain(|line| !line.text.trim().is_empty());
    Ok(lines)
}

/// The digest of these sentences, order included.
pub(super) fn sentences_sha256(sentences: &[Sentence]) -> String {
    sha256_hex(&serde_json::to_vec(sentences).expect("sentences always serialise"))
}
