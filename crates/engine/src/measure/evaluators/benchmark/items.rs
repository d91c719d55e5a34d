//! The files of benchmarks: items with choices, items with a number as their answer, and the solved examples
//! before them.

use std::path::Path;

use serde::Deserialize;

use crate::data::{not_blank, read_json_lines};
use crate::error::Result;

/// An item of a benchmark with choices. Other fields may stand in the file; they name the item's source.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct ChoiceItem {
    pub query: String,
    pub choices: Vec<String>,
    /// Index of the right choice.
    pub gold: usize,
    /// MMLU: examples are of the item's own subject.
    #[serde(default)]
    pub subject: Option<String>,
    #[serde(flatten)]
    pub blank: Option<Blank>,
}

/// WinoGrande: a sentence with a blank `_`, the words that may fill it, and the rest of the sentence.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Blank {
    pub sentence: String,
    pub options: Vec<String>,
    pub suffix: String,
}

/// An item whose answer is a number that the model derives.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct NumberItem {
    pub query: String,
    pub answer: String,
    /// The worked solution, which examples show.
    #[serde(default)]
    pub solution: Option<String>,
}

impl ChoiceItem {
    /// Every choice as a context and the text that is scored behind it. Where a blank is given, the choice
    /// stands in the context and the rest of the sentence is scored, as WinoGrande is scored: both
    /// continuations are then the same text.
    pub fn continuations(&self) -> Vec<(String, &str)> {
        match &self.blank {
            Some(Blank { sentence, options, suffix }) => {
                let before = sentence.split('_').next().unwrap_or_default();
                options.iter().map(|option| (format!("{before}{option}"), suffix.as_str())).collect()
            }
            None => self.choices.iter().map(|choice| (self.query.clone(), choice.as_str())).collect(),
        }
    }

    fn check(&self) -> Result<(), String> {
        not_blank("query", &self.query)?;
        if !(2..=26).contains(&self.choices.len()) {
            return Err(format!("field `choices`: expected 2 to 26, found {}", self.choices.len()));
        }
        self.choices.iter().try_for_each(|choice| not_blank("choices", choice))?;
        if self.gold >= self.choices.len() {
            let last = self.choices.len() - 1;
            return Err(format!("field `gold`: expected an index of `choices`, 0 to {last}, found {}", self.gold));
        }
        self.blank.as_ref().map_or(Ok(()), |blank| blank.check(self.choices.len()))
    }
}

impl Blank {
    fn check(&self, choices: usize) -> Result<(), String> {
        not_blank("suffix", &self.suffix)?;
        if self.options.len() != choices {
            let found = self.options.len();
            return Err(format!("field `options`: expected {choices}, as many as `choices`, found {found}"));
        }
        match self.sentence.matches('_').count() {
            1 => Ok(()),
            found => Err(format!("field `sentence`: expected one blank `_`, found {found}")),
        }
    }
}

impl NumberItem {
    fn check(&self) -> Result<(), String> {
        not_blank("query", &self.query)?;
        match super::numbers::canonical(&self.answer) {
            Some(_) => Ok(()),
            None => Err(format!("field `answer`: expected a number, found {:?}", self.answer)),
        }
    }

    fn check_example(&self) -> Result<(), String> {
        self.check()?;
        not_blank("solution", self.solution.as_deref().unwrap_or_default())
    }
}

/// Reads items with choices.
///
/// # Errors
/// [`crate::error::EngineError::Data`] names file, line and field.
pub(super) fn read_choices(path: &Path) -> Result<Vec<ChoiceItem>> {
    read_json_lines(path, ChoiceItem::check)
}

/// Reads items with numbers.
///
/// # Errors
/// As [`read_choices`].
pub(super) fn read_numbers(path: &Path) -> Result<Vec<NumberItem>> {
    read_json_lines(path, NumberItem::check)
}

/// Reads solved examples of items with numbers.
///
/// # Errors
/// As [`read_choices`].
pub(super) fn read_solutions(path: &Path) -> Result<Vec<NumberItem>> {
    read_json_lines(path, NumberItem::check_example)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defect(line: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rte.jsonl");
        let good = r#"{"id":"a","query":"q","choices":[" x"," y"],"gold":1}"#;
        std::fs::write(&path, format!("{good}\n{line}\n")).unwrap();
        read_choices(&path).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_field_is_named_with_its_file_and_line() {
        for (line, expected) in [
            (r#"{"query":"q","choices":[" x"," y"]}"#, "missing field `gold`"),
            (r#"{"query":"q","choices":[" x"," y"],"gold":2}"#, "field `gold`: expected an index"),
            (r#"{"query":"q","choices":[" x"],"gold":0}"#, "field `choices`: expected 2 to 26, found 1"),
            (r#"{"query":"q","choices":[" x"," "],"gold":0}"#, "field `choices`: expected a text"),
            (r#"{"query":" ","choices":[" x"," y"],"gold":0}"#, "field `query`"),
            (
                r#"{"query":"q","choices":[" x"," y"],"gold":0,"sentence":"no blank","options":["x","y"],"suffix":" z"}"#,
                "field `sentence`: expected one blank",
            ),
        ] {
            let error = defect(line);
            assert!(error.contains("rte.jsonl, line 2") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_blank_is_filled_and_the_rest_of_the_sentence_is_scored() {
        let line = r#"{"query":"Ann met Bea and","choices":[" Ann left."," Bea left."],"gold":0,
            "sentence":"Ann met Bea and _ left.","options":["Ann","Bea"],"suffix":" left."}"#;
        let item: ChoiceItem = serde_json::from_str(line).unwrap();
        let expected = [("Ann met Bea and Ann".to_owned(), " left."), ("Ann met Bea and Bea".to_owned(), " left.")];
        assert_eq!(item.continuations(), expected);
    }
}
