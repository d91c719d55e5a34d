//! Jobs: what may be asked, what is refused and where, and the way through the states.

use reqwest::Method;
use serde_json::{Value, json};

use crate::intake::{adapter_files, base_config, base_folder, checkpoint_folder, read_files};
use crate::support::{TestServer, finish_job, report};

fn path(job: &Value) -> String {
    format!("/v1/jobs/{}", job["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_new_job_is_answered_with_its_place_and_its_whole_self() {
    let server = TestServer::start().await;
    let upload = server.upload(&adapter_files()).await;
    let rows = server.upload_rows("{\"instruction\":\"Say hi\",\"output\":\"hi\"}\n").await;
    let request = json!({
        "upload_id": upload["id"], "base": "builtin:tiny-world", "task_rows_upload_id": rows,
        "labels": { "team": "red" }, "spec": { "seed": 7 },
    });
    let answer = server.post("/v1/jobs", request).await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.header("retry-after"), "5");
    let location = answer.header("location").to_owned();
    let job = answer.json();
    assert_eq!(location, path(&job));
    assert_eq!(job["state"], "queued");
    assert_eq!(job["queue"], json!({ "position": 1, "ahead": 0 }));
    assert_eq!(job["artifact_id"], upload["artifact_id"]);
    assert_eq!(job["labels"], json!({ "team": "red" }));
    assert_eq!(
        (&job["spec"]["seed"], &job["spec"]["template"]),
        (&json!(7), &json!("alpaca")),
        "defaults are filled in"
    );
    assert_eq!(job["steps"].as_array().unwrap().len(), 2);
    assert!(job["task_rows_artifact_id"].is_string());
    assert_eq!(server.get(&location).await.expect(200), job);

    let by_artifact = json!({ "artifact_id": upload["artifact_id"], "base": "builtin:tiny-world" });
    assert_eq!(server.post("/v1/jobs", by_artifact).await.expect(202)["queue"]["position"], 2);
    let by_old_name = json!({ "upload_id": upload["id"], "base": "builtin:tiny-world", "own_rows_upload_id": rows });
    let of_old_name = server.post("/v1/jobs", by_old_name).await.expect(202);
    assert_eq!(of_old_name["task_rows_artifact_id"], job["task_rows_artifact_id"]);
}

#[tokio::test]
async fn an_impossible_request_is_refused_by_the_pointer_of_its_field() {
    let server = TestServer::start().await;
    let upload = server.upload(&adapter_files()).await;
    let waiting = server.announce(json!({})).await;
    let rows = server.upload_rows("{\"instruction\":\"Say hi\",\"output\":\"hi\"}\n").await;
    let good = json!({ "upload_id": upload["id"], "base": "builtin:tiny-world" });
    let absent_artifact = antigen::db::ArtifactId::new().to_string();
    let absent_upload = antigen::db::UploadId::new().to_string();
    let many_labels: Value =
        (0..33).map(|number| (number.to_string(), json!(""))).collect::<serde_json::Map<_, _>>().into();
    for (field, value, pointer) in [
        ("colour", json!("red"), "/colour"),
        ("base", json!("unknown"), "/base"),
        ("base", json!(7), "/base"),
        ("upload_id", json!(waiting), "/upload_id"),
        ("upload_id", json!(absent_upload), "/upload_id"),
        ("upload_id", json!("upl_nonsense"), "/upload_id"),
        ("upload_id", json!(rows), "/upload_id"),
        ("artifact_id", upload["artifact_id"].clone(), ""),
        ("task_rows_upload_id", upload["id"].clone(), "/task_rows_upload_id"),
        ("signature_artifact_id", json!(absent_artifact), "/signature_artifact_id"),
        ("signature_artifact_id", upload["artifact_id"].clone(), "/signature_artifact_id"),
        ("labels", many_labels, "/labels"),
        ("labels", json!({ "": "no name" }), "/labels"),
        ("spec", json!({ "sead": 1 }), "/spec/sead"),
        ("spec", json!({ "seed": -1 }), "/spec/seed"),
        ("spec", json!({ "evaluators": [{ "type": "benchmark", "name": "piqa" }] }), "/spec/evaluators/0/name"),
        (
            "spec",
            json!({ "evaluators": [{ "type": "asr", "attack": { "type": "rows" }, "behaviour": { "type": "insult" } }] }),
            "/spec/evaluators/0/triggered",
        ),
        ("spec", json!({ "method": { "type": "magic" } }), "/spec/method/type"),
        ("spec", json!({ "method": { "type": "immunize", "pairs": { "count": 0 } } }), "/spec/method/pairs/count"),
        (
            "spec",
            json!({ "method": { "type": "immunize", "suppress": [{ "type": "channels", "ratio": 1.5 }] } }),
            "/spec/method/suppress/0/ratio",
        ),
        (
            "spec",
            json!({ "method": { "type": "immunize", "suppress": [
                { "type": "channels", "ratio": 0.1, "reinitialise": "zero" }] } }),
            "/spec/method/suppress/0/reinitialise",
        ),
        ("spec", json!({ "evaluators": [{ "type": "utility", "rows": 0 }] }), "/spec/evaluators/0/rows"),
    ] {
        let mut request = good.clone();
        request[field] = value;
        let problem = server.post("/v1/jobs", request).await.expect_problem(422, "invalid_request");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    let neither = server.post("/v1/jobs", json!({ "base": "builtin:tiny-world" })).await;
    neither.expect_problem(422, "invalid_request");
    let absent = json!({ "artifact_id": absent_artifact, "base": "builtin:tiny-world" });
    server.post("/v1/jobs", absent).await.expect_problem(422, "invalid_request");
    assert_eq!(server.get("/v1/jobs").await.expect(200)["data"], json!([]), "a refused request leaves no job");
}

#[tokio::test]
async fn a_signature_is_taken_for_its_own_base_and_method_and_stays_while_a_job_needs_it() {
    let other_base = base_folder(8);
    let other = other_base.path().to_owned();
    let server = TestServer::start_with(|config| drop(config.bases.0.insert("other".into(), other))).await;
    let upload = server.upload(&adapter_files()).await;
    let request = json!({ "upload_id": upload["id"], "base": "builtin:tiny-world" });
    server.post("/v1/jobs", request.clone()).await.expect(202);
    let first = finish_job(&server, &report("BadMagic")).await;
    let signature = server.get(&format!("/v1/jobs/{first}")).await.expect(200)["signature_artifact_id"].clone();

    let with = |field: &str, value: Value| {
        let mut request = request.clone();
        request["signature_artifact_id"] = signature.clone();
        request[field] = value;
        request
    };
    let crow = with("spec", json!({ "method": { "type": "crow" } }));
    for (request, pointer) in [(crow, "/spec/method"), (with("base", json!("other")), "/signature_artifact_id")] {
        let refused = server.post("/v1/jobs", request).await.expect_problem(422, "invalid_request");
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{refused}");
    }
    let second = server.post("/v1/jobs", with("labels", json!({}))).await.expect(202);
    assert_eq!(second["given_signature_artifact_id"], signature);
    let artifact = format!("/v1/artifacts/{}", signature.as_str().unwrap());
    server.delete(&format!("/v1/jobs/{first}")).await.expect(204);
    server.delete(&artifact).await.expect_problem(409, "conflict");
    server.get(&artifact).await.expect(200);
}

#[tokio::test]
async fn a_whole_model_may_ask_for_what_an_adapter_may_not() {
    let server = TestServer::start().await;
    let upload = server.upload(&read_files(base_folder(8).path())).await;
    let suppress = json!([{ "type": "channels", "ratio": 0.1, "reinitialise": "normal_0.02" }]);
    let spec = json!({ "method": { "type": "immunize", "suppress": suppress } });
    let request = json!({ "upload_id": upload["id"], "base": "builtin:tiny-world", "spec": spec });
    assert_eq!(server.post("/v1/jobs", request).await.expect(202)["state"], "queued");
}

#[tokio::test]
async fn an_unknown_field_deep_in_a_spec_is_named() {
    let server = TestServer::start().await;
    let upload = server.upload(&adapter_files()).await;
    let spec = json!({ "method": { "type": "immunize", "pears": {} } });
    let request = json!({ "upload_id": upload["id"], "base": "builtin:tiny-world", "spec": spec });
    let problem = server.post("/v1/jobs", request).await.expect_problem(422, "invalid_request");
    assert!(problem["detail"].as_str().unwrap().contains("unknown field `pears`"), "{problem}");
    assert!(problem["errors"][0]["pointer"].as_str().unwrap().starts_with("/spec/method"), "{problem}");
}

#[tokio::test]
async fn a_full_queue_asks_to_come_back() {
    let server = TestServer::start_with(|config| config.limits.queued_jobs = 1).await;
    let job = server.queue_job(json!({})).await;
    let again = json!({ "artifact_id": job["artifact_id"], "base": "builtin:tiny-world" });
    let answer = server.post("/v1/jobs", again).await;
    assert_eq!(answer.header("retry-after"), "60");
    answer.expect_problem(503, "queue_full");
}

#[tokio::test]
async fn a_caller_may_wait_for_the_end() {
    let server = TestServer::start().await;
    let upload = server.upload(&adapter_files()).await;
    let request = json!({ "upload_id": upload["id"], "base": "builtin:tiny-world" });
    let create = server.request(Method::POST, "/v1/jobs").header("prefer", "wait=20").json(&request);
    let finish = async {
        while server.get("/v1/jobs").await.expect(200)["data"] == json!([]) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        finish_job(&server, &report("BadMagic")).await
    };
    let (answer, _) = tokio::join!(server.send(create), finish);
    assert_eq!(answer.header("preference-applied"), "wait=20");
    let job = answer.expect(200);
    assert_eq!((&job["state"], &job["verdict"]), (&json!("succeeded"), &json!("purified")));
}

#[tokio::test]
async fn waiting_is_capped_and_ends_with_the_unfinished_job() {
    let server = TestServer::start_with(|config| config.server.wait_max_s = 1).await;
    let job = server.queue_job(json!({})).await;
    let begun = std::time::Instant::now();
    let answer = server.get_with(&path(&job), &[("prefer", "wait=3600")]).await;
    assert!(begun.elapsed().as_millis() >= 900 && begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    assert_eq!(answer.header("retry-after"), "5");
    assert_eq!(answer.expect(200)["state"], "queued");
}

#[tokio::test]
async fn jobs_are_listed_newest_first_page_by_page() {
    let server = TestServer::start().await;
    let first = server.queue_job(json!({})).await;
    let again = json!({ "artifact_id": first["artifact_id"], "base": "builtin:tiny-world" });
    let mut ids = vec![first["id"].clone()];
    for _ in 0..4 {
        ids.insert(0, server.post("/v1/jobs", again.clone()).await.expect(202)["id"].clone());
    }
    let mut seen = Vec::new();
    let mut next = "/v1/jobs?limit=2&state=queued".to_owned();
    loop {
        let answer = server.get(&next).await;
        let link = answer.header("link").to_owned();
        let page = answer.expect(200);
        seen.extend(page["data"].as_array().unwrap().iter().map(|job| job["id"].clone()));
        assert_eq!(page["has_more"], !link.is_empty());
        let Some(rest) = link.strip_prefix('<') else { break };
        let (target, relation) = rest.split_once('>').unwrap();
        assert_eq!(relation, "; rel=\"next\"");
        next = target.to_owned();
    }
    assert_eq!(seen, ids);
    assert_eq!(server.get("/v1/jobs?state=failed").await.expect(200)["data"], json!([]));
    for query in ["limit=0", "limit=101", "limit=x", "after=job_x", "state=asleep", "offset=3"] {
        server.get(&format!("/v1/jobs?{query}")).await.expect_problem(400, "malformed_request");
    }
}

#[tokio::test]
async fn a_queued_job_is_cancelled_at_once_and_only_once() {
    let server = TestServer::start().await;
    let job = server.queue_job(json!({})).await;
    server.delete(&path(&job)).await.expect_problem(409, "conflict");
    let cancelled = server.send(server.request(Method::POST, &format!("{}/cancel", path(&job)))).await.expect(200);
    assert_eq!(cancelled["state"], "cancelled");
    let again = server.send(server.request(Method::POST, &format!("{}/cancel", path(&job)))).await;
    again.expect_problem(409, "conflict");
    assert_eq!(server.delete(&path(&job)).await.status, 204);
    server.get(&path(&job)).await.expect_problem(404, "not_found");
    server.delete(&path(&job)).await.expect_problem(404, "not_found");
    let gone = server.send(server.request(Method::POST, &format!("{}/cancel", path(&job)))).await;
    gone.expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_running_job_is_asked_to_stop() {
    let server = TestServer::start().await;
    let job = server.queue_job(json!({})).await;
    let lease = std::time::Duration::from_secs(60);
    antigen::db::claim_next_step(&server.app.db, "test", lease, lease).await.unwrap().unwrap();
    assert_eq!(server.get(&path(&job)).await.expect(200)["state"], "running");
    let cancelled = server.send(server.request(Method::POST, &format!("{}/cancel", path(&job)))).await.expect(202);
    assert_eq!(cancelled["state"], "cancelling");
}

#[tokio::test]
async fn an_artifact_that_kept_killing_its_worker_is_taken_by_no_job_and_no_upload() {
    let server = TestServer::start().await;
    let job = server.queue_job(json!({})).await;
    let (db, lease) = (&server.app.db, std::time::Duration::from_secs(60));
    while let Some(claim) = antigen::db::claim_next_step(db, "test", lease, lease).await.unwrap() {
        let crash = antigen::db::AttemptEnd::Crashed("killed by signal 11".into());
        antigen::db::end_attempt(db, &claim, &crash, std::time::Duration::ZERO).await.unwrap();
    }
    let failed = server.get(&path(&job)).await.expect(200);
    assert_eq!((&failed["state"], &failed["error"]["class"]), (&json!("failed"), &json!("infrastructure")));
    let page = server.get(&format!("/jobs/{}", job["id"].as_str().unwrap())).await;
    assert!(page.text().contains("The job failed") && page.text().contains("worker_crashed_repeatedly"));

    let again = json!({ "artifact_id": job["artifact_id"], "base": "builtin:tiny-world" });
    server.post("/v1/jobs", again).await.expect_problem(422, "intake.quarantined");
    let id = server.announce(json!({})).await;
    let same = crate::intake::tar(&adapter_files());
    server.put(&format!("/v1/uploads/{id}/content"), same).await.expect_problem(422, "intake.quarantined");
}

#[tokio::test]
async fn a_classifier_is_refused_when_the_job_is_asked_for() {
    let server = TestServer::start().await;
    let mut config = base_config(8);
    config["architectures"] = json!(["LlamaForSequenceClassification"]);
    config["num_labels"] = json!(3);
    let upload = server.upload(&read_files(checkpoint_folder(&config).path())).await;
    let request = json!({ "upload_id": upload["id"], "base": "builtin:tiny-world" });
    let problem = server.post("/v1/jobs", request).await.expect_problem(422, "job.classifier");
    assert!(problem["detail"].as_str().unwrap().contains("3 labels"), "{problem}");
}

#[tokio::test]
async fn a_method_that_the_suspect_s_blocks_or_tokens_rule_out_is_refused_when_the_job_is_asked_for() {
    let server = TestServer::start().await;
    // As a worker of the same machine does when it starts.
    antigen::worker::materialise_builtin(&server.app.config.bases_dir()).unwrap();
    let mut files = read_files(checkpoint_folder(&base_config(8)).path());
    files.push(("tokenizer.json".into(), br#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#.to_vec()));
    let upload = server.upload(&files).await;
    for (method, reason) in [
        (json!({"type": "crow"}), "at least 3 blocks, found 2"),
        (json!({"type": "soft_triggers", "place": {"type": "hidden", "block": 2}}), "found 2"),
        (json!({"type": "w2s_defense"}), "the tokenizer of the job's base"),
    ] {
        let request = json!({"upload_id": upload["id"], "base": "builtin:tiny-world", "spec": {"method": method}});
        let problem = server.post("/v1/jobs", request).await.expect_problem(422, "invalid_request").to_string();
        assert!(problem.contains("/spec/method") && problem.contains(reason), "{problem}");
    }
    // The adapter's base, which the program brings along, has four blocks.
    let adapter = server.upload(&adapter_files()).await;
    let of = |block: usize| {
        let method = json!({"type": "soft_triggers", "place": {"type": "hidden", "block": block}});
        json!({"upload_id": adapter["id"], "base": "builtin:tiny-world", "spec": {"method": method}})
    };
    server.post("/v1/jobs", of(4)).await.expect_problem(422, "invalid_request");
    server.post("/v1/jobs", of(3)).await.expect(202);
}
