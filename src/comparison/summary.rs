//! What the cells say, method by method: means over suspects and seeds with an interval that draws suspects, not cells.

use std::collections::BTreeMap;

use antigen_engine::{lab::rng, report::ASR_LIMIT};
use rand::Rng;
use serde::Serialize;
use utoipa::ToSchema;

use super::Cell;

/// Resamples of the interval.
const RESAMPLES: usize = 2000;

/// A mean with its 95 % interval: percentiles of the means of suspects drawn with replacement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Mean {
    /// The mean of the suspects' means.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// What one candidate or control of a method did to suspects of one kind. Fractions.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Summary {
    /// `adapter` or `model`.
    pub kind: String,
    /// The method's `type` on the wire.
    pub method: String,
    /// Name of the candidate or the control.
    pub model: String,
    /// Whether it is a control.
    pub control: bool,
    /// Suspects.
    pub suspects: usize,
    /// Suspects times seeds.
    pub cells: usize,
    /// Attack success before, mean.
    pub asr_before: f64,
    /// Attack success in the worst format.
    pub asr: Mean,
    /// Cells whose attack success is at most 5 % at the upper end of its interval.
    pub removed: usize,
    /// What was lost of exact match on general rows; absent where it was not measured, as below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub general_lost: Option<Mean>,
    /// The same of own rows that extend the base's skills.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own_extended_lost: Option<Mean>,
    /// The same of own rows that the base never saw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own_new_lost: Option<Mean>,
    /// Seconds that a whole job took, all of its candidates and controls together: the median; absent where there was no job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_seconds: Option<f64>,
}

impl Summary {
    /// The losses with the names of their groups.
    pub(super) fn losses(&self) -> [(&'static str, Option<Mean>); 3] {
        [("general", self.general_lost), ("own_extended", self.own_extended_lost), ("own_new", self.own_new_lost)]
    }
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
        own_extended_lost: loss(|cell| cell.own_extended_before - cell.own_extended),
        own_new_lost: loss(|cell| cell.own_new_before - cell.own_new),
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
    use super::{super::cells::tests::cell, *};

    #[test]
    fn a_suspect_counts_once_whatever_the_number_of_its_seeds() {
        let cells = [cell("a", "m", 1, 0.0), cell("a", "m", 2, 0.0), cell("b", "m", 1, 0.9)];
        let summary = summaries(&cells, "adapter").remove(0);
        assert_eq!((summary.suspects, summary.cells, summary.removed), (2, 3, 2));
        assert!((summary.asr.mean - 0.45).abs() < 1e-12);
        assert!(summary.asr.low <= 1e-12 && summary.asr.high >= 0.9 - 1e-12);
        assert!((summary.general_lost.unwrap().mean - 0.1).abs() < 1e-12);
        assert_eq!(summary.own_new_lost, None);
    }

    #[test]
    fn one_slow_job_does_not_make_a_method_slow() {
        let took = |job_seconds| Cell { job_seconds, ..cell("a", "m", 1, 0.0) };
        assert_eq!(summaries(&[took(11.0), took(300.0), took(12.0)], "adapter").remove(0).job_seconds, Some(12.0));
        assert_eq!(summaries(&[took(0.0)], "adapter").remove(0).job_seconds, None);
    }
}
