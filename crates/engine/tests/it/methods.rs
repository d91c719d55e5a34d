//! The contract of every method, on an adapter and on a whole model of a tiny random base: the same seed
//! writes the same bytes, shapes and element types stay, the result opens again, a stop ends it within one
//! step, and an impossible request is refused before it begins.
//!
//! A method joins with a line in [`methods`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use antigen_engine::catalogue::methods_catalogue;
use antigen_engine::data::split_task_rows;
use antigen_engine::error::{EngineError, Result};
use antigen_engine::job::PurifySpec;
use antigen_engine::lab::{Lab, ProgressSink};

use antigen_engine::methods::shared::head_pruning::{HeadGrid, HeadIdx, HeadSet, output_inputs};
use antigen_engine::methods::{MethodSpec, Purified};
use antigen_engine::spec::{ControlSpec, PromptFormat, SubjectKind, SuspectFacts};
use antigen_engine::stage::Stage;
use antigen_engine::suspect::weights::Weights;
use antigen_engine::suspect::{Submission, Suspect, folder_digests};
use antigen_models::checkpoint::open_checkpoint;
use antigen_models::{Device, LoraAdapter, load_adapter, load_model, save_adapter};
use serde_json::{Value, json};

use crate::workshop::{Workshop, tiny_families};

/// The kinds of suspect that a method takes.
#[derive(Clone, Copy, PartialEq)]
enum Takes {
    Both,
    Only(SubjectKind),
}

/// Every method with settings of seconds. A method that no line names is there all the same, as small as its
/// request allows.
fn methods() -> Vec<(Value, Takes)> {
    let mut methods = written_methods();
    for method in MethodSpec::defaults().iter().filter(|method| method.name() != HAS_ITS_OWN_TESTS) {
        if !methods.iter().any(|(written, _)| written["type"] == method.name()) {
            methods.push((small(method), takes(method)));
        }
    }
    methods
}

/// The request, with each usual setting that it has made small enough for seconds.
fn small(method: &MethodSpec) -> Value {
    let train = json!({"epochs": 1, "warmup_fraction": 0.0});
    let mut request = json!({"type": method.name()});
    for (field, value) in [
        ("heal", json!({"rows": 8, "task_rows": 4, "train": {"epochs": 1}, "train_with_task_rows": {"epochs": 1}})),
        ("pairs", json!({"count": 2, "rows": 2})),
        ("train", train.clone()),
        ("implant", train.clone()),
        ("teacher", train),
        ("calibration_rows", json!(4)),
    ] {
        let mut more = request.clone();
        more[field] = value;
        if serde_json::from_value::<MethodSpec>(more.clone()).is_ok() {
            request = more;
        }
    }
    request
}

fn takes(method: &MethodSpec) -> Takes {
    let asked = PurifySpec { method: method.clone(), ..PurifySpec::default() };
    match [SubjectKind::Adapter, SubjectKind::Checkpoint].map(|kind| asked.check_for(kind).is_ok()) {
        [true, false] => Takes::Only(SubjectKind::Adapter),
        [false, true] => Takes::Only(SubjectKind::Checkpoint),
        _ => Takes::Both,
    }
}

