//! The whole of a job on one page: measure, screen, purify where there is a reason to, measure again, report.

use std::fs;
use std::path::{Path, PathBuf};

use antigen_models::checkpoint::{copy_checkpoint, open_checkpoint};
use antigen_models::families::check_tensors;
use antigen_models::{LoraAdapter, load_adapter, save_adapter};

use crate::canaries::Aviary;
use crate::data::{OwnRows, split_own_rows};
use crate::detect::{Calibration, screen_suspect};
use crate::error::{EngineError, Result};
use crate::evaluators::{Evidence, Probes, evaluate_all};
use crate::lab::{Lab, Stage};
use crate::methods::{ControlModel, Purified, build_recipe, resolve_method};
use crate::relearn::{Relearned, relearn};
use crate::report::{
    CanaryReport, Candidate, Case, Control, CoverageStatus, LongRows, Measurement, Recipe, Report, SCHEMA,
    ScreenReport, Untouched, fires, judge,
};
use crate::spec::{BehaviourFamily, EvaluatorSpec, MethodRecipe, PurifySpec, PurifyWhen, UtilitySpec};
use crate::suspect::{Submission, Suspect, folder_digests};
use crate::weights::{Weights, adapter_sha256};

/// What a job leaves in the scratch folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The evidence.
    pub report: Report,
    /// Folder of the purified artifact, in the layout of what was submitted.
    pub artifact_dir: PathBuf,
    /// The signature as safetensors; absent when the method found nothing to work on, or was given another job's.
    pub signature_path: Option<PathBuf>,
}

/// Runs a job. Everything it makes lies in the lab's scratch folder; run again after an interruption, it reuses what is finished and
/// ends with the same bytes.
///
/// # Errors
/// [`EngineError`]; see [`EngineError::blame`] for whether another attempt is worth it.
pub fn run(submission: &Submission, spec: &PurifySpec, lab: &Lab) -> Result<Outcome> {
    spec.validate()?;
    submission.folders.check(spec)?;
    if lab.seed != spec.seed {
        return Err(EngineError::spec("/seed", format!("expected the lab's seed {}, found {}", lab.seed, spec.seed)));
    }
    lab.enter(Stage::Inspect)?;
    let suspect = Suspect::open(submission, spec.template, lab)?;
    spec.check_for(suspect.facts())?;
    build_recipe(&resolve_method(spec, &suspect, None), &[]).check(&suspect)?;
    let calibration = submission.calibration_dir.as_deref().map(Calibration::find).transpose()?;
    let own = split_own_rows(&suspect.own, resolve_method(spec, &suspect, None).own_rows_given(), lab);
    let probes = Probes::build(&spec.evaluators, &suspect, &own, lab)?;

    lab.enter(Stage::MeasureBefore)?;
    let before = evaluate_all(&probes, &suspect, &suspect.weights, lab)?;
    let screen = screen_suspect(&suspect, &spec.screen, calibration.as_ref(), lab)?;
    let (found, measured) = (found_family(&screen), probes.report(&before, None));
    let recipe = resolve_method(spec, &suspect, found);
    let purified = match reason_to_leave(spec.purify, &screen, &measured) {
        Some(reason) => Purified::untouched(reason),
        None => build_recipe(&recipe, &spec.controls).purify(&suspect, &own, lab)?,
    };
    let after = measure(&probes, &suspect, &purified, lab)?;
    let canaries = canaries(spec, &suspect, &own, (&recipe, &purified), lab)?;
    let exported = purified.candidates.first().map(|chosen| &chosen.weights);
    let relearned = relearn(&suspect, spec, exported, &measured, lab)?;

    let artifact_dir = export(&suspect, submission, &purified, lab)?;
    let (suspect, probes, purified) = (&suspect, &probes, &purified);
    let job = Job { spec, recipe, suspect, probes, purified, screen, canaries, before, after, relearned };
    let report = job.report(&artifact_dir, lab)?;
    Ok(Outcome { report, artifact_dir, signature_path: purified.signature.as_ref().and_then(|file| file.path.clone()) })
}

