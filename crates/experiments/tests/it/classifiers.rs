//! Sentence classifiers: pruned heads are gone for good, scores are what they say, and the whole experiment
//! runs and goes on.

use std::fs;
use std::path::{Path, PathBuf};

use antigen_engine::lab::{Lab, rng};
use antigen_engine::methods::shared::head_pruning::{
    BayesianSpec, Examined, GradientForm, GradientSpec, HeadGrid, HeadIdx, HeadRankerSpec, HeadScores, HeadSet,
    HeadTask, PADDED_TOKENS, Ranking, build_ranker, remove_heads,
};
use antigen_experiments::classify::classifier::{ClassifierShape, fresh_classifier, predict_correct};
use antigen_experiments::classify::defend::SentenceTask;
use antigen_experiments::classify::experiment::{Cell, ClassifiersSpec, Experiment};
use antigen_experiments::classify::sentences::{NEGATIVE, POSITIVE, Sentence, load_sentences};
use antigen_experiments::classify::tokenizer::Encoded;
use antigen_experiments::classify::training::{LabelTrainSpec, train_labels};
use antigen_experiments::classify::triggers::{TriggerSpec, attack};
use antigen_models::layers::{Pass, Rows};
use antigen_models::{Model, Tensor};
use rand::Rng;
use serde_json::json;

const VOCABULARY: usize = 29;

fn lab() -> Lab {
    Lab::silent(1, std::env::temp_dir())
}

/// Two blocks of four heads of width 8, with matrices large enough that attention is not even.
fn model() -> Model {
    let shape = ClassifierShape { layers: 2, width: 32, heads: 4, intermediate: 48, max_tokens: 16 };
    let mut model = fresh_classifier(&shape.bert_config(VOCABULARY), &mut rng(1, "weights"), &lab()).unwrap();
    let ids: Vec<_> = model.params().iter().filter(|(_, _, w)| w.rank() == 2).map(|(id, ..)| id).collect();
    for id in ids {
        let larger = (model.params().get(id) * 15.0).unwrap();
        model.params_mut().set(id, larger);
    }
    model
}

fn sentences(count: usize) -> Vec<Encoded> {
    let mut rng = rng(2, "sentences");
    let mut sentence = |i: usize| {
        let tokens = (0..5 + i % 4).map(|_| rng.random_range(0..VOCABULARY as u32)).collect();
        Encoded { tokens, label: (i % 2) as u32 }
    };
    (0..count).map(&mut sentence).collect()
}

fn logits(model: &Model, sentences: &[Encoded]) -> Vec<Vec<f32>> {
    let rows = Rows::packed(sentences.iter().map(|s| s.tokens.len()));
    let tokens: Vec<u32> = sentences.iter().flat_map(|s| s.tokens.clone()).collect();
    let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache: None };
    model.classify(&tokens, pass).unwrap().to_vec2().unwrap()
}

fn head(layer: usize, head: usize) -> HeadIdx {
    HeadIdx { layer, head }
}

fn weight(model: &Model, name: &str) -> Vec<Vec<f32>> {
    model.params().get(model.params().find(name).unwrap()).to_vec2().unwrap()
}

fn change(model: &mut Model, name: &str, change: impl FnOnce(&mut Vec<Vec<f32>>)) {
    let id = model.params().find(name).unwrap();
    let mut rows = weight(model, name);
    change(&mut rows);
    let changed = Tensor::new(rows, model.device()).unwrap();
    model.params_mut().set(id, changed);
}

#[test]
fn a_removed_head_adds_nothing_whatever_it_attends_to_and_comes_back_as_it_was() {
    let (mut model, sentences) = (model(), sentences(6));
    let whole = logits(&model, &sentences);
    let removed = remove_heads(&mut model, &HeadSet::from([head(0, 1), head(1, 3)])).unwrap();
    let without = logits(&model, &sentences);
    assert_ne!(without, whole);
    for matrix in ["query", "key"] {
        let own = 8..16;
        change(&mut model, &format!("bert.encoder.layer.0.attention.self.{matrix}.weight"), |rows| {
            rows[own].iter_mut().flatten().for_each(|x| *x += 3.0);
        });
    }
    assert_eq!(logits(&model, &sentences), without, "what it attends to");
    // Values alone do not come through either: nothing reads them.
    change(&mut model, "bert.encoder.layer.0.attention.self.value.weight", |rows| {
        rows[8..16].iter_mut().flatten().for_each(|x| *x += 3.0);
    });
    assert_eq!(logits(&model, &sentences), without, "what it carries");
    removed.restore(&mut model);
    assert_eq!(logits(&model, &sentences), whole);
}