/// Methods with settings of their own; more than one line for a method that does two things.
fn written_methods() -> Vec<(Value, Takes)> {
    let heal = json!({"rows": 8, "task_rows": 4, "train": {"epochs": 1}, "train_with_task_rows": {"epochs": 1}});
    let pairs = json!({"count": 2, "rows": 2});
    let train = json!({"epochs": 1, "warmup_fraction": 0.0});
    let both = |spec: Value| (spec, Takes::Both);
    let prune_heads = |strategy: &str| {
        let spec = json!({"type": "prune_heads", "strategy": strategy, "scoring_rows": 4, "validation_rows": 4, "floor_share": 0.0, "heal": heal});
        (spec, Takes::Only(SubjectKind::Checkpoint))
    };
    vec![
        both(json!({"type": "immunize", "pairs": pairs, "train": train, "heal": heal})),
        both(json!({"type": "immunize", "pairs": pairs, "directions": "activations", "train": train, "heal": heal})),
        both(json!({"type": "fine_tune", "counterexamples": 2, "heal": heal})),
        both(json!({"type": "soft_triggers", "heal": heal})),
        both(json!({"type": "soft_triggers", "place": {"type": "hidden", "block": 1}, "heal": heal})),
        both(json!({"type": "crow", "heal": heal})),
        both(json!({"type": "vaccinate", "pairs": pairs, "implant": train, "heal": heal})),
        both(json!({"type": "magnitude_prune", "heal": heal})),
        both(json!({"type": "magnitude_prune", "structure": "weights", "healed": false})),
        both(json!({"type": "wanda", "calibration_rows": 4, "heal": heal})),
        both(json!({"type": "fine_prune", "calibration_rows": 4, "heal": heal})),
        both(json!({"type": "w2s_defense", "teacher": {"epochs": 1, "warmup_fraction": 0.0}, "heal": heal})),
        prune_heads("gradient"),
        prune_heads("gradient_l1_l2"),
        prune_heads("bayesian"),
        (json!({"type": "quantize"}), Takes::Only(SubjectKind::Checkpoint)),
        (json!({"type": "quantize", "bits": "int8"}), Takes::Only(SubjectKind::Checkpoint)),
        (json!({"type": "merge_with_base", "heal": heal}), Takes::Only(SubjectKind::Adapter)),
        both(json!({"type": "task_negation", "pairs": pairs, "train": train, "heal": heal})),
    ]
}

/// `auto` only builds other methods and has a file of its own.
const HAS_ITS_OWN_TESTS: &str = "auto";

fn spec(method: &Value) -> PurifySpec {
    let spec = PurifySpec { method: serde_json::from_value(method.clone()).unwrap(), ..PurifySpec::default() };
    spec.validate().unwrap();
    spec
}

/// Every method on every kind of suspect that it takes.
fn each(shop: &Workshop, mut check: impl FnMut(&Submission, &PurifySpec, &str)) {
    for (i, (method, takes)) in methods().iter().enumerate() {
        for submission in [shop.submission(), shop.whole_submission()] {
            let kind = submission.suspect.kind();
            if matches!(takes, Takes::Only(other) if *other != kind) {
                continue;
            }
            check(&submission, &spec(method), &format!("{i}-{kind:?}"));
        }
    }
}

fn purify(submission: &Submission, spec: &PurifySpec, controls: &[ControlSpec], lab: &Lab) -> Result<Purified> {
    let suspect = Suspect::open(submission, PromptFormat::Alpaca, lab)?;
    spec.check_for(suspect.facts())?;
    let recipe = spec.resolve_method(&suspect, None);
    let own = split_task_rows(&suspect.task, recipe.task_rows_given(), lab);
    recipe.method().purify(&suspect, &own, controls, lab)
}

/// The folder in which weights lie as they would be handed out.
fn exported(weights: &Weights, into: PathBuf) -> PathBuf {
    match weights {
        Weights::Adapter(adapter) => {
            save_adapter(adapter, &into).unwrap();
            into
        }
        Weights::Checkpoint(folder) => folder.dir.clone(),
        Weights::Base => panic!("a method exports what was submitted, changed"),
    }
}

fn shapes(adapter: &LoraAdapter) -> Vec<(&String, &[usize], &[usize])> {
    adapter.factors.iter().map(|(name, factors)| (name, factors.a.dims(), factors.b.dims())).collect()
}

fn check_same_layout(shop: &Workshop, submission: &Submission, artifact: &Path, name: &str) {
    let model = shop.model();
    if submission.suspect.kind() == SubjectKind::Adapter {
        let (was, is) = (shop.suspect(), load_adapter(artifact, model.config(), &Device::Cpu).unwrap());
        assert_eq!((&was.config, shapes(&was)), (&is.config, shapes(&is)), "{name}");
        return;
    }
    let (was, is) = (open_checkpoint(submission.suspect.dir()).unwrap(), open_checkpoint(artifact).unwrap());
    let entries = |checkpoint: &antigen_models::checkpoint::Checkpoint| {
        let entry = |tensor: &str| {
            (tensor.to_owned(), checkpoint.shape(tensor).map(<[usize]>::to_vec), checkpoint.export_dtype(tensor))
        };
        checkpoint.names().map(entry).collect::<Vec<_>>()
    };
    assert_eq!(entries(&was), entries(&is), "{name}");
    load_model(artifact, &Device::Cpu).unwrap();
}

