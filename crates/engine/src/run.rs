//! The whole of a job on one page: measure, screen, purify where there is a reason to, measure again, report.

use std::fs;
use std::path::{Path, PathBuf};

use antigen_models::checkpoint::{copy_checkpoint, open_checkpoint};
use antigen_models::families::check_tensors;
use antigen_models::{LoraAdapter, load_adapter, save_adapter};

use crate::data::{TaskRows, split_task_rows};
use crate::error::{EngineError, Result};
use crate::job::{PurifySpec, PurifyWhen};
use crate::lab::{Lab, LongRows};
use crate::measure::canaries::CanarySuite;
use crate::measure::detect::{Calibration, screen_suspect};
use crate::measure::evaluators::{Evidence, Probes, evaluate_all};
use crate::measure::evidence::{CanaryReport, CoverageStatus, Measurement, RelearningReport, ScreenReport, fires};
use crate::measure::relearn::relearn;
use crate::methods::{ControlModel, MethodRecipe, Purified, PurifiedCandidate, Untouched};
use crate::report::{Candidate, Case, Control, Recipe, Report, SCHEMA, decide_verdict};
use crate::spec::{BehaviourFamily, EvaluatorSpec, UtilitySpec};
use crate::stage::Stage;
use crate::suspect::weights::{Weights, adapter_sha256};
use crate::suspect::{Submission, Suspect, folder_digests};

/// Files and findings that a job leaves in the scratch folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The evidence.
    pub report: Report,
    /// Folder of the purified artifact, in the layout of the submission.
    pub artifact_dir: PathBuf,
    /// The signature as safetensors; absent when the method found nothing to work on, or was given another
    /// job's.
    pub signature_path: Option<PathBuf>,
}

/// Runs a job. Everything it makes lies in the lab's scratch folder; run again after an interruption, it
/// reuses finished pieces and ends with the same bytes.
///
/// # Errors
/// [`EngineError`]; [`EngineError::blame`] tells whether another attempt is worth it.
pub fn run(submission: &Submission, spec: &PurifySpec, lab: &Lab) -> Result<Outcome> {
    spec.validate()?;
    submission.folders.check(&spec.evaluators)?;
    if lab.seed != spec.seed {
        return Err(EngineError::spec("/seed", format!("expected the lab's seed {}, found {}", lab.seed, spec.seed)));
    }
    lab.enter(Stage::Inspect)?;
    let suspect = Suspect::open(submission, spec.template, lab)?;
    spec.check_for(suspect.facts())?;
    let recipe = spec.resolve_method(&suspect, None);
    recipe.method().check(&suspect)?;
    let calibration = submission.calibration_dir.as_deref().map(Calibration::find).transpose()?;
    let task = split_task_rows(&suspect.task, recipe.task_rows_given(), lab);
    let probes = Probes::build(&spec.evaluators, &suspect, &task, lab)?;

    lab.enter(Stage::MeasureBefore)?;
    let before = evaluate_all(&probes, &suspect, &suspect.weights(), lab)?;
    let screen = screen_suspect(&suspect, &spec.screen, calibration.as_ref(), lab)?;
    let measured = probes.report(&before, None);
    let recipe = spec.resolve_method(&suspect, found_family(&screen));
    let purified = match reason_to_leave(spec.purify, &screen, &measured) {
        Some(reason) => Purified::untouched(reason),
        None => recipe.method().purify(&suspect, &task, &spec.controls, lab)?,
    };
    let purifying = lab.take_long_rows();
    let after = measure(&probes, &suspect, &purified, lab)?;
    let canaries = Copied { spec, suspect: &suspect, task: &task, recipe: &recipe, lab }.canaries(&purified)?;
    let exported = purified.candidates.first().map(|chosen| &chosen.weights);
    let relearning = relearn(&suspect, spec.resolve_relearning(&suspect), &spec.evaluators, exported, &measured, lab)?;
    let long_rows = purifying.into_iter().chain(probes.long_rows().cloned()).chain(lab.take_long_rows()).collect();

    let artifact_dir = export(&suspect, submission, &purified, lab)?;
    let (suspect, probes, purified) = (&suspect, &probes, &purified);
    let job = Job { spec, recipe, suspect, probes, purified, screen, canaries, before, after, relearning, long_rows };
    let report = job.report(&artifact_dir, lab)?;
    let signature_path = purified.details.signature().and_then(|file| file.path.clone());
    Ok(Outcome { report, artifact_dir, signature_path })
}

fn found_family(screen: &ScreenReport) -> Option<BehaviourFamily> {
    let scores = screen.scores.as_ref().filter(|_| screen.status == CoverageStatus::Finding);
    scores.map(|scores| scores.nearest_family)
}

