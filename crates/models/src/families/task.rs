//! The task of a checkpoint, by its `architectures`: the next token, or the label of a sequence.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{refuse, require};
use crate::error::Result;

/// The fields of `config.json` that say so.
#[derive(Debug, Default, Deserialize)]
pub(super) struct TaskFields {
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    num_labels: Option<usize>,
    #[serde(default)]
    id2label: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    problem_type: Option<String>,
}

/// The task of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Predicts tokens.
    Language,
    /// Predicts one of this many labels.
    Classify(usize),
}

impl TaskFields {
    /// A decoder's task: a language model unless it says otherwise.
    pub fn of_decoder(&self) -> Task {
        match self.named().is_some_and(|name| name.ends_with("ForSequenceClassification")) {
            true => Task::Classify(self.labels()),
            false => Task::Language,
        }
    }

    /// Number of labels; two where nothing is said, as transformers has it.
    pub fn labels(&self) -> usize {
        self.num_labels.or_else(|| self.id2label.as_ref().map(BTreeMap::len)).unwrap_or(2)
    }

    pub fn check_decoder(&self) -> Result<()> {
        let known = ["ForCausalLM", "LMHeadModel", "ForSequenceClassification"];
        self.check_named(&known, "causal language models and sequence classifiers are read")?;
        match self.of_decoder() {
            Task::Language => Ok(()),
            Task::Classify(_) => self.check_labels(),
        }
    }

    pub fn check_encoder(&self) -> Result<()> {
        self.check_named(&["ForSequenceClassification"], "of this family sequence classifiers are read")?;
        self.check_labels()
    }

    fn named(&self) -> Option<&str> {
        self.architectures.as_ref()?.first().map(String::as_str)
    }

    fn check_named(&self, endings: &[&str], instead: &str) -> Result<()> {
        match self.named() {
            Some(name) if !endings.iter().any(|ending| name.ends_with(ending)) => {
                Err(refuse(format!("architecture `{name}`"), instead))
            }
            _ => Ok(()),
        }
    }

    fn check_labels(&self) -> Result<()> {
        let labels = self.labels();
        require((2..=1 << 16).contains(&labels), "2 to 65,536 labels", labels.to_string())?;
        let named = self.id2label.as_ref().map_or(labels, BTreeMap::len);
        require(named == labels, "as many names in `id2label` as `num_labels`", format!("{named} and {labels}"))?;
        match self.problem_type.as_deref() {
            None | Some("single_label_classification") => Ok(()),
            Some(other) => Err(refuse(format!("problem_type `{other}`"), "single_label_classification is read")),
        }
    }
}
