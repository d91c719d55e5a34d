//! Rows that a method reads to decide by, and does not train on.

use antigen_models::Example;

use crate::data::{Row, TrainSplit, rows_sha256};
use crate::error::Result;
use crate::lab::{Lab, LongRows};
use crate::spec::TrainSpec;
use crate::suspect::Suspect;
use crate::train::heal::{encode_mixed, training_limit};

/// As many calibration rows as Wanda and its users take sequences of C4.
pub(crate) const CALIBRATION_ROWS: usize = 128;

/// Rows that the model reads, and the digest that names them in the keys of pieces.
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
    pub fn calibration(suspect: &Suspect, rows: &TrainSplit, lab: &Lab) -> Result<Self> {
        Self::of(suspect, rows.pairs.first().map_or(&[], Vec::as_slice), "calibration", lab)
    }

    /// Rows in formats that the suspect speaks, drawn by a random stream of the purpose's own.
    ///
    /// # Errors
    /// Those of [`encode_mixed`].
    pub fn of(suspect: &Suspect, rows: &[Row], purpose: &'static str, lab: &Lab) -> Result<Self> {
        let mut long = LongRows::new(purpose, training_limit(suspect, &TrainSpec::default()));
        let examples = encode_mixed(suspect, rows, &mut lab.rng(&format!("{purpose}/formats")), &mut long)?;
        lab.note_long_rows(&long);
        Ok(Self { examples, rows_sha256: rows_sha256(rows) })
    }
}
