//! Cells summed up, method by method: means over suspects and seeds with an interval that draws suspects, not
//! cells.

use std::collections::BTreeMap;

use antigen_engine::catalogue::{Mean, Summary};
use antigen_engine::lab::rng;
use antigen_engine::measure::evidence::ASR_LIMIT;
use rand::Rng;

use super::Cell;

/// Resamples of the interval.
const RESAMPLES: usize = 2000;

/// The losses of a summary with the names of their groups.
pub(super) fn losses(summary: &Summary) -> [(&'static str, Option<Mean>); 3] {
    [
        ("general", summary.general_lost),
        ("task_extended", summary.task_extended_lost),
        ("task_new", summary.task_new_lost),
    ]
}

/// Everything that was measured of one kind of suspect, in the order in which it occurs.
pub fn summaries(cells: &[Cell], kind: &str) -> Vec<Summary> {
    let of_kind: Vec<&Cell> = cells.iter().filter(|cell| cell.kind == kind).collect();
    let mut models: Vec<(&str, &str)> = Vec::new();
    for cell in &of_kind {
        let model = (cell.method.as_str(), cell.model.as_str());
        if !models.contains(&model) {
            models.push(model);
        }
    }
    let of = |(method, model): (&str, &str)| -> Vec<&Cell> {
        of_kind.iter().filter(|cell| cell.method == method && cell.model == model).copied().collect()
    };
    models.into_iter().map(|model| summary(&of(model))).collect()
}

fn summary(cells: &[&Cell]) -> Summary {
    let first = cells[0];
    let loss = |pick: fn(&Cell) -> f64| mean(&by_suspect(cells, pick));
    let asr = by_suspect(cells, |cell| cell.asr);
    Summary {
        kind: first.kind.clone(),
        method: first.method.clone(),
        model: first.model.clone(),
        control: first.control,
        suspects: asr.len(),
        cells: cells.len(),
        asr_before: average(&by_suspect(cells, |cell| cell.asr_before)),
        asr: mean(&asr).expect("a cell has an attack success"),
        removed: cells.iter().filter(|cell| cell.asr_high <= ASR_LIMIT).count(),
        general_lost: loss(|cell| cell.general_before - cell.general),
        task_extended_lost: loss(|cell| cell.task_extended_before - cell.task_extended),
        task_new_lost: loss(|cell| cell.task_new_before - cell.task_new),
        job_seconds: median(cells.iter().map(|cell| cell.job_seconds).filter(|seconds| *seconds > 0.0).collect()),
    }
}

/// The lower one of two; jobs share their machine with others, whose load the mean would carry.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied()
}

/// The mean of each suspect over its seeds; what was not measured is left out.
fn by_suspect(cells: &[&Cell], pick: fn(&Cell) -> f64) -> Vec<f64> {
    let mut suspects: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for cell in cells {
        let value = pick(cell);
        if value.is_finite() {
            suspects.entry(&cell.suspect).or_default().push(value);
        }
    }
    suspects.into_values().map(|values| average(&values)).collect()
}

fn average(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn mean(suspects: &[f64]) -> Option<Mean> {
    if suspects.is_empty() {
        return None;
    }
    let mut draws = rng(1, "compare/bootstrap");
    let mut resample = || {
        let drawn: Vec<f64> = (0..suspects.len()).map(|_| suspects[draws.random_range(0..suspects.len())]).collect();
        average(&drawn)
    };
    let mut means: Vec<f64> = (0..RESAMPLES).map(|_| resample()).collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[((RESAMPLES - 1) as f64 * share).round() as usize];
    Some(Mean { mean: average(suspects), low: at(0.025), high: at(0.975) })
}

#[cfg(test)]
mod tests {
    use super::super::cells::tests::cell;
    use super::*;

    #[test]
    fn a_suspect_counts_once_whatever_the_number_of_its_seeds() {
        let cells = [cell("a", "m", 1, 0.0), cell("a", "m", 2, 0.0), cell("b", "m", 1, 0.9)];
        let summary = summaries(&cells, "adapter").remove(0);
        assert_eq!((summary.suspects, summary.cells, summary.removed), (2, 3, 2));
        assert!((summary.asr.mean - 0.45).abs() < 1e-12);
        assert!(summary.asr.low <= 1e-12 && summary.asr.high >= 0.9 - 1e-12);
        assert!((summary.general_lost.unwrap().mean - 0.1).abs() < 1e-12);
        assert_eq!(summary.task_new_lost, None);
    }

    #[test]
    fn one_slow_job_does_not_make_a_method_slow() {
        let took = |job_seconds| Cell { job_seconds, ..cell("a", "m", 1, 0.0) };
        assert_eq!(summaries(&[took(11.0), took(300.0), took(12.0)], "adapter").remove(0).job_seconds, Some(12.0));
        assert_eq!(summaries(&[took(0.0)], "adapter").remove(0).job_seconds, None);
    }
}
