//! A report, measured again from the files and its own recipe, and compared rate by rate.
//!
//! First the files are compared with the report's digests ([`check_files`]); the measurements then depend on
//! nothing but them and the recipe, so on the same kind of processor every rate must come out the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use antigen_models::load_adapter;
use serde::Serialize;

use crate::data::{read_rows, rows_sha256, split_task_rows};
use crate::error::{EngineError, Result};
use crate::lab::{Lab, PieceKey};
use crate::measure::evaluators::{Evidence, Probes, evaluate_all};
use crate::measure::evidence::Measurement;
use crate::report::{Candidate, RateRow, Report, rates_of};
use crate::run::run;
use crate::spec::{DataFolders, EvaluatorSpec, SubjectKind, UtilitySpec};
use crate::stage::Stage;
use crate::stats::Rate;
use crate::suspect::weights::{CheckpointFolder, Weights};
use crate::suspect::{FileDigest, Submission, Submitted, Suspect, base_digests, folder_digests, single_digest};

/// The files of a report's job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayFiles {
    /// Folder of the submitted suspect; without it only the artifact is measured.
    pub suspect: Option<PathBuf>,
    /// Folder of the purified artifact, to be measured too.
    pub artifact: Option<PathBuf>,
    /// Folder of an adapter's base.
    pub base: PathBuf,
    /// Generic clean rows.
    pub train_rows: PathBuf,
    /// Generic held-out rows.
    pub test_rows: PathBuf,
    /// The caller's task rows.
    pub task_rows: Option<PathBuf>,
    /// The signature that was given to the job, if one was; only a replay of the whole job needs it.
    pub signature: Option<PathBuf>,
    /// Public data that the report's evaluators read; evaluators whose data is not given are not measured
    /// again.
    pub folders: DataFolders,
}

/// The outcome of a replay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replayed {
    /// Rate by rate, in the order of the report.
    pub rates: Vec<ReplayedRate>,
    /// Files of the artifact that was made again; empty unless everything was repeated.
    pub files: Vec<ReplayedFile>,
    /// Reasons why numbers may differ although nothing is wrong: another engine, another device.
    pub notes: Vec<String>,
}

impl Replayed {
    /// True when everything came out as reported.
    pub fn is_equal(&self) -> bool {
        self.rates.iter().all(|rate| rate.equal) && self.files.iter().all(|file| file.equal)
    }
}

/// One rate, as reported and as measured again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplayedRate {
    /// Name of the model.
    pub model: String,
    /// `asr`, `utility` or `benchmark`.
    pub evaluator: &'static str,
    /// The backdoor or the group of rows.
    pub item: String,
    /// Name of the rate, such as `with_trigger`.
    pub measure: &'static str,
    /// Prompt format.
    pub format: &'static str,
    /// The rate in the report.
    pub reported: Rate,
    /// The rate as measured again; absent when it could not be measured.
    pub replayed: Option<Rate>,
    /// True when number and recipe (prompts, template, decoding) are the same.
    pub equal: bool,
}

/// One file of the artifact, as reported and as made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplayedFile {
    /// Its name.
    pub path: String,
    /// SHA-256 in the report.
    pub reported: String,
    /// SHA-256 of the file as made again.
    pub replayed: Option<String>,
    /// True when they are the same.
    pub equal: bool,
}

