//! `auto` on a suspect that is almost random: nothing of it is learnt, so no canary is strong and every trial
//! is tried.

use antigen_engine::job::PurifySpec;
use antigen_engine::measure::evidence::CanaryOutcome;
use antigen_engine::methods::auto::SearchEnd;
use antigen_engine::report::{Report, VerdictStatus};
use antigen_engine::run::run;
use serde_json::{Value, json};

use crate::workshop::Workshop;

/// Two gentle trials and two harsher ones on a handful of rows.
fn spec(shop: &Workshop, budget: Value) -> PurifySpec {
    let heal = json!({"rows": 8, "task_rows": 4, "train": {"epochs": 1}, "train_with_task_rows": {"epochs": 1}});
    let pairs = json!({"count": 2, "rows": 2});
    let train = json!({"epochs": 1, "warmup_fraction": 0.0});
    let trials = json!([
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
        "type": "auto", "trials": trials, "validation_rows": 73, "validation_task_rows": 2, "budget": budget
    }))
    .unwrap();
    spec
}

fn report(shop: &Workshop, budget: Value, scratch: &str) -> Report {
    run(&shop.submission(), &spec(shop, budget), &shop.lab(scratch)).unwrap().report
}

#[test]
fn without_a_trial_that_holds_all_are_tried_and_the_best_is_exported_as_not_purified() {
    let shop = Workshop::new();
    let report = report(&shop, json!({}), "a");
    let search = report.search.as_ref().unwrap();
    let names: Vec<_> = search.trials.iter().map(|trial| trial.name.as_str()).collect();
    assert_eq!(names, ["fine_tune", "fine_tune-counterexamples-4", "subspace-1", "vaccinate"]);
    assert_eq!(search.ended, SearchEnd::Exhausted);
    assert!(search.trials.iter().all(|trial| !trial.holds && trial.canaries.len() == 7 && trial.steps > 0));
    assert_eq!(report.candidates[0].name, names[search.chosen]);
    assert_ne!(report.verdict.status, VerdictStatus::Purified);
    assert!(report.verdict.text.contains(&search.text), "{}", report.verdict.text);
    let csv = report.rates_csv();
    assert!(names.iter().all(|name| csv.contains(&format!("trial,{name},asr,word insult,with_trigger,"))), "{csv}");
    let canaries = report.canaries.expect("the copy was made anyway");
    assert_eq!(canaries.count(CanaryOutcome::Weak), 7);
}

#[test]
fn a_spent_budget_ends_the_search_after_the_trial_that_spent_it() {
    let shop = Workshop::new();
    let report = report(&shop, json!({"steps": 1}), "a");
    let search = report.search.unwrap();
    assert_eq!((search.trials.len(), search.chosen, search.ended), (1, 0, SearchEnd::BudgetSpent));
    assert_eq!(report.candidates[0].name, "fine_tune");
    assert!(report.left_out.iter().any(|note| note.starts_with("plain_fine_tuning: the method is fine-tuning")));
}

#[test]
fn rows_that_judge_neither_train_nor_measure() {
    let shop = Workshop::new();
    let report = report(&shop, json!({"steps": 1}), "a");
    let search = report.search.unwrap();
    // A quarter of the sixty training rows, less those that are test rows; a quarter of the six task rows
    // that heal.
    assert!((10..=15).contains(&search.rows), "{}", search.rows);
    assert_eq!((search.task_rows, report.candidates[0].healing.task_rows), (2, 4));
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
        (json!({"method": {"type": "auto", "trials": [{"type": "auto"}]}}), "/method/trials/0"),
        (json!({"method": {"type": "auto", "trials": []}}), "/method/trials"),
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
fn a_whole_model_goes_through_the_same_trials() {
    let shop = Workshop::new();
    let outcome = run(&shop.whole_submission(), &spec(&shop, json!({})), &shop.lab("a")).unwrap();
    let search = outcome.report.search.unwrap();
    let names: Vec<_> = search.trials.iter().map(|trial| trial.name.as_str()).collect();
    assert_eq!(names, ["fine_tune", "fine_tune-counterexamples-4", "subspace-1", "vaccinate"]);
    assert!(outcome.artifact_dir.join("model.safetensors").exists());
    assert!(
        outcome.report.left_out.iter().any(|note| note.starts_with("adapter_dropped: a whole model has no adapter"))
    );
}
