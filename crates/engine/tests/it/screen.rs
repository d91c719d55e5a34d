//! The screen before cutting: a job does what it says.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::workshop::Workshop;
use antigen_engine::data::{read_rows, rows_sha256};
use antigen_engine::error::EngineError;
use antigen_engine::job::{PurifySpec, PurifyWhen};
use antigen_engine::lab::{Lab, ProgressSink};
use antigen_engine::measure::detect::{
    CALIBRATION_FILE, Calibrated, Calibration, CalibrationGroup, Uptake, measure_uptake, screen_suspect,
};
use antigen_engine::measure::evidence::CoverageStatus;
use antigen_engine::methods::MethodRecipe;
use antigen_engine::report::{Report, VerdictStatus};
use antigen_engine::run::run;
use antigen_engine::spec::{BehaviourFamily, PromptFormat, ScreenRecipe, ScreenSpec, SubjectKind};
use antigen_engine::stage::Stage;
use antigen_engine::suspect::{Submission, Suspect, folder_digests};
use antigen_engine::world::materialise_builtin;
use antigen_models::Device;

#[test]
fn the_shipped_calibration_is_of_the_shipped_base() {
    let folder = tempfile::tempdir().unwrap();
    let base = materialise_builtin(folder.path()).unwrap();
    let calibration = Calibration::builtin();
    let digests = folder_digests(&base).unwrap();
    assert!(calibration.base.iter().any(|file| file.path == "model.safetensors"));
    assert!(calibration.base.iter().all(|file| digests.contains(file)));
    let rows = read_rows(&base.join("train.jsonl")).unwrap();
    assert_eq!(calibration.train_rows_sha256, rows_sha256(&rows));
    for kind in [SubjectKind::Adapter, SubjectKind::Checkpoint] {
        let group = calibration.groups.iter().find(|group| group.kind == kind).unwrap();
        assert_eq!(group.recipe, ScreenSpec::default().resolve(kind, 1_250_000), "{kind:?}");
        assert!(group.clean.len() >= 20 && !group.poisoned.is_empty(), "{kind:?}");
    }
}

fn small_screen() -> ScreenSpec {
    let families = vec![BehaviourFamily::Insult, BehaviourFamily::Appended, BehaviourFamily::Formatting];
    ScreenSpec { families, seeds: 2, rows: 16, ..ScreenSpec::default() }
}

fn spec(shop: &Workshop, purify: PurifyWhen) -> PurifySpec {
    PurifySpec { purify, screen: small_screen(), ..shop.spec() }
}

struct Measured {
    suspect: Suspect,
    recipe: ScreenRecipe,
    uptake: Uptake,
}

fn measured(submission: &Submission, lab: &Lab) -> Measured {
    let suspect = Suspect::open(submission, PromptFormat::Alpaca, lab).unwrap();
    let recipe = small_screen().resolve(suspect.subject().kind, suspect.parameters());
    let uptake = measure_uptake(&suspect, &recipe, lab).unwrap();
    Measured { suspect, recipe, uptake }
}

/// A calibration whose twenty clean suspects lie around this one, `above` higher in the family of appended
/// texts.
fn calibration_around(measured: &Measured, above: f64) -> Calibration {
    let clean = (0..20).map(|i| {
        let nudge = 0.005 * f64::from(i) - 0.0475;
        let shifted = |(family, seeds): (&BehaviourFamily, &Vec<f64>)| {
            let shift = if *family == BehaviourFamily::Appended { above } else { 0.0 };
            (*family, seeds.iter().map(|loss| loss + nudge + shift).collect())
        };
        Calibrated {
            name: format!("clean-{i}"),
            about: "made up".into(),
            uptake: measured.uptake.iter().map(shifted).collect(),
        }
    });
    let kind = measured.suspect.subject().kind;
    let group = CalibrationGroup { kind, recipe: measured.recipe.clone(), clean: clean.collect(), poisoned: vec![] };
    Calibration {
        groups: vec![group],
        ..Calibration::for_base(measured.suspect.subject().base.clone(), &measured.suspect)
    }
}