/// The reason to return the suspect as it came, if there is one. A declared backdoor that fires is a finding,
/// whatever the screen says.
fn reason_to_leave(when: PurifyWhen, screen: &ScreenReport, before: &Measurement) -> Option<Untouched> {
    let nothing = screen.status == CoverageStatus::NoFinding && !fires(before);
    match when {
        PurifyWhen::Never => Some(Untouched::NotAsked),
        PurifyWhen::OnFinding if nothing => Some(Untouched::NoFinding),
        PurifyWhen::OnFinding | PurifyWhen::Always => None,
    }
}

/// Answers of everything that a method made, in its order.
struct Answers {
    candidates: Vec<Evidence>,
    controls: Vec<Evidence>,
}

fn measure(probes: &Probes, suspect: &Suspect, purified: &Purified, lab: &Lab) -> Result<Answers> {
    lab.enter(Stage::MeasureAfter)?;
    let candidates = purified
        .candidates
        .iter()
        .map(|made| evaluate_all(probes, suspect, &made.weights, lab))
        .collect::<Result<_>>()?;
    lab.enter(Stage::Controls)?;
    let asked = probes.for_controls();
    let controls = purified
        .controls
        .iter()
        .map(|made| evaluate_all(&asked, suspect, &made.weights, lab))
        .collect::<Result<_>>()?;
    Ok(Answers { candidates, controls })
}

/// A copy of the suspect with canaries that goes through the same purification.
struct Copied<'a> {
    spec: &'a PurifySpec,
    suspect: &'a Suspect,
    task: &'a TaskRows,
    recipe: &'a MethodRecipe,
    lab: &'a Lab,
}

impl Copied<'_> {
    /// The fate of the canaries, where they are wanted or the method has made such a copy already.
    fn canaries(&self, purified: &Purified) -> Result<Option<CanaryReport>> {
        let Self { spec, suspect, task, recipe, lab } = self;
        if let Some(copy) = purified.details.copy() {
            lab.enter(Stage::Canaries)?;
            return self.ask(&copy.suite, &copy.weights, &copy.controls).map(Some);
        }
        if purified.candidates.is_empty() || !spec.canaries.wanted(spec.declares_triggers()) {
            return Ok(None);
        }
        let canaries = spec.canaries.resolve(suspect.subject().kind, suspect.parameters());
        let controls = canaries.controls(&spec.controls);
        let suite = CanarySuite::open(suspect, task, canaries, lab)?;
        let purified = recipe.only_exported().method().purify(&suite.copy, task, &controls, &lab.within())?;
        let after =
            purified.candidates.into_iter().next().map_or_else(|| suite.copy.weights(), |chosen| chosen.weights);
        self.ask(&suite, &after, &purified.controls).map(Some)
    }

    fn ask(&self, suite: &CanarySuite, after: &Weights, controls: &[ControlModel]) -> Result<CanaryReport> {
        let within = &self.lab.within();
        let before = suite.ask(&suite.copy.weights(), within)?;
        let left = |made: &ControlModel| Ok((made.control.name().to_owned(), suite.ask(&made.weights, within)?));
        let controls = controls.iter().map(left).collect::<Result<Vec<_>>>()?;
        Ok(suite.report(&before, &suite.ask(after, within)?, &controls))
    }
}

/// Writes the exported artifact and opens it again: an artifact that cannot be loaded, or is not the measured
/// one, is never handed out. A suspect that nothing was done to is copied byte by byte.
fn export(suspect: &Suspect, submission: &Submission, purified: &Purified, lab: &Lab) -> Result<PathBuf> {
    lab.enter(Stage::Export)?;
    let folder = lab.scratch.join("artifact");
    let partial = lab.scratch.join("artifact.partial");
    for stale in [&folder, &partial].into_iter().filter(|path| path.exists()) {
        fs::remove_dir_all(stale).map_err(EngineError::io(stale))?;
    }
    fs::create_dir_all(&partial).map_err(EngineError::io(&partial))?;
    match purified.candidates.first().map(|chosen| &chosen.weights) {
        Some(Weights::Adapter(adapter)) => export_adapter(adapter, suspect, &partial)?,
        Some(Weights::Checkpoint(measured)) => export_checkpoint(&measured.dir, &partial)?,
        Some(Weights::Base) | None => {
            for file in folder_digests(submission.suspect.dir())? {
                let path = submission.suspect.dir().join(&file.path);
                fs::copy(&path, partial.join(&file.path)).map_err(EngineError::io(&path))?;
            }
        }
    }
    fs::rename(&partial, &folder).map_err(EngineError::io(&folder))?;
    Ok(folder)
}

fn export_adapter(measured: &LoraAdapter, suspect: &Suspect, into: &Path) -> Result<()> {
    save_adapter(measured, into)?;
    let reopened = load_adapter(into, suspect.config(), suspect.device())?;
    check_same(&adapter_sha256(measured)?, &adapter_sha256(&reopened)?)
}

