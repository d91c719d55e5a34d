//! Leases, fences, attempts and cancellation as rows, without any process.

use std::collections::HashSet;

use antigen::db::{
    self, ArtifactFile, ArtifactOrigin, ArtifactType, AttemptEnd, Cancellation, Consequence, Deletion, ErrorClass,
    EventKind, Failure, JobFilter, JobState, NewArtifact, NewUpload, Progress, Purified, Renewal, StepKind, StepState,
    Timestamp, UploadPurpose, UploadState,
};
use serde_json::Value;

use super::site::{LONG, NONE, Site};

fn crash() -> AttemptEnd {
    AttemptEnd::Crashed("killed by a test".to_owned())
}

fn failed(class: ErrorClass) -> AttemptEnd {
    AttemptEnd::Failed(Failure { class, code: "test.code".to_owned(), message: "in words".to_owned() })
}

fn artifact(kind: ArtifactType) -> NewArtifact {
    let files = vec![ArtifactFile { path: "x".to_owned(), bytes: 1, sha256: "0".repeat(64) }];
    NewArtifact { kind, origin: ArtifactOrigin::Produced, facts: Value::Null, files }
}

fn purified() -> Purified {
    Purified {
        report: "{}".to_owned(),
        verdict_status: "purified".to_owned(),
        purified: artifact(ArtifactType::Adapter),
        signature: Some(artifact(ArtifactType::Signature)),
    }
}

#[tokio::test]
async fn a_job_runs_its_steps_in_order_and_tells_of_each() {
    let site = Site::open().await;
    let job = site.job().await.id;
    let inspect = site.claim(LONG).await.unwrap();
    assert_eq!((inspect.kind, inspect.attempt), (StepKind::Inspect, 1));
    assert!(site.claim(LONG).await.is_none(), "purify waits for inspect");
    assert!(db::finish_inspect(&site.db, &inspect).await.unwrap());
    let purify = site.claim(LONG).await.unwrap();
    assert_eq!(purify.kind, StepKind::Purify);
    assert!(db::finish_purify(&site.db, &purify, &purified()).await.unwrap());

    let row = site.find(job).await;
    assert_eq!(row.state, JobState::Succeeded);
    assert_eq!(row.verdict_status.as_deref(), Some("purified"));
    assert!(db::find_artifact(&site.db, row.purified_id.unwrap()).await.unwrap().is_some());
    assert_eq!(db::find_report(&site.db, job).await.unwrap().as_deref(), Some("{}"));
    use EventKind::*;
    assert_eq!(
        site.events(job).await,
        [JobQueued, JobRunning, StepStarted, StepSucceeded, StepStarted, StepSucceeded, JobSucceeded]
    );
}

#[tokio::test]
async fn writes_with_an_old_fence_change_nothing() {
    let site = Site::open().await;
    let job = site.job().await.id;
    let old = site.claim(NONE).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let new = site.claim(LONG).await.unwrap();
    assert_eq!((new.step, new.attempt, new.fence), (old.step, 2, old.fence + 1));

    assert!(!db::finish_inspect(&site.db, &old).await.unwrap());
    assert!(!db::cancel_step(&site.db, &old).await.unwrap());
    assert!(!db::release_step(&site.db, &old).await.unwrap());
    assert_eq!(db::renew_lease(&site.db, &old, LONG).await.unwrap(), Renewal::Lost);
    assert_eq!(db::end_attempt(&site.db, &old, &crash(), NONE).await.unwrap(), Consequence::LeaseLost);
    let progress = Progress { stage: "pairs".to_owned(), done: 1, total: 2 };
    assert!(!db::record_progress(&site.db, &old, &progress, Some(EventKind::StepProgress)).await.unwrap());
    let steps = db::list_steps(&site.db, job).await.unwrap();
    assert_eq!((steps[0].state, steps[0].stage.as_deref()), (StepState::Running, None));
    assert!(db::finish_inspect(&site.db, &new).await.unwrap());
}

#[tokio::test]
async fn a_late_result_leaves_no_artifact_behind() {
    let site = Site::open().await;
    let job = site.job().await.id;
    let inspect = site.claim(LONG).await.unwrap();
    db::finish_inspect(&site.db, &inspect).await.unwrap();
    let old = site.claim(NONE).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let new = site.claim(LONG).await.unwrap();
    assert!(!db::finish_purify(&site.db, &old, &purified()).await.unwrap());
    assert!(!db::blob_is_used(&site.db, &"0".repeat(64)).await.unwrap());
    assert!(db::finish_purify(&site.db, &new, &purified()).await.unwrap());
    assert_eq!(site.find(job).await.state, JobState::Succeeded);
}

