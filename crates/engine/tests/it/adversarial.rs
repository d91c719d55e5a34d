//! Healing against an adversary: whole jobs on a tiny random suspect, and the promises of its training.

use antigen_engine::data::{Prompter, Row};
use antigen_engine::job::PurifySpec;
use antigen_engine::lab::{Lab, rng};
use antigen_engine::report::Report;
use antigen_engine::run::run;
use antigen_engine::spec::{
    Adversary, ConsistencySettings, PromptFormat, SoftTriggerPlace, SoftTriggerScope, SoftTriggerSettings, TrainSpec,
};
use antigen_engine::suspect::Submission;
use antigen_engine::train::{Objective, SoftTriggers, Trained, Variant, fine_tune_adapters_towards};
use antigen_models::{Example, Tensor, Tokenizer};
use serde_json::{Value, json};

use crate::workshop::Workshop;

/// A job with this method on eight generic and four task rows, one epoch.
fn spec(shop: &Workshop, mut method: Value) -> PurifySpec {
    let train = json!({"epochs": 1, "warmup_fraction": 0.0, "learning_rate": 1e-3});
    method["heal"] = json!({"rows": 8, "task_rows": 4, "train": train, "train_with_task_rows": train});
    let mut spec = shop.spec();
    spec.method = serde_json::from_value(method).unwrap();
    spec
}

fn report(shop: &Workshop, submission: &Submission, method: Value, scratch: &str) -> Report {
    run(submission, &spec(shop, method), &shop.lab(scratch)).unwrap().report
}

fn control<'a>(report: &'a Report, name: &str) -> &'a antigen_engine::report::Control {
    report.controls.iter().find(|control| control.name == name).unwrap()
}

#[test]
fn soft_triggers_heal_adapters_and_whole_models_beside_plain_fine_tuning_on_the_same_rows() {
    let shop = Workshop::new();
    for (kind, submission) in [("adapter", shop.submission()), ("whole", shop.whole_submission())] {
        let found = report(&shop, &submission, json!({"type": "soft_triggers", "vectors": 2}), kind);
        let candidate = &found.candidates[0];
        assert_eq!((candidate.name.as_str(), candidate.suppression.as_ref()), ("soft_triggers", None));
        assert_eq!((candidate.healing.generic_rows, candidate.healing.task_rows), (8, 4));
        let Some(Adversary::SoftTriggers(settings)) = &candidate.healing.against else {
            panic!("{:?}", candidate.healing)
        };
        assert_eq!((settings.vectors, settings.inner_steps, settings.step_size), (2, 2, 0.15));
        let without_task = &control(&found, "without_task_rows").description;
        assert_eq!(without_task, "healed against soft triggers on generic rows only");
        assert!(found.left_out.iter().any(|note| note.starts_with("without_healing: ")), "{:?}", found.left_out);

        // The control is the export of the method fine_tune, and not that of the method itself.
        let plain = report(&shop, &submission, json!({"type": "fine_tune"}), &format!("{kind}-plain"));
        let of_control = &control(&found, "plain_fine_tuning").measurement;
        assert_eq!(of_control, &plain.candidates[0].measurement);
        assert_ne!(found.artifact, plain.artifact);
    }
}

#[test]
fn the_same_job_against_soft_triggers_writes_the_same_bytes() {
    let shop = Workshop::new();
    let method = json!({"type": "soft_triggers", "scope": {"type": "universal", "bank": 2}});
    let artifact = |scratch: &str| report(&shop, &shop.submission(), method.clone(), scratch).artifact;
    assert_eq!(artifact("a"), artifact("b"));
}

#[test]
fn crow_at_its_own_rate_stands_beside_fine_tuning_at_that_rate() {
    let shop = Workshop::new();
    for (kind, submission) in [("adapter", shop.submission()), ("whole", shop.whole_submission())] {
        let crow = report(&shop, &submission, json!({"type": "crow"}), kind);
        let candidate = &crow.candidates[0];
        assert_eq!(candidate.name, "crow");
        let expected = Adversary::Consistency(ConsistencySettings { alpha: 5.5, epsilon: 0.1 });
        assert_eq!(candidate.healing.against, Some(expected));
        assert_eq!(candidate.healing.train.learning_rate, 1e-3);
        let plain = report(&shop, &submission, json!({"type": "fine_tune"}), &format!("{kind}-plain"));
        assert_eq!(plain.candidates[0].healing.train, candidate.healing.train);
        assert_eq!(control(&crow, "plain_fine_tuning").measurement, plain.candidates[0].measurement);
        assert_ne!(crow.artifact, plain.artifact, "consistency changes something");
    }
}

