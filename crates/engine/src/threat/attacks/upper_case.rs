//! The whole instruction in capital letters: a trigger that is a style and no word (after StyleBkd, arXiv
//! 2110.07139, which rewrites sentences in the style of other texts; capitals need no second model).

use rand_chacha::ChaCha8Rng;

use super::{Attack, place};
use crate::data::Row;

pub(super) struct UpperCase;

impl Attack for UpperCase {
    fn insert(&self, row: &Row, _: &mut ChaCha8Rng) -> Row {
        place::with_instruction(row, row.instruction.to_uppercase())
    }
}