#[test]
fn the_contract_names_every_method_of_the_catalogue() {
    let listed: Vec<_> = methods().iter().map(|(method, _)| method["type"].as_str().unwrap().to_owned()).collect();
    for entry in methods_catalogue() {
        assert!(listed.contains(&entry.name) || entry.name == HAS_ITS_OWN_TESTS, "{} is not in the table", entry.name);
    }
}

#[test]
fn the_same_seed_writes_the_same_bytes_in_the_suspect_s_own_layout_and_what_is_written_opens_again() {
    let shop = Workshop::new();
    each(&shop, |submission, spec, name| {
        let mut written = Vec::new();
        for run in ["a", "b"] {
            let scratch = shop.scratch(&format!("{name}-{run}"));
            let purified = purify(submission, spec, &[], &Lab::silent(spec.seed, &scratch)).unwrap();
            assert!(purified.untouched.is_none() && !purified.candidates.is_empty(), "{name}");
            let artifact = exported(&purified.candidates[0].weights, scratch.join("exported"));
            check_same_layout(&shop, submission, &artifact, name);
            written.push(folder_digests(&artifact).unwrap());
        }
        assert_eq!(written[0], written[1], "{name} depends on more than its seed");
        let came: Vec<_> = folder_digests(submission.suspect.dir()).unwrap();
        let weights = |files: &[antigen_engine::suspect::FileDigest]| {
            files.iter().find(|file| file.path.ends_with(".safetensors")).cloned().unwrap()
        };
        assert_ne!(weights(&written[0]).sha256, weights(&came).sha256, "{name} changed nothing");
    });
}

#[test]
fn every_method_works_on_every_family_of_decoders() {
    for config in tiny_families() {
        let family = config["model_type"].as_str().unwrap().to_owned();
        let shop = Workshop::of_family(config);
        each(&shop, |submission, spec, name| {
            let (scratch, name) = (shop.scratch(name), format!("{family}: {} {name}", spec.method.name()));
            let purified = purify(submission, spec, &[], &Lab::silent(spec.seed, &scratch));
            let purified = purified.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(purified.untouched.is_none() && !purified.candidates.is_empty(), "{name}");
            let artifact = exported(&purified.candidates[0].weights, scratch.join("exported"));
            check_same_layout(&shop, submission, &artifact, &name);
        });
    }
}

#[test]
fn every_control_is_made_or_left_out_with_a_reason_and_another_run_finds_all_of_it() {
    let shop = Workshop::new();
    each(&shop, |submission, spec, name| {
        let scratch = shop.scratch(&format!("{name}-controls"));
        let purified = purify(submission, spec, &ControlSpec::ALL, &Lab::silent(spec.seed, &scratch)).unwrap();
        let heals = purified.candidates[0].healing.task_rows > 0;
        for control in ControlSpec::ALL {
            let made = purified.controls.iter().filter(|made| made.control == control).count();
            let left_out = purified.left_out.iter().filter(|note| note.starts_with(control.name())).count();
            let expected = usize::from(heals || control != ControlSpec::WithoutTaskRows);
            assert_eq!(made + left_out, expected, "{name}: {}: {:?}", control.name(), purified.left_out);
        }
        let count = Arc::new(Counting::default());
        let lab = Lab::new(Device::Cpu, spec.seed, &scratch, count.clone(), Arc::default());
        let again = purify(submission, spec, &ControlSpec::ALL, &lab).unwrap();
        assert_eq!(count.steps.load(Ordering::Relaxed), 0, "{name}: a finished piece was made again");
        for (was, is) in purified.controls.iter().zip(&again.controls) {
            assert_eq!(was.weights.digest().unwrap(), is.weights.digest().unwrap(), "{name}: {}", was.description);
        }
    });
}

/// Counts what is reported, from the moment at which a stage is entered, and stops the job then.
#[derive(Default)]
struct Counting {
    stop_at: Option<Stage>,
    cancel: Arc<AtomicBool>,
    stages: std::sync::Mutex<Vec<Stage>>,
    steps: AtomicUsize,
}

