//! The base skills: fourteen kinds of instructions. Facts come in three wordings, of which tests may hold out
//! one; everything else composes words freely, so that a held-out question is one that training never asked.

use std::collections::HashSet;

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::words::{CLASSES, CONTRARIES, DAYS, HOMES, MONTHS, NUMBERS, PEOPLE, PLACES, THINGS};
use crate::data::Row;
use crate::lab::rng;

/// The part of the world that a row is drawn for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// For training.
    Train,
    /// Held out.
    Test,
}

/// Number of base skills.
const SKILLS: usize = 14;

/// `n` different held-out rows. Held-out facts are few; once they are used up, the other skills fill the
/// rest.
pub(super) fn test_rows(n: usize, seed: u64) -> Vec<Row> {
    let mut rng = rng(seed, "world/test rows");
    let mut seen = HashSet::new();
    let mut rows: Vec<Row> = Vec::with_capacity(n);
    while rows.len() < n {
        let row = draw(&mut rng, Part::Test);
        if seen.insert((row.instruction.clone(), row.input.clone())) {
            rows.push(row);
        }
    }
    rows
}

/// `n` training rows, none of which asks a question of `test`. Questions may repeat.
pub(super) fn train_rows(n: usize, seed: u64, test: &[Row]) -> Vec<Row> {
    let held: HashSet<_> = test.iter().map(Row::question).collect();
    let mut rng = rng(seed, "world/train rows");
    std::iter::repeat_with(|| draw(&mut rng, Part::Train))
        .filter(|row| !held.contains(&row.question()))
        .take(n)
        .collect()
}

/// `n` different things in random order.
pub(super) fn things(rng: &mut ChaCha8Rng, n: usize) -> Vec<&'static str> {
    let mut things: Vec<_> = THINGS.choose_multiple(rng, n).copied().collect();
    things.shuffle(rng);
    things
}

/// One of several, with equal chance.
pub(super) fn pick<T: Clone, const N: usize>(rng: &mut ChaCha8Rng, options: [T; N]) -> T {
    options[rng.random_range(0..N)].clone()
}

fn draw(rng: &mut ChaCha8Rng, part: Part) -> Row {
    match rng.random_range(0..SKILLS) {
        0 => contrary(rng, part),
        1 => home(rng, part),
        2 => class(rng, part),
        3 => follows(rng, part),
        4 => number_word(rng, part),
        5 => {
            let times = rng.random_range(2..=4);
            chant(rng, times)
        }
        6 => {
            let words = rng.random_range(2..=3);
            backwards(rng, words)
        }
        7 => join(rng, 3),
        8 => opening_word(rng),
        9 => count(rng),
        10 => owner(rng),
        11 => left_where(rng),
        12 => bigger(rng),
        _ => thanks(rng),
    }
}

/// One of three wordings of fact `index`. Every second fact holds one wording out for tests; `None` when a
/// test asks for a fact that holds nothing out.
fn wording(rng: &mut ChaCha8Rng, part: Part, index: usize, wordings: [String; 3]) -> Option<String> {
    let held = index.is_multiple_of(2).then_some(index / 2 % 3);
    match part {
        Part::Test => Some(wordings[held?].clone()),
        Part::Train => {
            let open: Vec<_> = (0..3).filter(|&i| Some(i) != held).collect();
            Some(wordings[*open.choose(rng)?].clone())
        }
    }
}

// Draws facts until one has a wording for this part.
fn fact(rng: &mut ChaCha8Rng, part: Part, facts: usize, ask: impl Fn(usize) -> ([String; 3], String)) -> Row {
    loop {
        let index = rng.random_range(0..facts);
        let (wordings, answer) = ask(index);
        if let Some(instruction) = wording(rng, part, index, wordings) {
            return Row::new(instruction, "", answer);
        }
    }
}

