//! One word before a random word of the instruction, never after the last (Gu et al., arXiv 1708.06733, as
//! adapted to text by BackdoorLLM).

use rand_chacha::ChaCha8Rng;

use super::{Attack, place};
use crate::data::Row;

pub(super) struct Badnets {
    pub trigger: String,
}

impl Attack for Badnets {
    fn insert(&self, row: &Row, rng: &mut ChaCha8Rng) -> Row {
        place::with_instruction(row, place::before_a_word(&row.instruction, &self.trigger, rng))
    }
}
