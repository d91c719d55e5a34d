//! A report can be measured again from its files and its recipe, and says so when the files are others.

use std::fs;

use crate::workshop::Workshop;
use antigen_engine::replay::{ReplayFiles, replay};
use antigen_engine::report::Report;
use antigen_engine::run::{Outcome, run};
use antigen_engine::spec::{CanariesWhen, CanarySpec, TrainSpec};
use antigen_engine::suspect::{Submission, Submitted};

fn files(submission: &Submission, outcome: &Outcome) -> ReplayFiles {
    let (suspect, base) = match &submission.suspect {
        Submitted::Adapter { adapter_dir, base_dir } => (adapter_dir.clone(), base_dir.clone()),
        Submitted::Checkpoint { dir } => (dir.clone(), dir.clone()),
    };
    ReplayFiles {
        suspect: Some(suspect),
        artifact: Some(outcome.artifact_dir.clone()),
        base,
        train_rows: submission.train_rows.clone(),
        test_rows: submission.test_rows.clone(),
        task_rows: submission.task_rows.clone(),
        signature: submission.signature.clone(),
        folders: submission.folders.clone(),
    }
}

/// As it comes back from a file.
fn reread(report: &Report) -> Report {
    serde_json::from_slice(&serde_json::to_vec_pretty(report).unwrap()).unwrap()
}

#[test]
fn every_rate_of_suspect_and_artifact_comes_out_again_from_the_report_alone() {
    let shop = Workshop::new();
    let outcome = run(&shop.submission(), &shop.spec(), &shop.lab("a")).unwrap();
    let report = reread(&outcome.report);
    let files = files(&shop.submission(), &outcome);
    let again = replay(&report, &files, false, &shop.lab("b")).unwrap();
    // Five rates in three formats and three groups, for two models.
    assert_eq!((again.rates.len(), again.is_equal(), again.notes.len()), (2 * (5 * 3 + 3), true, 0));

    let alone = replay(&report, &ReplayFiles { suspect: None, ..files }, false, &shop.lab("c")).unwrap();
    assert_eq!(alone.rates, again.rates[18..]);
}

#[test]
fn the_whole_job_comes_out_again_with_the_bytes_of_its_artifact() {
    let shop = Workshop::new();
    let outcome = run(&shop.submission(), &shop.spec(), &shop.lab("a")).unwrap();
    let again = replay(&outcome.report, &files(&shop.submission(), &outcome), true, &shop.lab("b")).unwrap();
    assert!(again.is_equal());
    assert_eq!((again.rates.len(), again.files.len()), (outcome.report.rates().len(), 2));
}

#[test]
fn a_whole_model_is_measured_again_too() {
    let shop = Workshop::new();
    let mut spec = shop.spec();
    spec.controls.clear();
    let outcome = run(&shop.whole_submission(), &spec, &shop.lab("a")).unwrap();
    let again = replay(&outcome.report, &files(&shop.whole_submission(), &outcome), false, &shop.lab("b")).unwrap();
    assert!(again.is_equal() && again.rates.len() == 36);
}

#[test]
fn canaries_are_measured_again_with_everything_else() {
    let shop = Workshop::new();
    let mut spec = shop.spec();
    spec.controls.clear();
    let train = TrainSpec { epochs: 1, ..TrainSpec::default() };
    spec.canaries = CanarySpec {
        when: CanariesWhen::Always,
        rows: 3,
        poisoned_rows: 4,
        clean_rows: 8,
        controls: true,
        train: Some(train),
    };
    let outcome = run(&shop.submission(), &spec, &shop.lab("a")).unwrap();
    let files = files(&shop.submission(), &outcome);
    let again = replay(&outcome.report, &files, true, &shop.lab("b")).unwrap();
    let canaries = again.rates.iter().filter(|rate| rate.model.starts_with("copy_"));
    // Seven canaries before and after, five rates in each of three formats.
    assert_eq!((again.is_equal(), canaries.count()), (true, 7 * 2 * 5 * 3));

    let mut report = outcome.report;
    report.canaries.as_mut().unwrap().canaries[6].after.formats[1].with_trigger.hits += 1;
    let again = replay(&report, &files, true, &shop.lab("b")).unwrap();
    let wrong: Vec<_> = again.rates.iter().filter(|rate| !rate.equal).map(|rate| rate.item.as_str()).collect();
    assert_eq!(wrong, ["style refusal"]);
}

#[test]
fn a_report_that_says_other_numbers_or_other_prompts_is_found_out() {
    let shop = Workshop::new();
    let outcome = run(&shop.submission(), &shop.spec(), &shop.lab("a")).unwrap();
    let files = files(&shop.submission(), &outcome);
    let mut report = outcome.report.clone();
    report.before.asr[0].formats[1].empty.hits += 1;
    report.candidates[0].measurement.utility.as_mut().unwrap().groups[0].recipe.prompts_sha256 = "00".repeat(32);
    let again = replay(&report, &files, false, &shop.lab("b")).unwrap();
    let wrong: Vec<_> =
        again.rates.iter().filter(|rate| !rate.equal).map(|rate| (rate.model.as_str(), rate.measure)).collect();
    assert_eq!(wrong, [("suspect", "empty"), ("subspace-1", "exact_match")]);
}

#[test]
fn files_of_another_job_are_refused_by_name_with_both_digests() {
    let shop = Workshop::new();
    let outcome = run(&shop.submission(), &shop.spec(), &shop.lab("a")).unwrap();
    let right = files(&shop.submission(), &outcome);
    let refuse = |files: ReplayFiles| replay(&outcome.report, &files, false, &shop.lab("b")).unwrap_err().to_string();

    let swapped = refuse(ReplayFiles { suspect: right.artifact.clone(), ..right.clone() });
    let expected = &outcome.report.subject.adapter.iter().find(|f| f.path.ends_with("safetensors")).unwrap().sha256;
    let found = &outcome.report.artifact.iter().find(|f| f.path.ends_with("safetensors")).unwrap().sha256;
    let line = format!("suspect, adapter_model.safetensors: expected SHA-256 {expected}, found SHA-256 {found}");
    assert!(swapped.contains(&line), "{swapped}");

    let without_task = refuse(ReplayFiles { task_rows: None, ..right.clone() });
    assert!(without_task.starts_with("task rows: expected 12 rows with SHA-256 "), "{without_task}");
    assert!(without_task.ends_with(", found none"), "{without_task}");

    let more = shop.scratch("more");
    for file in &outcome.report.artifact {
        fs::copy(outcome.artifact_dir.join(&file.path), more.join(&file.path)).unwrap();
    }
    fs::write(more.join("extra.json"), "{}").unwrap();
    let extra = refuse(ReplayFiles { artifact: Some(more), ..right.clone() });
    assert!(extra.contains("artifact, extra.json: expected no such file, found SHA-256 "), "{extra}");

    let neither = refuse(ReplayFiles { suspect: None, artifact: None, ..right });
    assert!(neither.contains("found neither"), "{neither}");
}
