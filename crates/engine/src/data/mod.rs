//! Rows: instructions with their answers, read from hostile files and split without overlap.
//!
//! [`Row`] and [`read_rows`] are here; `split.rs` decides which row heals, which makes pairs and which measures; `prompt.rs` turns rows
//! into tokens.

mod prompt;
mod split;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use prompt::{ALPACA_PREAMBLE, Prompter};
pub use split::{OwnRows, TrainSplit, split_own_rows, split_train_rows};

use crate::error::{EngineError, Result};
use crate::lab::hex;

/// An instruction, perhaps with an input, and its right answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What to do.
    pub instruction: String,
    /// What to do it with; often empty.
    #[serde(default)]
    pub input: String,
    /// The right answer.
    pub output: String,
    /// Which group of the caller's own rows this one belongs to, such as `new` or `extended`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What an own row is for; without it the row is assigned by lot.
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub usage: Option<RowUse>,
}

/// What one of the caller's own rows is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowUse {
    /// Joins healing.
    Heal,
    /// Measures the adapter's own skill.
    Measure,
}

impl Row {
    /// A row without kind and use.
    pub fn new(instruction: impl Into<String>, input: impl Into<String>, output: impl Into<String>) -> Self {
        Self { instruction: instruction.into(), input: input.into(), output: output.into(), kind: None, usage: None }
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

/// Longest line that is read.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Most rows that are read.
const MAX_ROWS: usize = 1_000_000;

/// Reads a file of JSON lines. Blank lines are skipped.
///
/// # Errors
/// [`EngineError::Data`] names file, line and what is wrong there: not JSON, an unknown or missing field, a blank instruction or answer,
/// a line above one MiB, more than a million rows, or no row at all.
pub fn read_rows(path: &Path) -> Result<Vec<Row>> {
    let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    let mut reader = BufReader::new(File::open(path).map_err(EngineError::io(path))?);
    let mut rows = Vec::new();
    for number in 1.. {
        let mut line = Vec::new();
        reader.by_ref().take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut line).map_err(EngineError::io(path))?;
        if line.is_empty() {
            break;
        }
        let wrong = |why: String| EngineError::Data(format!("{name}, line {number}: {why}"));
        if line.len() as u64 > MAX_LINE_BYTES {
            return Err(wrong(format!("expected at most {MAX_LINE_BYTES} bytes, found more")));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if rows.len() == MAX_ROWS {
            return Err(wrong(format!("expected at most {MAX_ROWS} rows, found more")));
        }
        rows.push(parse_row(&line).map_err(wrong)?);
    }
    if rows.is_empty() {
        return Err(EngineError::Data(format!("{name}: expected at least one row, found none")));
    }
    Ok(rows)
}

fn parse_row(line: &[u8]) -> Result<Row, String> {
    let row: Row =
        serde_json::from_slice(line).map_err(|error| format!("expected one row as a JSON object: {error}"))?;
    for (field, text) in [("instruction", &row.instruction), ("output", &row.output)] {
        if text.trim().is_empty() {
            return Err(format!("field `{field}`: expected a text, found nothing but blanks"));
        }
    }
    match &row.kind {
        Some(kind) if !is_kind(kind) => Err("field `kind`: expected 1 to 32 letters, digits, `_` or `-`".into()),
        _ => Ok(row),
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
            (b"{\"instruction\":\"\xff\",\"output\":\"b\"}", "line 3"),
        ] {
            let text = [&good[..], b"\n\n", bad].concat();
            let error = read(&text).unwrap_err();
            assert!(error.contains("rows.jsonl, line 3") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let error = read(&vec![b'x'; (MAX_LINE_BYTES + 10) as usize]).unwrap_err();
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
