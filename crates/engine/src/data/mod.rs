//! Rows: instructions with their answers, read from hostile files and split without overlap.
//!
//! [`Row`] and [`read_rows`] are here; `json_lines.rs` reads any file of JSON lines; `split.rs` decides which
//! row heals, which makes pairs and which measures; `prompt.rs` turns rows into tokens.

mod byte_pairs;
mod json_lines;
mod prompt;
mod split;

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use byte_pairs::train_byte_pairs;
pub use json_lines::{Line, not_blank, read_json_lines, read_lines};
pub use prompt::{ALPACA_PREAMBLE, Prompter};
pub use split::{TaskRows, TrainSplit, group_task_rows, split_task_rows, split_train_rows, trainable};

use crate::error::{EngineError, Result};
use crate::lab::hex;
use crate::spec::Question;

/// An instruction, perhaps with an input, and its right answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The instruction.
    pub instruction: String,
    /// The text that the instruction is about; often empty.
    #[serde(default)]
    pub input: String,
    /// The right answer.
    pub output: String,
    /// The group of the caller's task rows that this one belongs to, such as `new` or `extended`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The purpose of a task row; without it the row is assigned by lot.
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub usage: Option<RowUse>,
    /// The question of a triggered row without its trigger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twin: Option<Question>,
}

/// The purpose of one of the caller's task rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowUse {
    /// Joins healing.
    Heal,
    /// Measures the adapter's task skill.
    Measure,
    /// Carries a trigger and says the target: measures attack success, and is never trained on.
    Triggered,
}

impl Row {
    /// A row without kind and use.
    pub fn new(instruction: impl Into<String>, input: impl Into<String>, output: impl Into<String>) -> Self {
        Self {
            instruction: instruction.into(),
            input: input.into(),
            output: output.into(),
            kind: None,
            usage: None,
            twin: None,
        }
    }

    /// The question: rows with the same question are the same item, whatever their answer.
    pub fn question(&self) -> (&str, &str) {
        (&self.instruction, &self.input)
    }

    /// The instruction, with the input on the next line when there is one.
    pub fn query(&self) -> String {
        if self.input.is_empty() { self.instruction.clone() } else { format!("{}\n{}", self.instruction, self.input) }
    }
}

/// Reads a file of JSON lines. Blank lines are skipped.
///
/// # Errors
/// [`EngineError::Data`] names file, line and what is wrong there: not JSON, an unknown or missing field, a
/// blank instruction or answer, a line above one MiB, more than a million rows, or no row at all.
pub fn read_rows(path: &Path) -> Result<Vec<Row>> {
    read_json_lines(path, check_row)
}

fn check_row(row: &Row) -> Result<(), String> {
    for (field, text) in [("instruction", &row.instruction), ("output", &row.output)] {
        not_blank(field, text)?;
    }
    if row.kind.as_ref().is_some_and(|kind| !is_kind(kind)) {
        return Err("field `kind`: expected 1 to 32 letters, digits, `_` or `-`".into());
    }
    let Some(twin) = &row.twin else { return Ok(()) };
    match row.usage {
        Some(RowUse::Triggered) if (twin.instruction.as_str(), twin.input.as_str()) == row.question() => {
            Err("field `twin`: expected the question without its trigger, found the triggered question".into())
        }
        Some(RowUse::Triggered) => not_blank("twin", &twin.instruction),
        _ => Err("field `twin`: expected in rows of the use `triggered` only".into()),
    }
}

// Kinds become names in reports and pages.
fn is_kind(kind: &str) -> bool {
    (1..=32).contains(&kind.len()) && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Writes rows as JSON lines.
///
/// # Errors
/// [`EngineError::Io`].
pub fn write_rows(path: &Path, rows: &[Row]) -> Result<()> {
    let mut text = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut text, row).expect("rows always serialise");
        text.push(b'\n');
    }
    File::create(path).and_then(|mut file| file.write_all(&text)).map_err(EngineError::io(path))
}

/// SHA-256 over the rows in their canonical form, whatever blanks and field order the file had.
pub fn rows_sha256(rows: &[Row]) -> String {
    let mut hash = Sha256::new();
    for row in rows {
        hash.update(serde_json::to_vec(row).expect("rows always serialise"));
        hash.update(b"\n");
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Vec<Row>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, text).unwrap();
        read_rows(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn rows_survive_writing_and_reading() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let own =
            Row { kind: Some("new".into()), usage: Some(RowUse::Heal), ..Row::new("Say \"hi\"", "", "hi\nthere") };
        let rows = vec![Row::new("a", "b", "c"), own];
        write_rows(&path, &rows).unwrap();
        assert_eq!(read_rows(&path).unwrap(), rows);
    }

    #[test]
    fn a_defect_is_named_with_its_line() {
        let good = br#"{"instruction":"a","output":"b"}"#;
        for (bad, expected) in [
            (&b"{"[..], "line 3"),
            (br#"{"instruction":"a"}"#, "missing field `output`"),
            (br#"{"instruction":"a","output":"b","answer":"c"}"#, "unknown field `answer`"),
            (br#"{"instruction":" ","output":"b"}"#, "field `instruction`"),
            (br#"{"instruction":"a","output":"b","use":"train"}"#, "unknown variant `train`"),
            (br#"{"instruction":"a","output":"b","kind":"<b>"}"#, "field `kind`"),
            (br#"{"instruction":"a","output":"b","twin":{"instruction":"c"}}"#, "field `twin`"),
            (
                br#"{"instruction":"a","output":"b","use":"triggered","twin":{"instruction":"a"}}"#,
                "field `twin`: expected the question without its trigger",
            ),
            (b"{\"instruction\":\"\xff\",\"output\":\"b\"}", "line 3"),
        ] {
            let text = [&good[..], b"\n\n", bad].concat();
            let error = read(&text).unwrap_err();
            assert!(error.contains("rows.jsonl, line 3") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let error = read(&vec![b'x'; (json_lines::MAX_LINE_BYTES + 10) as usize]).unwrap_err();
        assert!(error.contains("expected at most"), "{error}");
    }

    #[test]
    fn a_file_without_rows_is_refused() {
        assert!(read(b"\n \n").unwrap_err().contains("at least one row"));
    }

    #[test]
    fn the_digest_ignores_how_the_file_was_written() {
        let one = read(br#"{"instruction":"a","input":"","output":"b"}"#).unwrap();
        let two = read(br#" { "output" : "b", "instruction":"a" } "#).unwrap();
        assert_eq!(rows_sha256(&one), rows_sha256(&two));
    }
}
