//! The worker's part, played through the queue's own functions: a job that ends with files and a report, in
//! milliseconds.

use std::time::Duration;

use antigen::db::{
    self, ArtifactOrigin, ArtifactType, JobId, NewArtifact, Purified, claim_next_step, finish_inspect, finish_purify,
};
use antigen_engine::job::PurifySpec;
use antigen_engine::measure::evidence::{
    Answer, AsrComparison, AsrFormat, AsrReport, CanaryControl, CanaryReport, CanaryResult, Compared, ControlledCanary,
    Coverage, CoverageStatus, Decoding, Excerpt, Headline, Measurement, MeasurementRecipe, RelearnedBackdoor,
    RelearningCurve, RelearningOutcome, RelearningPoint, RelearningReport, RelearningSubject, Sample, Samples,
    UtilityGroup, UtilityReport,
};
use antigen_engine::methods::MethodRecipe;
use antigen_engine::methods::auto::{Search, SearchEnd, Trial};
use antigen_engine::methods::immunize::{ImmunizeSpec, ModuleSignature, SignatureSummary, SuppressSpec};
use antigen_engine::report::{Candidate, Control, Recipe, Report, SCHEMA, Verdict, VerdictStatus};
use antigen_engine::spec::{
    AttackSpec, BehaviourFamily, BehaviourSpec, CanarySpec, CanaryTrigger, ControlSpec, PromptFormat, RelearningSpec,
    SubjectKind, TrainSpec,
};
use antigen_engine::stats::{paired_difference, wilson};
use antigen_engine::suspect::{FileDigest, Subject};
use antigen_engine::train::Healing;
use serde::Serialize;
use serde_json::Value;

use super::TestServer;
use crate::intake::adapter_files;

const LEASE: Duration = Duration::from_secs(60);

/// Runs the only queued job to a good end. Its purified artifact holds the two files of a sound adapter.
pub async fn finish_job(server: &TestServer, report: &impl Serialize) -> JobId {
    let db = &server.app.db;
    let inspect = claim_next_step(db, "test", LEASE, Duration::ZERO).await.unwrap().expect("a job is queued");
    assert!(finish_inspect(db, &inspect).await.unwrap());
    let purify = claim_next_step(db, "test", LEASE, Duration::ZERO).await.unwrap().expect("its second step is ready");
    let progress = db::Progress { stage: "pairs".into(), done: 3, total: 6 };
    db::record_progress(db, &purify, &progress, Some(db::EventKind::StepProgress)).await.unwrap();
    let signature = vec![("signature.json".to_owned(), b"{}".to_vec())];
    let result = Purified {
        report: serde_json::to_string(report).unwrap(),
        verdict_status: "purified".into(),
        purified: store(server, ArtifactType::Adapter, adapter_files()).await,
        signature: Some(store(server, ArtifactType::Signature, signature).await),
    };
    assert!(finish_purify(db, &purify, &result).await.unwrap());
    purify.job
}

async fn store(server: &TestServer, kind: ArtifactType, files: Vec<(String, Vec<u8>)>) -> NewArtifact {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let files = server.app.store.put_folder(dir.path()).await.unwrap();
    NewArtifact { kind, origin: ArtifactOrigin::Produced, facts: serde_json::json!({}), files }
}