/// The measured folder is in the suspect's layout already: it was made as a copy of the suspect's files.
fn export_checkpoint(measured: &Path, into: &Path) -> Result<()> {
    copy_checkpoint(measured, into, |_| Ok(None))?;
    let reopened = open_checkpoint(into)?;
    check_tensors(&antigen_models::FamilyConfig::from_json(&reopened.config_json)?, &reopened)?;
    check_same(&folder_digests(measured)?, &folder_digests(into)?)
}

fn check_same<T: PartialEq>(measured: &T, reopened: &T) -> Result<()> {
    if measured == reopened {
        return Ok(());
    }
    let path = PathBuf::from("artifact");
    Err(EngineError::io(path)(std::io::Error::other("what was written is not what was measured")))
}

/// Everything that a report is made of.
struct Job<'a> {
    spec: &'a PurifySpec,
    recipe: MethodRecipe,
    suspect: &'a Suspect,
    probes: &'a Probes,
    purified: &'a Purified,
    screen: ScreenReport,
    canaries: Option<CanaryReport>,
    before: Evidence,
    after: Answers,
    relearning: Option<RelearningReport>,
    long_rows: Vec<LongRows>,
}

impl Job<'_> {
    fn report(self, artifact_dir: &std::path::Path, lab: &Lab) -> Result<Report> {
        lab.enter(Stage::Report)?;
        let before = self.probes.report(&self.before, None);
        let candidates = self.candidates();
        let controls = self.controls();
        let after = candidates.first().map_or(&before, |chosen| &chosen.measurement);
        let verdict = decide_verdict(Case {
            before: &before,
            after,
            controls: &controls,
            margin: self.margin(),
            screen: Some(&self.screen),
            canaries: self.canaries.as_ref(),
            relearning: self.relearning.as_ref(),
            search: self.purified.details.search(),
            untouched: self.purified.untouched.as_ref(),
        });
        let report = Report {
            schema: SCHEMA.into(),
            verdict,
            subject: self.suspect.subject().clone(),
            recipe: Recipe {
                engine: env!("CARGO_PKG_VERSION").into(),
                device: lab.device_name().into(),
                matrix_unit: lab.matrix_unit,
                precision: lab.precision,
                spec: self.spec.clone(),
                method: self.recipe.clone(),
            },
            controls,
            search: self.purified.details.search().cloned(),
            left_out: self.purified.left_out.clone(),
            long_rows: self.long_rows,
            relearning: self.relearning,
            signature: self.purified.details.signature().map(|file| file.summary.clone()),
            samples: self.probes.samples(&self.before, self.after.candidates.first()),
            artifact: folder_digests(artifact_dir)?,
            screen: Some(self.screen),
            canaries: self.canaries,
            before,
            candidates,
        };
        let path = lab.scratch.join("report.json");
        let text = serde_json::to_vec_pretty(&report).expect("reports always serialise");
        fs::write(&path, text).map_err(EngineError::io(&path))?;
        Ok(report)
    }

    fn candidates(&self) -> Vec<Candidate> {
        let made = self.purified.candidates.iter().zip(&self.after.candidates).enumerate();
        let candidate = |(i, (made, said)): (usize, (&PurifiedCandidate, &Evidence))| Candidate {
            name: made.name.clone(),
            suppression: made.removed.suppression().cloned(),
            heads: made.removed.heads().cloned(),
            healing: made.healing.clone(),
            measurement: self.probes.report(said, Some(&self.before)),
            chosen: i == 0,
        };
        made.map(candidate).collect()
    }

    fn controls(&self) -> Vec<Control> {
        let chosen = self.after.candidates.first();
        let asr = |said: &Evidence| chosen.map(|chosen| self.probes.compare_asr(chosen, said)).unwrap_or_default();
        let utility =
            |said: &Evidence| chosen.map(|chosen| self.probes.compare_utility(chosen, said)).unwrap_or_default();
        let made = self.purified.controls.iter().zip(&self.after.controls);
        made.map(|(made, said)| Control {
            name: made.control.name().into(),
            description: made.description.clone(),
            measurement: self.probes.report(said, Some(&self.before)),
            asr_versus_chosen: asr(said),
            utility_versus_chosen: utility(said),
        })
        .collect()
    }

    fn margin(&self) -> f64 {
        let utility = self.spec.evaluators.iter().rev().find_map(|evaluator| match evaluator {
            EvaluatorSpec::Utility(spec) => Some(spec.margin),
            EvaluatorSpec::Asr(_) | EvaluatorSpec::Benchmark(_) | EvaluatorSpec::MtBench(_) => None,
        });
        utility.unwrap_or_else(|| UtilitySpec::default().margin)
    }
}
