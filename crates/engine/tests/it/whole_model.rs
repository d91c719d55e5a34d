//! Algorithm 1 on a whole tiny random model: every part does what the report says, a trained variant is found
//! again, and the artifact has the layout of the submission.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::workshop::Workshop;
use antigen_engine::error::EngineError;
use antigen_engine::lab::{Lab, ProgressSink};
use antigen_engine::run::run;
use antigen_engine::spec::SubjectKind;
use antigen_engine::stage::Stage;
use antigen_engine::suspect::{FileDigest, folder_digests};
use antigen_models::{Device, load_model};

fn by_name<'a>(files: &'a [FileDigest], name: &str) -> &'a FileDigest {
    files.iter().find(|file| file.path == name).unwrap()
}

#[test]
fn a_whole_model_comes_back_in_its_own_layout_with_evidence_and_signature() {
    let shop = Workshop::new();
    let outcome = run(&shop.whole_submission(), &shop.spec(), &shop.lab("a")).unwrap();
    let report = &outcome.report;

    assert_eq!(report.subject.kind, SubjectKind::Checkpoint);
    let names: Vec<_> = report.candidates.iter().map(|candidate| candidate.name.as_str()).collect();
    assert_eq!(names, ["subspace-2", "channels-0.03"]);
    let controls: Vec<_> = report.controls.iter().map(|control| control.name.as_str()).collect();
    assert_eq!(
        controls,
        ["random_channels", "random_subspace", "plain_fine_tuning", "without_healing", "without_task_rows"]
    );
    assert!(report.left_out[0].starts_with("adapter_dropped"), "{:?}", report.left_out);
    assert_eq!(report.signature.as_ref().unwrap().modules.len(), 12);
    assert!(outcome.signature_path.as_ref().unwrap().is_file());

    assert_eq!(report.artifact, folder_digests(&outcome.artifact_dir).unwrap());
    for was in &report.subject.checkpoint {
        let is = by_name(&report.artifact, &was.path);
        assert_eq!(is.bytes, was.bytes, "{}", was.path);
        assert_eq!(is.sha256 == was.sha256, was.path != "model.safetensors", "{}", was.path);
    }
    assert_eq!(report.artifact.len(), report.subject.checkpoint.len());
    load_model(&outcome.artifact_dir, &Device::Cpu).unwrap();
}

#[test]
fn selected_heads_are_reported_and_change_the_result() {
    let shop = Workshop::new();
    let mut spec = shop.spec();
    spec.controls.clear();
    let plain = run(&shop.whole_submission(), &spec, &shop.lab("plain")).unwrap();
    spec.method =
        shop.method(serde_json::json!({"heads": {"count": 1, "scope": "layer", "parts": ["q", "k", "v", "o"]}}));
    for submission in [shop.whole_submission(), shop.submission()] {
        let with_heads = run(&submission, &spec, &shop.lab("heads")).unwrap();
        let heads = &with_heads.report.signature.as_ref().unwrap().heads;
        let mut layers: Vec<_> = heads.iter().map(|head| head.layer).collect();
        layers.sort_unstable();
        assert_eq!(layers, [0, 1, 2, 3]);
        assert!(heads.windows(2).all(|two| two[0].score >= two[1].score));
        assert_ne!(with_heads.report.artifact, plain.report.artifact);
    }
}

/// Cancels when training has advanced so often, and counts.
struct StopAfter {
    steps: usize,
    seen: AtomicUsize,
    cancel: Arc<AtomicBool>,
}

impl ProgressSink for StopAfter {
    fn enter(&self, _: Stage) {}
    fn advance(&self, _: u64, _: u64) {
        if self.seen.fetch_add(1, Ordering::Relaxed) + 1 == self.steps {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn an_interrupted_job_trains_no_finished_variant_again_and_ends_with_the_same_bytes() {
    let shop = Workshop::new();
    let mut spec = shop.spec();
    spec.controls.clear();
    let count = |steps, scratch: &str| {
        let cancel = Arc::new(AtomicBool::new(false));
        let sink = Arc::new(StopAfter { steps, seen: AtomicUsize::new(0), cancel: cancel.clone() });
        let lab = Lab::new(Device::Cpu, 1, shop.scratch(scratch), sink.clone(), cancel);
        (run(&shop.whole_submission(), &spec, &lab), sink.seen.load(Ordering::Relaxed))
    };
    let (undisturbed, all) = count(usize::MAX, "whole");
    let mut spent = 0;
    for steps in [all / 3, all / 3] {
        let (stopped, seen) = count(steps, "broken");
        assert!(matches!(stopped, Err(EngineError::Cancelled)), "{seen} of {all}, {spent} before");
        spent += seen;
    }
    let (resumed, rest) = count(usize::MAX, "broken");
    assert_eq!(resumed.unwrap().report, undisturbed.unwrap().report);
    // An interruption throws away one unfinished variant or measurement, never a finished one.
    assert!(rest < all && spent + rest < all + all / 3, "{rest} after {spent} of {all}");
    assert_eq!(count(usize::MAX, "broken").1, 0, "a finished job has nothing to do");
}

#[test]
fn rows_longer_than_the_model_are_cut_or_left_out_and_counted() {
    let shop = Workshop::with_long_rows();
    let report = run(&shop.whole_submission(), &shop.spec(), &shop.lab("a")).unwrap().report;
    let of = |purpose: &str| report.long_rows.iter().find(|rows| rows.purpose == purpose).unwrap();
    assert_eq!((of("general").limit, of("general").rows), (256, 6));
    assert_eq!((of("general").truncated, of("general").skipped), (1, 1));
    assert_eq!(of("asr 0").skipped, 1);
    let measured = &report.before.utility.as_ref().unwrap().groups[0];
    assert_eq!(measured.exact_match.n, 5);
    let trained: usize = ["pairs", "healing"].iter().map(|purpose| of(purpose).truncated).sum();
    assert!(trained > 0, "{:?}", report.long_rows);
}
