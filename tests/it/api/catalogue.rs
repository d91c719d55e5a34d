//! The catalogues and the pages for those who operate the service.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::TestServer;

#[tokio::test]
async fn what_the_catalogue_shows_can_be_sent_back() {
    let server = TestServer::start().await;
    let methods = server.get("/v1/methods").await.expect(200);
    let job = server.queue_job(methods["default_spec"].clone()).await;
    assert_eq!(job["spec"], methods["default_spec"]);
    let default = &methods["data"][0]["default"];
    server.queue_job(json!({ "method": default })).await;

    let attacks = server.get("/v1/attacks").await.expect(200);
    for attack in attacks["attacks"].as_array().unwrap() {
        for behaviour in attacks["behaviours"].as_array().unwrap() {
            let asr = json!({ "type": "asr", "attack": attack["default"], "behaviour": behaviour["default"] });
            server.queue_job(json!({ "evaluators": [asr] })).await;
        }
    }
}

#[tokio::test]
async fn methods_come_with_what_was_measured_of_them() {
    let server = TestServer::start().await;
    let methods = server.get("/v1/methods").await.expect(200);
    let csv = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/results/compare.csv")).unwrap();
    assert!(csv.starts_with("suspect,kind,attack,behaviour,method,model,"));
    let cells = csv.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>());
    let stored: BTreeSet<_> = cells.map(|cell| (cell[4], cell[1], cell[5])).collect();
    assert!(!stored.is_empty());
    for method in methods["data"].as_array().unwrap() {
        let of_method = stored.iter().filter(|(name, ..)| method["name"] == *name).count();
        assert_eq!(method["measured"].as_array().unwrap().len(), of_method, "{}", method["name"]);
        assert!(!method["failures"].as_array().unwrap().is_empty());
    }
}

#[tokio::test]
async fn bases_are_those_of_the_settings_and_the_built_in_one() {
    let server = TestServer::start_with(|config| {
        config.bases.0.insert("mine".into(), "/nowhere".into());
    })
    .await;
    let bases = server.get("/v1/bases").await.expect(200);
    assert_eq!(
        bases["data"],
        json!([{ "name": "builtin:tiny-world", "builtin": true }, { "name": "mine", "builtin": false }])
    );
}

#[tokio::test]
async fn a_healthy_service_is_live_and_ready() {
    let server = TestServer::start().await;
    assert_eq!(server.get("/livez").await.expect(200)["status"], "ok");
    let ready = server.get("/readyz").await.expect(200);
    let names: Vec<&str> =
        ready["checks"].as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["database", "store", "disk"]);
}

#[tokio::test]
async fn a_service_without_its_store_or_database_is_live_but_not_ready() {
    let server = TestServer::start().await;
    std::fs::remove_dir_all(server.app.config.store_dir()).unwrap();
    server.get("/readyz").await.expect_problem(503, "not_ready.disk");
    server.app.db.close().await;
    server.get("/readyz").await.expect_problem(503, "not_ready.database");
    assert_eq!(server.get("/livez").await.status, 200);
}

#[tokio::test]
async fn metrics_count_requests_by_route_and_jobs_by_state() {
    let server = TestServer::start().await;
    let job = server.queue_job(json!({})).await;
    server.get(&format!("/v1/jobs/{}", job["id"].as_str().unwrap())).await.expect(200);
    let metrics = server.get("/metrics").await;
    assert!(metrics.header("content-type").starts_with("text/plain"));
    for line in [
        "antigen_queue_depth",
        "antigen_jobs{state=\"queued\"}",
        "path=\"/v1/jobs/{id}\"",
        "antigen_http_request_seconds_bucket",
    ] {
        assert!(metrics.text().contains(line), "no {line} in {}", metrics.text());
    }
    assert!(!metrics.text().contains(job["id"].as_str().unwrap()), "an identifier became a label");
}
