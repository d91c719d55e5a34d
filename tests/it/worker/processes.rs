//! Real child processes of the real program, killed, stopped and abandoned.
//!
//! A step process waits for its folder's lock before anything else, so a test that holds the lock holds the
//! step at a known point.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use antigen::{
    db::{self, Cancellation, EventKind, JobState},
    worker::{WorkFolder, Workplace, run_worker},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::site::Site;

const PROGRAM: &str = env!("CARGO_BIN_EXE_antigen");

/// A worker in this process, whose steps run in children of the real program.
pub struct Worker {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Worker {
    pub fn start(site: &Site) -> Self {
        let mut place = Workplace::new(site.config.clone(), site.db.clone(), site.store.clone()).unwrap();
        place.program = PROGRAM.into();
        let stop = CancellationToken::new();
        Self { task: tokio::spawn(run_worker(Arc::new(place), stop.clone())), stop }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// Holds a job's folder, so that its steps wait.
fn hold(site: &Site, job: db::JobId) -> fs::File {
    let folder = WorkFolder::of_job(&site.config.work_dir(), job);
    fs::create_dir_all(folder.root()).unwrap();
    folder.lock().unwrap()
}

/// Processes of this machine whose command line names `folder`.
fn processes_in(folder: &Path) -> Vec<u32> {
    let needle = folder.to_str().unwrap().as_bytes();
    let names = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.windows(needle.len()).any(|part| part == needle))
    };
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(names).collect()
}

pub async fn step_process(site: &Site, job: db::JobId, not: Option<u32>) -> u32 {
    let folder = WorkFolder::of_job(&site.config.work_dir(), job);
    for _ in 0..200 {
        if let Some(pid) = processes_in(folder.root()).into_iter().find(|pid| Some(*pid) != not) {
            return pid;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no step process appeared: {:?}", site.find(job).await);
}

pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(status.success(), "kill -{name} {pid}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_killed_three_times_quarantines_its_submission() {
    let site = Site::open().await;
    let job = site.job().await;
    let _held = hold(&site, job.id);
    let worker = Worker::start(&site);
    let mut last = None;
    for _ in 0..3 {
        let pid = step_process(&site, job.id, last).await;
        signal(pid, "KILL");
        last = Some(pid);
    }
    let row = site.wait_for(job.id, "failed", |row| row.state == JobState::Failed).await;
    let error = row.error().unwrap();
    assert_eq!(error.code, db::CRASHED_REPEATEDLY);
    assert!(error.message.contains("signal 9"), "{}", error.message);
    let suspect = db::find_artifact(&site.db, job.artifact_id).await.unwrap().unwrap();
    assert!(suspect.quarantine_reason.is_some());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_says_why_it_fails_is_believed_and_not_repeated() {
    let site = Site::open().await;
    let job = site.job().await.id;
    let worker = Worker::start(&site);
    let row = site.wait_for(job, "failed", |row| row.state == JobState::Failed).await;
    assert_eq!(row.error().unwrap().class, db::ErrorClass::Input, "{:?}", row.error());
    let started = site.events(job).await.into_iter().filter(|kind| *kind == EventKind::StepStarted).count();
    assert_eq!(started, 1);
    worker.stop().await;
    assert!(!WorkFolder::of_job(&site.config.work_dir(), job).root().exists(), "an ended job keeps no work folder");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_refuses_is_the_machine_s_fault_and_quarantines_nothing() {
    let site = Site::open().await;
    let job = site.job().await;
    // A file where the work folder belongs: whoever runs the tests, root included, cannot write below it.
    fs::create_dir_all(site.config.work_dir()).unwrap();
    fs::write(site.config.work_dir().join(job.id.to_string()), "in the way").unwrap();
    let worker = Worker::start(&site);
    let row = site.wait_for(job.id, "failed", |row| row.state == JobState::Failed).await;
    let error = row.error().unwrap();
    assert_eq!((error.class, error.code.as_str()), (db::ErrorClass::Infrastructure, "worker.fetch"));
    assert!(error.message.contains(&job.id.to_string()), "the message names the place: {}", error.message);
    assert_eq!(site.events(job.id).await.into_iter().filter(|kind| *kind == EventKind::StepRetrying).count(), 2);
    let suspect = db::find_artifact(&site.db, job.artifact_id).await.unwrap().unwrap();
    assert!(suspect.quarantine_reason.is_none());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_stops_the_step_process_within_seconds() {
    let site = Site::open().await;
    let job = site.job().await.id;
    let _held = hold(&site, job);
    let worker = Worker::start(&site);
    let pid = step_process(&site, job, None).await;
    let asked = Instant::now();
    assert_eq!(db::request_cancel(&site.db, job).await.unwrap(), Cancellation::Cancelling);
    site.wait_for(job, "cancelled", |row| row.state == JobState::Cancelled).await;
    // Five seconds for a process that does not listen, and as long again three times over for a busy machine.
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_step_process_is_killed_and_its_step_tried_again() {
    let mut site = Site::open().await;
    site.config.worker.stall_ms = 1_000;
    let job = site.job().await.id;
    let held = hold(&site, job);
    let worker = Worker::start(&site);
    signal(step_process(&site, job, None).await, "STOP");
    let retried = |events: &[EventKind]| events.contains(&EventKind::StepRetrying);
    for _ in 0..100 {
        if retried(&site.events(job).await) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(retried(&site.events(job).await));
    drop(held);
    site.wait_for(job, "ended", |row| row.state.is_final()).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_in_good_order_gives_its_step_back() {
    let site = Site::open().await;
    let job = site.job().await.id;
    let held = hold(&site, job);
    let worker = Worker::start(&site);
    step_process(&site, job, None).await;
    worker.stop().await;
    drop(held);
    let steps = db::list_steps(&site.db, job).await.unwrap();
    assert_eq!((steps[0].state, steps[0].attempt), (db::StepState::Ready, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_mid_step_leaves_no_runaway_and_loses_nothing() {
    let site = Site::open().await;
    let job = site.job().await.id;
    let held = hold(&site, job);
    let mut first = start_program(&site);
    let orphan = step_process(&site, job, None).await;
    first.kill().unwrap();
    first.wait().unwrap();
    for _ in 0..400 {
        if !Path::new(&format!("/proc/{orphan}")).exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!Path::new(&format!("/proc/{orphan}")).exists(), "the orphan is still there after 20 s");
    drop(held);

    let mut second = start_program(&site);
    let row = site.wait_for(job, "ended", |row| row.state.is_final()).await;
    assert_eq!(row.error().unwrap().class, db::ErrorClass::Input, "its own verdict, not the crash's");
    let attempts = db::list_steps(&site.db, job).await.unwrap()[0].attempt;
    assert_eq!(attempts, 2);
    second.kill().unwrap();
    second.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_worker_finds_its_step_taken_and_writes_nothing() {
    let mut site = Site::open().await;
    site.config.worker.lease_ms = 1_500;
    let job = site.job().await.id;
    let held = hold(&site, job);
    let mut frozen = start_program(&site);
    let orphan = step_process(&site, job, None).await;
    signal(frozen.id(), "STOP");
    let worker = Worker::start(&site);
    let successor = step_process(&site, job, Some(orphan)).await;
    assert_ne!(orphan, successor);
    signal(frozen.id(), "CONT");
    drop(held);
    let row = site.wait_for(job, "ended", |row| row.state.is_final()).await;
    assert_eq!(row.error().unwrap().class, db::ErrorClass::Input);
    use EventKind::*;
    assert_eq!(
        site.events(job).await,
        [JobQueued, JobRunning, StepStarted, StepRetrying, StepStarted, StepFailed, JobFailed]
    );
    worker.stop().await;
    frozen.kill().unwrap();
    frozen.wait().unwrap();
}

/// `antigen work` as its own process on the site's data directory.
pub fn start_program(site: &Site) -> std::process::Child {
    Command::new(PROGRAM)
        .args(["work", "--data-dir"])
        .arg(site.path())
        .env("ANTIGEN_WORKER__LEASE_MS", site.config.worker.lease_ms.to_string())
        .env("ANTIGEN_WORKER__RENEW_MS", site.config.worker.renew_ms.to_string())
        .env("ANTIGEN_WORKER__POLL_MS", site.config.worker.poll_ms.to_string())
        .env("ANTIGEN_WORKER__RECONCILE_MS", site.config.worker.reconcile_ms.to_string())
        .env("ANTIGEN_WORKER__RETRY_DELAY_MS", site.config.worker.retry_delay_ms.to_string())
        .env("ANTIGEN_LOG", "warn")
        .envs(site.config.bases.0.iter().map(|(name, dir)| (format!("ANTIGEN_BASES__{}", name.to_uppercase()), dir)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}
