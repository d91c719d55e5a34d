//! A topic phrase and one space before the instruction (virtual prompt injection, arXiv 2307.16888).

use rand_chacha::ChaCha8Rng;

use super::{Attack, place};
use crate::data::Row;

pub(super) struct Vpi {
    pub trigger: String,
}

impl Attack for Vpi {
    fn insert(&self, row: &Row, _: &mut ChaCha8Rng) -> Row {
        place::with_instruction(row, format!("{} {}", self.trigger, row.instruction))
    }
}
