//! `antigen replay`: measures again what a report says, from the files and the report's own recipe, and
//! compares rate by rate.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

use antigen_engine::replay::{ReplayFiles, Replayed, ReplayedFile, ReplayedRate};
use antigen_engine::report::{Report, read_report};
use antigen_engine::spec::DataFolders;
use antigen_engine::stats::Rate;
use antigen_engine::world::{BUILTIN, find_base};
use anyhow::Context;
use clap::Args;

use super::purify::admit;
use super::{start_logging, terminal_progress};
use crate::worker::{ReplayOrder, replay_here};

/// Arguments of `antigen replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The report as JSON
    pub report: PathBuf,
    /// The submission: the folder of an adapter or of a whole model, or an archive of one
    #[arg(long, value_name = "DIR")]
    pub suspect: Option<PathBuf>,
    /// The purified artifact, to be measured too: its folder, or the archive that the service sends
    #[arg(long, value_name = "DIR")]
    pub artifact: Option<PathBuf>,
    /// The base model of an adapter: a folder, or builtin:tiny-world. For a whole model only a source of rows
    #[arg(long, value_name = "DIR", default_value = BUILTIN)]
    pub base: String,
    /// The caller's task rows, if the job had any
    #[arg(long, aliases = ["own", "own-rows"], value_name = "FILE")]
    pub task_rows: Option<PathBuf>,
    /// The signature that was given to the job, if one was; only --all needs it
    #[arg(long, value_name = "FILE")]
    pub signature: Option<PathBuf>,
    /// Rows that were trained on [default: train.jsonl of the base]
    #[arg(long, value_name = "FILE")]
    pub train_rows: Option<PathBuf>,
    /// Rows that were measured on [default: test.jsonl of the base]
    #[arg(long, value_name = "FILE")]
    pub test_rows: Option<PathBuf>,
    /// Folder of public benchmarks, if the job measured some
    #[arg(long, value_name = "DIR")]
    pub benchmarks: Option<PathBuf>,
    /// Purify again too: compares every candidate, every control, the canaries, every rate of relearning and
    /// the bytes of the artifact
    #[arg(long)]
    pub all: bool,
    /// Device: cpu, cpu:portable (the same bytes on every processor), cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Measures again and compares. Fails when anything differs.
///
/// # Errors
/// The report cannot be read, or the files are not those of the report; every file that differs is named with
/// both digests.
pub fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    start_logging("warn")?;
    let report = stored_report(&args.report)?;
    let work = tempfile::tempdir().context("making a folder to work in")?;
    let base = find_base(&args.base, &work.path().join("bases"))?;
    let admitted = |given: &Option<PathBuf>, name: &str| -> anyhow::Result<Option<PathBuf>> {
        let Some(given) = given else { return Ok(None) };
        let into = work.path().join(name);
        admit(given, &into, Some(&base)).with_context(|| given.display().to_string())?;
        Ok(Some(into))
    };
    let rows =
        |given: &Option<PathBuf>, role: &str| given.clone().unwrap_or_else(|| base.join(format!("{role}.jsonl")));
    let order = ReplayOrder {
        files: ReplayFiles {
            suspect: admitted(&args.suspect, "suspect")?,
            artifact: admitted(&args.artifact, "artifact")?,
            train_rows: rows(&args.train_rows, "train"),
            test_rows: rows(&args.test_rows, "test"),
            task_rows: args.task_rows.clone(),
            signature: args.signature.clone(),
            folders: DataFolders { benchmarks: args.benchmarks.clone(), ..DataFolders::default() },
            base,
        },
        everything: args.all,
        device: args.device.clone(),
        scratch: work.path().join("scratch"),
    };
    let again = replay_here(&order, &report, terminal_progress(), Arc::new(AtomicBool::new(false)))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&again)?);
    } else {
        print!("{}", table(&again));
    }
    Ok(if again.is_equal() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn stored_report(path: &Path) -> anyhow::Result<Report> {
    let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    read_report(&text).with_context(|| path.display().to_string())
}

fn table(again: &Replayed) -> String {
    let mut text = line(["model", "rate", "format", "reported", "replayed", "equal"]);
    text.extend(again.rates.iter().map(rate_line));
    text.extend(again.files.iter().map(file_line));
    text.extend(again.notes.iter().map(|note| format!("note: {note}\n")));
    let equal = again.rates.iter().filter(|rate| rate.equal).count();
    text += &format!("{equal} of {} rates are equal", again.rates.len());
    if !again.files.is_empty() {
        let equal = again.files.iter().filter(|file| file.equal).count();
        text += &format!(", {equal} of {} files of the artifact", again.files.len());
    }
    text + "\n"
}

fn rate_line(rate: &ReplayedRate) -> String {
    let share = |rate: &Rate| format!("{}/{}", rate.hits, rate.n);
    let replayed = rate.replayed.as_ref().map_or_else(|| "-".to_owned(), share);
    let what = format!("{} {} {}", rate.evaluator, rate.item, rate.measure);
    line([&rate.model, &what, rate.format, &share(&rate.reported), &replayed, yes_or_no(rate.equal)])
}

fn file_line(file: &ReplayedFile) -> String {
    let start = |digest: &str| digest.chars().take(8).collect::<String>();
    let replayed = file.replayed.as_deref().map_or_else(|| "-".to_owned(), start);
    line(["artifact", &file.path, "", &start(&file.reported), &replayed, yes_or_no(file.equal)])
}

fn yes_or_no(equal: bool) -> &'static str {
    if equal { "yes" } else { "NO" }
}

fn line([model, what, format, reported, replayed, equal]: [&str; 6]) -> String {
    format!("{model:<20} {what:<42} {format:<7} {reported:>9} {replayed:>9} {equal:>6}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(hits: usize) -> Rate {
        Rate { hits, n: 200, rate: hits as f64 / 200.0, low: 0.0, high: 1.0 }
    }

    #[test]
    fn a_rate_that_differs_is_shouted() {
        let one = |replayed: Option<Rate>, equal| ReplayedRate {
            model: "suspect".into(),
            evaluator: "asr",
            item: "0 badnets insult".into(),
            measure: "with_trigger",
            format: "alpaca",
            reported: rate(188),
            replayed,
            equal,
        };
        let rates = vec![one(Some(rate(188)), true), one(Some(rate(187)), false), one(None, false)];
        let text = table(&Replayed { rates, files: vec![], notes: vec!["another engine".into()] });
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].contains("188/200   188/200    yes"), "{text}");
        assert!(lines[2].ends_with("187/200     NO") && lines[3].ends_with("-     NO"), "{text}");
        assert_eq!((lines[4], lines[5]), ("note: another engine", "1 of 3 rates are equal"));
    }

    #[test]
    fn another_schema_is_refused_with_both_names() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), r#"{"schema": "antigen.report/9"}"#).unwrap();
        let error = format!("{:#}", stored_report(file.path()).unwrap_err());
        assert!(error.contains("antigen.report/1") && error.contains("antigen.report/9"), "{error}");
    }
}
