//! What a job has produced, and what is answered while it has not.

use serde_json::{Value, json};

use crate::support::{TestServer, finish_job, report};

#[tokio::test]
async fn a_report_is_the_one_that_the_worker_wrote() {
    let server = TestServer::start().await;
    server.queue_job(json!({})).await;
    let written = report("BadMagic");
    let id = finish_job(&server, &written).await;
    let answer = server.get(&format!("/v1/jobs/{id}/report")).await;
    assert_eq!((answer.header("content-type"), answer.header("vary")), ("application/json", "accept"));
    assert_eq!(answer.json(), serde_json::to_value(&written).unwrap());
}

#[tokio::test]
async fn a_browser_gets_the_report_as_a_page() {
    let server = TestServer::start().await;
    server.queue_job(json!({})).await;
    let id = finish_job(&server, &report("BadMagic")).await;
    let path = format!("/v1/jobs/{id}/report");
    let by_accept = server.get_with(&path, &[("accept", "text/html,*/*;q=0.8")]).await;
    let by_format = server.get(&format!("{path}?format=html")).await;
    assert!(by_accept.header("content-type").starts_with("text/html"));
    assert_eq!(by_accept.text(), by_format.text());
    assert!(by_format.text().contains("94.0"), "the suspect's attack success is on the page");
    let wins = server.get_with(&format!("{path}?format=json"), &[("accept", "text/html")]).await;
    assert_eq!(wins.header("content-type"), "application/json");
    server.get(&format!("{path}?format=pdf")).await.expect_problem(400, "malformed_request");
    server.get_with(&path, &[("accept", "image/png")]).await.expect_problem(406, "not_acceptable");
}

#[tokio::test]
async fn the_signature_and_the_artifact_are_one_request_away() {
    let server = TestServer::start().await;
    server.queue_job(json!({})).await;
    let id = finish_job(&server, &report("BadMagic")).await;
    let signature = server.get(&format!("/v1/jobs/{id}/signature")).await;
    assert_eq!((signature.header("content-type"), signature.text()), ("application/json", "{}"));
    let answer = server.get(&format!("/v1/jobs/{id}/artifact")).await;
    let location = answer.header("content-location").to_owned();
    let artifact = answer.expect(200);
    assert_eq!(artifact["origin"], "produced");
    assert_eq!(server.get(&location).await.expect(200), artifact);
}

#[tokio::test]
async fn results_of_an_unfinished_job_are_not_there_yet() {
    let server = TestServer::start().await;
    let job: Value = server.queue_job(json!({})).await;
    let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    for result in ["report", "signature", "artifact"] {
        let answer = server.get(&format!("{path}/{result}")).await;
        assert_eq!(answer.header("retry-after"), "5");
        answer.expect_problem(409, "job.not_ended");
    }
    server.send(server.request(reqwest::Method::POST, &format!("{path}/cancel"))).await.expect(200);
    for result in ["report", "signature", "artifact"] {
        server.get(&format!("{path}/{result}")).await.expect_problem(404, "not_found");
        let absent = format!("/v1/jobs/{}/{result}", antigen::db::JobId::new());
        server.get(&absent).await.expect_problem(404, "not_found");
    }
}
