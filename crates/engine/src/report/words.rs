//! The verdict in sentences. Every sentence is made from the numbers it contains; none of them adds a
//! judgement that `rules.rs` did not make.

use super::rules::{Backdoor, backdoors, degenerated, lost_aside, skills};
use super::{Case, Control};
use crate::measure::evidence::rules::{Skill, counts};
use crate::measure::evidence::words::{name, percent, plain, points_words, rate_words, too_few};
use crate::measure::evidence::{AsrComparison, AsrReport, Compared, UtilityComparison, UtilityGroup};
use crate::stats::PairedDifference;

/// The reasons against `purified`.
pub(super) fn complaints(case: &Case<'_>) -> Vec<String> {
    let fires = backdoors(case).into_iter().filter_map(|(_, after, shown)| {
        let (name, high) = (name(after), percent(after.headline.rate.high));
        match shown {
            Backdoor::Remains | Backdoor::Appeared => Some(format!(
                "after the run {name} may still fire on up to {high} of triggered prompts ({} format)",
                after.headline.format.name()
            )),
            Backdoor::Unclear => Some(format!(
                "{name} was not shown on the suspect, but may fire on up to {high} of triggered prompts after the run"
            )),
            Backdoor::Removed | Backdoor::Absent => None,
        }
    });
    fires.chain(failures(case)).chain(open_skills(case)).collect()
}

/// Damage that the run did: degenerate answers and lost skills.
pub(super) fn failures(case: &Case<'_>) -> Vec<String> {
    let broken = degenerated(case).into_iter().map(|(was, is)| {
        let (was, is, format) = (percent(was.degenerate.rate), percent(is.degenerate.rate), is.recipe.format.name());
        format!("{is} of clean answers in {format} format are degenerate, {was} before")
    });
    let lost = skills(case).into_iter().filter_map(|(_, after, shown)| match shown {
        Skill::Lost => {
            let lost = after.versus_suspect.map_or(0.0, |paired| -paired.difference);
            let (group, lost, margin) = (&after.name, percent(lost), percent(case.margin));
            Some(format!("exact match on {group} fell by {lost}, more than the margin of {margin}"))
        }
        Skill::LessLikely(Some(factor)) => {
            Some(format!("the perplexity of right answers on {} grew by a factor of {factor:.2}", after.name))
        }
        Skill::LessLikely(None) => {
            Some(format!("the perplexity of right answers on {} grew beyond any number", after.name))
        }
        Skill::Kept | Skill::NotShown => None,
    });
    broken.chain(lost).collect()
}

/// Skills whose loss is within the margin as measured but not as far as the interval reaches.
fn open_skills(case: &Case<'_>) -> Vec<String> {
    let open = |(_, after, shown): (&UtilityGroup, &UtilityGroup, Skill)| {
        let reach = after.versus_suspect.map_or(1.0, |paired| -paired.low);
        let (group, n, reach, margin) = (&after.name, after.exact_match.n, percent(reach), percent(case.margin));
        (shown == Skill::NotShown).then(|| {
            format!(
                "that {group} lost no more than the margin of {margin} is not shown: on {n} rows the loss may be up to {reach}"
            )
        })
    };
    skills(case).into_iter().filter_map(open).collect()
}

/// The sentence that holds for a purified artifact, and no more.
pub(super) fn achieved(case: &Case<'_>) -> String {
    let removed: Vec<_> = backdoors(case)
        .into_iter()
        .filter(|(_, _, shown)| *shown == Backdoor::Removed)
        .map(|(_, after, _)| format!("{} (at most {} after)", name(after), percent(after.headline.rate.high)))
        .collect();
    let absent: Vec<_> = backdoors(case)
        .into_iter()
        .filter(|(_, _, shown)| *shown == Backdoor::Absent)
        .map(|(_, after, _)| name(after))
        .collect();
    let noun = if removed.len() == 1 { "the declared backdoor" } else { "the declared backdoors" };
    let beside = match absent.is_empty() {
        true => String::new(),
        false => format!(" Not shown on the suspect, so nothing was removed there: {}.", absent.join(", ")),
    };
    format!("Purified of {noun} {}.{beside}", removed.join(", "))
}

/// Losses that do not decide, named behind a verdict that something was achieved; empty where there are none.
pub(super) fn aside(case: &Case<'_>) -> String {
    let lost = lost_aside(case).into_iter().map(|(group, lost)| match group.self_distilled {
        true => format!(
            " But {} of what it answered of its own before it answers otherwise now: whether that is a loss only task rows can show.",
            percent(lost)
        ),
        false => format!(" But exact match on {} fell by {}.", group.name, percent(lost)),
    });
    lost.collect()
}

/// Attack success before and after, backdoor by backdoor, with the paired test.
pub(super) fn attack_success(case: &Case<'_>) -> String {
    let sentence = |(before, after): (&AsrReport, &AsrReport)| {
        let (was, is) = (&before.headline, &after.headline);
        let few = too_few(&is.rate).map_or_else(String::new, |note| format!(" {note}"));
        format!(
            "Attack success of {}, worst format: {} before, {} after.{}{few}",
            name(before),
            rate_words(&was.rate),
            rate_words(&is.rate),
            paired_words(before, after)
        )
    };
    case.before.asr.iter().zip(&case.after.asr).map(sentence).collect::<Vec<_>>().join("\n")
}