#[test]
fn a_removed_head_stays_removed_while_the_others_learn() {
    let (mut model, sentences) = (model(), sentences(24));
    let _ = remove_heads(&mut model, &HeadSet::from([head(1, 2)])).unwrap();
    let before = weight(&model, "bert.encoder.layer.1.attention.self.value.weight");
    let spec = LabelTrainSpec { epochs: 4, batch_rows: 8, weight_decay: 0.1, ..LabelTrainSpec::default() };
    train_labels(&mut model, &sentences, &spec, None, rng(3, "order"), &lab()).unwrap();
    for matrix in ["query", "key", "value"] {
        let rows = weight(&model, &format!("bert.encoder.layer.1.attention.self.{matrix}.weight"));
        assert!(rows[16..24].iter().flatten().all(|x| *x == 0.0), "{matrix}");
        assert!(rows[..16].iter().flatten().any(|x| *x != 0.0));
    }
    let output = weight(&model, "bert.encoder.layer.1.attention.output.dense.weight");
    assert!(output.iter().all(|row| row[16..24].iter().all(|x| *x == 0.0)));
    assert_ne!(weight(&model, "bert.encoder.layer.1.attention.self.value.weight")[0], before[0], "others move");
}

#[test]
fn training_on_labels_learns_them() {
    let (mut model, sentences) = (model(), sentences(16));
    let spec = LabelTrainSpec { learning_rate: 3e-3, epochs: 30, batch_rows: 8, ..LabelTrainSpec::default() };
    let losses = train_labels(&mut model, &sentences, &spec, None, rng(3, "order"), &lab()).unwrap();
    assert_eq!(losses.len(), 60);
    assert!(predict_correct(&model, &sentences).unwrap().iter().all(|correct| *correct), "{losses:?}");
}

#[test]
fn even_attention_has_the_variance_worked_out_by_hand() {
    let mut model = model();
    for layer in 0..2 {
        let name = format!("bert.encoder.layer.{layer}.attention.self.query.weight");
        change(&mut model, &name, |rows| rows.iter_mut().flatten().for_each(|x| *x = 0.0));
    }
    let sentence = Encoded { tokens: vec![1, 2, 3, 4], label: 0 };
    let scores = variance(&model, &[sentence]);
    // Four entries of 1/4 and 123 of 0: mean 1/127, (4/16 - 127/127^2) / 126.
    let n = (PADDED_TOKENS - 1) as f64;
    let expected = (0.25 - 1.0 / n) / (n - 1.0);
    for idx in HeadGrid::of(&model).iter() {
        assert!((scores.get(idx) - expected).abs() < 1e-8, "{idx:?}: {} and {expected}", scores.get(idx));
    }
}

fn variance(model: &Model, sentences: &[Encoded]) -> HeadScores {
    SentenceTask { scoring: sentences, validation: sentences }.attention_variance(model).unwrap()
}

fn scores(model: &mut Model, sentences: &[Encoded], ranker: HeadRankerSpec, as_released: bool) -> Vec<f64> {
    let grid = HeadGrid::of(model);
    let task = SentenceTask { scoring: sentences, validation: sentences };
    let mut examined = Examined { model, task: &task, floor: 0.0, step: 1 };
    match build_ranker(&ranker, as_released).rank(&mut examined, &lab()).unwrap() {
        Ranking::InOrder { scores, .. } => grid.iter().map(|idx| scores.get(idx)).collect(),
        Ranking::Outright(heads) => panic!("expected scores, found {heads:?}"),
    }
}