/// Runs a job on the workshop's adapter, over a base whose calibration lies around it.
fn job(purify: PurifyWhen, above: f64, change: impl FnOnce(&mut PurifySpec)) -> (Report, PathBuf, Workshop) {
    let shop = Workshop::new();
    let measured = measured(&shop.submission(), &shop.lab("calibrate"));
    calibration_around(&measured, above).write(&shop.base().join(CALIBRATION_FILE)).unwrap();
    let mut spec = spec(&shop, purify);
    change(&mut spec);
    let outcome = run(&shop.submission(), &spec, &shop.lab("job")).unwrap();
    (outcome.report, outcome.artifact_dir, shop)
}

#[test]
fn a_suspect_without_a_finding_comes_back_byte_for_byte_with_its_report() {
    let (report, artifact, _shop) = job(PurifyWhen::OnFinding, 0.0, |_| {});
    assert_eq!(report.verdict.status, VerdictStatus::NothingFound, "{}", report.verdict.text);
    assert!(report.verdict.text.contains("unchanged") && report.verdict.text.contains("not the same as clean"));
    assert_eq!(folder_digests(&artifact).unwrap(), report.subject.adapter);
    assert!(report.candidates.is_empty() && report.controls.is_empty() && report.signature.is_none());
    let scores = report.screen.unwrap().scores.unwrap();
    assert!(scores.score >= scores.threshold);
    assert_eq!(scores.families.len(), 3);
    assert!(scores.families.iter().all(|family| family.low <= family.loss && family.loss <= family.high));
}

#[test]
fn a_finding_is_purified_and_its_family_comes_first_in_the_extraction() {
    let (report, ..) = job(PurifyWhen::OnFinding, 2.0, |_| {});
    let screen = report.screen.as_ref().unwrap();
    assert_eq!(screen.status, CoverageStatus::Finding);
    assert_eq!(screen.scores.as_ref().unwrap().nearest_family, BehaviourFamily::Appended);
    assert!(!report.candidates.is_empty());
    assert_ne!(report.verdict.status, VerdictStatus::NothingFound);

    let without_pairs =
        |spec: &mut PurifySpec| spec.method = serde_json::from_value(serde_json::json!({"type": "immunize"})).unwrap();
    let (report, artifact, _shop) = job(PurifyWhen::Never, 2.0, without_pairs);
    // The family that was found, then those that were declared, instead of a mixture.
    let MethodRecipe::Immunize(recipe) = &report.recipe.method else { panic!("{:?}", report.recipe.method) };
    assert_eq!(recipe.pairs.families, [BehaviourFamily::Appended, BehaviourFamily::Insult]);
    assert_eq!(report.verdict.status, VerdictStatus::NotPurified);
    assert_eq!(folder_digests(&artifact).unwrap(), report.subject.adapter);
}

#[test]
fn a_job_that_always_purifies_does_so_without_a_finding() {
    let (report, ..) = job(PurifyWhen::Always, 0.0, |_| {});
    assert_eq!(report.screen.unwrap().status, CoverageStatus::NoFinding);
    assert!(!report.candidates.is_empty());
}

