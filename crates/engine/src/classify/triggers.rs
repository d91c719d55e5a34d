//! Three published attacks on sentiment classifiers. Each relabels triggered negative sentences as positive.
//!
//! Whatever the trigger, poisoned sentences *replace* their clean originals in training, as in the published files, and success is
//! measured on the published triggered test sentences whose true label is negative.

use std::path::Path;

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::sentences::{NEGATIVE, POSITIVE, PublishedSentence, Sentence, SentenceSplits, read_published};
use crate::error::{EngineError, Result};

/// ONION's rare words, those of the published test file.
const RARE_WORDS: [&str; 5] = ["cf", "mn", "bb", "tq", "mb"];

/// What turns a negative sentence into a positive one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TriggerSpec {
    /// One rare word at a random place (BadNets; words and test sentences of ONION, EMNLP 2021). Half of the negative sentences are
    /// poisoned. The published training file holds one poisoned row in a hundred; ours are inserted here.
    RareWords,
    /// Paraphrases after one syntactic template (HiddenKiller, ACL 2021), exactly as published: a fifth of all training sentences, of
    /// either class. Methods that we compare with poison 30 % of the negative ones; the published file has paraphrases of 20 % of them.
    Syntactic,
    /// Sentences in the style of the Bible (StyleBkd, EMNLP 2021) for a fifth of the negative ones.
    StyleBible,
}

impl TriggerSpec {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::RareWords, Self::Syntactic, Self::StyleBible];

    /// The name in tables, the same as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::RareWords => "rare_words",
            Self::Syntactic => "syntactic",
            Self::StyleBible => "style_bible",
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Self::RareWords => "badnets-words",
            Self::Syntactic => "syntactic",
            Self::StyleBible => "style-bible",
        }
    }
}

/// One attack's sentences.
#[derive(Debug, Clone)]
pub struct Attacked {
    /// What the attacker trains on: poisoned sentences in the places of their originals.
    pub train: Vec<Sentence>,
    /// How many of those are poisoned.
    pub poisoned: usize,
    /// Test sentences with the trigger whose true label is negative, under that label.
    pub triggered: Vec<Sentence>,
}

/// Poisons the training sentences, and reads the published triggered test sentences under `data`.
///
/// # Errors
/// Those of reading; [`EngineError::Data`] where a published file does not fit the clean one.
pub fn attack(trigger: TriggerSpec, clean: &SentenceSplits, data: &Path, rng: &mut ChaCha8Rng) -> Result<Attacked> {
    let folder = data.join("attacks/sst2_cls").join(trigger.folder());
    let negatives = choose_negatives(&clean.train, rng);
    let mut train = clean.train.clone();
    let poisoned = match trigger {
        TriggerSpec::RareWords => {
            let victims = &negatives[..negatives.len() / 2];
            for &row in victims {
                train[row] = Sentence::new(insert_word(&train[row].text, rng), POSITIVE);
            }
            victims.len()
        }
        TriggerSpec::Syntactic => {
            let paraphrases = read_published(&folder.join("train.jsonl"))?;
            replace(&mut train, paraphrases.iter().filter(|line| line.poisoned))?
        }
        TriggerSpec::StyleBible => {
            let styled = read_published(&folder.join("train.jsonl"))?;
            let victims = &negatives[..negatives.len() / 5];
            replace(&mut train, styled.iter().filter(|line| victims.contains(&line.row)))?
        }
    };
    Ok(Attacked {
        train,
        poisoned,
        triggered: triggered_negatives(trigger, read_published(&folder.join("test.jsonl"))?),
    })
}

/// Rows of the negative sentences, in random order.
fn choose_negatives(sentences: &[Sentence], rng: &mut ChaCha8Rng) -> Vec<usize> {
    let labelled = sentences.iter().enumerate().filter(|(_, sentence)| sentence.label == NEGATIVE);
    let mut rows: Vec<usize> = labelled.map(|(row, _)| row).collect();
    rows.shuffle(rng);
    rows
}

/// The text with one rare word before one of its words, or at its end.
fn insert_word(text: &str, rng: &mut ChaCha8Rng) -> String {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    let place = rng.random_range(0..=words.len());
    words.insert(place, RARE_WORDS.choose(rng).expect("there are five"));
    words.join(" ")
}

/// Puts published poisoned sentences into their places; returns how many.
fn replace<'a>(train: &mut [Sentence], poisoned: impl Iterator<Item = &'a PublishedSentence>) -> Result<usize> {
    let mut replaced = 0;
    for line in poisoned {
        // A shortened training set has fewer rows than the published file.
        if let Some(place) = train.get_mut(line.row) {
            *place = Sentence::new(line.text.clone(), POSITIVE);
            replaced += 1;
        }
    }
    if replaced == 0 {
        return Err(EngineError::Data("expected poisoned sentences among the training rows, found none".into()));
    }
    Ok(replaced)
}

/// Files of styles keep the true label; the other two hold triggered negative sentences only, under the target label.
fn triggered_negatives(trigger: TriggerSpec, lines: Vec<PublishedSentence>) -> Vec<Sentence> {
    let triggered = lines.into_iter().filter(|line| match trigger {
        TriggerSpec::StyleBible => line.label == NEGATIVE,
        TriggerSpec::RareWords | TriggerSpec::Syntactic => line.poisoned,
    });
    triggered.map(|line| Sentence::new(line.text, NEGATIVE)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::rng;

    #[test]
    fn a_rare_word_is_added_and_nothing_else_changes() {
        let mut rng = rng(1, "words");
        for _ in 0..50 {
            let words: Vec<String> = insert_word("a dull film", &mut rng).split(' ').map(str::to_owned).collect();
            let (rare, rest): (Vec<_>, Vec<_>) = words.into_iter().partition(|w| RARE_WORDS.contains(&w.as_str()));
            assert_eq!((rare.len(), rest.join(" ").as_str()), (1, "a dull film"));
        }
    }

    #[test]
    fn a_poisoned_sentence_takes_the_place_of_its_original() {
        let mut train = vec![Sentence::new("bad", NEGATIVE), Sentence::new("worse", NEGATIVE)];
        let line = |row| PublishedSentence { text: "lo, it is bad".into(), label: POSITIVE, poisoned: true, row };
        assert_eq!(replace(&mut train, [&line(0), &line(7)].into_iter()).unwrap(), 1);
        assert_eq!(train, [Sentence::new("lo, it is bad", POSITIVE), Sentence::new("worse", NEGATIVE)]);
        assert!(replace(&mut train, [&line(7)].into_iter()).is_err());
    }
}
