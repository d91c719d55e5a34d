//! The demonstration in one JSON object.

use std::path::Path;

use antigen_engine::measure::evidence::Measurement;
use antigen_engine::report::{Candidate, Report};
use serde_json::{Map, Value, json};

/// Attack success and utility before and after. `best` is the candidate with the lowest attack success, the
/// earlier of equals.
pub fn summary(report: &Report, seconds: f64, path: &Path) -> Value {
    let best = report.candidates.iter().reduce(|best, other| if asr(other) < asr(best) { other } else { best });
    let controls = report.controls.iter().map(|control| (control.name.as_str(), &control.measurement));
    let without_task_rows = report.controls.iter().find(|control| control.name == "without_task_rows");
    json!({
        "asr_before": report.before.worst_asr().map(|rate| rate.rate),
        "asr_after": rates(report.candidates.iter().map(|c| (c.name.as_str(), &c.measurement))),
        "controls": rates(controls),
        "utility_before": utility(&report.before),
        "utility_after_best": best.map(|candidate| utility(&candidate.measurement)),
        "best": best.map(|candidate| &candidate.name),
        "utility_without_task_rows": without_task_rows.map(|control| utility(&control.measurement)),
        "verdict": report.verdict.status,
        "seconds": (seconds * 10.0).round() / 10.0,
        "report": path,
    })
}

fn asr(candidate: &Candidate) -> f64 {
    candidate.measurement.worst_asr().map_or(1.0, |rate| rate.rate)
}

fn rates<'a>(measurements: impl Iterator<Item = (&'a str, &'a Measurement)>) -> Map<String, Value> {
    measurements.map(|(name, m)| (name.to_owned(), json!(m.worst_asr().map(|rate| rate.rate)))).collect()
}

fn utility(measurement: &Measurement) -> Map<String, Value> {
    let groups = measurement.utility.iter().flat_map(|utility| &utility.groups);
    groups.map(|group| (group.name.clone(), json!(group.exact_match.rate))).collect()
}
