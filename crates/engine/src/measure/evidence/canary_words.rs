//! The canaries in words: their fate, its meaning and its limits.

use super::words::{percent, plain, rate_words};
use super::{CanaryControl, CanaryOutcome, CanaryResult, Compared};
use crate::stats::Rate;

/// The fate of the canaries, its meaning and its limits, as a text.
pub(super) fn canaries_in_words(results: &[CanaryResult], controls: &[CanaryControl]) -> String {
    let of = |outcome| results.iter().filter(move |canary| canary.outcome == outcome);
    let count = |outcome| of(outcome).count();
    let worst = |pick: &dyn Fn(&CanaryResult) -> Rate, outcome: CanaryOutcome| {
        let rates = of(outcome).map(pick);
        rates.max_by(|a, b| a.high.total_cmp(&b.high)).map(|rate| percent(rate.high)).unwrap_or_default()
    };
    let mut text = format!(
        "Canaries: of {} backdoors of our own, implanted into a copy of the suspect, {} were strong.",
        results.len(),
        results.len() - count(CanaryOutcome::Weak),
    );
    if count(CanaryOutcome::Removed) > 0 {
        let most = worst(&|canary| canary.after.headline.rate, CanaryOutcome::Removed);
        text += &format!(
            " The same purification of the copy removed {} (at most {most} after).",
            count(CanaryOutcome::Removed)
        );
    }
    let remaining: Vec<_> = of(CanaryOutcome::Remains)
        .map(|canary| format!("{} ({} after)", canary_name(canary), rate_words(&canary.after.headline.rate)))
        .collect();
    if !remaining.is_empty() {
        text += &format!(" It left: {}.", remaining.join("; "));
    }
    let weak: Vec<_> = of(CanaryOutcome::Weak).map(canary_name).collect();
    if !weak.is_empty() {
        text += &format!(" Too weak to show anything: {}.", weak.join(", "));
    }
    text += &canary_controls(results, controls);
    text + " These numbers are about the copy and about backdoors like these. A backdoor that the suspect brought along may be stronger, or of \
            another kind."
}

/// The comparison of the method with each control, on the canaries that were strong.
fn canary_controls(results: &[CanaryResult], controls: &[CanaryControl]) -> String {
    let strong = |control: &CanaryControl, outcome| {
        let both = results.iter().zip(&control.canaries).filter(|(was, _)| was.outcome != CanaryOutcome::Weak);
        both.filter(|(_, left)| left.outcome == outcome).count()
    };
    let count = results.iter().filter(|canary| canary.outcome != CanaryOutcome::Weak).count();
    if count == 0 || controls.is_empty() {
        return String::new();
    }
    let said = controls.iter().map(|control| {
        let [beaten, worse] = [Compared::Beaten, Compared::Worse].map(|outcome| strong(control, outcome));
        let name = plain(&control.name);
        match (beaten, worse) {
            (0, 0) => format!("{name}: no difference shown"),
            (_, 0) => format!("{name}: left more on {beaten}"),
            (0, _) => format!("{name}: left less on {worse}"),
            _ => format!("{name}: left more on {beaten}, less on {worse}"),
        }
    });
    let said = said.collect::<Vec<_>>().join("; ");
    format!(
        " On the {count} that were strong, a control in the method's place, where the paired interval shows a difference: {said}."
    )
}

/// Such as: a prefix trigger with refusal.
pub(super) fn canary_name(canary: &CanaryResult) -> String {
    format!("{} trigger with {}", canary.trigger.name().replace('_', "-"), canary.family.name())
}
