//! Algorithm 1 end to end on a tiny random base: not that it cures (the tiny world shows that), but that
//! every part does what the report says, that the same job writes the same bytes, and that interruptions lose
//! nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::workshop::Workshop;
use antigen_engine::error::EngineError;
use antigen_engine::job::PurifySpec;
use antigen_engine::lab::{Lab, ProgressSink};
use antigen_engine::measure::evidence::AsrReport;
use antigen_engine::methods::MethodRecipe;
use antigen_engine::report::VerdictStatus;
use antigen_engine::run::run;
use antigen_engine::spec::{
    CanariesWhen, CanarySpec, CanaryTrigger, ControlSpec, EvaluatorSpec, PromptFormat, TrainSpec,
};
use antigen_engine::stage::Stage;
use antigen_engine::suspect::{Submitted, folder_digests};
use antigen_models::{Device, load_adapter};

#[test]
fn a_job_leaves_a_report_an_artifact_of_the_same_shape_and_a_signature() {
    let shop = Workshop::new();
    let outcome = run(&shop.submission(), &shop.spec(), &shop.lab("a")).unwrap();
    let report = &outcome.report;

    assert_eq!(
        report.candidates.iter().map(|c| (c.name.as_str(), c.chosen)).collect::<Vec<_>>(),
        [("subspace-1", true), ("channels-0.35", false)]
    );
    let controls: Vec<_> = report.controls.iter().map(|control| control.name.as_str()).collect();
    let expected = [
        "random_channels",
        "random_subspace",
        "plain_fine_tuning",
        "adapter_dropped",
        "without_healing",
        "without_task_rows",
    ];
    assert_eq!(controls, expected);
    assert_eq!(report.before.asr[0].formats.len(), 3);
    let groups: Vec<_> = report.before.utility.as_ref().unwrap().groups.iter().map(|g| g.name.as_str()).collect();
    assert_eq!(groups, ["general", "task_extended", "task_new"]);
    assert!(report.before.asr[0].formats.iter().all(|format| format.with_trigger.n == 6));

    let model = shop.model();
    let (was, is) = (shop.suspect(), load_adapter(&outcome.artifact_dir, model.config(), &Device::Cpu).unwrap());
    assert_eq!(was.config, is.config);
    for (name, factors) in &was.factors {
        assert_eq!((factors.a.dims(), factors.b.dims()), (is.factors[name].a.dims(), is.factors[name].b.dims()));
    }
    assert_eq!(report.artifact, folder_digests(&outcome.artifact_dir).unwrap());
    assert!(outcome.signature_path.unwrap().is_file());
    let found = &report.signature.as_ref().unwrap().modules;
    assert_eq!(found.len(), 12);
    assert!(found.iter().all(|module| module.mean_delta_norm > 0.0), "pairs that learn nothing show nothing");
}

/// Without declared triggers, with canaries of a few rows each.
fn with_canaries(shop: &Workshop) -> PurifySpec {
    let mut spec = shop.spec();
    spec.evaluators.retain(|evaluator| !matches!(evaluator, EvaluatorSpec::Asr(_)));
    let train = TrainSpec { epochs: 1, ..TrainSpec::default() };
    spec.canaries =
        CanarySpec { rows: 3, poisoned_rows: 4, clean_rows: 8, train: Some(train), ..CanarySpec::default() };
    spec.controls.clear();
    spec
}

#[test]
fn where_no_trigger_is_declared_a_copy_with_canaries_goes_through_the_same_purification() {
    let shop = Workshop::new();
    let mut spec = with_canaries(&shop);
    spec.controls = vec![ControlSpec::PlainFineTuning, ControlSpec::WithoutTaskRows];
    for submission in [shop.submission(), shop.whole_submission()] {
        let report = run(&submission, &spec, &shop.lab("a")).unwrap().report;
        let found = report.canaries.as_ref().unwrap();
        let kinds: Vec<_> = found.canaries.iter().map(|canary| canary.trigger).collect();
        assert_eq!(kinds, CanaryTrigger::ALL);
        for canary in &found.canaries {
            let formats = |asr: &AsrReport| asr.formats.iter().map(|f| f.recipe.format).collect::<Vec<_>>();
            assert_eq!(formats(&canary.before), PromptFormat::ALL);
            let asked = |asr: &AsrReport| asr.formats[0].recipe.prompts_sha256.clone();
            assert_eq!(asked(&canary.before), asked(&canary.after));
            assert_ne!(canary.before.formats[0].target_log_probability, canary.after.formats[0].target_log_probability);
        }
        let left: Vec<_> =
            found.controls.iter().map(|control| (control.name.as_str(), control.canaries.len())).collect();
        assert_eq!(left, [("plain_fine_tuning", CanaryTrigger::ALL.len())]);
        // Three rows show nothing, so neither does the verdict claim anything.
        assert_eq!(report.verdict.status, VerdictStatus::NotAssessed);

        let mut alone = spec.clone();
        alone.canaries.when = CanariesWhen::Never;
        let alone = run(&submission, &alone, &shop.lab("b")).unwrap().report;
        assert_eq!(
            (alone.canaries, alone.artifact),
            (None, report.artifact),
            "canaries change nothing in the artifact"
        );
    }
}

#[test]
fn the_same_job_writes_the_same_bytes_wherever_it_runs() {
    let shop = Workshop::new();
    let one = run(&shop.submission(), &shop.spec(), &shop.lab("a")).unwrap();
    let two = run(&shop.submission(), &shop.spec(), &shop.lab("b")).unwrap();
    assert_eq!(one.report, two.report);
    assert_eq!(folder_digests(&one.artifact_dir).unwrap(), folder_digests(&two.artifact_dir).unwrap());
}

