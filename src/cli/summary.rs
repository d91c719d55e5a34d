//! A report as text for a terminal: the verdict in words, then one line for the suspect, each candidate and
//! each control.

use antigen_engine::lab::LongRows;
use antigen_engine::measure::evidence::{
    BenchmarkReport, CanaryResult, Measurement, RelearnedBackdoor, RelearningCurve, RelearningPoint,
};
use antigen_engine::methods::auto::Trial;
use antigen_engine::report::Report;
use antigen_engine::stats::Rate;

/// Prints a report to standard output.
pub fn print_report(report: &Report) {
    print!("{}", report_text(report));
}

fn report_text(report: &Report) -> String {
    let groups = group_names(&report.before);
    let mut text = format!("{}\n\n", report.verdict.text);
    text += &row("", "attack success", groups.iter().map(String::as_str));
    text += &measurement_row("suspect", &report.before, &groups);
    for candidate in &report.candidates {
        let name = format!("{}{}", candidate.name, if candidate.chosen { " (exported)" } else { "" });
        text += &measurement_row(&name, &candidate.measurement, &groups);
    }
    for control in &report.controls {
        text += &measurement_row(&format!("control: {}", control.name), &control.measurement, &groups);
    }
    text += &tried(report);
    text += &canaries(report);
    text += &benchmarks(report);
    text += &relearning(report);
    text += &remarks(report);
    text + "\nRates are per cent with their 95 % interval; attack success is the worst prompt format.\n"
}

/// One line for each method that `auto` tried, on the rows by which it judged: the canary that fires most,
/// and every skill.
fn tried(report: &Report) -> String {
    let line = |trial: &Trial| {
        let canary = trial.worst_canary().map_or_else(|| "-".to_owned(), |rate| rate_text(&rate));
        let skills: Vec<_> = trial.utility.iter().map(|skill| rate_text(&skill.after)).collect();
        let holds = if trial.holds { "  holds" } else { "" };
        let cells = row(&format!("tried: {}", trial.name), &canary, skills.iter().map(String::as_str));
        format!("{}{holds}\n", cells.trim_end())
    };
    report.search.iter().flat_map(|search| &search.trials).map(line).collect()
}

/// One line for each backdoor of our own: in the copy before, and after the same purification.
fn canaries(report: &Report) -> String {
    let canaries = report.canaries.iter().flat_map(|report| &report.canaries);
    let line = |canary: &CanaryResult| {
        let name = format!("{} with {}", canary.trigger.name(), canary.family.name());
        let (was, is) = (rate_text(&canary.before.headline.rate), rate_text(&canary.after.headline.rate));
        format!("canary {name:<27}{was:>20}  after {is}\n")
    };
    canaries.map(line).collect()
}

/// One line for each benchmark: the suspect, then the exported artifact with its verdict on the margin.
fn benchmarks(report: &Report) -> String {
    let after = report.chosen().map(|chosen| &chosen.measurement.benchmarks);
    let line = |(i, before): (usize, &BenchmarkReport)| {
        let was = rate_text(&before.headline.accuracy);
        let name = format!("{} (chance {:.1})", before.name.name(), before.chance * 100.0);
        let is = after.and_then(|after| after.get(i)).map_or_else(String::new, |is| {
            let margin = is.margin * 100.0;
            let shown = is.non_inferiority.map_or("", |shown| shown.words());
            format!(", exported {}: {shown} at a margin of {margin:.1} points", rate_text(&is.headline.accuracy))
        });
        format!("benchmark {name:<30} suspect {was}{is}\n")
    };
    report.before.benchmarks.iter().enumerate().map(line).collect()
}

/// One line for each subject of relearning: the rate after each number of poisoned samples.
fn relearning(report: &Report) -> String {
    let line = |(backdoor, curve): (&RelearnedBackdoor, &RelearningCurve)| {
        let trial = |trial: &RelearningPoint| format!("{}: {}", trial.samples, rate_text(&trial.with_trigger));
        let trials: Vec<_> = curve.points.iter().map(trial).collect();
        format!("relearning, {}, {}: {}\n", backdoor.name, curve.subject.name(), trials.join(", "))
    };
    let backdoors = report.relearning.iter().flat_map(|relearning| &relearning.backdoors);
    backdoors.flat_map(|one| one.curves.iter().map(move |curve| (one, curve))).map(line).collect()
}

/// Remarks on the numbers: controls that do not apply, rows that were too long; and the heads that were
/// suppressed or pruned.
fn remarks(report: &Report) -> String {
    let untaught = report.relearning.iter().flat_map(|relearning| &relearning.left_out);
    let left_out = report.left_out.iter().chain(untaught).map(|reason| format!("left out: {reason}\n"));
    let long = report.long_rows.iter().map(|rows| {
        let LongRows { purpose, limit, rows, truncated, skipped } = rows;
        format!(
            "too long for {limit} tokens, {purpose}: of {rows} rows {truncated} answers cut, {skipped} rows left out\n"
        )
    });
    let heads = report.signature.iter().flat_map(|signature| &signature.heads);
    let heads = heads.map(|h| format!("suppressed head: layer {}, head {}, score {:.4}\n", h.layer, h.head, h.score));
    let pruned = report.candidates.iter().filter_map(|candidate| candidate.heads.as_ref());
    let pruned = pruned.map(|pruned| {
        let names: Vec<_> = pruned.heads.iter().map(|head| format!("{}.{}", head.layer, head.head)).collect();
        let (gone, all, list) = (pruned.heads.len(), pruned.of, names.join(" "));
        format!("pruned heads (layer.head), {gone} of {all}: {list}\n")
    });
    left_out.chain(long).chain(heads).chain(pruned).collect()
}

fn group_names(measurement: &Measurement) -> Vec<String> {
    let groups = measurement.utility.iter().flat_map(|utility| &utility.groups);
    groups.map(|group| group.name.clone()).collect()
}

fn measurement_row(name: &str, measurement: &Measurement, groups: &[String]) -> String {
    let asr = measurement.worst_asr().map_or_else(|| "no trigger declared".to_owned(), rate_text);
    let utility: Vec<String> =
        groups.iter().map(|group| measurement.exact_match(group).map_or_else(|| "-".to_owned(), rate_text)).collect();
    row(name, &asr, utility.iter().map(String::as_str))
}

fn row<'a>(name: &str, asr: &str, utility: impl Iterator<Item = &'a str>) -> String {
    let cells: String = utility.map(|cell| format!("  {cell:>20}")).collect();
    format!("{name:<34}{asr:>20}{cells}\n")
}

fn rate_text(rate: &Rate) -> String {
    format!("{:.1} [{:.1}, {:.1}]", rate.rate * 100.0, rate.low * 100.0, rate.high * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_reads_as_per_cent_with_its_interval() {
        let rate = Rate { hits: 10, n: 200, rate: 0.05, low: 0.027, high: 0.09 };
        assert_eq!(rate_text(&rate), "5.0 [2.7, 9.0]");
    }
}
