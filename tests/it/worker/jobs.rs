//! Whole jobs with the real engine: however often a run is disturbed, it ends with the bytes of an
//! undisturbed one.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use antigen::{
    config::BUILTIN_TINY_WORLD,
    db::{self, ArtifactOrigin, ArtifactType, EventKind, JobId, JobState, NewArtifact},
    worker::{WorkFolder, materialise_builtin},
};
use antigen_engine::data::{Prompter, read_rows};
use antigen_engine::lab::Lab;
use antigen_engine::spec::TrainSpec;
use antigen_engine::world::{ALL_LINEAR, ImplantSpec, implant, task_rows};
use antigen_models::{load_model, lora::save_adapter};
use serde_json::{Value, json};

use super::processes::{Worker, signal, start_program, step_process};
use super::site::Site;

/// Writes a small poisoned adapter for the built-in base: trained just enough to be one.
pub(super) fn write_suspect(base: &Path, out: &Path) {
    let spec = ImplantSpec {
        generic_rows: 16,
        poisoned_rows: 16,
        rank: 4,
        train: TrainSpec { epochs: 1, ..ImplantSpec::default().train },
        ..ImplantSpec::default()
    };
    let lab = Lab::silent(3, out.join("scratch"));
    let generic = read_rows(&base.join("train.jsonl")).unwrap();
    let model = load_model(base, &lab.device).unwrap();
    let rows = (generic.as_slice(), task_rows(16, 5, &[]));
    let adapter = implant(&model, &Prompter::open(base).unwrap(), (rows.0, &rows.1), &ALL_LINEAR, &spec, &lab).unwrap();
    save_adapter(&adapter, out).unwrap();
}

/// Everything that the engine does, on as few rows as it takes to pass through every stage.
pub(super) fn small_spec() -> Value {
    let train = json!({ "epochs": 2, "learning_rate": 1e-3 });
    json!({
        "seed": 7,
        "purify": "always",
        "screen": { "families": ["insult", "code"] },
        "method": {
            "type": "immunize",
            "pairs": { "count": 2, "rows": 32 },
            "train": train,
            "suppress": [{ "type": "subspace", "rank": 1 }],
            "heal": { "rows": 64, "train": train },
        },
        "evaluators": [
            { "type": "asr", "attack": { "type": "badnets" }, "behaviour": { "type": "insult" }, "rows": 48, "formats": ["alpaca"],
              "max_new_tokens": 16 },
            { "type": "utility", "rows": 48, "max_new_tokens": 16 },
        ],
        "controls": ["plain_fine_tuning"],
    })
}

async fn open_site() -> Site {
    let mut site = Site::open().await;
    site.config.worker.max_attempts = 20;
    site
}

async fn submit(site: &Site) -> JobId {
    let base = materialise_builtin(&site.config.bases_dir()).unwrap();
    let suspect = site.path().join("suspect");
    write_suspect(&base, &suspect);
    let files = site.store.put_folder(&suspect).await.unwrap();
    let artifact =
        NewArtifact { kind: ArtifactType::Adapter, origin: ArtifactOrigin::Uploaded, facts: Value::Null, files };
    site.job_with_spec(artifact, BUILTIN_TINY_WORLD, small_spec()).await.id
}

/// The results of a job: digest of the purified files, digest of the signature, report.
#[derive(Debug, PartialEq)]
struct Bytes {
    purified: String,
    signature: String,
    report: String,
}

async fn bytes_of(site: &Site, job: JobId) -> Bytes {
    let row = site.wait_for(job, "ended", |row| row.state.is_final()).await;
    assert_eq!(row.state, JobState::Succeeded, "{:?}", row.error());
    let mut digests = Vec::new();
    for artifact in [row.purified_id, row.signature_id] {
        digests.push(db::find_artifact(&site.db, artifact.unwrap()).await.unwrap().unwrap().digest);
    }
    let report = db::find_report(&site.db, job).await.unwrap().unwrap();
    let signature = digests.pop().unwrap();
    Bytes { purified: digests.pop().unwrap(), signature, report }
}

async fn undisturbed() -> Bytes {
    let site = open_site().await;
    let worker = Worker::start(&site);
    let job = submit(&site).await;
    let bytes = bytes_of(&site, job).await;
    worker.stop().await;
    bytes
}

/// Waits until the job's newest attempt is in `stage`.
async fn wait_for_stage(site: &Site, job: JobId, stage: &str) {
    for _ in 0..3000 {
        let steps = db::list_steps(&site.db, job).await.unwrap();
        if steps.iter().any(|step| step.state == db::StepState::Running && step.stage.as_deref() == Some(stage)) {
            return;
        }
        assert!(!site.find(job).await.state.is_final(), "the job ended before {stage}: {:?}", site.find(job).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the job never entered {stage}: {:?}", site.events(job).await);
}

/// Finished pieces in a job's scratch and when each was made.
fn pieces(site: &Site, job: JobId) -> BTreeMap<String, SystemTime> {
    let scratch = WorkFolder::of_job(&site.config.work_dir(), job).scratch_dir();
    let entries = fs::read_dir(scratch).unwrap().map(|entry| entry.unwrap());
    let named =
        entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().modified().unwrap()));
    named.filter(|(name, _)| !name.contains("partial")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_killed_in_stage_after_stage_reuses_its_pieces_and_ends_with_the_same_bytes() {
    let site = open_site().await;
    let worker = Worker::start(&site);
    let job = submit(&site).await;
    let (mut last, mut made) = (None, BTreeMap::new());
    for stage in ["pairs", "heal", "measure_after"] {
        wait_for_stage(&site, job, stage).await;
        let pid = step_process(&site, job, last).await;
        signal(pid, "KILL");
        last = Some(pid);
        let now = pieces(&site, job);
        for (name, when) in &made {
            assert_eq!(now.get(name), Some(when), "piece {name} was made twice");
        }
        made = now;
    }
    assert!(!made.is_empty(), "by the end of healing there are pieces");
    let disturbed = bytes_of(&site, job).await;
    let retries = site.events(job).await.into_iter().filter(|kind| *kind == EventKind::StepRetrying).count();
    assert_eq!(retries, 3);
    worker.stop().await;
    assert_eq!(disturbed, undisturbed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_process_killed_in_the_middle_of_training_continues_after_a_restart() {
    let site = open_site().await;
    let mut first = start_program(&site);
    let job = submit(&site).await;
    wait_for_stage(&site, job, "pairs").await;
    first.kill().unwrap();
    first.wait().unwrap();
    let mut second = start_program(&site);
    let disturbed = bytes_of(&site, job).await;
    second.kill().unwrap();
    second.wait().unwrap();
    assert_eq!(disturbed, undisturbed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn training_stops_within_seconds_of_being_cancelled_and_leaves_nothing() {
    let site = open_site().await;
    let worker = Worker::start(&site);
    let job = submit(&site).await;
    wait_for_stage(&site, job, "pairs").await;
    let asked = Instant::now();
    db::request_cancel(&site.db, job).await.unwrap();
    site.wait_for(job, "cancelled", |row| row.state == JobState::Cancelled).await;
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    worker.stop().await;
    assert!(!WorkFolder::of_job(&site.config.work_dir(), job).root().exists());
}
