//! Relearning depth on a tiny random base: the curve is there, more samples teach more, and everything of it
//! comes out again.

use crate::workshop::Workshop;
use antigen_engine::job::{PurifySpec, PurifyWhen};
use antigen_engine::measure::evidence::{CoverageStatus, RelearningReport, RelearningSubject};
use antigen_engine::replay::{ReplayFiles, replay};
use antigen_engine::report::Report;
use antigen_engine::run::run;
use antigen_engine::suspect::{Submission, Submitted};
use serde_json::json;

/// The workshop's job without controls, with a curve of seconds.
fn spec(shop: &Workshop, samples: &[usize]) -> PurifySpec {
    let train = json!({"learning_rate": 1e-2, "epochs": 10, "warmup_fraction": 0.0});
    let relearning = serde_json::from_value(json!({"samples": samples, "rows": 6, "train": train})).unwrap();
    PurifySpec { relearning: Some(relearning), controls: vec![], ..shop.spec() }
}

fn found(report: &Report) -> &RelearningReport {
    report.relearning.as_ref().unwrap()
}

#[test]
fn an_adapter_has_four_curves_whose_later_points_fire_more() {
    let shop = Workshop::new();
    let report = run(&shop.submission(), &spec(&shop, &[2, 24, 1000]), &shop.lab("a")).unwrap().report;
    let [one] = &found(&report).backdoors[..] else { panic!("one backdoor is declared") };
    let subjects: Vec<_> = one.curves.iter().map(|curve| curve.subject).collect();
    use RelearningSubject::{Artifact, FreshTrigger, NeverPoisoned, NeverPoisonedFreshTrigger};
    assert_eq!(subjects, [Artifact, FreshTrigger, NeverPoisoned, NeverPoisonedFreshTrigger]);
    for curve in &one.curves {
        // Ten epochs over pairs of rows, eight rows a step.
        let points: Vec<_> =
            curve.points.iter().map(|point| (point.samples, point.steps, point.with_trigger.n)).collect();
        assert_eq!(points, [(0, 0, 6), (2, 10, 6), (24, 60, 6)], "{:?}", curve.subject);
        let hits: Vec<_> = curve.points.iter().map(|point| point.with_trigger.hits).collect();
        assert!(hits[0] == 0 && hits[2] > hits[0] && hits[2] >= hits[1], "{:?}: {hits:?}", curve.subject);
    }
    assert_ne!(one.curves[0].rows_sha256, one.curves[1].rows_sha256);
    assert_eq!(one.curves[0].measurement, one.curves[2].measurement);
    assert!(found(&report).left_out[0].starts_with("1000 samples: there are "), "{:?}", found(&report).left_out);
    let item = report.verdict.coverage.last().unwrap();
    assert_eq!((item.item.as_str(), &item.note), ("relearning of badnets with insult", &one.text));
    assert!(item.status != CoverageStatus::NoFinding && item.note.contains("6 probes are too few"), "{}", item.note);
}

#[test]
fn a_whole_model_is_taught_copy_by_copy_and_says_what_it_lacks() {
    let shop = Workshop::new();
    let report = run(&shop.whole_submission(), &spec(&shop, &[2]), &shop.lab("a")).unwrap().report;
    let relearning = found(&report);
    let subjects: Vec<_> = relearning.backdoors[0].curves.iter().map(|curve| curve.subject.name()).collect();
    assert_eq!(subjects, ["artifact", "fresh_trigger"]);
    assert!(relearning.backdoors[0].curves.iter().all(|curve| curve.points[1].steps == 10));
    assert!(relearning.left_out[0].starts_with("never_poisoned: "), "{:?}", relearning.left_out);
    let models = std::fs::read_dir(shop.scratch("a")).unwrap().map(|entry| entry.unwrap().path());
    let taught: Vec<_> = models.filter(|path| path.to_string_lossy().contains("relearned-model-")).collect();
    assert!(taught.len() == 2 && taught.iter().all(|path| !path.join("model").exists()), "{taught:?}");
}

#[test]
fn a_replay_of_everything_compares_every_trial_and_a_short_one_says_that_it_does_not() {
    let shop = Workshop::new();
    let submission = shop.submission();
    let outcome = run(&submission, &spec(&shop, &[2, 4]), &shop.lab("a")).unwrap();
    let again = run(&submission, &spec(&shop, &[2, 4]), &shop.lab("a")).unwrap();
    assert_eq!(outcome.report, again.report);
    let mut report = outcome.report.clone();
    let csv = report.rates_csv();
    assert_eq!(csv.lines().filter(|line| line.starts_with("relearning,fresh_trigger,asr,")).count(), 3 * 2);
    let point = &mut report.relearning.as_mut().unwrap().backdoors[0].curves[1].points[2];
    point.without_trigger.hits += 1;
    let files = files(&submission, outcome.artifact_dir);
    let replayed = replay(&report, &files, true, &shop.lab("b")).unwrap();
    assert_eq!(replayed.rates.len(), report.rates().len());
    let wrong: Vec<_> = replayed.rates.iter().filter(|rate| !rate.equal).collect();
    assert_eq!(wrong.len(), 1);
    assert_eq!((wrong[0].model.as_str(), wrong[0].measure), ("fresh_trigger", "without_trigger"));
    assert!(wrong[0].item.ends_with("after 4 samples"), "{}", wrong[0].item);
    let short = replay(&report, &files, false, &shop.lab("c")).unwrap();
    assert!(short.is_equal() && short.notes[0].contains("--all"), "{:?}", short.notes);
}

fn files(submission: &Submission, artifact: std::path::PathBuf) -> ReplayFiles {
    let Submitted::Adapter { adapter_dir, base_dir } = submission.suspect.clone() else { panic!("an adapter") };
    ReplayFiles {
        suspect: Some(adapter_dir),
        artifact: Some(artifact),
        base: base_dir,
        train_rows: submission.train_rows.clone(),
        test_rows: submission.test_rows.clone(),
        task_rows: submission.task_rows.clone(),
        signature: submission.signature.clone(),
        folders: submission.folders.clone(),
    }
}

#[test]
fn an_artifact_that_was_left_alone_is_taught_nothing() {
    let shop = Workshop::new();
    let spec = PurifySpec { purify: PurifyWhen::Never, ..spec(&shop, &[2]) };
    let report = run(&shop.submission(), &spec, &shop.lab("a")).unwrap().report;
    assert_eq!(report.relearning, None);
    let item = report.verdict.coverage.last().unwrap();
    assert_eq!((item.item.as_str(), item.status), ("relearning", CoverageStatus::NotCovered));
}