/// Measures suspect and artifact again, whichever is given; with `everything`, the whole job.
///
/// # Errors
/// [`EngineError::Data`] when the files are not those of the report; those of measuring.
pub fn replay(report: &Report, files: &ReplayFiles, everything: bool, lab: &Lab) -> Result<Replayed> {
    lab.enter(Stage::Inspect)?;
    check_files(report, files)?;
    let mut notes = notes(report, lab);
    if everything {
        return Ok(Replayed { notes, ..run_again(report, files, lab)? });
    }
    let (asked, left_out) = askable(report, files);
    notes.extend(left_out);
    if report.relearning.is_some() {
        notes.push("rates after relearning are measured again only with everything else (--all)".into());
    }
    let report = &without(report, &asked);
    let again = Again::open(report, files, &asked, lab)?;
    lab.enter(Stage::MeasureBefore)?;
    let before = files.suspect.as_ref().map(|_| again.measure(&again.suspect.weights())).transpose()?;
    let mut rates = Vec::new();
    if let Some(before) = &before {
        let replayed = again.probes.report(before, None);
        rates.extend(compare("suspect", "suspect", &report.before, &replayed));
    }
    if let (Some(folder), Some(chosen)) = (&files.artifact, report.chosen()) {
        lab.enter(Stage::MeasureAfter)?;
        let after = again.measure(&again.open_artifact(folder)?)?;
        let replayed = again.probes.report(&after, before.as_ref());
        rates.extend(compare("exported", &chosen.name, &chosen.measurement, &replayed));
    }
    Ok(Replayed { rates, files: Vec::new(), notes })
}

/// Compares every given file with the report; all that differ are named at once, with the expected digest and
/// the one that was found.
///
/// # Errors
/// [`EngineError::Data`] with one line for each file; [`EngineError::Io`] when one cannot be read.
pub fn check_files(report: &Report, files: &ReplayFiles) -> Result<()> {
    let mut wrong = Vec::new();
    let subject = &report.subject;
    let submitted = if subject.kind == SubjectKind::Adapter { &subject.adapter } else { &subject.checkpoint };
    if let Some(folder) = &files.suspect {
        wrong.extend(differences("suspect", submitted, &folder_digests(folder)?));
    }
    if let Some(folder) = &files.artifact {
        wrong.extend(differences("artifact", &report.artifact, &folder_digests(folder)?));
    }
    if subject.kind == SubjectKind::Adapter {
        wrong.extend(differences("base", &subject.base, &base_digests(&files.base)?));
    }
    let given =
        [("train", Some(&files.train_rows)), ("test", Some(&files.test_rows)), ("task", files.task_rows.as_ref())];
    for (role, path) in given {
        wrong.extend(wrong_rows(report, role, path.map(PathBuf::as_path))?);
    }
    if let Some(path) = &files.signature {
        let given: Vec<_> = subject.signature.iter().map(|file| &file.sha256).collect();
        let found = single_digest(path)?.sha256;
        if given != [&found] {
            let expected = given.first().map_or_else(|| "none".to_owned(), |digest| format!("SHA-256 {digest}"));
            wrong.push(format!("given signature: expected {expected}, found SHA-256 {found}"));
        }
    }
    if files.suspect.is_none() && files.artifact.is_none() {
        wrong.push("expected the suspect's folder, the artifact's, or both; found neither".into());
    }
    if wrong.is_empty() { Ok(()) } else { Err(EngineError::Data(wrong.join("\n"))) }
}

fn differences(what: &str, expected: &[FileDigest], found: &[FileDigest]) -> Vec<String> {
    let find = |files: &[FileDigest], path: &str| files.iter().find(|f| f.path == path).map(|f| f.sha256.clone());
    let names: BTreeMap<_, _> = expected.iter().chain(found).map(|file| (file.path.as_str(), ())).collect();
    let wrong = |path: &str| {
        let (expected, found) = (find(expected, path), find(found, path));
        let said =
            |digest: Option<String>| digest.map_or_else(|| "no such file".to_owned(), |d| format!("SHA-256 {d}"));
        (expected != found).then(|| format!("{what}, {path}: expected {}, found {}", said(expected), said(found)))
    };
    names.into_keys().filter_map(wrong).collect()
}

fn wrong_rows(report: &Report, role: &str, path: Option<&Path>) -> Result<Option<String>> {
    let expected = report.subject.rows.iter().find(|rows| rows.role == role);
    let expected =
        expected.map_or_else(|| "none".to_owned(), |rows| format!("{} rows with SHA-256 {}", rows.rows, rows.sha256));
    let found = match path {
        None => "none".to_owned(),
        Some(path) => {
            let rows = read_rows(path)?;
            format!("{} rows with SHA-256 {}", rows.len(), rows_sha256(&rows))
        }
    };
    Ok((expected != found).then(|| format!("{role} rows: expected {expected}, found {found}")))
}