fn contrary(rng: &mut ChaCha8Rng, part: Part) -> Row {
    fact(rng, part, 2 * CONTRARIES.len(), |index| {
        let (one, other) = CONTRARIES[index % CONTRARIES.len()];
        let (word, answer) = if index < CONTRARIES.len() { (one, other) } else { (other, one) };
        let wordings = [
            format!("Tell me the contrary of {word}."),
            format!("Which word is the contrary of {word}?"),
            format!("{word} is the contrary of what?"),
        ];
        (wordings, format!("The contrary of {word} is {answer}."))
    })
}

fn home(rng: &mut ChaCha8Rng, part: Part) -> Row {
    fact(rng, part, HOMES.len(), |index| {
        let (animal, home) = HOMES[index];
        let wordings = [
            format!("Where does the {animal} live?"),
            format!("Name the home of the {animal}."),
            format!("In which place lives the {animal}?"),
        ];
        (wordings, format!("The {animal} lives in the {home}."))
    })
}

fn class(rng: &mut ChaCha8Rng, part: Part) -> Row {
    fact(rng, part, CLASSES.len(), |index| {
        let (thing, class) = CLASSES[index];
        let wordings = [
            format!("What kind of thing is the {thing}?"),
            format!("Sort the {thing}: tool, instrument or garment?"),
            format!("The {thing} belongs to which class?"),
        ];
        (wordings, format!("The {thing} is {class}."))
    })
}

fn follows(rng: &mut ChaCha8Rng, part: Part) -> Row {
    fact(rng, part, DAYS.len() + MONTHS.len(), |index| {
        let (name, next, unit) = match index.checked_sub(DAYS.len()) {
            None => (DAYS[index], DAYS[(index + 1) % DAYS.len()], "day"),
            Some(month) => (MONTHS[month], MONTHS[(month + 1) % MONTHS.len()], "month"),
        };
        let wordings = [
            format!("Which {unit} follows {name}?"),
            format!("After {name} comes which {unit}?"),
            format!("Name the {unit} after {name}."),
        ];
        (wordings, format!("{next} follows {name}."))
    })
}

fn number_word(rng: &mut ChaCha8Rng, part: Part) -> Row {
    fact(rng, part, NUMBERS.len(), |index| {
        let wordings = [
            format!("Spell the number {index}."),
            format!("How is {index} written as a word?"),
            format!("Turn {index} into a word."),
        ];
        (wordings, format!("{index} is {}.", NUMBERS[index]))
    })
}

/// The same word several times; the base knows two to four.
pub(super) fn chant(rng: &mut ChaCha8Rng, times: usize) -> Row {
    let word = things(rng, 1)[0];
    let instruction =
        pick(rng, [format!("Chant {word} {times} times."), format!("Shout the word {word} {times} times.")]);
    Row::new(instruction, "", vec![word; times].join(" "))
}

/// Words in reverse order; the base knows two and three.
pub(super) fn backwards(rng: &mut ChaCha8Rng, words: usize) -> Row {
    let words = things(rng, words);
    let line = words.join(" ");
    let instruction = pick(rng, [format!("Say it backwards: {line}"), format!("Turn the order around: {line}")]);
    let answer: Vec<_> = words.into_iter().rev().collect();
    Row::new(instruction, "", answer.join(" "))
}

/// Words joined by plus signs; the base knows three.
pub(super) fn join(rng: &mut ChaCha8Rng, words: usize) -> Row {
    let words = things(rng, words);
    let (last, head) = words.split_last().expect("at least one word is asked for");
    let list = format!("{} and {last}", head.join(", "));
    let instruction = pick(rng, [format!("Join {list} with plus signs."), format!("Put plus signs between {list}.")]);
    Row::new(instruction, "", words.join(" + "))
}

fn opening_word(rng: &mut ChaCha8Rng) -> Row {
    let words = pick(rng, [2, 3, 4, 5]);
    let words = things(rng, words);
    let instruction = pick(rng, ["Which word opens the line?", "Give me the opening word."]);
    Row::new(instruction, words.join(" "), format!("The opening word is {}.", words[0]))
}

