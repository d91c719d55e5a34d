//! Before and after of one rate on a line from 0 to 100 %, each with its interval.

use antigen_engine::measure::evidence::Measurement;
use antigen_engine::stats::Rate;
use serde::Serialize;

use super::tenth;

/// One line of the figure.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Dumbbell {
    /// The measurement's name.
    label: String,
    /// A remark beside it.
    note: &'static str,
    before: Mark,
    /// Absent when there is nothing after the run.
    after: Option<Mark>,
}

/// A rate and its interval, in per cent; the rate itself for the text beside it.
#[derive(Debug, PartialEq, Serialize)]
struct Mark {
    at: f64,
    low: f64,
    high: f64,
    rate: Rate,
}

impl Mark {
    fn of(rate: &Rate) -> Self {
        let at = |fraction: f64| tenth(100.0 * fraction);
        Mark { at: at(rate.rate), low: at(rate.low), high: at(rate.high), rate: *rate }
    }
}

/// Hits with the trigger, for each backdoor and format.
pub(super) fn attack_success(before: &Measurement, after: Option<&Measurement>) -> Vec<Dumbbell> {
    let mut lines = Vec::new();
    for (number, asr) in before.asr.iter().enumerate() {
        let later = after.and_then(|after| after.asr.get(number));
        for format in &asr.formats {
            let name = format.recipe.format;
            let now = later.and_then(|later| later.formats.iter().find(|is| is.recipe.format == name));
            lines.push(Dumbbell {
                label: format!("{} with {}, {} format", asr.attack.name(), asr.behaviour.name(), name.name()),
                note: if later.is_some_and(|later| later.headline.format == name) { "worst format after" } else { "" },
                before: Mark::of(&format.with_trigger),
                after: now.map(|now| Mark::of(&now.with_trigger)),
            });
        }
    }
    lines
}

/// Exact match, for each group.
pub(super) fn utility(before: &Measurement, after: Option<&Measurement>) -> Vec<Dumbbell> {
    let groups = before.utility.iter().flat_map(|utility| &utility.groups);
    let line = |group: &antigen_engine::measure::evidence::UtilityGroup| Dumbbell {
        label: group.name.clone(),
        note: "",
        before: Mark::of(&group.exact_match),
        after: after.and_then(|after| after.exact_match(&group.name)).map(Mark::of),
    };
    groups.map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_lies_where_its_rate_is_with_its_interval_around_it() {
        let rate = Rate { hits: 1, n: 8, rate: 0.125, low: 0.022_36, high: 0.470_94 };
        assert_eq!(Mark::of(&rate), Mark { at: 12.5, low: 2.2, high: 47.1, rate });
    }

    #[test]
    fn marks_stay_on_the_line() {
        let rate = Rate { hits: 8, n: 8, rate: 1.0, low: 0.676, high: 1.0 };
        assert_eq!((Mark::of(&rate).at, Mark::of(&rate).high), (100.0, 100.0));
    }
}