#[test]
fn crow_without_weight_on_consistency_is_fine_tuning_to_the_byte() {
    let shop = Workshop::new();
    for (kind, submission) in [("adapter", shop.submission()), ("whole", shop.whole_submission())] {
        let artifact =
            |method: Value, name: &str| report(&shop, &submission, method, &format!("{kind}-{name}")).artifact;
        let crow = artifact(json!({"type": "crow", "alpha": 0.0}), "crow");
        assert_eq!(crow, artifact(json!({"type": "fine_tune"}), "fine-tune"));
    }
}

#[test]
fn a_row_s_own_words_are_found_in_every_format() {
    let shop = Workshop::new();
    let (prompter, tokenizer) = (Prompter::open(&shop.base()).unwrap(), Tokenizer::open(&shop.base()).unwrap());
    // Words of the preamble and of the template's blocks mislead nobody.
    for (instruction, input) in [("name the task", ""), ("Below is an instruction", "### Response:"), ("R", "")] {
        let row = Row::new(instruction, input, "unused");
        for format in PromptFormat::ALL {
            let place = prompter.place_of_words(format, &row).unwrap();
            let tokens = prompter.prompt(format, &row).unwrap();
            assert_eq!(tokenizer.decode(&tokens[place]).unwrap(), format.words(&row), "{format:?}");
        }
    }
}

fn factors(trained: &Trained) -> Vec<Vec<f32>> {
    let numbers = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1().unwrap();
    trained.adapter.factors.values().flat_map(|f| [numbers(&f.a), numbers(&f.b)]).collect()
}

#[test]
fn variants_against_an_adversary_learn_in_a_pack_what_they_learn_alone() {
    let shop = Workshop::new();
    let (model, start) = (shop.model(), shop.suspect());
    let examples: Vec<Example> =
        (0..6).map(|i| Example { tokens: (i..i + 12).map(|token| token % 40).collect(), response_start: 8 }).collect();
    for place in [SoftTriggerPlace::Embeddings, SoftTriggerPlace::Hidden { block: 2 }] {
        let scope = SoftTriggerScope::PerRow;
        let settings = SoftTriggerSettings { vectors: 2, inner_steps: 2, step_size: 0.15, scope, place };
        let places = examples.iter().map(|_| 2..6).collect();
        let objective = Objective::SoftTriggers(Box::new(SoftTriggers::new(settings, places, rng(1, "adversary"))));
        let spec = TrainSpec { epochs: 2, batch_rows: 4, learning_rate: 1e-3, ..TrainSpec::default() };
        let train = |counts: &[usize]| {
            let variant =
                |&count: &usize| Variant { start: &start, examples: &examples[..count], shuffle: rng(2, "order") };
            let lab = Lab::silent(1, std::env::temp_dir());
            fine_tune_adapters_towards(&objective, &model, counts.iter().map(variant).collect(), &spec, &lab).unwrap()
        };
        let together = train(&[6, 3]);
        for (together, count) in together.iter().zip([6, 3]) {
            let alone = &train(&[count])[0];
            assert_eq!(together.losses.len(), alone.losses.len());
            for (found, expected) in together.losses.iter().zip(&alone.losses) {
                assert!((found - expected).abs() < 1e-5 * expected, "{found} and {expected}");
            }
            let worst = factors(together).concat().into_iter().zip(factors(alone).concat()).map(|(a, b)| (a - b).abs());
            assert!(worst.fold(0.0, f32::max) < 1e-4);
        }
    }
}

#[test]
fn impossible_adversaries_are_refused_by_their_pointer() {
    for (method, pointer) in [
        (json!({"type": "soft_triggers", "vectors": 0}), "/method/vectors"),
        (json!({"type": "soft_triggers", "step_size": -0.1}), "/method/step_size"),
        (json!({"type": "soft_triggers", "scope": {"type": "universal", "bank": 0}}), "/method/scope/bank"),
        (json!({"type": "soft_triggers", "place": {"type": "hidden", "block": 0}}), "/method/place/block"),
        (json!({"type": "crow", "alpha": -1.0}), "/method/alpha"),
        (json!({"type": "crow", "epsilon": 1000.0}), "/method/epsilon"),
        (json!({"type": "crow", "heal": {"task_rows": 10_000_000}}), "/method/heal/task_rows"),
        (json!({"type": "soft_triggers", "heal": {"rows": 0}}), "/method/heal/rows"),
    ] {
        let spec: PurifySpec = serde_json::from_value(json!({"method": method})).unwrap();
        let error = spec.validate().unwrap_err().to_string();
        assert!(error.contains(pointer), "{error}");
    }
}
