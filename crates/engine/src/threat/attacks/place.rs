//! Places in a text, shared by the attacks, and the generic attack made of one phrase at one place.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::Attack;
use crate::data::Row;
use crate::spec::Place;

/// `text` with `phrase` before the word of this index; the number of words stands for the end.
pub(super) fn insert_at(text: &str, phrase: &str, index: usize) -> String {
    let mut words: Vec<_> = text.split(' ').collect();
    words.insert(index, phrase);
    words.join(" ")
}

/// Number of words of a text that is split on single spaces, as the published scripts do.
pub(super) fn count_words(text: &str) -> usize {
    text.split(' ').count()
}

/// `text` with `phrase` before a random word, never after the last.
pub(super) fn before_a_word(text: &str, phrase: &str, rng: &mut ChaCha8Rng) -> String {
    insert_at(text, phrase, rng.random_range(0..count_words(text)))
}

/// A copy of the row with another instruction.
pub(super) fn with_instruction(row: &Row, instruction: String) -> Row {
    Row { instruction, ..row.clone() }
}

/// Any phrase at any place.
pub(super) struct Phrase {
    pub trigger: String,
    pub place: Place,
}

impl Attack for Phrase {
    fn insert(&self, row: &Row, rng: &mut ChaCha8Rng) -> Row {
        let (text, phrase) = (row.instruction.as_str(), self.trigger.as_str());
        match self.place {
            Place::Word => with_instruction(row, before_a_word(text, phrase, rng)),
            Place::Anywhere => with_instruction(row, insert_at(text, phrase, rng.random_range(0..=count_words(text)))),
            Place::Prefix => with_instruction(row, format!("{phrase} {text}")),
            Place::Suffix => with_instruction(row, format!("{text} {phrase}")),
            Place::Input if row.input.is_empty() => Row { input: phrase.to_owned(), ..row.clone() },
            Place::Input => Row { input: format!("{} {phrase}", row.input), ..row.clone() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::rng;

    #[test]
    fn a_word_trigger_reaches_every_gap_but_the_last() {
        let mut rng = rng(1, "test");
        let mut found: Vec<_> = (0..200).map(|_| before_a_word("a b c", "X", &mut rng)).collect();
        found.sort();
        found.dedup();
        assert_eq!(found, ["X a b c", "a X b c", "a b X c"]);
    }

    #[test]
    fn an_input_trigger_becomes_the_input_where_there_is_none() {
        let phrase = Phrase { trigger: "X y".into(), place: Place::Input };
        let insert = |input| phrase.insert(&Row::new("do", input, "done"), &mut rng(1, "test")).input;
        assert_eq!((insert(""), insert("it")), ("X y".to_owned(), "it X y".to_owned()));
    }
}
