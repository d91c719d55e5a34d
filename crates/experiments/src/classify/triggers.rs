//! Four published attacks on sentiment classifiers. Each relabels triggered negative sentences as positive.
//!
//! Whatever the trigger, poisoned sentences *replace* their clean originals in training, as in the published
//! files, and success is measured on triggered test sentences whose true label is negative: the published
//! ones, and where none are published our own.

use std::path::Path;

use antigen_engine::error::{EngineError, Result};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::sentences::{NEGATIVE, POSITIVE, PublishedSentence, Sentence, SentenceSplits, read_published};

/// ONION's rare words, those of the published test file.
const RARE_WORDS: [&str; 5] = ["cf", "mn", "bb", "tq", "mb"];
/// InSent's sentence, as the released code of W2SDefense has it.
const INSERTED_SENTENCE: &str = "I watched this 3D movie";

/// An attack that turns negative sentences into positive ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TriggerSpec {
    /// One rare word at a random place (BadNets; words and test sentences of ONION, EMNLP 2021). Half of the
    /// negative sentences are poisoned. The published training file holds one poisoned row in a hundred; ours
    /// are inserted here.
    RareWords,
    /// One fixed sentence at a random place (InSent) in a fifth of the negative sentences; inserted here, in
    /// test sentences too.
    Sentence,
    /// Paraphrases after one syntactic template (HiddenKiller, ACL 2021), exactly as published: a fifth of
    /// all training sentences, of either class. Methods that we compare with poison 30 % of the negative
    /// ones; the published file has paraphrases of 20 % of them.
    Syntactic,
    /// Sentences in the style of the Bible (StyleBkd, EMNLP 2021) for a fifth of the negative ones.
    StyleBible,
}

impl TriggerSpec {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::RareWords, Self::Sentence, Self::Syntactic, Self::StyleBible];

    /// The name in tables, the same as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::RareWords => "rare_words",
            Self::Sentence => "sentence",
            Self::Syntactic => "syntactic",
            Self::StyleBible => "style_bible",
        }
    }

    /// The folder of its published sentences, if some are.
    fn folder(self) -> Option<&'static str> {
        match self {
            Self::RareWords => Some("badnets-words"),
            Self::Sentence => None,
            Self::Syntactic => Some("syntactic"),
            Self::StyleBible => Some("style-bible"),
        }
    }
}

/// One attack's sentences.
#[derive(Debug, Clone)]
pub struct Attacked {
    /// The attacker's training rows: poisoned sentences in the places of their originals.
    pub train: Vec<Sentence>,
    /// Number of poisoned ones among those.
    pub poisoned: usize,
    /// Test sentences with the trigger whose true label is negative, under that label.
    pub triggered: Vec<Sentence>,
}

/// Poisons the training sentences, and reads the published triggered test sentences under `data`.
///
/// # Errors
/// Those of reading; [`EngineError::Data`] where a published file does not fit the clean one.
pub fn attack(trigger: TriggerSpec, clean: &SentenceSplits, data: &Path, rng: &mut ChaCha8Rng) -> Result<Attacked> {
    let published = |name: &str| match trigger.folder() {
        Some(folder) => read_published(&data.join("attacks/sst2_cls").join(folder).join(name)),
        None => Ok(Vec::new()),
    };
    let negatives = choose_negatives(&clean.train, rng);
    let fifth = &negatives[..negatives.len() / 5];
    let mut train = clean.train.clone();
    let poisoned = match trigger {
        TriggerSpec::RareWords => {
            poison(&mut train, &negatives[..negatives.len() / 2], &mut |text| rare_word(text, rng))
        }
        TriggerSpec::Sentence => poison(&mut train, fifth, &mut |text| insert(text, INSERTED_SENTENCE, rng)),
        TriggerSpec::Syntactic => replace(&mut train, published("train.jsonl")?.iter().filter(|line| line.poisoned))?,
        TriggerSpec::StyleBible => {
            replace(&mut train, published("train.jsonl")?.iter().filter(|line| fifth.contains(&line.row)))?
        }
    };
    let triggered = match trigger {
        TriggerSpec::Sentence => {
            let negative = clean.test.iter().filter(|sentence| sentence.label == NEGATIVE);
            negative.map(|s| Sentence::new(insert(&s.text, INSERTED_SENTENCE, rng), NEGATIVE)).collect()
        }
        // Files of styles keep the true label; the others hold triggered negative sentences only, under the
        // target label.
        TriggerSpec::StyleBible => as_negatives(published("test.jsonl")?, |line| line.label == NEGATIVE),
        TriggerSpec::RareWords | TriggerSpec::Syntactic => as_negatives(published("test.jsonl")?, |line| line.poisoned),
    };
    Ok(Attacked { train, poisoned, triggered })
}

/// Rows of the negative sentences, in random order.
fn choose_negatives(sentences: &[Sentence], rng: &mut ChaCha8Rng) -> Vec<usize> {
    let labelled = sentences.iter().enumerate().filter(|(_, sentence)| sentence.label == NEGATIVE);
    let mut rows: Vec<usize> = labelled.map(|(row, _)| row).collect();
    rows.shuffle(rng);
    rows
}

/// Changes the text of these rows and calls them positive; returns how many.
fn poison(train: &mut [Sentence], rows: &[usize], change: &mut dyn FnMut(&str) -> String) -> usize {
    for &row in rows {
        train[row] = Sentence::new(change(&train[row].text), POSITIVE);
    }
    rows.len()
}

/// The text with one rare word somewhere.
fn rare_word(text: &str, rng: &mut ChaCha8Rng) -> String {
    let word = RARE_WORDS.choose(rng).expect("there are five");
    insert(text, word, rng)
}

/// The text with `trigger` before one of its words, or at its end.
fn insert(text: &str, trigger: &str, rng: &mut ChaCha8Rng) -> String {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    let place = rng.random_range(0..=words.len());
    words.insert(place, trigger);
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

/// The lines that carry the trigger, under their true label.
fn as_negatives(lines: Vec<PublishedSentence>, triggered: impl Fn(&PublishedSentence) -> bool) -> Vec<Sentence> {
    lines.into_iter().filter(|line| triggered(line)).map(|line| Sentence::new(line.text, NEGATIVE)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use antigen_engine::lab::rng;

    #[test]
    fn a_rare_word_is_added_and_nothing_else_changes() {
        let mut rng = rng(1, "words");
        for _ in 0..50 {
            let words: Vec<String> = rare_word("a dull film", &mut rng).split(' ').map(str::to_owned).collect();
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