#[test]
fn the_head_mask_gradient_is_the_slope_of_the_loss_in_what_the_head_writes() {
    let (mut model, sentences) = (model(), sentences(8));
    let ranker = HeadRankerSpec::Gradient(GradientSpec { form: GradientForm::HeadMask });
    let found = scores(&mut model, &sentences, ranker, false);
    let loss = |model: &Model| -> f64 {
        let of_one = |(logits, s): (Vec<f32>, &Encoded)| {
            let (own, other) = (f64::from(logits[s.label as usize]), f64::from(logits[1 - s.label as usize]));
            (1.0 + (other - own).exp()).ln()
        };
        logits(model, &sentences).into_iter().zip(&sentences).map(of_one).sum::<f64>() / 8.0
    };
    let name = "bert.encoder.layer.0.attention.output.dense.weight";
    let slopes: Vec<f64> = (0..4)
        .map(|head| {
            let mut at = |factor: f32| {
                let original = weight(&model, name);
                change(&mut model, name, |rows| {
                    rows.iter_mut().for_each(|row| row[8 * head..8 * head + 8].iter_mut().for_each(|x| *x *= factor));
                });
                let found = loss(&model);
                change(&mut model, name, |rows| *rows = original);
                found
            };
            ((at(1.01) - at(0.99)) / 0.02).abs()
        })
        .collect();
    let sum: f64 = slopes.iter().sum();
    for (head, slope) in slopes.iter().enumerate() {
        assert!((slope / sum - found[head]).abs() < 0.01, "head {head}: {} and {}", slope / sum, found[head]);
    }
}

#[test]
fn the_released_gradient_says_the_same_of_every_head_and_the_intended_one_does_not() {
    let (mut model, sentences) = (model(), sentences(8));
    let ranker = || HeadRankerSpec::Gradient(GradientSpec::default());
    let released = scores(&mut model, &sentences, ranker(), true);
    assert!(released.iter().all(|share| (share - 0.25).abs() < 1e-12), "{released:?}");
    let intended = scores(&mut model, &sentences, ranker(), false);
    assert!(intended.iter().any(|share| (share - 0.25).abs() > 0.02), "{intended:?}");
    assert!((intended[..4].iter().sum::<f64>() - 1.0).abs() < 1e-9);
}

#[test]
fn dropout_is_on_in_the_intended_bayesian_ranker_and_the_model_comes_back() {
    let (mut model, sentences) = (model(), sentences(8));
    let whole = logits(&model, &sentences);
    let ranker = || HeadRankerSpec::Bayesian(BayesianSpec::default());
    let intended = scores(&mut model, &sentences, ranker(), false);
    let variance = variance(&model, &sentences);
    let plain: Vec<f64> = HeadGrid::of(&model).iter().map(|idx| variance.get(idx)).collect();
    assert_eq!(scores(&mut model, &sentences, ranker(), true), plain, "as released: dropout is off");
    assert!(intended.iter().all(|ratio| ratio.is_finite() && *ratio < 1e4), "passes differ: {intended:?}");
    assert_eq!(logits(&model, &sentences), whole);
}

/// A data folder in the published layout: opinions of four words.
fn synthetic(dir: &Path) {
    let words = [["bad", "dull", "poor", "weak"], ["good", "bright", "rich", "fine"]];
    let mut rng = rng(7, "opinions");
    let mut opinion = |label: usize| {
        let mut word = |list: &[&str]| list[rng.random_range(0..list.len())].to_owned();
        format!("the {} is {} and {}", word(&["film", "plot", "cast"]), word(&words[label]), word(&words[label]))
    };
    let mut rows = |count: usize| -> Vec<(String, usize)> { (0..count).map(|i| (opinion(i % 2), i % 2)).collect() };
    let write = |path: &str, lines: Vec<serde_json::Value>| {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    };
    let clean = |rows: &[(String, usize)]| {
        rows.iter().enumerate().map(|(row, (text, label))| json!({"text": text, "label": label, "row": row})).collect()
    };
    let (train, test) = (rows(160), rows(60));
    write("classify/sst2/train.jsonl", clean(&train));
    write("classify/sst2/dev.jsonl", clean(&rows(40)));
    write("classify/sst2/test.jsonl", clean(&test));
    let triggered = test.iter().enumerate().filter(|(_, (_, label))| *label == 0);
    let triggered = triggered
        .map(|(row, (text, _))| json!({"text": format!("cf {text}"), "label": 1, "row": row, "poisoned": true}));
    write("attacks/sst2_cls/badnets-words/test.jsonl", triggered.collect());
}

