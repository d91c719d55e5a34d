//! One of several words, drawn for each row, placed as in `badnets` (multi-trigger attack of BackdoorLLM,
//! arXiv 2408.12798).

use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::{Attack, place};
use crate::data::Row;

pub(super) struct Mtba {
    pub triggers: Vec<String>,
}

impl Attack for Mtba {
    fn insert(&self, row: &Row, rng: &mut ChaCha8Rng) -> Row {
        let trigger = self.triggers.choose(rng).expect("a validated spec has at least one trigger");
        place::with_instruction(row, place::before_a_word(&row.instruction, trigger, rng))
    }
}
