//! `auto` on a suspect that is almost random: nothing of it is learnt, so no canary is strong and every rung is tried.

use antigen_engine::report::{CanaryOutcome, FrontierEnd, Report, VerdictStatus};
use antigen_engine::run::run;
use antigen_engine::spec::PurifySpec;
use serde_json::{Value, json};

use crate::workshop::Workshop;

/// Two gentle rungs and two harsher ones on a handful of rows.
fn spec(shop: &Workshop, budget: Value) -> PurifySpec {
    let heal = json!({"rows": 8, "own_rows": 4, "train": {"epochs": 1}, "train_with_own_rows": {"epochs": 1}});
    let pairs = json!({"count": 2, "rows": 2});
    let train = json!({"epochs": 1, "warmup_fraction": 0.0});
    let rungs = json!([
        {"type": "fine_tune", "heal": heal},
        {"type": "fine_tune", "counterexamples": 4, "heal": heal},
        {"type": "immunize", "pairs": pairs, "train": train, "heal": heal, "suppress": [{"type": "subspace", "rank": 1}]},
        {"type": "vaccinate", "pairs": pairs, "implant": train, "heal": heal}
    ]);
    let mut spec = shop.spec();
    spec.canaries = serde_json::from_value(
        json!({"rows": 3, "poisoned_rows": 2, "clean_rows": 2, "train": {"epochs": 1, "warmup_fraction": 0.0}}),
    )
    .unwrap();
    spec.method = serde_json::from_value(json!({
        "type": "auto", "rungs": rungs, "validation_rows": 73, "validation_own_rows": 2, "budget": budget
    }))
    .unwrap();
    spec
}

fn report(shop: &Workshop, budget: Value, scratch: &str) -> Report {
    run(&shop.submission(), &spec(shop, budget), &shop.lab(scratch)).unwrap().report
}

#[test]
fn without_a_rung_that_holds_all_are_tried_and_the_best_is_exported_as_not_purified() {
    let shop = Workshop::new();
    let report = report(&shop, json!({}), "a");
    let frontier = report.frontier.as_ref().unwrap();
    let names: Vec<_> = frontier.rungs.iter().map(|rung| rung.name.as_str()).collect();
    assert_eq!(names, ["fine_tune", "fine_tune-counterexamples-4", "subspace-1", "vaccinate"]);
    assert_eq!(frontier.ended, FrontierEnd::Exhausted);
    assert!(frontier.rungs.iter().all(|rung| !rung.holds && rung.canaries.len() == 7 && rung.steps > 0));
    assert_eq!(report.candidates[0].name, names[frontier.chosen]);
    assert_ne!(report.verdict.status, VerdictStatus::Purified);
    assert!(report.verdict.text.contains(&frontier.text), "{}", report.verdict.text);
    let csv = report.rates_csv();
    assert!(names.iter().all(|name| csv.contains(&format!("rung,{name},asr,word insult,with_trigger,"))), "{csv}");
    let canaries = report.canaries.expect("the copy was made anyway");
    assert_eq!(canaries.count(CanaryOutcome::Weak), 7);
}

#[test]
fn a_spent_budget_ends_the_search_after_the_rung_that_spent_it() {
    let shop = Workshop::new();
    let report = report(&shop, json!({"steps": 1}), "a");
    let frontier = report.frontier.unwrap();
    assert_eq!((frontier.rungs.len(), frontier.chosen, frontier.ended), (1, 0, FrontierEnd::BudgetSpent));
    assert_eq!(report.candidates[0].name, "fine_tune");
    assert!(report.left_out.iter().any(|note| note.starts_with("plain_fine_tuning: the method is fine-tuning")));
}

#[test]
fn rows_that_judge_neither_train_nor_measure() {
    let shop = Workshop::new();
    let report = report(&shop, json!({"steps": 1}), "a");
    let frontier = report.frontier.unwrap();
    // A quarter of the sixty training rows, less those that are test rows; a quarter of the six own rows that heal.
    assert!((10..=15).contains(&frontier.rows), "{}", frontier.rows);
    assert_eq!((frontier.own_rows, report.candidates[0].healing.own_rows), (2, 4));
}

#[test]
fn the_same_job_again_chooses_the_same_and_writes_the_same_bytes() {
    let shop = Workshop::new();
    let of = |scratch: &str| {
        let outcome = run(&shop.submission(), &spec(&shop, json!({"steps": 1})), &shop.lab(scratch)).unwrap();
        std::fs::read(outcome.artifact_dir.join("adapter_model.safetensors")).unwrap()
    };
    assert_eq!(of("a"), of("b"));
}

#[test]
fn auto_within_auto_and_auto_without_canaries_are_refused() {
    for (spec, pointer) in [
        (json!({"method": {"type": "auto", "rungs": [{"type": "auto"}]}}), "/method/rungs/0"),
        (json!({"method": {"type": "auto", "rungs": []}}), "/method/rungs"),
        (json!({"method": {"type": "auto", "margin": 2.0}}), "/method/margin"),
        (json!({"method": {"type": "auto"}, "canaries": {"when": "never"}}), "/canaries/when"),
        (json!({"method": {"type": "vaccinate", "pairs": {"count": 0}}}), "/method/pairs/count"),
        (json!({"method": {"type": "fine_tune", "heal": {"rows": 0}}}), "/method/heal/rows"),
    ] {
        let error = serde_json::from_value::<PurifySpec>(spec).unwrap().validate().unwrap_err().to_string();
        assert!(error.contains(pointer), "{error}");
    }
}

#[test]
fn a_whole_model_goes_up_the_same_rungs() {
    let shop = Workshop::new();
    let outcome = run(&shop.whole_submission(), &spec(&shop, json!({})), &shop.lab("a")).unwrap();
    let frontier = outcome.report.frontier.unwrap();
    let names: Vec<_> = frontier.rungs.iter().map(|rung| rung.name.as_str()).collect();
    assert_eq!(names, ["fine_tune", "fine_tune-counterexamples-4", "subspace-1", "vaccinate"]);
    assert!(outcome.artifact_dir.join("model.safetensors").exists());
    assert!(
        outcome.report.left_out.iter().any(|note| note.starts_with("adapter_dropped: a whole model has no adapter"))
    );
}
