//! Files of JSON lines, read so that a defect is named with its file and line and no file fills the memory.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{EngineError, Result};

/// Longest line that is read.
pub(super) const MAX_LINE_BYTES: u64 = 1 << 20;
/// Most rows that are read.
const MAX_ROWS: usize = 1_000_000;

/// One line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<T> {
    /// Number of the line in its file, from 1.
    pub number: usize,
    /// The value that the line parses to.
    pub value: T,
}

/// Every line of a file of JSON lines; blank ones are skipped, and `check` may refuse the value of a line.
///
/// # Errors
/// [`EngineError::Data`] names file, line and what is wrong there: no such object, the complaint of `check`,
/// a line above one MiB, more than a million rows, or no row at all.
pub fn read_json_lines<T: DeserializeOwned>(path: &Path, check: impl Fn(&T) -> Result<(), String>) -> Result<Vec<T>> {
    Ok(read_lines(path, check)?.into_iter().map(|line| line.value).collect())
}

/// As [`read_json_lines`], with the number of each line.
///
/// # Errors
/// As [`read_json_lines`].
pub fn read_lines<T: DeserializeOwned>(path: &Path, check: impl Fn(&T) -> Result<(), String>) -> Result<Vec<Line<T>>> {
    let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    let mut reader = BufReader::new(File::open(path).map_err(EngineError::io(path))?);
    let mut lines = Vec::new();
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
        if lines.len() == MAX_ROWS {
            return Err(wrong(format!("expected at most {MAX_ROWS} rows, found more")));
        }
        let parsed =
            serde_json::from_slice(&line).map_err(|error| format!("expected one row as a JSON object: {error}"));
        let value = parsed.and_then(|value| check(&value).map(|()| value)).map_err(wrong)?;
        lines.push(Line { number, value });
    }
    if lines.is_empty() {
        return Err(EngineError::Data(format!("{name}: expected at least one row, found none")));
    }
    Ok(lines)
}

/// Refuses a text of blanks.
///
/// # Errors
/// The field by its name.
pub fn not_blank(field: &str, text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err(format!("field `{field}`: expected a text, found nothing but blanks"));
    }
    Ok(())
}
