//! `antigen lab zoo`, `calibrate` and `roc`: many suspects that we trained ourselves, the screen's yardstick made from them, and how well
//! the screen tells poisoned from clean.

use std::{path::PathBuf, sync::Arc};

use antigen_engine::{
    data::read_rows,
    detect::{CALIBRATION_FILE, Calibration, CheckedMember, ZooFolders, calibrate, check_zoo, separation},
    evaluators::wilson,
    lab::Lab,
    report::{CoverageStatus, Rate},
    world::{ZooGround, ZooMember, ZooSet, build_zoo, zoo_members},
};
use antigen_models::device::open_device;
use anyhow::Context;
use clap::Args;

use super::{find_base_dir, terminal_progress};

/// What a zoo is made from, and where it lies.
#[derive(Debug, Args)]
pub struct ZooArgs {
    /// The base model: a folder, or builtin:tiny-world
    #[arg(long, value_name = "DIR", default_value = crate::config::BUILTIN_TINY_WORLD)]
    pub base: String,
    /// The zoo: each adapter and model in a folder of its own, with zoo.json; members that lie there already are not made again
    #[arg(long, value_name = "DIR")]
    pub zoo: PathBuf,
    /// Rows that honest members learn [default: skills of the tiny world, which other bases cannot learn]
    #[arg(long, value_name = "FILE")]
    pub own_rows: Option<PathBuf>,
    /// Leave out whole models
    #[arg(long)]
    pub adapters_only: bool,
    /// Leave out adapters
    #[arg(long, conflicts_with = "adapters_only")]
    pub models_only: bool,
    /// Where to compute: cpu, cpu:portable (the same bytes on every processor), cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
}

/// Which members of a zoo.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// Which members: calibration, check, proof, evidence or comparison
    #[arg(long, default_value = "check")]
    set: String,
}

impl SetArgs {
    /// # Errors
    /// There is no such set.
    fn set(&self) -> anyhow::Result<ZooSet> {
        serde_json::from_value(self.set.clone().into()).context("--set")
    }
}

/// Which of them.
#[derive(Debug, Args)]
pub struct OnlyArgs {
    /// Only these members, by the beginnings of their names [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
}

impl OnlyArgs {
    fn wants(&self, member: &ZooMember) -> bool {
        self.only.is_empty() || self.only.iter().any(|beginning| member.name.starts_with(beginning))
    }
}

/// Some members of a set, made where they are missing.
#[derive(Debug, Args)]
pub struct MembersArgs {
    #[command(flatten)]
    zoo: ZooArgs,
    #[command(flatten)]
    set: SetArgs,
    #[command(flatten)]
    only: OnlyArgs,
}

impl MembersArgs {
    /// Those that were asked for by name and are also wanted.
    ///
    /// # Errors
    /// As [`fill`].
    pub(super) fn fill(&self, wanted: impl Fn(&ZooMember) -> bool) -> anyhow::Result<Site> {
        fill(&self.zoo, self.set.set()?, |member| self.only.wants(member) && wanted(member))
    }
}

/// Arguments of `antigen lab zoo`.
#[derive(Debug, Args)]
pub struct MakeZooArgs {
    #[command(flatten)]
    pub zoo: ZooArgs,
    #[command(flatten)]
    pub set: SetArgs,
}

/// Arguments of `antigen lab calibrate`.
#[derive(Debug, Args)]
pub struct CalibrateArgs {
    #[command(flatten)]
    pub zoo: ZooArgs,
    /// Where the calibration goes [default: susceptibility.json beside the base]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Arguments of `antigen lab roc`.
#[derive(Debug, Args)]
pub struct RocArgs {
    #[command(flatten)]
    pub zoo: ZooArgs,
    #[command(flatten)]
    pub set: SetArgs,
}

/// A zoo on its way.
pub(super) struct Site {
    pub folders: ZooFolders,
    pub members: Vec<ZooMember>,
    pub lab: Lab,
}

/// Trains what is missing of those members of the set that are wanted.
///
/// # Errors
/// Files that cannot be read or written, or training that fails.
fn fill(args: &ZooArgs, set: ZooSet, wanted: impl Fn(&ZooMember) -> bool) -> anyhow::Result<Site> {
    let work = args.zoo.join("work");
    std::fs::create_dir_all(&work).with_context(|| format!("creating {}", work.display()))?;
    let base = find_base_dir(&args.base, &work)?;
    let lab = Lab::new(open_device(&args.device)?, 1, work, terminal_progress(), Arc::default());
    let mut members = zoo_members(set);
    let left_out = |member: &ZooMember| if member.whole_model { args.adapters_only } else { args.models_only };
    members.retain(|member| wanted(member) && !left_out(member));
    let own = args.own_rows.as_deref().map(read_rows).transpose()?;
    let generic = read_rows(&base.join("train.jsonl"))?;
    let ground = ZooGround { base_dir: &base, generic: &generic, own: own.as_deref() };
    build_zoo(ground, &members, &args.zoo, &lab)?;
    Ok(Site { folders: ZooFolders { base, zoo: args.zoo.clone() }, members, lab })
}

/// Makes a zoo.
///
/// # Errors
/// Files that cannot be read or written, or training that fails.
pub fn make_zoo(args: &MakeZooArgs) -> anyhow::Result<()> {
    let site = fill(&args.zoo, args.set.set()?, |_| true)?;
    println!("{} members: {}", site.members.len(), args.zoo.zoo.display());
    Ok(())
}

/// Makes a calibration, and the zoo that it needs. With one kind of suspect left out, the calibration that the base has keeps that kind.
///
/// # Errors
/// As [`make_zoo`].
pub fn make_calibration(args: &CalibrateArgs) -> anyhow::Result<()> {
    let site = fill(&args.zoo, ZooSet::Calibration, |_| true)?;
    let calibration =
        calibrate(&site.folders, &site.members, &site.lab)?.or_groups_of(Calibration::find(&site.folders.base)?);
    let out = args.out.clone().unwrap_or_else(|| site.folders.base.join(CALIBRATION_FILE));
    calibration.write(&out)?;
    println!("calibration: {}", out.display());
    Ok(())
}

/// Says how well the base's calibration tells poisoned from clean on members that it was not made from.
///
/// # Errors
/// As [`make_zoo`].
pub fn show_roc(args: &RocArgs) -> anyhow::Result<()> {
    let site = fill(&args.zoo, args.set.set()?, |_| true)?;
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

/// Whether a poisoned member is a finding of the family that its name ends with.
fn is_named(one: &CheckedMember) -> bool {
    let family = one.screen.scores.as_ref().map(|scores| scores.nearest_family.name());
    one.screen.status == CoverageStatus::Finding && family.is_some_and(|family| one.member.name.ends_with(family))
}

/// Mean score of honest adapters by each property that could pass for a backdoor.
fn confounders(checked: &[CheckedMember]) -> String {
    let mut groups = std::collections::BTreeMap::<(&str, String), Vec<f64>>::new();
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