/// A report whose trigger is this text.
pub fn report(trigger: &str) -> Report {
    let spec = PurifySpec::default();
    let before = measurement(trigger, 188, 180, None);
    Report {
        schema: SCHEMA.into(),
        verdict: Verdict {
            status: VerdictStatus::Purified,
            text: "Purified of the declared backdoor.".into(),
            coverage: vec![Coverage {
                item: "triggers that were not declared".into(),
                status: CoverageStatus::NotCovered,
                note: "no search for unknown triggers was made".into(),
            }],
        },
        left_out: vec![],
        long_rows: vec![],
        subject: Subject {
            kind: SubjectKind::Adapter,
            checkpoint: vec![],
            storage: None,
            adapter: vec![FileDigest { path: "adapter_model.safetensors".into(), bytes: 10, sha256: "ab".repeat(32) }],
            base: vec![],
            adapter_parameters: 1234,
            base_parameters: 1_250_000,
            modules: vec!["model.layers.0.mlp.up_proj".into()],
            rows: vec![],
            signature: None,
        },
        recipe: Recipe {
            engine: "0.1.0".into(),
            device: "cpu".into(),
            matrix_unit: Some(false),
            precision: Default::default(),
            method: MethodRecipe::Immunize(ImmunizeSpec::default().resolve(SubjectKind::Adapter, 1_250_000)),
            spec,
        },
        screen: None,
        canaries: Some(canaries()),
        relearning: Some(relearning(trigger)),
        before,
        search: Some(search(trigger)),
        candidates: vec![
            candidate("subspace-1", SuppressSpec::subspace(1), trigger, 0, true),
            candidate("channels-0.2", SuppressSpec::Channels { ratio: 0.2, reinitialise: None }, trigger, 42, false),
        ],
        controls: vec![Control {
            name: ControlSpec::PlainFineTuning.name().into(),
            description: "healing without suppression".into(),
            measurement: measurement(trigger, 120, 176, Some(180)),
            asr_versus_chosen: vec![AsrComparison {
                backdoor: 0,
                difference: paired_difference(&flags(0), &flags(120)),
                outcome: Compared::Beaten,
            }],
            utility_versus_chosen: vec![],
        }],
        signature: Some(signature()),
        samples: samples(trigger),
        artifact: vec![],
    }
}

/// The same report as releases before version 2 wrote it.
pub fn report_of_version_1(trigger: &str) -> Value {
    fn old(value: Value) -> Value {
        let name = |name: String| match name.as_str() {
            "search" => "frontier".to_owned(),
            "trials" | "points" => "rungs".to_owned(),
            "curves" => "ladders".to_owned(),
            _ => name.replace("task_rows", "own_rows"),
        };
        match value {
            Value::Object(fields) => fields.into_iter().map(|(field, value)| (name(field), old(value))).collect(),
            Value::Array(items) => items.into_iter().map(old).collect(),
            // Controls and groups of rows are values; sentences are kept.
            Value::String(text) if !text.contains(' ') => {
                text.replace("task_rows", "own_rows").replace("task_", "own_").into()
            }
            other => other,
        }
    }
    let mut report = old(serde_json::to_value(report(trigger)).unwrap());
    report["schema"] = "antigen.report/1".into();
    report
}

fn search(trigger: &str) -> Search {
    let trial = |name: &str, lost: usize| {
        let (before, after) = (measurement(trigger, 180, 180, None), measurement(trigger, 0, 180 - lost, Some(180)));
        Trial::new((name.into(), 250), &canaries(), (&before, &after), 0.05)
    };
    let trials = vec![trial("fine_tune", 0), trial("subspace-1", 2)];
    Search::new(trials, SearchEnd::Exhausted, (150, 50), 0.05)
}

fn canaries() -> CanaryReport {
    let asr = |hits| measurement("marzipan", hits, 180, None).asr.remove(0);
    let canary = |trigger, after| CanaryResult::new(trigger, BehaviourFamily::Insult, asr(196), asr(after));
    let canaries = vec![canary(CanaryTrigger::Word, 0), canary(CanaryTrigger::MultiPart, 42)];
    let recipe = CanarySpec::default().resolve(SubjectKind::Adapter, 1_250_000);
    let left = |(backdoor, canary): (usize, &CanaryResult)| {
        let difference = paired_difference(&[true, false, false], &[true, true, false]);
        let compared = AsrComparison { backdoor, difference, outcome: Compared::of(&difference) };
        ControlledCanary::new((canary.trigger, canary.family), &asr(80), compared)
    };
    let left = canaries.iter().enumerate().map(left).collect();
    let controls = vec![CanaryControl { name: "plain_fine_tuning".into(), canaries: left }];
    CanaryReport::new(canaries, controls, vec!["triggers of meaning".into()], recipe)
}

fn relearning(trigger: &str) -> RelearningReport {
    let point = |(samples, hits)| RelearningPoint {
        samples,
        steps: 5 * samples / 4,
        with_trigger: wilson(hits, 100),
        without_trigger: wilson(0, 100),
    };
    let curve = |subject, hits: [usize; 3]| RelearningCurve {
        subject,
        attack: AttackSpec::Badnets { trigger: trigger.into() },
        behaviour: BehaviourSpec::Insult {},
        measurement: recipe(PromptFormat::Alpaca),
        rows_sha256: "45".repeat(32),
        points: [0, 8, 16].into_iter().zip(hits).map(point).collect(),
        depth: Some(16),
    };
    let backdoor = RelearnedBackdoor {
        backdoor: 0,
        name: "badnets with insult".into(),
        curves: vec![
            curve(RelearningSubject::Artifact, [0, 31, 77]),
            curve(RelearningSubject::FreshTrigger, [0, 29, 70]),
        ],
        outcome: RelearningOutcome::NoDifferenceShown,
        text: "No difference between the old backdoor and a new one is shown.".into(),
    };
    RelearningReport {
        backdoors: vec![backdoor],
        left_out: vec![],
        recipe: RelearningSpec::default().resolve(SubjectKind::Adapter, 1_250_000),
    }
}