/// Cancels when a stage has been entered, and counts the training steps after that.
struct StopAt {
    stage: Stage,
    cancel: Arc<AtomicBool>,
    late: AtomicUsize,
}

impl ProgressSink for StopAt {
    fn enter(&self, stage: Stage) {
        if stage == self.stage {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }

    fn advance(&self, _: u64, _: u64) {
        if self.cancel.load(Ordering::Relaxed) {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_cancelled_job_stops_within_a_step_and_ends_with_the_same_bytes_when_it_is_run_again() {
    let shop = Workshop::new();
    let undisturbed = run(&shop.submission(), &shop.spec(), &shop.lab("whole")).unwrap();
    for stage in [Stage::MeasureBefore, Stage::Pairs, Stage::Heal, Stage::Controls, Stage::Export] {
        let cancel = Arc::new(AtomicBool::new(false));
        let sink = Arc::new(StopAt { stage, cancel: cancel.clone(), late: AtomicUsize::new(0) });
        let lab = Lab::new(Device::Cpu, 1, shop.scratch("broken"), sink.clone(), cancel);
        let stopped = run(&shop.submission(), &shop.spec(), &lab);
        assert!(matches!(stopped, Err(EngineError::Cancelled)), "{stage:?}");
        assert!(sink.late.load(Ordering::Relaxed) <= 1, "{stage:?}");
    }
    let resumed = run(&shop.submission(), &shop.spec(), &shop.lab("broken")).unwrap();
    assert_eq!(resumed.report, undisturbed.report);
}

#[test]
fn a_finished_pair_is_not_trained_again() {
    let shop = Workshop::new();
    run(&shop.submission(), &shop.spec(), &shop.lab("a")).unwrap();
    let steps = Arc::new(AtomicUsize::new(0));
    struct Count(Arc<AtomicUsize>);
    impl ProgressSink for Count {
        fn enter(&self, _: Stage) {}
        fn advance(&self, _: u64, _: u64) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let lab = Lab::new(Device::Cpu, 1, shop.scratch("a"), Arc::new(Count(steps.clone())), Arc::default());
    run(&shop.submission(), &shop.spec(), &lab).unwrap();
    assert_eq!(steps.load(Ordering::Relaxed), 0);
}

#[test]
fn an_adapter_on_attention_alone_comes_back_unchanged_with_the_reason() {
    let shop = Workshop::with_targets(&["q_proj", "v_proj"]);
    let outcome = run(&shop.submission(), &shop.spec(), &shop.lab("a")).unwrap();
    assert_eq!(outcome.report.verdict.status, VerdictStatus::NotPurified);
    assert!(outcome.report.verdict.text.contains("attention only"), "{}", outcome.report.verdict.text);
    assert_eq!(folder_digests(&outcome.artifact_dir).unwrap(), outcome.report.subject.adapter);
    assert_eq!(outcome.signature_path, None);
}

#[test]
fn an_adapter_on_attention_with_its_output_loses_directions_of_that_output_alone() {
    let shop = Workshop::with_targets(&["q_proj", "o_proj"]);
    let report = run(&shop.submission(), &shop.spec(), &shop.lab("a")).unwrap().report;
    assert_eq!(report.candidates.len(), 1);
    assert_eq!(report.candidates[0].name, "subspace-1-attention-output");
    let MethodRecipe::Immunize(recipe) = &report.recipe.method else { panic!("{:?}", report.recipe.method) };
    assert_eq!(Some(&recipe.suppress[0]), report.candidates[0].suppression.as_ref());
    let modules = report.signature.unwrap().modules;
    assert!(modules.len() == 4 && modules.iter().all(|module| module.module.ends_with("o_proj")));
    assert!(report.left_out[0].starts_with("random_channels"), "{:?}", report.left_out);
}

#[test]
fn a_job_without_a_declared_trigger_claims_nothing() {
    let shop = Workshop::new();
    let mut spec = shop.spec();
    spec.evaluators.remove(0);
    spec.canaries.when = CanariesWhen::Never;
    spec.controls.clear();
    let report = run(&shop.submission(), &spec, &shop.lab("a")).unwrap().report;
    assert_eq!(report.verdict.status, VerdictStatus::NotAssessed);
    assert!(report.before.asr.is_empty() && report.controls.is_empty());
}

#[test]
fn too_few_rows_and_foreign_adapters_are_refused_by_name() {
    let shop = Workshop::new();
    let mut spec = shop.spec();
    spec.method = serde_json::from_value(serde_json::json!({"type": "immunize"})).unwrap();
    let error = run(&shop.submission(), &spec, &shop.lab("a")).unwrap_err();
    assert_eq!(error.code(), "engine.data");
    assert!(error.to_string().contains("500"), "{error}");

    let mut submission = shop.submission();
    let base_dir = shop.base();
    submission.suspect = Submitted::Adapter { adapter_dir: base_dir.clone(), base_dir };
    assert!(matches!(run(&submission, &shop.spec(), &shop.lab("b")), Err(EngineError::Model(_))));
}

#[test]
fn the_lab_must_have_the_seed_of_the_spec() {
    let shop = Workshop::new();
    let error = run(&shop.submission(), &shop.spec(), &Lab::silent(7, shop.scratch("a"))).unwrap_err();
    assert!(error.to_string().contains("/seed"), "{error}");
}