fn found_family(screen: &ScreenReport) -> Option<BehaviourFamily> {
    let scores = screen.scores.as_ref().filter(|_| screen.status == CoverageStatus::Finding);
    scores.map(|scores| scores.nearest_family)
}

/// Why the suspect is returned as it came, if it is. A declared backdoor that fires is a finding, whatever the screen says.
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

/// What became of canaries in a copy of the suspect that went through the same purification, where they are wanted or the method has made
/// such a copy already.
fn canaries(
    spec: &PurifySpec,
    suspect: &Suspect,
    own: &OwnRows,
    (recipe, purified): (&MethodRecipe, &Purified),
    lab: &Lab,
) -> Result<Option<CanaryReport>> {
    let within = &lab.within();
    let ask = |aviary: &Aviary, after: &Weights, controls: &[ControlModel]| {
        let before = aviary.ask(&aviary.copy.weights, within)?;
        let left = |made: &ControlModel| Ok((made.control.name().to_owned(), aviary.ask(&made.weights, within)?));
        let controls = controls.iter().map(left).collect::<Result<Vec<_>>>()?;
        Ok(Some(aviary.report(&before, &aviary.ask(after, within)?, &controls)))
    };
    if let Some(copy) = &purified.copy {
        lab.enter(Stage::Canaries)?;
        return ask(&copy.aviary, &copy.weights, &copy.controls);
    }
    if purified.candidates.is_empty() || !spec.canaries.wanted(spec.declares_triggers()) {
        return Ok(None);
    }
    let canaries = spec.canaries.resolve(suspect.subject().kind, suspect.parameters());
    let controls = canaries.controls(&spec.controls);
    let aviary = Aviary::open(suspect, own, canaries, lab)?;
    let purified = build_recipe(&recipe.alone(), &controls).purify(&aviary.copy, own, within)?;
    let after = purified.candidates.first().map_or(&aviary.copy.weights, |chosen| &chosen.weights);
    ask(&aviary, after, &purified.controls)
}

/// Writes the exported artifact and opens it again: what cannot be loaded, or is not what was measured, is never handed out. A suspect
/// that nothing was done to is copied byte by byte.
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
    relearned: Option<Relearned>,
}

impl Job<'_> {
    fn report(self, artifact_dir: &std::path::Path, lab: &Lab) -> Result<Report> {
        lab.enter(Stage::Report)?;
        let before = self.probes.report(&self.before, None);
        let candidates = self.candidates();
        let controls = self.controls();
        let after = candidates.first().map_or(&before, |chosen| &chosen.measurement);
        let verdict = judge(Case {
            before: &before,
            after,
            controls: &controls,
            margin: self.margin(),
            screen: Some(&self.screen),
            canaries: self.canaries.as_ref(),
            relearning: self.relearned.as_ref().map(|relearned| &relearned.report),
            frontier: self.purified.frontier.as_ref(),
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
            frontier: self.purified.frontier.clone(),
            left_out: self.purified.left_out.clone(),
            long_rows: self.long_rows(),
            relearning: self.relearned.map(|relearned| relearned.report),
            signature: self.purified.signature.as_ref().map(|file| file.summary.clone()),
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

    fn long_rows(&self) -> Vec<LongRows> {
        let relearning = self.relearned.iter().map(|relearned| &relearned.long_rows).filter(|rows| rows.any());
        self.purified.long_rows.iter().chain(self.probes.long_rows()).chain(relearning).cloned().collect()
    }

    fn candidates(&self) -> Vec<Candidate> {
        let made = self.purified.candidates.iter().zip(&self.after.candidates).enumerate();
        made.map(|(i, (made, said))| Candidate {
            name: made.name.clone(),
            suppression: made.suppression.clone(),
            heads: made.heads.clone(),
            healing: made.healing.clone(),
            measurement: self.probes.report(said, Some(&self.before)),
            chosen: i == 0,
        })
        .collect()
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