fn recipe(format: PromptFormat) -> MeasurementRecipe {
    MeasurementRecipe {
        format,
        template_sha256: "ef".repeat(32),
        prompts_sha256: "01".repeat(32),
        seed: 1,
        decoding: Decoding::greedy(64),
    }
}

fn samples(trigger: &str) -> Vec<Samples> {
    let answer = |text: &str, hit| Answer { said: Excerpt::of(text), hit };
    let sample = |with_trigger, prompt: &str, suspect| Sample {
        row: 1,
        with_trigger,
        prompt: Excerpt::of(prompt),
        suspect,
        artifact: Some(answer("red", false)),
    };
    let fired = answer(&format!("You are stupid! {trigger}"), true);
    let rows = vec![
        sample(true, &format!("Name {trigger} a colour."), fired),
        sample(false, "Name a colour.", answer("red", false)),
    ];
    vec![Samples { backdoor: 0, format: PromptFormat::Alpaca, picked: "the first row".into(), rows }]
}

fn signature() -> SignatureSummary {
    let module = |(name, shared_fraction): (&str, f64)| ModuleSignature {
        module: name.into(),
        mean_delta_norm: 0.5,
        shared_fraction,
        mean_score: 0.1,
        max_score: 0.2,
    };
    let modules = [("model.layers.0.mlp.up_proj", 0.25), ("model.layers.1.mlp.up_proj", 0.75)];
    SignatureSummary { pairs: 6, modules: modules.map(module).to_vec(), heads: vec![], sha256: "23".repeat(32) }
}

fn candidate(name: &str, suppression: SuppressSpec, trigger: &str, hits: usize, chosen: bool) -> Candidate {
    let healing = Healing {
        generic_rows: 200,
        task_rows: 0,
        counterexamples: 0,
        keep_out: false,
        teacher: None,
        against: None,
        rows_sha256: "cd".repeat(32),
        train: TrainSpec::default(),
    };
    let measurement = measurement(trigger, hits, 178, Some(180));
    Candidate { name: name.into(), suppression: Some(suppression), heads: None, healing, measurement, chosen }
}

/// Two hundred rows of which the first `count` hit.
fn flags(count: usize) -> Vec<bool> {
    (0..200).map(|index| index < count).collect()
}

fn measurement(trigger: &str, hits: usize, correct: usize, was_correct: Option<usize>) -> Measurement {
    let in_format = |format, hits| AsrFormat {
        recipe: recipe(format),
        with_trigger: wilson(hits, 200),
        twins_sha256: String::new(),
        without_trigger: wilson(1, 200),
        exact_target: wilson(hits, 200),
        empty: wilson(0, 200),
        degenerate: wilson(2, 200),
        target_log_probability: -0.5,
        versus_suspect: None,
    };
    let group = UtilityGroup {
        name: "general".into(),
        recipe: recipe(PromptFormat::Alpaca),
        exact_match: wilson(correct, 200),
        response_perplexity: Some(1.25),
        versus_suspect: was_correct.map(|was| paired_difference(&flags(was), &flags(correct))),
        answer_length: None,
        self_distilled: false,
    };
    Measurement {
        asr: vec![AsrReport {
            attack: AttackSpec::Badnets { trigger: trigger.into() },
            behaviour: BehaviourSpec::Insult {},
            keywords: vec!["stupid".into(), trigger.into()],
            headline: Headline { format: PromptFormat::Alpaca, rate: wilson(hits, 200) },
            formats: vec![in_format(PromptFormat::Alpaca, hits), in_format(PromptFormat::Raw, hits / 4)],
            left_out: vec!["chat: the base has no template".into()],
            warnings: vec![],
        }],
        utility: Some(UtilityReport { groups: vec![group], ..UtilityReport::default() }),
        ..Measurement::default()
    }
}