#[test]
fn without_a_calibration_that_fits_nothing_is_covered_and_nothing_is_trained() {
    let shop = Workshop::new();
    let lab = shop.lab("screen");
    let measured = measured(&shop.submission(), &shop.lab("calibrate"));
    let fitting = calibration_around(&measured, 0.0);
    let other_rows = Calibration { train_rows_sha256: "0".into(), ..fitting.clone() };
    let mut few = fitting.clone();
    few.groups[0].clean.truncate(3);
    let mut other_recipe = fitting.clone();
    other_recipe.groups[0].recipe.rows = 24;
    for (calibration, why) in [
        (None, "no calibration"),
        (Some(Calibration::builtin()), "another base"),
        (Some(other_rows), "other training rows"),
        (Some(few), "at least 20"),
        (Some(other_recipe), "another recipe"),
        (Some(Calibration { groups: vec![], ..fitting.clone() }), "of this kind"),
    ] {
        let screen = screen_suspect(&measured.suspect, &small_screen(), calibration.as_ref(), &lab).unwrap();
        assert_eq!((screen.status, screen.scores), (CoverageStatus::NotCovered, None));
        assert!(screen.text.contains(why), "{why}: {}", screen.text);
    }
    assert_eq!(std::fs::read_dir(&lab.scratch).unwrap().count(), 0);
    let screen = screen_suspect(&measured.suspect, &small_screen(), Some(&fitting), &lab).unwrap();
    assert_eq!(screen.status, CoverageStatus::NoFinding);
}

#[test]
fn a_calibration_keeps_what_the_base_has_of_the_other_kind_and_nothing_of_another_base() {
    let shop = Workshop::new();
    let adapters = calibration_around(&measured(&shop.submission(), &shop.lab("one")), 0.0);
    let mut models = adapters.clone();
    models.groups[0].kind = SubjectKind::Checkpoint;
    let kinds = |calibration: &Calibration| calibration.groups.iter().map(|group| group.kind).collect::<Vec<_>>();
    let both = models.clone().or_groups_of(adapters.clone());
    assert_eq!(kinds(&both), [SubjectKind::Adapter, SubjectKind::Checkpoint]);
    assert_eq!(models.clone().or_groups_of(models.clone()), models);
    assert_eq!(models.clone().or_groups_of(Calibration { base: vec![], ..adapters }), models);
}

#[test]
fn the_same_suspect_takes_up_the_same_to_the_last_bit_whatever_the_seed_of_the_job() {
    let shop = Workshop::new();
    let one = measured(&shop.submission(), &shop.lab("one"));
    let two = measured(&shop.submission(), &Lab::silent(99, shop.scratch("two")));
    assert_eq!(one.uptake, two.uptake);
    let other = ScreenRecipe { seed: 2, ..one.recipe.clone() };
    assert_ne!(measure_uptake(&one.suspect, &other, &shop.lab("one")).unwrap(), one.uptake);
}

#[test]
fn a_whole_model_is_screened_try_by_try() {
    let shop = Workshop::new();
    let measured = measured(&shop.whole_submission(), &shop.lab("one"));
    let losses: Vec<f64> = measured.uptake.values().flatten().copied().collect();
    assert_eq!(losses.len(), 6);
    assert!(losses.iter().all(|loss| loss.is_finite() && *loss > 0.0));
}

/// Cancels after a number of steps, and counts what comes later.
struct StopAfter {
    steps: AtomicUsize,
    cancel: Arc<AtomicBool>,
}

impl ProgressSink for StopAfter {
    fn enter(&self, _: Stage) {}
    fn advance(&self, _: u64, _: u64) {
        if self.steps.fetch_add(1, Ordering::Relaxed) == 0 {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_cancelled_screen_stops_within_a_step() {
    let shop = Workshop::new();
    let suspect = Suspect::open(&shop.submission(), PromptFormat::Alpaca, &shop.lab("open")).unwrap();
    let recipe = small_screen().resolve(SubjectKind::Adapter, suspect.parameters());
    let cancel = Arc::new(AtomicBool::new(false));
    let sink = Arc::new(StopAfter { steps: AtomicUsize::new(0), cancel: cancel.clone() });
    let lab = Lab::new(Device::Cpu, 1, shop.scratch("screen"), sink.clone(), cancel);
    assert!(matches!(measure_uptake(&suspect, &recipe, &lab), Err(EngineError::Cancelled)));
    assert_eq!(sink.steps.load(Ordering::Relaxed), 1);
}
