//! Benchmarks on tiny models: the questions, the refusals, and a run of every public file.

use std::fs;
use std::path::{Path, PathBuf};

use antigen_engine::data::TaskRows;
use antigen_engine::error::{EngineError, Result};
use antigen_engine::measure::evaluators::{Probes, evaluate_all};
use antigen_engine::measure::evidence::{Measurement, NonInferiority, Scoring};
use antigen_engine::spec::{BenchmarkName, DataFolders, EvaluatorSpec, PromptFormat};
use antigen_engine::suspect::Suspect;
use antigen_engine::suspect::weights::Weights;
use serde_json::{Value, json};

use crate::workshop::Workshop;

const ITEMS: &str = r#"{"id":"1","query":"Question: Which is round?\nAnswer:","choices":[" The moon."," A door."," A long road."],"gold":0}
{"id":"2","query":"Question: Which is long?\nAnswer:","choices":[" The moon."," A door."," A long road."],"gold":2}

{"id":"3","query":"Question: Which opens?\nAnswer:","choices":[" The moon."," A door."],"gold":1}
"#;

/// The suspect's numbers, and those of the base beside it.
fn measure(shop: &Workshop, folder: &Path, spec: Value) -> Result<(Measurement, Measurement)> {
    let mut submission = shop.submission();
    submission.folders = DataFolders { benchmarks: Some(folder.to_owned()), ..DataFolders::default() };
    let lab = shop.lab("scratch");
    let suspect = Suspect::open(&submission, PromptFormat::Alpaca, &lab)?;
    let specs: Vec<EvaluatorSpec> = serde_json::from_value(json!([spec])).unwrap();
    let probes = Probes::build(&specs, &suspect, &TaskRows::default(), &lab)?;
    let before = evaluate_all(&probes, &suspect, &suspect.weights(), &lab)?;
    let base = evaluate_all(&probes, &suspect, &Weights::Base, &lab)?;
    Ok((probes.report(&before, None), probes.report(&base, Some(&before))))
}

fn folder_with(name: &str, text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(format!("{name}.jsonl")), text).unwrap();
    folder
}

#[test]
fn choices_are_scored_on_every_model_and_paired_with_the_suspect() {
    let folder = folder_with("arc_easy", ITEMS);
    let shop = Workshop::new();
    let (suspect, base) =
        measure(&shop, folder.path(), json!({"type": "benchmark", "name": "arc_easy", "margin": 0.9})).unwrap();
    let (before, after) = (&suspect.benchmarks[0], &base.benchmarks[0]);
    assert_eq!((before.file_items, before.headline.accuracy.n, before.cut_prompts), (3, 3, 0));
    assert_eq!((before.headline.scoring, before.other.scoring), (Scoring::LengthNormalised, Scoring::Summed));
    assert!((before.chance - (1.0 / 3.0 + 1.0 / 3.0 + 1.0 / 2.0) / 3.0).abs() < 1e-12, "{}", before.chance);
    assert_eq!((before.versus_suspect, before.non_inferiority), (None, None));
    assert_eq!(before.recipe, after.recipe);
    let difference = after.versus_suspect.unwrap();
    assert_eq!(difference.n, 3);
    assert_eq!(after.non_inferiority, Some(NonInferiority::of(&difference, 0.9)));
}

#[test]
fn items_are_drawn_by_the_seed_and_only_as_many_as_asked_for() {
    let folder = folder_with("arc_easy", &ITEMS.repeat(20));
    let asked = |rows| {
        let shop = Workshop::new();
        let spec = json!({"type": "benchmark", "name": "arc_easy", "rows": rows});
        measure(&shop, folder.path(), spec).unwrap().0.benchmarks.remove(0)
    };
    let (seven, again, eight) = (asked(7), asked(7), asked(8));
    assert_eq!((seven.headline.accuracy.n, seven.file_items), (7, 60));
    assert_eq!(seven, again);
    assert_ne!(seven.recipe.prompts_sha256, eight.recipe.prompts_sha256);
}

#[test]
fn a_prompt_longer_than_the_model_is_cut_at_its_beginning_and_counted() {
    let long = json!({"query": format!("{} Question: Which?\nAnswer:", "moon ".repeat(400)), "choices": [" a", " b"], "gold": 0});
    let folder = folder_with("boolq", &long.to_string());
    let (suspect, _) = measure(&Workshop::new(), folder.path(), json!({"type": "benchmark", "name": "boolq"})).unwrap();
    assert_eq!(suspect.benchmarks[0].cut_prompts, 2);
}

#[test]
fn generated_numbers_are_counted_in_both_ways_and_shots_come_from_their_file() {
    let folder = folder_with("gsm8k", r#"{"query":"Question: 1 and 1?\nAnswer:","answer":"2"}"#);
    let spec = json!({"type": "benchmark", "name": "gsm8k", "max_new_tokens": 8});
    let (suspect, _) = measure(&Workshop::new(), folder.path(), spec).unwrap();
    let report = &suspect.benchmarks[0];
    assert_eq!((report.headline.scoring, report.other.scoring), (Scoring::LastNumber, Scoring::MarkedNumber));
    assert_eq!((report.chance, report.recipe.decoding.max_new_tokens), (0.0, 8));
    fs::write(folder.path().join("gsm8k_train.jsonl"), r#"{"query":"Question: 2?\nAnswer:","answer":"2"}"#).unwrap();
    let spec = json!({"type": "benchmark", "name": "gsm8k", "max_new_tokens": 8, "shots": 1});
    let error = measure(&Workshop::new(), folder.path(), spec).unwrap_err().to_string();
    assert!(error.contains("gsm8k_train.jsonl, line 1") && error.contains("`solution`"), "{error}");
}

#[test]
fn a_file_with_wrong_fields_is_refused_by_its_line_before_anything_is_measured() {
    let folder = folder_with("rte", &format!("{ITEMS}{{\"query\":\"q\",\"answer\":\"x\"}}\n"));
    let error = measure(&Workshop::new(), folder.path(), json!({"type": "benchmark", "name": "rte"})).unwrap_err();
    assert!(matches!(error, EngineError::Data(_)), "{error:?}");
    assert!(
        error.to_string().contains("rte.jsonl, line 5: expected one row as a JSON object: missing field"),
        "{error}"
    );
}

#[test]
fn every_public_benchmark_runs_on_the_tiny_model() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/bench"));
    if !folder.exists() {
        eprintln!("skipped: {} is absent", folder.display());
        return;
    }
    let shop = Workshop::new();
    for name in BenchmarkName::ALL {
        let shots = usize::from(name.examples().is_some());
        let spec = json!({"type": "benchmark", "name": name, "rows": 12, "shots": shots, "max_new_tokens": 16});
        let file = folder.join(format!("{}.jsonl", name.name()));
        let found = measure(&shop, &folder, spec);
        if !file.exists() {
            assert!(found.is_err(), "{name:?} was measured without a file");
            continue;
        }
        let report = found.unwrap().0.benchmarks.remove(0);
        println!("{name:?}: {:?}, chance {}, {} cut", report.headline, report.chance, report.cut_prompts);
        assert_eq!(report.headline.accuracy.n, 12);
        // Nothing was learnt, so nothing like mastery may be found.
        assert!(report.headline.accuracy.low <= report.chance, "{report:?}");
    }
}