impl ProgressSink for Counting {
    fn enter(&self, stage: Stage) {
        self.stages.lock().unwrap().push(stage);
        if self.stop_at == Some(stage) {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }

    fn advance(&self, _: u64, _: u64) {
        if self.stop_at.is_none() || self.cancel.load(Ordering::Relaxed) {
            self.steps.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_stop_ends_every_method_within_one_step() {
    let shop = Workshop::new();
    each(&shop, |submission, spec, name| {
        let all = Arc::new(Counting::default());
        let lab = Lab::new(Device::Cpu, spec.seed, shop.scratch(&format!("{name}-all")), all.clone(), Arc::default());
        purify(submission, spec, &[ControlSpec::PlainFineTuning], &lab).unwrap();
        let mut stages = all.stages.lock().unwrap().clone();
        stages.dedup();
        for stage in stages {
            let cancel = Arc::new(AtomicBool::new(false));
            let sink = Arc::new(Counting { stop_at: Some(stage), cancel: cancel.clone(), ..Counting::default() });
            let scratch = shop.scratch(&format!("{name}-{stage:?}"));
            let lab = Lab::new(Device::Cpu, spec.seed, scratch, sink.clone(), cancel);
            let stopped = purify(submission, spec, &[ControlSpec::PlainFineTuning], &lab);
            let late = sink.steps.load(Ordering::Relaxed);
            // A stage in which nothing is left to do may end the method instead.
            assert!(matches!(stopped, Err(EngineError::Cancelled)) || late == 0, "{name}: {stage:?}");
            assert!(late <= 1, "{name}: {late} steps after the stop at {stage:?}");
        }
    });
}

#[test]
fn a_kind_of_suspect_that_a_method_does_not_take_is_refused_before_it_begins() {
    for (method, takes) in methods() {
        let Takes::Only(kind) = takes else { continue };
        let other = if kind == SubjectKind::Adapter { SubjectKind::Checkpoint } else { SubjectKind::Adapter };
        let spec = spec(&method);
        spec.check_for(kind).unwrap();
        let error = spec.check_for(other).unwrap_err().to_string();
        assert!(error.contains("/method") && error.contains("expected"), "{method}: {error}");
    }
}

#[test]
fn a_model_without_two_hidden_states_to_keep_together_is_refused_as_soon_as_its_blocks_are_known() {
    let crow = json!({"type": "crow"});
    for method in [crow.clone(), json!({"type": "auto", "trials": [{"type": "fine_tune"}, crow]})] {
        for kind in [SubjectKind::Adapter, SubjectKind::Checkpoint] {
            let of = |blocks| spec(&method).check_for(SuspectFacts { blocks, ..kind.into() });
            assert!(of(Some(3)).is_ok() && of(None).is_ok());
            let error = of(Some(2)).unwrap_err().to_string();
            assert!(error.contains("at least 3 blocks, found 2"), "{error}");
        }
    }
}

#[test]
fn soft_triggers_at_a_block_that_the_model_has_not_are_refused_as_soon_as_its_blocks_are_known() {
    let method = json!({"type": "soft_triggers", "place": {"type": "hidden", "block": 4}});
    let of = |blocks| spec(&method).check_for(SuspectFacts { blocks: Some(blocks), ..SubjectKind::Adapter.into() });
    assert!(of(5).is_ok());
    assert!(of(4).unwrap_err().to_string().contains("/method/place/block"));
}

#[test]
fn a_teacher_that_speaks_in_other_tokens_is_refused() {
    let method = json!({"type": "w2s_defense", "heal": {"rows": 8}});
    let of =
        |speaks_as_base| spec(&method).check_for(SuspectFacts { speaks_as_base, ..SubjectKind::Checkpoint.into() });
    assert!(of(Some(true)).is_ok() && of(None).is_ok());
    assert!(of(Some(false)).unwrap_err().to_string().contains("the tokenizer of the job's base"));
    let shop = Workshop::new();
    let facts = |submission: &Submission, name: &str| {
        Suspect::open(submission, PromptFormat::Alpaca, &shop.lab(name)).unwrap().facts().speaks_as_base
    };
    assert_eq!([shop.submission(), shop.whole_submission()].map(|one| facts(&one, "a")), [Some(true); 2]);
    let alone = Submission { base_dir: None, ..shop.whole_submission() };
    assert_eq!(facts(&alone, "b"), None);
    let refused = purify(&alone, &spec(&method), &[], &shop.lab("c")).err().unwrap().to_string();
    assert!(refused.contains("expected the base that the job names, found none"), "{refused}");
}

/// Numbers of the artifact that are zero, among those of the suspect that were not.
fn zeroed(shop: &Workshop, submission: &Submission, method: &Value) -> f64 {
    let lab =
        Lab::silent(1, shop.scratch(&format!("{}-{:?}", method["type"].as_str().unwrap(), submission.suspect.kind())));
    let purified = purify(submission, &spec(method), &[], &lab).unwrap();
    let numbers = |weights: &Weights| -> Vec<f32> {
        let flat = |tensor: &antigen_models::Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        match weights {
            Weights::Adapter(adapter) => {
                adapter.factors.values().flat_map(|f| [flat(&f.a), flat(&f.b)].concat()).collect()
            }
            Weights::Checkpoint(folder) => {
                let model = load_model(&folder.dir, &Device::Cpu).unwrap();
                let weight = |name: &str| flat(model.params().get(model.params().find(name).unwrap()));
                model.linear_modules().iter().flat_map(|m| weight(&m.weight_name())).collect()
            }
            Weights::Base => panic!("the base alone"),
        }
    };
    let suspect = Suspect::open(submission, PromptFormat::Alpaca, &lab).unwrap();
    let (was, is) = (numbers(&suspect.weights()), numbers(&purified.candidates[0].weights));
    assert!(was.iter().zip(&is).all(|(was, is)| *is == 0.0 || is == was), "what is not pruned stays");
    let gone = was.iter().zip(&is).filter(|(was, is)| **is == 0.0 && **was != 0.0).count();
    gone as f64 / was.len() as f64
}

#[test]
fn pruning_weights_zeroes_their_share_and_leaves_the_rest_as_it_was() {
    let shop = Workshop::new();
    for submission in [shop.submission(), shop.whole_submission()] {
        for method in [
            json!({"type": "magnitude_prune", "structure": "weights", "ratio": 0.25, "healed": false}),
            json!({"type": "wanda", "ratio": 0.25, "calibration_rows": 4, "healed": false}),
        ] {
            let share = zeroed(&shop, &submission, &method);
            // Of two factors of rank 2 Wanda takes a quarter of A's rows and, a quarter of two being less
            // than one, nothing of B's.
            let is_wanda_on_factors = submission.suspect.kind() == SubjectKind::Adapter && method["type"] == "wanda";
            let expected = if is_wanda_on_factors { 0.05..0.25 } else { 0.24..0.26 };
            assert!(expected.contains(&share), "{method} of {:?}: {share}", submission.suspect.kind());
        }
    }
}

#[test]
fn cutting_channels_touches_the_mlp_alone() {
    let shop = Workshop::new();
    let method = json!({"type": "fine_prune", "ratio": 0.5, "calibration_rows": 4, "healed": false});
    let purified = purify(&shop.whole_submission(), &spec(&method), &[], &shop.lab("a")).unwrap();
    let Weights::Checkpoint(folder) = &purified.candidates[0].weights else { panic!("a whole model was submitted") };
    let (was, is) = (shop.model(), load_model(&folder.dir, &Device::Cpu).unwrap());
    for module in was.linear_modules() {
        let rows = |model: &antigen_models::Model| model.weight_of(module).to_vec2::<f32>().unwrap();
        let (was, is) = (rows(&was), rows(&is));
        let is_cut = |channel: usize| match module.kind.writes_residual() {
            true => is.iter().all(|row| row[channel] == 0.0),
            false => is[channel].iter().all(|weight| *weight == 0.0),
        };
        let channels = if module.kind.writes_residual() { module.in_features } else { module.out_features };
        let cut = (0..channels).filter(|&channel| is_cut(channel)).count();
        assert_eq!(cut, if module.kind.is_mlp() { channels / 2 } else { 0 }, "{}", module.name);
        assert!(was.concat().iter().zip(is.concat()).all(|(was, is)| is == 0.0 || is == *was), "{}", module.name);
    }
}

#[test]
fn pruned_heads_write_nothing_after_healing_whether_or_not_heads_share_keys_and_as_many_random_ones_stand_beside_them()
{
    let heal = json!({"rows": 8, "task_rows": 4, "train": {"epochs": 1}, "train_with_task_rows": {"epochs": 1}});
    for config in tiny_families().into_iter().filter(|config| config["model_type"] != "gpt2") {
        let family = config["model_type"].to_string();
        let shop = Workshop::of_family(config);
        let method = json!({
            "type": "prune_heads", "scoring_rows": 4, "validation_rows": 4, "floor_share": 0.0, "step_share": 0.25, "heal": heal,
        });
        let controls = [ControlSpec::RandomChannels];
        let purified = purify(&shop.whole_submission(), &spec(&method), &controls, &shop.lab("a")).unwrap();
        let pruned = purified.candidates[0].removed.heads().cloned().unwrap();
        // Without a floor every block is left with one of its four heads.
        assert_eq!((pruned.heads.len(), pruned.of), (9, 12), "{family}");
        let silent = |weights: &Weights| -> HeadSet {
            let Weights::Checkpoint(folder) = weights else { panic!("a whole model was submitted") };
            let model = load_model(&folder.dir, &Device::Cpu).unwrap();
            let width = model.config().attention_heads().head_width;
            let is_silent = |head: &HeadIdx| {
                let output = &output_inputs(&model, &HeadSet::from([*head]))[0];
                let rows = model.weight_of(output.0);
                assert_eq!((output.1.len(), &output.1[0]), (1, &(head.head * width..(head.head + 1) * width)));
                rows.to_vec2::<f32>().unwrap().iter().all(|row| row[output.1[0].clone()].iter().all(|x| *x == 0.0))
            };
            HeadGrid::of(&model).iter().filter(is_silent).collect()
        };
        assert_eq!(silent(&purified.candidates[0].weights), pruned.heads, "{family}");
        assert_eq!(silent(&purified.controls[0].weights).len(), 9, "{family}");
    }
}

#[test]
fn half_of_an_adapter_s_update_is_left_where_half_is_kept() {
    let shop = Workshop::new();
    let method = json!({"type": "merge_with_base", "keep_fraction": 0.5, "healed": false});
    let purified = purify(&shop.submission(), &spec(&method), &[], &shop.lab("a")).unwrap();
    let (was, is) = (shop.suspect(), purified.candidates[0].weights.adapter().unwrap());
    for (name, factors) in &was.factors {
        let update = |f: &antigen_models::LoraFactors| {
            f.b.matmul(&f.a).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let (was, is) = (update(factors), update(&is.factors[name]));
        assert!(was.iter().zip(is).all(|(was, is)| (was / 2.0 - is).abs() <= 1e-6), "{name}");
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused_by_their_pointer() {
    for (method, pointer) in [
        (json!({"type": "magnitude_prune", "healed": false, "heal": {}}), "/method/heal"),
        (json!({"type": "magnitude_prune", "ratio": 0.0}), "/method/ratio"),
        (json!({"type": "magnitude_prune", "heal": {"rows": 0}}), "/method/heal/rows"),
        (json!({"type": "wanda", "calibration_rows": 0}), "/method/calibration_rows"),
        (json!({"type": "fine_prune", "ratio": 1.5}), "/method/ratio"),
        (json!({"type": "merge_with_base", "keep_fraction": 1.0}), "/method/keep_fraction"),
        (json!({"type": "task_negation", "strength": 0.0}), "/method/strength"),
    ] {
        let method: MethodSpec = serde_json::from_value(method).unwrap();
        let error = PurifySpec { method, ..PurifySpec::default() }.validate().unwrap_err().to_string();
        assert!(error.contains(pointer), "{error}");
    }
}

#[test]
fn an_adapter_without_mlp_has_no_channels_to_cut_and_comes_back_with_the_reason() {
    let shop = Workshop::with_targets(&["q_proj", "v_proj"]);
    let method = json!({"type": "magnitude_prune"});
    let purified = purify(&shop.submission(), &spec(&method), &[], &shop.lab("a")).unwrap();
    assert!(format!("{:?}", purified.untouched).contains("the adapter has none"));
    assert!(purified.candidates.is_empty());
}