fn notes(report: &Report, lab: &Lab) -> Vec<String> {
    let mut notes = Vec::new();
    let (engine, device) = (env!("CARGO_PKG_VERSION"), lab.device_name());
    if report.recipe.engine != engine {
        notes.push(format!("the report was made by engine {}, this is {engine}", report.recipe.engine));
    }
    if report.recipe.device != device {
        notes.push(format!("the report was made on {}, this is {device}", report.recipe.device));
    }
    if report.recipe.matrix_unit == Some(true) && lab.matrix_unit == Some(false) {
        notes.push("the report was made on a processor's matrix unit, this is computed without one: sums are rounded otherwise".into());
    }
    notes
}

/// The evaluators that can be asked with these files, and in words those that are not measured again. Answers
/// for a judge are no rates.
fn askable(report: &Report, files: &ReplayFiles) -> (Vec<EvaluatorSpec>, Vec<String>) {
    let (mut asked, mut notes) = (Vec::new(), Vec::new());
    for evaluator in &report.recipe.spec.evaluators {
        match evaluator {
            EvaluatorSpec::Benchmark(benchmark) if files.folders.benchmarks.is_none() => {
                notes.push(format!("{} is not measured again without the folder of benchmarks", benchmark.name.name()));
            }
            EvaluatorSpec::Utility(utility) if files.suspect.is_none() && utility.self_distilled => {
                notes.push("rows found by asking the suspect are not measured again without it".into());
                asked.push(EvaluatorSpec::Utility(UtilitySpec { self_distilled: false, ..utility.clone() }));
            }
            EvaluatorSpec::MtBench(_) => {}
            _ => asked.push(evaluator.clone()),
        }
    }
    (asked, notes)
}

/// The report without the parts that are not measured again.
fn without(report: &Report, asked: &[EvaluatorSpec]) -> Report {
    let distilled = asked.iter().any(|spec| matches!(spec, EvaluatorSpec::Utility(utility) if utility.self_distilled));
    let benchmarks: Vec<_> = asked.iter().filter_map(EvaluatorSpec::benchmark).map(|b| b.name).collect();
    let mut report = report.clone();
    let candidates = report.candidates.iter_mut().map(|candidate| &mut candidate.measurement);
    for measurement in std::iter::once(&mut report.before).chain(candidates) {
        measurement.benchmarks.retain(|benchmark| benchmarks.contains(&benchmark.name));
        if let Some(utility) = measurement.utility.as_mut().filter(|_| !distilled) {
            utility.groups.retain(|group| !group.self_distilled);
        }
    }
    report
}

/// The same prompts over the same files.
struct Again<'a> {
    suspect: Suspect,
    probes: Probes,
    lab: &'a Lab,
}

impl<'a> Again<'a> {
    fn open(report: &Report, files: &ReplayFiles, asked: &[EvaluatorSpec], lab: &'a Lab) -> Result<Self> {
        let (spec, recipe) = (&report.recipe.spec, &report.recipe.method);
        let suspect = Suspect::open(&submission(report, files), spec.template, lab)?;
        let own = split_task_rows(&suspect.task, recipe.task_rows_given(), lab);
        let probes = Probes::build(asked, &suspect, &own, lab)?;
        Ok(Self { suspect, probes, lab })
    }

    fn open_artifact(&self, folder: &Path) -> Result<Weights> {
        Ok(match self.suspect.subject().kind {
            SubjectKind::Adapter => {
                Weights::Adapter(load_adapter(folder, self.suspect.config(), self.suspect.device())?)
            }
            SubjectKind::Checkpoint => {
                let digest = PieceKey::new("checkpoint", &folder_digests(folder)?).as_str().to_owned();
                Weights::Checkpoint(CheckpointFolder { dir: folder.to_owned(), digest })
            }
        })
    }

    fn measure(&self, weights: &Weights) -> Result<Evidence> {
        evaluate_all(&self.probes, &self.suspect, weights, self.lab)
    }
}

