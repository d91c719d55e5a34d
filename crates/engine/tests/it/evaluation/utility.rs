//! Drift, answer length, and task skill without task rows.

use antigen_engine::data::{Prompter, Row, TaskRows, read_rows, write_rows};
use antigen_engine::measure::evaluators::{Probes, evaluate_all};
use antigen_engine::measure::evidence::{Measurement, UtilityReport};
use antigen_engine::spec::{DataFolders, EvaluatorSpec, PromptFormat, TrainSpec};
use antigen_engine::suspect::weights::Weights;
use antigen_engine::suspect::{Submission, Submitted, Suspect};
use antigen_engine::train::{Variant, fine_tune_adapters};
use antigen_engine::world::{ALL_LINEAR, materialise_builtin};
use antigen_models::{Device, Example, LoraAdapter, PeftConfig, load_model, save_adapter};
use rand::Rng;
use serde_json::{Value, json};

use crate::workshop::Workshop;

/// The suspect's utility, and that of other weights beside it.
fn measure(shop: &Workshop, submission: &Submission, other: Option<Weights>, spec: Value) -> [UtilityReport; 2] {
    let lab = shop.lab("scratch");
    let suspect = Suspect::open(submission, PromptFormat::Alpaca, &lab).unwrap();
    let specs: Vec<EvaluatorSpec> = serde_json::from_value(json!([spec])).unwrap();
    let probes = Probes::build(&specs, &suspect, &TaskRows::default(), &lab).unwrap();
    let before = evaluate_all(&probes, &suspect, &suspect.weights(), &lab).unwrap();
    let other = evaluate_all(&probes, &suspect, &other.unwrap_or_else(|| suspect.weights()), &lab).unwrap();
    let utility = |measurement: Measurement| measurement.utility.unwrap();
    [utility(probes.report(&before, None)), utility(probes.report(&other, Some(&before)))]
}

/// The shipped base, six held-out rows, and an adapter that gives all of them the first one's answer. (A
/// random model with tied embeddings is never sure of anything.)
fn taught(shop: &Workshop) -> Submission {
    let base = materialise_builtin(&shop.scratch("builtin")).unwrap();
    let test_rows = shop.scratch("held-out").join("test.jsonl");
    let rows = read_rows(&base.join("test.jsonl")).unwrap()[..6].to_vec();
    write_rows(&test_rows, &rows).unwrap();
    let (model, prompter) = (load_model(&base, &Device::Cpu).unwrap(), Prompter::open(&base).unwrap());
    let taught = |row: &Row| Row { output: rows[0].output.clone(), ..row.clone() };
    let examples: Vec<Example> =
        rows.iter().map(|row| prompter.example(PromptFormat::Alpaca, &taught(row)).unwrap()).collect();
    let lab = shop.lab("teach");
    let mut weights = lab.rng("weights");
    let config = PeftConfig::new(8, 16, &ALL_LINEAR, "tiny");
    let start = LoraAdapter::fresh(config, model.config(), &mut || weights.random_range(-1.0..1.0)).unwrap();
    let variant = Variant { start: &start, examples: &examples, shuffle: lab.rng("order") };
    let spec = TrainSpec { learning_rate: 3e-3, epochs: 120, batch_rows: 2, ..TrainSpec::default() };
    let trained = fine_tune_adapters(&model, vec![variant], &spec, &lab).unwrap().remove(0);
    assert!(trained.losses.last().unwrap() < &0.05, "not taught: {:?}", trained.losses.last());
    let adapter_dir = shop.scratch("taught");
    save_adapter(&trained.adapter, &adapter_dir).unwrap();
    let train_rows = base.join("train.jsonl");
    let suspect = Submitted::Adapter { adapter_dir, base_dir: base };
    Submission {
        suspect,
        train_rows,
        test_rows,
        task_rows: None,
        base_dir: None,
        signature: None,
        calibration_dir: None,
        folders: DataFolders::default(),
    }
}

#[test]
fn the_base_drifts_from_its_adapter_and_the_suspect_has_no_drift_of_its_own() {
    let shop = Workshop::new();
    let spec = json!({"type": "utility", "rows": 6, "max_new_tokens": 8});
    let [suspect, base] = measure(&shop, &shop.submission(), Some(Weights::Base), spec);
    assert_eq!(suspect.drift, None);
    let drift = base.drift.unwrap();
    assert!(drift.nats_per_token.mean > 1e-6 && drift.nats_per_token.n == 6, "{drift:?}");
    assert!(drift.nats_per_token.low <= drift.nats_per_token.mean && drift.tokens > 6, "{drift:?}");
    let length = base.groups[0].answer_length.unwrap();
    assert_eq!(length.versus_suspect.unwrap().n, 6);
    assert_eq!(suspect.groups[0].answer_length.unwrap().versus_suspect, None);
}

#[test]
fn nothing_is_told_of_a_whole_model_s_own_skill_and_it_says_so() {
    let shop = Workshop::new();
    let spec = json!({"type": "utility", "rows": 6, "max_new_tokens": 8});
    let [suspect, same] = measure(&shop, &shop.whole_submission(), None, spec);
    assert!(suspect.left_out[0].contains("task_self_distilled: a whole model has no base"), "{:?}", suspect.left_out);
    assert_eq!(same.groups[0].versus_suspect.unwrap().difference, 0.0);
}

#[test]
fn rows_where_the_adapter_is_sure_and_differs_from_its_base_stand_for_its_own_skill() {
    let shop = Workshop::new();
    let submission = taught(&shop);
    let spec = json!({"type": "utility", "rows": 6, "max_new_tokens": 8});
    let [suspect, base] = measure(&shop, &submission, Some(Weights::Base), spec.clone());
    assert!(suspect.left_out.is_empty(), "{:?}", suspect.left_out);
    let group = &suspect.groups[1];
    assert_eq!((group.name.as_str(), group.self_distilled, group.exact_match.rate), ("task_self_distilled", true, 1.0));
    assert!(group.exact_match.n > 0);
    assert_eq!(base.groups[1].exact_match.rate, 0.0, "dropping the adapter loses all of it");
    let mut off = spec;
    off["self_distilled"] = json!(false);
    assert_eq!(measure(&shop, &submission, None, off)[0].groups.len(), 1);
}
