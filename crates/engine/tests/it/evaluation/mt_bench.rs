//! MT-Bench on tiny models: both turns are asked, answers are kept, no score is invented.

use std::fs;
use std::path::{Path, PathBuf};

use antigen_engine::data::{Prompter, Row, TaskRows};
use antigen_engine::error::Result;
use antigen_engine::measure::evaluators::{Probes, evaluate_all};
use antigen_engine::measure::evidence::Measurement;
use antigen_engine::spec::{DataFolders, EvaluatorSpec, PromptFormat};
use antigen_engine::suspect::Suspect;
use serde_json::json;

use crate::workshop::Workshop;

/// The suspect's answers, as it is measured and as a control would be.
fn measure(folder: &Path) -> Result<(Measurement, Measurement)> {
    let shop = Workshop::new();
    let mut submission = shop.submission();
    submission.folders = DataFolders { mt_bench: Some(folder.to_owned()), ..DataFolders::default() };
    let lab = shop.lab("scratch");
    let suspect = Suspect::open(&submission, PromptFormat::Alpaca, &lab)?;
    let specs: Vec<EvaluatorSpec> =
        serde_json::from_value(json!([{"type": "mt_bench", "questions": 2, "max_new_tokens": 6}])).unwrap();
    let probes = Probes::build(&specs, &suspect, &TaskRows::default(), &lab)?;
    let controls = probes.for_controls();
    let said = evaluate_all(&probes, &suspect, &suspect.weights(), &lab)?;
    let control = evaluate_all(&controls, &suspect, &suspect.weights(), &lab)?;
    Ok((probes.report(&said, None), controls.report(&control, None)))
}

#[test]
fn both_turns_are_answered_and_kept_without_a_score() {
    let folder = tempfile::tempdir().unwrap();
    let question = |id: u64| json!({"question_id": id, "category": "writing", "turns": ["Name birds.", "Again."], "reference": []});
    fs::write(folder.path().join("question.jsonl"), format!("{}\n{}\n{}\n", question(81), question(82), question(83)))
        .unwrap();
    let (measured, control) = measure(folder.path()).unwrap();
    let report = measured.mt_bench.unwrap();
    assert_eq!(report.answers.iter().map(|answer| answer.question_id).collect::<Vec<_>>(), [81, 82]);
    assert!(report.answers.iter().all(|answer| answer.turns.len() == 2 && answer.scores.is_empty()));
    assert_eq!((report.judged, report.degenerate.n), (None, 4));
    assert_eq!(control.mt_bench, None);
}

#[test]
fn a_question_with_one_turn_is_refused_by_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("question.jsonl");
    fs::write(path, r#"{"question_id": 81, "category": "writing", "turns": ["Name birds."]}"#).unwrap();
    let error = measure(folder.path()).unwrap_err().to_string();
    assert!(error.contains("question.jsonl, line 1"), "{error}");
}

#[test]
fn a_conversation_continues_the_prompt_of_its_first_question() {
    let shop = Workshop::new();
    let prompter = Prompter::open(&shop.base()).unwrap();
    for format in PromptFormat::ALL {
        let first = prompter.conversation(format, &[], "Name birds.").unwrap();
        assert_eq!(first, prompter.prompt(format, &Row::new("Name birds.", "", "")).unwrap(), "{format:?}");
        let second = prompter.conversation(format, &[("Name birds.", "owl")], "Again.").unwrap();
        let text = prompter.answer(&second).unwrap();
        let places: Vec<_> = ["Name birds.", "owl", "Again."].iter().map(|part| text.find(part).unwrap()).collect();
        assert!(places.is_sorted(), "{format:?}: {text}");
    }
}

#[test]
fn the_published_questions_run_on_the_tiny_model() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/mt_bench"));
    if !folder.exists() {
        eprintln!("skipped: {} is absent", folder.display());
        return;
    }
    assert_eq!(measure(&folder).unwrap().0.mt_bench.unwrap().answers.len(), 2);
}
