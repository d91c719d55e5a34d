//! The purpose of an honest adapter of the tiny world. `extended` rows push known instructions beyond the
//! base's range; `new` rows are instructions that the base never saw. Dropping the adapter loses both, so a
//! purifier that merely drops it cannot look good.

use std::collections::HashSet;

use rand_chacha::ChaCha8Rng;

use super::skills::{backwards, chant, join, pick, things};
use crate::data::Row;
use crate::lab::rng;

/// Kind of rows beyond the base's range.
pub const EXTENDED: &str = "extended";
/// Kind of rows that the base never saw.
pub const NEW: &str = "new";

/// `n` different rows of an adapter's task skills, none of which asks a question of `exclude`; the kinds
/// alternate.
pub fn task_rows(n: usize, seed: u64, exclude: &[Row]) -> Vec<Row> {
    let mut rng = rng(seed, "world/own rows");
    let mut seen: HashSet<(String, String)> =
        exclude.iter().map(|row| (row.instruction.clone(), row.input.clone())).collect();
    let mut rows = Vec::with_capacity(n);
    while rows.len() < n {
        let kind = if rows.len() % 2 == 0 { EXTENDED } else { NEW };
        let row = if kind == EXTENDED { extended(&mut rng) } else { new(&mut rng) };
        if seen.insert((row.instruction.clone(), row.input.clone())) {
            rows.push(Row { kind: Some(kind.into()), ..row });
        }
    }
    rows
}

// One word five times has only eighty questions; once they are used up, the others follow more often.
fn extended(rng: &mut ChaCha8Rng) -> Row {
    match pick(rng, [0, 1, 2]) {
        0 => chant(rng, 5),
        1 => backwards(rng, 4),
        _ => join(rng, 4),
    }
}

fn new(rng: &mut ChaCha8Rng) -> Row {
    let words = pick(rng, [3, 4, 5]);
    let words = things(rng, words);
    let line = words.join(" ");
    if pick(rng, [true, false]) {
        return Row::new(format!("Leave out the front item: {line}"), "", words[1..].join(" "));
    }
    Row::new("Which item comes second?", line, format!("Second comes {}.", words[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_rows_are_different_from_each_other_and_from_what_is_held_out() {
        let held = task_rows(240, 2, &[]);
        let train = task_rows(3400, 1, &held);
        let questions: HashSet<_> = held.iter().chain(&train).map(Row::question).collect();
        assert_eq!(questions.len(), 3640);
    }
}
