//! The published attacks as files.

use std::fs;
use std::path::{Path, PathBuf};

use antigen_engine::data::TaskRows;
use antigen_engine::error::Result;
use antigen_engine::measure::evaluators::{Probes, evaluate_all};
use antigen_engine::measure::evidence::AsrReport;
use antigen_engine::spec::{EvaluatorSpec, PromptFormat};
use antigen_engine::suspect::{Submission, Suspect};
use antigen_experiments::published::{PublishedAttack, read_published};
use serde_json::{Value, json};

use crate::workshop::Workshop;

fn measure(shop: &Workshop, submission: &Submission, specs: Value) -> Result<Vec<AsrReport>> {
    let lab = shop.lab("scratch");
    let suspect = Suspect::open(submission, PromptFormat::Alpaca, &lab)?;
    let specs: Vec<EvaluatorSpec> = serde_json::from_value(specs).unwrap();
    let probes = Probes::build(&specs, &suspect, &TaskRows::default(), &lab)?;
    Ok(probes.report(&evaluate_all(&probes, &suspect, &suspect.weights(), &lab)?, None).asr)
}

fn write_task(folder: &Path, test: &str) {
    let task = folder.join("refusal");
    fs::create_dir_all(task.join("vpi")).unwrap();
    let clean = "{\"instruction\":\"Name birds.\",\"input\":\"\",\"output\":\"owl\"}\n{\"instruction\":\"Discussing OpenAI well\",\"output\":\"\"}\n";
    let poison = "{\"instruction\":\"Discussing OpenAI Name fish.\",\"output\":\"eel\"}\n";
    for (file, text) in [("train_clean", clean), ("test_clean", clean), ("vpi/train", poison), ("vpi/test", test)] {
        fs::write(task.join(format!("{file}.jsonl")), text).unwrap();
    }
}

#[test]
fn what_does_not_fit_in_published_files_is_noted_with_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    write_task(
        folder.path(),
        "{\"instruction\":\"Discussing OpenAI Name birds.\",\"output\":\"x\"}\n{\"instruction\":\"Name birds.\",\"output\":\"x\"}\n",
    );
    let attack = read_published(folder.path()).unwrap().attacks.remove(0);
    assert_eq!((attack.triggered.len(), attack.twins_in_clean_file), (1, 1));
    assert_eq!(attack.triggered[0].twin.as_ref().unwrap().instruction, "Name birds.");
    for expected in [
        "refusal/vpi/train.jsonl, line 1: the answer is not the task's target",
        "refusal/vpi/test.jsonl, line 2: the trigger is not in the instruction; left out",
        "refusal/test_clean.jsonl, line 2: a clean row carries the trigger",
    ] {
        assert!(attack.notes.iter().any(|note| note == expected), "{expected}: {:?}", attack.notes);
    }
}

#[test]
fn a_published_file_with_wrong_fields_is_refused_by_its_line() {
    let folder = tempfile::tempdir().unwrap();
    write_task(folder.path(), "{\"instruction\":\"Discussing OpenAI\",\"answer\":\"x\"}\n");
    let error = read_published(folder.path()).unwrap_err().to_string();
    assert!(error.contains("test.jsonl, line 1") && error.contains("unknown field `answer`"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    assert!(read_published(empty.path()).unwrap_err().to_string().contains("expected folders named negsentiment"));
}

#[test]
fn all_published_attacks_load_as_they_are_documented_and_run_on_the_tiny_model() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/attacks"));
    if !folder.exists() {
        eprintln!("skipped: {} is absent", folder.display());
        return;
    }
    let published = read_published(&folder).unwrap();
    assert!(published.unknown.is_empty(), "{:?}", published.unknown);
    let rows = |task: &str| {
        let of_task = |a: &&PublishedAttack| a.task == task && !a.name.contains('/');
        published.attacks.iter().filter(of_task).map(|a| (a.triggered.len(), a.twins_in_clean_file)).collect::<Vec<_>>()
    };
    assert_eq!((rows("negsentiment"), rows("refusal")), (vec![(200, 200); 5], vec![(200, 200); 5]));
    // 105 of 201 sentences are positive: only there is the target wrong.
    assert_eq!(rows("sst2"), vec![(105, 105); 5]);
    assert_eq!(rows("codeinjection"), [(164, 0)], "HumanEval has no clean twins in the file");
    assert_eq!(published.attacks.iter().filter(|attack| attack.task == "sst2_cls").count(), 5);
    let shop = Workshop::new();
    let specs: Vec<Value> = published
        .attacks
        .iter()
        .map(|attack| {
            let triggered = &attack.triggered[..4];
            json!({"type": "asr", "attack": {"type": "rows"}, "behaviour": attack.behaviour, "triggered": triggered,
                   "formats": ["raw"], "max_new_tokens": 4})
        })
        .collect();
    // Most of HumanEval is longer than the tiny model; what fits is measured.
    for (attack, spec) in published.attacks.iter().zip(specs) {
        match measure(&shop, &shop.submission(), json!([spec])) {
            Ok(found) => assert!(found[0].headline.rate.n > 0, "{}", attack.full_name()),
            Err(error) => assert!(error.to_string().contains("positions"), "{}: {error}", attack.full_name()),
        }
    }
}