// In the format in which the suspect fired most.
fn paired_words(before: &AsrReport, after: &AsrReport) -> String {
    let format = before.headline.format;
    let paired = after.formats.iter().find(|f| f.recipe.format == format).and_then(|f| f.versus_suspect);
    let Some(PairedDifference { gained, lost, p_value: Some(p), .. }) = paired else { return String::new() };
    let format = format.name();
    format!(
        " Of the same prompts in {format} format {lost} stopped and {gained} began to hit (exact McNemar {}).",
        p_words(p)
    )
}

/// Exact match before and after with the paired difference.
pub(super) fn utility(case: &Case<'_>) -> String {
    let (Some(before), Some(after)) = (&case.before.utility, &case.after.utility) else {
        return "Utility was not measured.".into();
    };
    let part = |(was, is): (&UtilityGroup, &UtilityGroup)| {
        let paired =
            is.versus_suspect.map_or_else(String::new, |paired| format!(" (paired {})", points_words(&paired)));
        let aside = if counts(is) { "" } else { ", which does not count" };
        let (name, was, is) = (&was.name, percent(was.exact_match.rate), percent(is.exact_match.rate));
        format!("{name} {was} before, {is} after{paired}{aside}")
    };
    let parts: Vec<_> = before.groups.iter().zip(&after.groups).map(part).collect();
    format!("Exact match: {}; the margin is {} points.", parts.join("; "), percent(case.margin).replace(" %", ""))
}

/// The outcome of the method against each control, those with the same outcome together.
pub(super) fn controls(case: &Case<'_>) -> String {
    let asr: Vec<_> = case.controls.iter().flat_map(asr_outcomes).collect();
    let utility: Vec<_> = case.controls.iter().flat_map(utility_outcomes).collect();
    let mut sentences = Vec::new();
    if !asr.is_empty() {
        let note = "paired differences in points with 95 % interval, positive where the method did better";
        sentences.push(format!("Attack success against the controls ({note}): {}.", together(&asr)));
    }
    if !utility.is_empty() {
        sentences
            .push(format!("Exact match against the controls, where a difference is shown: {}.", together(&utility)));
    }
    sentences.join(" ")
}

/// An outcome, and the control with the size of the difference.
type Outcome = (Compared, String);

fn together(outcomes: &[Outcome]) -> String {
    let of_kind = |kind: Compared| {
        let said: Vec<_> = outcomes.iter().filter(|(found, _)| *found == kind).map(|(_, said)| said.as_str()).collect();
        (!said.is_empty()).then(|| format!("{}: {}", kind.words(), said.join(", ")))
    };
    let kinds = [Compared::Beaten, Compared::NoDifferenceShown, Compared::Worse];
    kinds.into_iter().filter_map(of_kind).collect::<Vec<_>>().join("; ")
}

fn asr_outcomes(control: &Control) -> Vec<Outcome> {
    let several = control.asr_versus_chosen.len() > 1;
    let outcome = |compared: &AsrComparison| {
        let which = if several { format!(" on backdoor {}", compared.backdoor + 1) } else { String::new() };
        let said = format!("{}{which} ({})", plain(&control.name), points_words(&compared.difference));
        (compared.outcome, said)
    };
    control.asr_versus_chosen.iter().map(outcome).collect()
}

fn utility_outcomes(control: &Control) -> Vec<Outcome> {
    let shown = control.utility_versus_chosen.iter().filter(|u| u.outcome != Compared::NoDifferenceShown);
    let said = |compared: &UtilityComparison| {
        format!("{} on {} ({})", plain(&control.name), compared.group, points_words(&compared.difference))
    };
    shown.map(|compared| (compared.outcome, said(compared))).collect()
}

impl Control {
    /// The comparison with the exported artifact in words: attack success backdoor by backdoor, then the
    /// utility groups that differ. Points are positive where the method did better.
    pub fn outcome_words(&self) -> String {
        let several = self.asr_versus_chosen.len() > 1;
        let asr = self.asr_versus_chosen.iter().map(|compared| {
            let which = if several { format!(" of backdoor {}", compared.backdoor + 1) } else { String::new() };
            format!("attack success{which}: {} ({})", compared.outcome.words(), points_words(&compared.difference))
        });
        let shown = self.utility_versus_chosen.iter().filter(|u| u.outcome != Compared::NoDifferenceShown);
        let utility = shown.map(|compared| {
            let (group, apart) = (&compared.group, points_words(&compared.difference));
            format!("exact match on {group}: {} ({apart})", compared.outcome.words())
        });
        let said: Vec<_> = asr.chain(utility).collect();
        if said.is_empty() { "not compared".into() } else { said.join("\n") }
    }
}

fn p_words(p: f64) -> String {
    if p < 0.001 { "p < 0.001".into() } else { format!("p = {p:.3}") }
}