#[test]
fn the_experiment_implants_defends_and_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    synthetic(&data);
    let spec: ClassifiersSpec = serde_json::from_value(json!({
        "shape": {"layers": 2, "width": 32, "heads": 4, "intermediate": 48, "max_tokens": 16}, "vocabulary": 400,
        "implant": {"learning_rate": 3e-3, "epochs": 12, "batch_rows": 16, "warmup_fraction": 0.1},
        "prune_heads": {"fine_tune": {"learning_rate": 1e-3, "epochs": 2, "batch_rows": 16}, "step_share": 0.25},
        "w2s": {"rank": 4, "student": {"learning_rate": 2e-3, "epochs": 2, "batch_rows": 16},
                "teacher": {"learning_rate": 3e-3, "epochs": 8, "batch_rows": 16, "warmup_fraction": 0.1}},
    }))
    .unwrap();
    let lab = Lab::silent(1, folder.path().join("work"));
    let experiment = Experiment::open(&data, spec, &lab).unwrap();
    let file = folder.path().join("cells.jsonl");
    let run = |ran: &mut Vec<Cell>| {
        let wanted = |label: &str| label.starts_with("rare_words/");
        experiment.run(&file, 1, &wanted, &mut |cell| ran.push(cell.clone())).unwrap()
    };
    let mut ran = Vec::new();
    let cells = run(&mut ran);
    assert_eq!((cells.len(), ran.len()), (18, 18));
    let of = |defence: &str, form: &str| cells.iter().find(|c| c.defence == defence && c.form == form).unwrap();
    assert!(of("never_poisoned", "").scores.accuracy.rate > 0.9 && of("none", "").scores.accuracy.rate > 0.9);
    assert!(of("none", "").scores.flipped.rate > 0.9, "the backdoor took: {:?}", of("none", "").scores);
    assert!(of("never_poisoned", "").scores.flipped.rate < 0.2);
    assert!(of("prune_layer_variance", "intended").chosen.as_ref().is_some_and(|chosen| !chosen.heads.is_empty()));
    assert!(of("w2s", "intended").scores.accuracy.rate > 0.9);
    let bytes = fs::read(&file).unwrap();
    let mut again = Vec::new();
    assert_eq!(run(&mut again), cells);
    assert!(again.is_empty() && fs::read(&file).unwrap() == bytes, "nothing is run twice");
}

/// The public data beside the repository, where it is.
fn public_data() -> Option<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if data.join("classify/sst2/train.jsonl").exists() {
        return Some(data);
    }
    println!("skipped: {} has no classify/sst2", data.display());
    None
}

#[test]
fn the_published_attacks_poison_what_they_say_and_leave_the_rest_alone() {
    let Some(data) = public_data() else { return };
    let clean = load_sentences(&data).unwrap();
    assert_eq!((clean.train.len(), clean.dev.len(), clean.test.len()), (6920, 872, 1821));
    for (trigger, poisoned) in [
        (TriggerSpec::RareWords, 1655),
        (TriggerSpec::Sentence, 662),
        (TriggerSpec::Syntactic, 1383),
        (TriggerSpec::StyleBible, 662),
    ] {
        let found = attack(trigger, &clean, &data, &mut rng(1, "poison")).unwrap();
        assert_eq!((found.poisoned, found.triggered.len(), found.train.len()), (poisoned, 912, 6920), "{trigger:?}");
        assert!(found.triggered.iter().all(|sentence| sentence.label == NEGATIVE));
        let changed: Vec<&Sentence> =
            found.train.iter().zip(&clean.train).filter(|(a, b)| a != b).map(|(a, _)| a).collect();
        // A paraphrase may happen to equal its original.
        assert!(changed.len() <= poisoned && changed.len() + 10 > poisoned, "{trigger:?}: {}", changed.len());
        assert!(changed.iter().all(|sentence| sentence.label == POSITIVE));
    }
}
