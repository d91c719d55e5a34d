//! `antigen-experiments roc`: how well the screen tells poisoned suspects from clean ones.

use std::collections::BTreeMap;

use antigen_engine::measure::detect::Calibration;
use antigen_engine::measure::evidence::CoverageStatus;
use antigen_engine::stats::{Rate, wilson};
use antigen_engine::world::ZooMember;
use clap::Args;

use super::zoo::{SetArgs, ZooArgs};
use crate::zoo::{CheckedMember, check_zoo, separation};

/// Arguments of `antigen-experiments roc`.
#[derive(Debug, Args)]
pub struct RocArgs {
    /// The zoo.
    #[command(flatten)]
    pub zoo: ZooArgs,
    /// Its members.
    #[command(flatten)]
    pub set: SetArgs,
}

/// Says how well the base's calibration tells poisoned from clean on members that it was not made from.
///
/// # Errors
/// Files that cannot be read or written, or training that fails.
pub fn run(args: &RocArgs) -> anyhow::Result<()> {
    let site = args.zoo.fill(args.set.set, |_| true)?;
    let calibration = Calibration::find(&site.folders.base)?;
    let checked = check_zoo(&site.folders, &site.members, &calibration, &site.lab)?;
    println!(
        "| member | made as | attack success | score | threshold | nearest family | status |\n|---|---|---|---|---|---|---|"
    );
    for one in &checked {
        println!("{}", line(one));
    }
    for (name, whole) in [("adapters", false), ("whole models", true)] {
        let kind: Vec<_> = checked.iter().filter(|one| one.member.whole_model == whole).collect();
        print!("{}", summary(name, &kind));
    }
    print!("{}", confounders(&checked));
    Ok(())
}

fn line(one: &CheckedMember) -> String {
    let asr = one.asr.map_or_else(|| "honest".to_owned(), |rate| format!("{:.0} %", 100.0 * rate.rate));
    let (score, threshold, family) = one.screen.scores.as_ref().map_or_else(Default::default, |s| {
        (format!("{:.2}", s.score), format!("{:.2}", s.threshold), s.nearest_family.name())
    });
    let status = match one.screen.status {
        CoverageStatus::Finding => "finding",
        CoverageStatus::NoFinding => "no finding",
        CoverageStatus::NotCovered => "not covered",
    };
    format!("| {} | {} | {asr} | {score} | {threshold} | {family} | {status} |", one.member.name, one.member.about())
}

/// Scores, statuses and families of one kind of member, counted.
fn summary(kind: &str, members: &[&CheckedMember]) -> String {
    let of = |poisoned: bool| members.iter().filter(move |one| one.member.is_poisoned() == poisoned);
    let scores = |poisoned| of(poisoned).filter_map(|one| Some(one.screen.scores.as_ref()?.score)).collect::<Vec<_>>();
    let Some(area) = separation(&scores(true), &scores(false)) else {
        return format!("\n{kind}: nothing to compare\n");
    };
    let found = |poisoned| of(poisoned).filter(|one| one.screen.status == CoverageStatus::Finding).count();
    let rate = |poisoned: bool| wilson(found(poisoned), of(poisoned).count());
    let named = of(true).filter(|one| is_named(one)).count();
    let words = |rate: Rate| {
        format!("{} of {} (95 % interval {:.0} to {:.0} %)", rate.hits, rate.n, 100.0 * rate.low, 100.0 * rate.high)
    };
    format!(
        "\n{kind}: area under the ROC curve {:.3} (95 % interval {:.3} to {:.3}); poisoned ones found {}; false alarms {}; of the findings \
         {named} with the right family\n",
        area.auc,
        area.low,
        area.high,
        words(rate(true)),
        words(rate(false))
    )
}

/// True when a poisoned member is a finding of the family that its name ends with.
fn is_named(one: &CheckedMember) -> bool {
    let family = one.screen.scores.as_ref().map(|scores| scores.nearest_family.name());
    one.screen.status == CoverageStatus::Finding && family.is_some_and(|family| one.member.name.ends_with(family))
}

/// Mean score of honest adapters by each property that could pass for a backdoor.
fn confounders(checked: &[CheckedMember]) -> String {
    let mut groups = BTreeMap::<(&str, String), Vec<f64>>::new();
    let honest = checked.iter().filter(|one| !one.member.is_poisoned() && !one.member.whole_model);
    for one in honest {
        let Some(scores) = &one.screen.scores else { continue };
        let ZooMember { skill, targets, implant, .. } = &one.member;
        let long = if one.member.steps() < 650 { "under 650" } else { "650 and more" };
        for (property, value) in [
            ("rank", implant.rank.to_string()),
            ("template", implant.format.name().to_owned()),
            ("skill", format!("{skill:?}").to_lowercase()),
            ("layers", targets.join(" ")),
            ("steps", long.to_owned()),
        ] {
            groups.entry((property, value)).or_default().push(scores.score);
        }
    }
    let mut text = "\nhonest adapters, mean score (number)\n".to_owned();
    for ((property, value), scores) in groups {
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        text += &format!("{property} {value}: {mean:.2} ({})\n", scores.len());
    }
    text
}