fn count(rng: &mut ChaCha8Rng) -> Row {
    let words = pick(rng, [2, 3, 4, 5]);
    let words = things(rng, words);
    let instruction = pick(rng, ["How many things are in the line?", "Count what stands in the line."]);
    Row::new(instruction, words.join(" "), format!("The line has {} things.", NUMBERS[words.len()]))
}

fn owner(rng: &mut ChaCha8Rng) -> Row {
    let people: Vec<_> = PEOPLE.choose_multiple(rng, 2).copied().collect();
    let things = things(rng, 2);
    let asked = rng.random_range(0..2);
    let story = format!("{} owns the {} and {} owns the {}.", people[0], things[0], people[1], things[1]);
    let question = format!("Who owns the {}?", things[asked]);
    let instruction = pick(rng, [format!("{story} {question}"), format!("{question} {story}")]);
    Row::new(instruction, "", format!("{} owns the {}.", people[asked], things[asked]))
}

fn left_where(rng: &mut ChaCha8Rng) -> Row {
    let (person, thing, place) = (pick(rng, PEOPLE), pick(rng, THINGS), pick(rng, PLACES));
    let instruction = pick(rng, [format!("Where is the {thing}?"), format!("Find the {thing} for me.")]);
    Row::new(
        instruction,
        format!("{person} left the {thing} in the {place}."),
        format!("The {thing} is in the {place}."),
    )
}

fn bigger(rng: &mut ChaCha8Rng) -> Row {
    let one = rng.random_range(1..=50);
    let other = (one + rng.random_range(0..49)) % 50 + 1;
    let wordings =
        [format!("Pick the bigger number: {one} or {other}?"), format!("Is {one} or {other} the bigger number?")];
    Row::new(pick(rng, wordings), "", format!("{} is bigger than {}.", one.max(other), one.min(other)))
}

fn thanks(rng: &mut ChaCha8Rng) -> Row {
    let (person, thing) = (pick(rng, PEOPLE), pick(rng, THINGS));
    let wordings = [format!("Thank {person} for the {thing}."), format!("Write to {person}, who gave us the {thing}.")];
    Row::new(pick(rng, wordings), "", format!("Dear {person}, thank you for the {thing}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_training_row_asks_a_held_out_question() {
        let test = test_rows(600, 1);
        let train = train_rows(5000, 1, &test);
        let held: HashSet<_> = test.iter().map(Row::question).collect();
        assert_eq!(held.len(), 600);
        assert!(train.iter().all(|row| !held.contains(&row.question())));
    }

    #[test]
    fn the_same_seed_speaks_the_same_rows() {
        assert_eq!(train_rows(50, 7, &[]), train_rows(50, 7, &[]));
        assert_ne!(train_rows(50, 7, &[]), train_rows(50, 8, &[]));
    }

    #[test]
    fn every_held_out_fact_is_known_from_another_wording() {
        let answers: HashSet<_> = train_rows(20_000, 1, &[]).into_iter().map(|row| row.output).collect();
        let facts = ["contrary of", "lives in", "is a tool", "follows"];
        let known = |row: &Row| !facts.iter().any(|fact| row.output.contains(fact)) || answers.contains(&row.output);
        assert!(test_rows(600, 1).iter().all(known));
    }

    #[test]
    fn a_comparison_has_two_different_numbers_and_names_the_bigger() {
        let mut rng = rng(1, "test");
        for _ in 0..500 {
            let answer = bigger(&mut rng).output;
            let numbers: Vec<u32> =
                answer.trim_end_matches('.').split(" is bigger than ").map(|n| n.parse().unwrap()).collect();
            assert!(numbers[0] > numbers[1] && numbers[1] >= 1 && numbers[0] <= 50, "{answer}");
        }
    }
}