#[tokio::test]
async fn three_crashes_fail_the_job_and_quarantine_its_submission() {
    let site = Site::open().await;
    let job = site.job().await;
    for expected in [Consequence::Retry, Consequence::Retry, Consequence::JobFailed] {
        let claim = site.claim(LONG).await.unwrap();
        assert_eq!(db::end_attempt(&site.db, &claim, &crash(), NONE).await.unwrap(), expected);
    }
    let error = site.find(job.id).await.error().unwrap();
    assert_eq!((error.class, error.code.as_str()), (ErrorClass::Infrastructure, db::CRASHED_REPEATEDLY));
    let suspect = db::find_artifact(&site.db, job.artifact_id).await.unwrap().unwrap();
    let reason = db::find_quarantine(&site.db, &suspect.digest).await.unwrap().unwrap();
    assert!(reason.contains(&job.id.to_string()) && reason.contains("killed by a test"), "{reason}");
    assert!(site.claim(LONG).await.is_none());
}

#[tokio::test]
async fn leases_that_run_out_count_as_crashes() {
    let site = Site::open().await;
    let job = site.job().await.id;
    for _ in 0..3 {
        assert!(site.claim(NONE).await.is_some());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(db::reap_expired_leases(&site.db, NONE).await.unwrap(), 1);
    assert_eq!(site.find(job).await.error().unwrap().code, db::CRASHED_REPEATEDLY);
}

#[tokio::test]
async fn a_broken_input_is_not_tried_again_and_not_quarantined() {
    let site = Site::open().await;
    let job = site.job().await;
    let claim = site.claim(LONG).await.unwrap();
    let consequence = db::end_attempt(&site.db, &claim, &failed(ErrorClass::Input), NONE).await.unwrap();
    assert_eq!(consequence, Consequence::JobFailed);
    assert_eq!(site.find(job.id).await.error().unwrap().code, "test.code");
    assert!(db::find_artifact(&site.db, job.artifact_id).await.unwrap().unwrap().quarantine_reason.is_none());
    let steps = db::list_steps(&site.db, job.id).await.unwrap();
    assert_eq!(steps.iter().map(|step| step.state).collect::<Vec<_>>(), [StepState::Failed, StepState::Cancelled]);
}

#[tokio::test]
async fn a_fault_of_the_machine_is_tried_again_but_never_blamed_on_the_submission() {
    let site = Site::open().await;
    let job = site.job().await;
    for expected in [Consequence::Retry, Consequence::Retry, Consequence::JobFailed] {
        let claim = site.claim(LONG).await.unwrap();
        let end = failed(ErrorClass::Infrastructure);
        assert_eq!(db::end_attempt(&site.db, &claim, &end, NONE).await.unwrap(), expected);
    }
    assert_eq!(site.find(job.id).await.error().unwrap().code, "test.code");
    assert!(db::find_artifact(&site.db, job.artifact_id).await.unwrap().unwrap().quarantine_reason.is_none());
}

#[tokio::test]
async fn the_pause_between_attempts_is_kept() {
    let site = Site::open().await;
    site.job().await;
    let claim = site.claim(LONG).await.unwrap();
    db::end_attempt(&site.db, &claim, &crash(), LONG).await.unwrap();
    assert!(site.claim(LONG).await.is_none());
}

#[tokio::test]
async fn a_step_given_back_in_good_order_costs_no_attempt() {
    let site = Site::open().await;
    site.job().await;
    let first = site.claim(LONG).await.unwrap();
    assert!(db::release_step(&site.db, &first).await.unwrap());
    let second = site.claim(LONG).await.unwrap();
    assert_eq!((second.attempt, second.fence), (1, 2));
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_at_once_and_a_running_one_by_its_worker() {
    let site = Site::open().await;
    let waiting = site.job().await.id;
    assert_eq!(db::request_cancel(&site.db, waiting).await.unwrap(), Cancellation::Cancelled);
    assert!(site.claim(LONG).await.is_none());

    let running = site.job().await.id;
    let claim = site.claim(LONG).await.unwrap();
    assert_eq!(db::request_cancel(&site.db, running).await.unwrap(), Cancellation::Cancelling);
    assert_eq!(site.find(running).await.state, JobState::Cancelling);
    assert_eq!(db::renew_lease(&site.db, &claim, LONG).await.unwrap(), Renewal::CancelRequested);
    assert!(db::cancel_step(&site.db, &claim).await.unwrap());
    let again = db::request_cancel(&site.db, running).await.unwrap();
    assert_eq!(again, Cancellation::AlreadyFinal(JobState::Cancelled));
}

#[tokio::test]
async fn a_job_whose_worker_dies_while_cancelling_is_cancelled_not_retried() {
    let site = Site::open().await;
    let job = site.job().await.id;
    site.claim(NONE).await.unwrap();
    assert_eq!(db::request_cancel(&site.db, job).await.unwrap(), Cancellation::Cancelling);
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    assert!(site.claim(LONG).await.is_none());
    assert_eq!(site.find(job).await.state, JobState::Cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_workers_claim_each_step_once() {
    let site = Site::open().await;
    for _ in 0..12 {
        site.job().await;
    }
    let workers = (0..4).map(|worker| {
        let db = site.db.clone();
        tokio::spawn(async move {
            let mut claimed = Vec::new();
            while let Some(claim) = db::claim_next_step(&db, &format!("worker {worker}"), LONG, NONE).await.unwrap() {
                claimed.push(claim.step);
            }
            claimed
        })
    });
    let claimed: Vec<_> = futures::future::join_all(workers).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(claimed.len(), 12);
    assert_eq!(claimed.iter().collect::<HashSet<_>>().len(), 12);
}

#[tokio::test]
async fn readers_of_events_continue_exactly_where_they_stopped() {
    let site = Site::open().await;
    let job = site.job().await.id;
    site.claim(LONG).await.unwrap();
    let all = db::list_events(&site.db, job, 0, 100).await.unwrap();
    let rest = db::list_events(&site.db, job, all[0].seq, 100).await.unwrap();
    assert_eq!(
        rest.iter().map(|event| event.seq).collect::<Vec<_>>(),
        all[1..].iter().map(|event| event.seq).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn only_an_ended_job_can_be_deleted_and_takes_what_it_made_with_it() {
    let site = Site::open().await;
    let job = site.job().await;
    assert_eq!(db::delete_job(&site.db, job.id).await.unwrap(), Deletion::InUse);
    let inspect = site.claim(LONG).await.unwrap();
    db::finish_inspect(&site.db, &inspect).await.unwrap();
    let purify = site.claim(LONG).await.unwrap();
    db::finish_purify(&site.db, &purify, &purified()).await.unwrap();
    let made = site.find(job.id).await.purified_id.unwrap();
    assert_eq!(db::delete_artifact(&site.db, made).await.unwrap(), Deletion::InUse);

    assert_eq!(db::delete_job(&site.db, job.id).await.unwrap(), Deletion::Deleted);
    assert!(db::find_artifact(&site.db, made).await.unwrap().is_none());
    assert!(site.events(job.id).await.is_empty());
    assert_eq!(db::delete_artifact(&site.db, job.artifact_id).await.unwrap(), Deletion::Deleted);
    assert_eq!(db::delete_artifact(&site.db, job.artifact_id).await.unwrap(), Deletion::NotFound);
}

#[tokio::test]
async fn a_list_of_jobs_pages_newest_first() {
    let site = Site::open().await;
    let mut jobs = Vec::new();
    for _ in 0..5 {
        jobs.push(site.job().await.id);
    }
    jobs.reverse();
    let first = db::list_jobs(&site.db, &JobFilter::default(), 3).await.unwrap();
    assert_eq!(first.iter().map(|job| job.id).collect::<Vec<_>>(), jobs[..3]);
    let filter = JobFilter { after: Some(first[2].id), state: Some(JobState::Queued), artifact_id: None };
    let rest = db::list_jobs(&site.db, &filter, 3).await.unwrap();
    assert_eq!(rest.iter().map(|job| job.id).collect::<Vec<_>>(), jobs[3..]);
}

#[tokio::test]
async fn a_job_that_nobody_starts_expires() {
    let site = Site::open().await;
    let job = site.job().await.id;
    let expired = db::expire_jobs(&site.db, Timestamp::now().after(LONG)).await.unwrap();
    assert_eq!(expired, [job]);
    assert_eq!(site.find(job).await.state, JobState::Expired);
}

#[tokio::test]
async fn of_two_requests_for_one_upload_only_one_may_send() {
    let site = Site::open().await;
    let new =
        NewUpload { purpose: UploadPurpose::Artifact, file_name: None, declared_bytes: None, declared_sha256: None };
    let upload = db::insert_upload(&site.db, &new).await.unwrap().id;
    assert!(db::claim_upload(&site.db, upload).await.unwrap());
    assert!(!db::claim_upload(&site.db, upload).await.unwrap());
    db::release_upload(&site.db, upload).await.unwrap();
    assert!(db::claim_upload(&site.db, upload).await.unwrap());
    let artifact = artifact(ArtifactType::Adapter);
    let made = db::finish_upload(&site.db, upload, 1, &"0".repeat(64), &artifact).await.unwrap();
    let row = db::find_upload(&site.db, upload).await.unwrap().unwrap();
    assert_eq!((row.state, row.artifact_id), (UploadState::Accepted, made));
}
