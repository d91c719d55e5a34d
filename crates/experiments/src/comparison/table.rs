//! The comparison in Markdown.

use antigen_engine::catalogue::{Mean, Summary};

use super::summary::{losses, summaries};
use super::{Cell, KINDS};

/// Adapters and whole models apart; controls in italics.
pub fn table(cells: &[Cell]) -> String {
    KINDS.map(|(kind, heading)| table_of(heading, &summaries(cells, kind))).concat()
}

/// One table under its heading; nothing without rows.
pub(super) fn table_of(heading: &str, rows: &[Summary]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let head = format!(
        "{heading}:\n\n\
         | method | suspects, runs | attack success, % | shown removed | general lost, points | task_extended lost | task_new lost | seconds a job |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    );
    head + &rows.iter().map(row).collect::<String>() + "\n"
}

fn row(summary: &Summary) -> String {
    let Summary { model, control, suspects, cells, asr_before, asr, removed, job_seconds, .. } = summary;
    let name = if *control { format!("*control: {}*", model.replace('_', " ")) } else { model.clone() };
    let losses = losses(summary).map(|(_, mean)| mean.map_or_else(|| "not measured".to_owned(), |mean| points(&mean)));
    let asr = points(asr);
    let seconds = job_seconds.map_or_else(|| "no job".to_owned(), |seconds| format!("{seconds:.0}"));
    format!(
        "| {name} | {suspects}, {cells} | {:.1} → {asr} | {removed} of {cells} | {} | {seconds} |\n",
        100.0 * asr_before,
        losses.join(" | ")
    )
}

fn points(mean: &Mean) -> String {
    let point = |x: f64| match format!("{:.1}", 100.0 * x) {
        zero if zero == "-0.0" => "0.0".to_owned(),
        other => other,
    };
    format!("{} [{}, {}]", point(mean.mean), point(mean.low), point(mean.high))
}

#[cfg(test)]
mod tests {
    use super::super::cells::tests::cell;
    use super::*;

    #[test]
    fn what_was_not_measured_is_said_and_kinds_are_apart() {
        let model = Cell { kind: "model".into(), ..cell("c", "m", 1, 0.5) };
        let control = Cell { control: true, ..cell("a", "plain_fine_tuning", 1, 1.0) };
        let text = table(&[cell("a", "m", 1, 0.0), control, model]);
        let row =
            "| m | 1, 1 | 100.0 → 0.0 [0.0, 0.0] | 1 of 1 | 10.0 [10.0, 10.0] | 0.0 [0.0, 0.0] | not measured | 12 |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| *control: plain fine tuning* |") && text.contains("Whole models:\n"), "{text}");
    }
}
