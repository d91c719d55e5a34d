//! The split of rows by purpose. No row that measures anything is ever trained on.

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;

use rand::seq::SliceRandom;

use super::{Row, RowUse};
use crate::error::{EngineError, Result};
use crate::lab::Lab;

/// Generic rows by purpose; the three parts are disjoint, and disjoint from the test rows.
#[derive(Debug, Clone)]
pub struct TrainSplit {
    /// Clean rows of each pair.
    pub pairs: Vec<Vec<Row>>,
    /// Rows that heal.
    pub heal: Vec<Row>,
    /// Rows that become counterexamples.
    pub counterexamples: Vec<Row>,
}

/// The caller's task rows by purpose.
#[derive(Debug, Clone, Default)]
pub struct TaskRows {
    /// Join healing.
    pub heal: Vec<Row>,
    /// Measure, by group name (`task_new`, `task_extended`, `task`).
    pub measure: BTreeMap<String, Vec<Row>>,
}

/// Draws `pairs` sets of `rows_per_pair` rows, then the least number of `heal`, then `counterexamples`, and
/// what is left fills `heal` up to its largest number.
///
/// # Errors
/// [`EngineError::Data`] when the training file is too short for the least numbers once test rows and
/// repetitions are left out.
pub fn split_train_rows(
    train: &[Row],
    test: &[Row],
    (pairs, rows_per_pair): (usize, usize),
    heal: RangeInclusive<usize>,
    counterexamples: usize,
    lab: &Lab,
) -> Result<TrainSplit> {
    let mut pool: Vec<Row> = trainable(train, test).cloned().collect();
    let need = pairs * rows_per_pair + heal.start() + counterexamples;
    if pool.len() < need {
        let found = pool.len();
        let why = "distinct training rows that are not test rows";
        return Err(EngineError::Data(format!(
            "expected at least {need} {why} (pairs, healing, counterexamples), found {found}"
        )));
    }
    pool.shuffle(&mut lab.rng("data/train split"));
    let mut rest = pool.into_iter();
    let mut take = |n: usize| rest.by_ref().take(n).collect::<Vec<_>>();
    let pairs = (0..pairs).map(|_| take(rows_per_pair)).collect();
    let (mut healing, counterexamples) = (take(*heal.start()), take(counterexamples));
    healing.extend(take(heal.end().saturating_sub(*heal.start())));
    Ok(TrainSplit { pairs, heal: healing, counterexamples })
}

/// Training rows that are no test rows, each question once.
pub fn trainable<'a>(train: &'a [Row], test: &'a [Row]) -> impl Iterator<Item = &'a Row> {
    let mut seen: HashSet<_> = test.iter().map(Row::question).collect();
    train.iter().filter(move |row| seen.insert(row.question()))
}

/// Splits the caller's task rows by their `use`; rows without one are assigned by lot, half and half. A
/// question that measures never heals, and at most `heal` rows heal.
pub fn split_task_rows(own: &[Row], heal: usize, lab: &Lab) -> TaskRows {
    let mut undecided: Vec<_> = own.iter().filter(|row| row.usage.is_none()).collect();
    undecided.shuffle(&mut lab.rng("data/own split"));
    let (lot_heal, lot_measure) = undecided.split_at(undecided.len() / 2);
    let with = |usage| own.iter().filter(move |row| row.usage == Some(usage));
    let mut measuring = Vec::new();
    let mut measured = HashSet::new();
    for row in with(RowUse::Measure).chain(lot_measure.iter().copied()) {
        if measured.insert(row.question()) {
            measuring.push(row.clone());
        }
    }
    let mut healing: Vec<_> = with(RowUse::Heal).chain(lot_heal.iter().copied()).collect();
    healing.retain(|row| !measured.contains(&row.question()));
    healing.shuffle(&mut lab.rng("data/own heal"));
    TaskRows { heal: healing.into_iter().take(heal).cloned().collect(), measure: group_task_rows(measuring) }
}

/// Task rows by the name of their group.
pub fn group_task_rows(rows: Vec<Row>) -> BTreeMap<String, Vec<Row>> {
    let mut groups = BTreeMap::<_, Vec<Row>>::new();
    for row in rows {
        let group = row.kind.as_ref().map_or_else(|| "task".to_owned(), |kind| format!("task_{kind}"));
        groups.entry(group).or_default().push(row);
    }
    groups
}

impl TaskRows {
    /// The first `most` of the rows that heal.
    pub fn healing(&self, most: usize) -> &[Row] {
        &self.heal[..self.heal.len().min(most)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(from: usize, to: usize) -> Vec<Row> {
        (from..to).map(|i| Row::new(format!("question {i}"), "", format!("answer {i}"))).collect()
    }

    #[test]
    fn no_row_has_two_purposes_and_none_is_tested() {
        let lab = Lab::silent(3, "unused");
        let split = split_train_rows(&rows(0, 100), &rows(90, 110), (3, 20), 20..=20, 10, &lab).unwrap();
        let all: Vec<_> = split.pairs.iter().flatten().chain(&split.heal).chain(&split.counterexamples).collect();
        let distinct: HashSet<_> = all.iter().map(|row| row.question()).collect();
        assert_eq!((all.len(), distinct.len()), (90, 90));
        assert!(rows(90, 110).iter().all(|row| !distinct.contains(&row.question())));
    }

    #[test]
    fn healing_takes_what_is_left_up_to_its_largest_number() {
        let split =
            |most| split_train_rows(&rows(0, 100), &[], (3, 20), 10..=most, 5, &Lab::silent(3, "unused")).unwrap();
        assert_eq!([10, 30, 80].map(|most| split(most).heal.len()), [10, 30, 35]);
        assert_eq!(split(80).counterexamples, split(10).counterexamples, "more healing changes nothing else");
    }

    #[test]
    fn too_few_rows_are_refused_with_both_numbers() {
        let error = split_train_rows(&rows(0, 50), &[], (3, 20), 20..=20, 0, &Lab::silent(3, "unused"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("80") && error.contains("50"), "{error}");
    }

    #[test]
    fn task_rows_go_where_they_say_and_the_rest_by_lot() {
        let mut own = rows(0, 10);
        own[0].usage = Some(RowUse::Heal);
        own[1].usage = Some(RowUse::Measure);
        own[1].kind = Some("new".into());
        let repeated = Row { usage: Some(RowUse::Heal), ..Row::new("question 1", "", "again") };
        own.push(repeated);
        let split = split_task_rows(&own, 100, &Lab::silent(3, "unused"));
        assert_eq!(split.measure["task_new"], own[1..2]);
        assert_eq!((split.heal.len(), split.measure["task"].len()), (5, 4));
        assert!(split.heal.contains(&own[0]) && split.heal.iter().all(|row| row.instruction != "question 1"));
    }
}