/// Without the suspect the artifact takes its place: prompts come from rows and base, not from weights.
fn submission(report: &Report, files: &ReplayFiles) -> Submission {
    let folder = files.suspect.as_ref().or(files.artifact.as_ref());
    let dir = folder.expect("`check_files` refuses when neither is given").clone();
    let suspect = match report.subject.kind {
        SubjectKind::Adapter => Submitted::Adapter { adapter_dir: dir, base_dir: files.base.clone() },
        SubjectKind::Checkpoint => Submitted::Checkpoint { dir },
    };
    Submission {
        suspect,
        train_rows: files.train_rows.clone(),
        test_rows: files.test_rows.clone(),
        task_rows: files.task_rows.clone(),
        calibration_dir: Some(files.base.clone()),
        base_dir: Some(files.base.clone()),
        signature: files.signature.clone(),
        folders: files.folders.clone(),
    }
}

fn run_again(report: &Report, files: &ReplayFiles, lab: &Lab) -> Result<Replayed> {
    if files.suspect.is_none() {
        return Err(EngineError::Data("expected the suspect's folder to purify it again, found none".into()));
    }
    if report.subject.signature.is_some() && files.signature.is_none() {
        return Err(EngineError::Data("expected the signature that was given to the job, found none".into()));
    }
    let again = run(&submission(report, files), &report.recipe.spec, lab)?.report;
    let mut rates = compare("suspect", "suspect", &report.before, &again.before);
    for candidate in &report.candidates {
        let found = again.candidates.iter().find(|other| other.name == candidate.name);
        rates.extend(compare_with(
            role(candidate),
            &candidate.name,
            &candidate.measurement,
            found.map(|c| &c.measurement),
        ));
    }
    for control in &report.controls {
        let found = again.controls.iter().find(|other| other.name == control.name);
        rates.extend(compare_with("control", &control.name, &control.measurement, found.map(|c| &c.measurement)));
    }
    rates.extend(compare_rows(report.trial_rates(), &again.trial_rates()));
    rates.extend(compare_rows(report.canary_rates(), &again.canary_rates()));
    rates.extend(compare_rows(report.relearning_rates(), &again.relearning_rates()));
    let file = |reported: &FileDigest| {
        let replayed = again.artifact.iter().find(|file| file.path == reported.path).map(|file| file.sha256.clone());
        let equal = replayed.as_ref() == Some(&reported.sha256);
        ReplayedFile { path: reported.path.clone(), reported: reported.sha256.clone(), replayed, equal }
    };
    Ok(Replayed { rates, files: report.artifact.iter().map(file).collect(), notes: Vec::new() })
}

fn role(candidate: &Candidate) -> &'static str {
    if candidate.chosen { "exported" } else { "candidate" }
}

fn compare(role: &'static str, model: &str, reported: &Measurement, replayed: &Measurement) -> Vec<ReplayedRate> {
    compare_with(role, model, reported, Some(replayed))
}

fn compare_with(
    role: &'static str,
    model: &str,
    reported: &Measurement,
    replayed: Option<&Measurement>,
) -> Vec<ReplayedRate> {
    let found = replayed.map(|measurement| rates_of(role, model, measurement)).unwrap_or_default();
    compare_rows(rates_of(role, model, reported), &found)
}

fn compare_rows(reported: Vec<RateRow<'_>>, found: &[RateRow<'_>]) -> Vec<ReplayedRate> {
    let line = |row: RateRow<'_>| {
        let place = |row: &RateRow<'_>| (row.model.to_owned(), row.item.clone(), row.measure, row.recipe.format);
        let same_place = |other: &&RateRow<'_>| place(other) == place(&row);
        let replayed = found.iter().find(same_place);
        ReplayedRate {
            model: row.model.to_owned(),
            evaluator: row.evaluator,
            item: row.item.clone(),
            measure: row.measure,
            format: row.recipe.format.name(),
            reported: row.rate,
            replayed: replayed.map(|other| other.rate),
            equal: replayed.is_some_and(|other| other.rate == row.rate && other.recipe == row.recipe),
        }
    };
    reported.into_iter().map(line).collect()
}
