//! Rows that a method reads and does not train on: what it decides by.

use antigen_models::Example;

use crate::data::{Row, TrainSplit, rows_sha256};
use crate::error::Result;
use crate::heal::{encode_mixed, training_limit};
use crate::lab::Lab;
use crate::report::LongRows;
use crate::spec::TrainSpec;
use crate::suspect::Suspect;

/// Rows that the model reads, and what names them in the keys of pieces.
pub struct ReadRows {
    /// The rows as tokens, prompts with their answers.
    pub examples: Vec<Example>,
    /// Digest of the rows.
    pub rows_sha256: String,
}

impl ReadRows {
    /// The split's first set of pairs, by whose activations weights are pruned.
    ///
    /// # Errors
    /// Those of [`encode_mixed`].
    pub fn calibration(suspect: &Suspect, rows: &TrainSplit, long_rows: &mut Vec<LongRows>, lab: &Lab) -> Result<Self> {
        Self::of(suspect, rows.pairs.first().map_or(&[], Vec::as_slice), "calibration", long_rows, lab)
    }

    /// Rows in the formats that the suspect speaks, which a stream of the purpose's own draws.
    ///
    /// # Errors
    /// Those of [`encode_mixed`].
    pub fn of(
        suspect: &Suspect,
        rows: &[Row],
        purpose: &'static str,
        long_rows: &mut Vec<LongRows>,
        lab: &Lab,
    ) -> Result<Self> {
        let mut long = LongRows::new(purpose, training_limit(suspect, &TrainSpec::default()));
        let examples = encode_mixed(suspect, rows, &mut lab.rng(&format!("{purpose}/formats")), &mut long)?;
        long_rows.push(long);
        Ok(Self { examples, rows_sha256: rows_sha256(rows) })
    }
}
