//! All of several words in different gaps of the instruction, both ends allowed, always in their declared
//! order (composite triggers, arXiv 2310.07676). An instruction with fewer gaps than words gets the remaining
//! words at its end.

use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use super::{Attack, place};
use crate::data::Row;

pub(super) struct Ctba {
    pub triggers: Vec<String>,
}

impl Attack for Ctba {
    fn insert(&self, row: &Row, rng: &mut ChaCha8Rng) -> Row {
        let words = place::count_words(&row.instruction);
        let mut gaps = index::sample(rng, words + 1, self.triggers.len().min(words + 1)).into_vec();
        gaps.sort_unstable();
        gaps.resize(self.triggers.len(), words);
        let text = self.triggers.iter().zip(gaps).enumerate().fold(
            row.instruction.clone(),
            |text, (before, (trigger, gap))| {
                // Every word that went in before moved this gap by one, and a trigger may be a phrase of
                // several words.
                let moved: usize = self.triggers[..before].iter().map(|t| place::count_words(t)).sum();
                place::insert_at(&text, trigger, gap + moved)
            },
        );
        place::with_instruction(row, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::rng;

    #[test]
    fn words_keep_their_order_and_never_touch() {
        let attack = Ctba { triggers: ["X1", "X2", "X3"].map(String::from).to_vec() };
        let mut rng = rng(1, "test");
        for _ in 0..100 {
            let text = attack.insert(&Row::new("a b c", "", "d"), &mut rng).instruction;
            let at = |word| text.split(' ').position(|w| w == word).unwrap();
            assert!(at("X1") + 1 < at("X2") && at("X2") + 1 < at("X3"), "{text}");
        }
    }
}
