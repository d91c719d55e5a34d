//! A signature that one job extracts and another suppresses.

use crate::workshop::Workshop;
use antigen_engine::job::PurifySpec;
use antigen_engine::replay::{ReplayFiles, replay};
use antigen_engine::run::{Outcome, run};
use antigen_engine::suspect::{Submission, Submitted};
use serde_json::json;

/// One direction, the same for adapters and whole models; without controls, which a given signature does not
/// change.
fn spec(shop: &Workshop) -> PurifySpec {
    of_rank(1, shop)
}

fn of_rank(rank: usize, shop: &Workshop) -> PurifySpec {
    let suppress = [json!({"type": "subspace", "rank": rank})];
    PurifySpec { method: shop.method(json!({"suppress": suppress})), controls: Vec::new(), ..shop.spec() }
}

fn with_signature_of(other: &Outcome, submission: Submission) -> Submission {
    Submission { signature: other.signature_path.clone(), ..submission }
}

#[test]
fn its_own_signature_given_back_makes_the_same_artifact_without_training_a_pair() {
    let shop = Workshop::new();
    for (name, submission) in [("adapter", shop.submission()), ("model", shop.whole_submission())] {
        let extracted = run(&submission, &spec(&shop), &shop.lab(&format!("{name}-extracted"))).unwrap();
        let submission = with_signature_of(&extracted, submission);
        let given = run(&submission, &spec(&shop), &shop.lab(&format!("{name}-given"))).unwrap();
        let (report, expected) = (&given.report, &extracted.report);
        assert_eq!((&report.artifact, &report.signature), (&expected.artifact, &expected.signature));
        let digest = report.subject.signature.as_ref().map(|file| &file.sha256);
        assert_eq!(digest, expected.signature.as_ref().map(|found| &found.sha256));
        assert_eq!((given.signature_path, &expected.subject.signature), (None, &None));
        let made = std::fs::read_dir(shop.scratch(&format!("{name}-given"))).unwrap();
        let made: Vec<_> = made.map(|piece| piece.unwrap().file_name().into_string().unwrap()).collect();
        assert!(!made.iter().any(|piece| piece.starts_with("variant") || piece.starts_with("pairs")), "{made:?}");
    }
}

#[test]
fn an_adapters_signature_is_taken_out_of_a_whole_model_of_the_same_base() {
    let shop = Workshop::new();
    let of_adapter = run(&shop.submission(), &spec(&shop), &shop.lab("a")).unwrap();
    let submission = with_signature_of(&of_adapter, shop.whole_submission());
    let report = run(&submission, &spec(&shop), &shop.lab("b")).unwrap().report;
    assert_eq!(report.signature, of_adapter.report.signature);
    assert_ne!(report.artifact, report.subject.checkpoint);
}

#[test]
fn only_immunize_takes_it_and_only_where_it_has_what_is_asked_of_it() {
    let shop = Workshop::new();
    let extracted = run(&shop.submission(), &spec(&shop), &shop.lab("a")).unwrap();
    let submission = with_signature_of(&extracted, shop.submission());
    let refused = |spec: &PurifySpec| run(&submission, spec, &shop.lab("b")).unwrap_err().to_string();
    let crow = PurifySpec { method: serde_json::from_value(json!({"type": "crow"})).unwrap(), ..spec(&shop) };
    assert!(refused(&crow).contains("expected immunize, the method that suppresses a given signature; found crow"));
    let lacking = refused(&of_rank(2, &shop));
    assert!(lacking.contains("the given signature, shared directions: expected 2, found 1"), "{lacking}");
    assert!(std::fs::read_dir(shop.scratch("b")).unwrap().next().is_none(), "nothing was measured before");
}

#[test]
fn a_job_that_was_given_one_is_repeated_with_it_and_not_without() {
    let shop = Workshop::new();
    let extracted = run(&shop.submission(), &spec(&shop), &shop.lab("a")).unwrap();
    let submission = with_signature_of(&extracted, shop.submission());
    let outcome = run(&submission, &spec(&shop), &shop.lab("b")).unwrap();
    let Submitted::Adapter { adapter_dir, base_dir } = submission.suspect.clone() else { panic!("an adapter") };
    let files = ReplayFiles {
        suspect: Some(adapter_dir),
        artifact: Some(outcome.artifact_dir.clone()),
        base: base_dir,
        train_rows: submission.train_rows.clone(),
        test_rows: submission.test_rows.clone(),
        task_rows: submission.task_rows.clone(),
        signature: submission.signature.clone(),
        folders: submission.folders,
    };
    assert!(replay(&outcome.report, &files, true, &shop.lab("c")).unwrap().is_equal());
    let without = ReplayFiles { signature: None, ..files.clone() };
    assert!(replay(&outcome.report, &without, false, &shop.lab("d")).unwrap().is_equal());
    let refused = replay(&outcome.report, &without, true, &shop.lab("e")).unwrap_err().to_string();
    assert!(refused.contains("expected the signature that was given to the job, found none"), "{refused}");
    let another = replay(&extracted.report, &files, true, &shop.lab("f")).unwrap_err().to_string();
    assert!(another.contains("given signature: expected none, found SHA-256"), "{another}");
}
