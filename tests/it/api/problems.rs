//! Refusals that belong to no resource: paths, methods, media types, sizes, hosts, identifiers.

use reqwest::Method;
use serde_json::json;

use crate::support::TestServer;

#[tokio::test]
async fn an_unknown_path_is_a_problem_and_for_a_browser_a_page() {
    let server = TestServer::start().await;
    server.get("/v1/nothing").await.expect_problem(404, "not_found");
    server.get("/nothing").await.expect_problem(404, "not_found");
    let page = server.get_with("/nothing", &[("accept", "text/html")]).await;
    assert_eq!(page.status, 404);
    assert!(page.header("content-type").starts_with("text/html"));
    server.get_with("/v1/nothing", &[("accept", "text/html")]).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn an_unknown_method_names_the_known_ones() {
    let server = TestServer::start().await;
    let answer = server.send(server.request(Method::PATCH, "/v1/jobs")).await;
    assert!(
        answer.header("allow").contains("POST") && answer.header("allow").contains("GET"),
        "{}",
        answer.header("allow")
    );
    answer.expect_problem(405, "method_not_allowed");
}

#[tokio::test]
async fn bodies_that_are_not_json_are_told_apart() {
    let server = TestServer::start().await;
    let post = |media_type: &str, body: &str| {
        server.request(Method::POST, "/v1/jobs").header("content-type", media_type).body(body.to_owned())
    };
    server.send(post("text/plain", "{}")).await.expect_problem(415, "unsupported_media_type");
    server.send(post("application/json", "{")).await.expect_problem(400, "malformed_request");
    server.send(post("application/json", "[]")).await.expect_problem(422, "invalid_request");
    server.send(server.request(Method::POST, "/v1/jobs")).await.expect_problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn a_json_body_beyond_the_limit_is_not_read() {
    let server = TestServer::start_with(|config| config.limits.body_bytes = 1000).await;
    let body = json!({ "filename": "x".repeat(2000) });
    server.post("/v1/uploads", body).await.expect_problem(413, "payload_too_large");
}

#[tokio::test]
async fn an_identifier_of_another_kind_names_nothing() {
    let server = TestServer::start().await;
    for path in
        ["/v1/jobs/1", "/v1/jobs/upl_01jd3p8f9e7r6t5w4q3x2z1y0a", "/v1/artifacts/%00", "/v1/uploads/..", "/jobs/x"]
    {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a_sane_request_id_is_kept_and_any_other_replaced() {
    let server = TestServer::start().await;
    let kept = server.get_with("/livez", &[("x-request-id", "trace-42")]).await;
    assert_eq!(kept.header("x-request-id"), "trace-42");
    let replaced = server.get_with("/livez", &[("x-request-id", "a b<script>")]).await;
    assert_eq!(replaced.header("x-request-id").len(), 32);
}

#[tokio::test]
async fn a_page_of_another_site_reaches_nothing() {
    let server = TestServer::start().await;
    let rebound = server.get_with("/v1/jobs", &[("host", "evil.example")]).await;
    rebound.expect_problem(421, "unknown_host");
    let request = server.request(Method::POST, "/v1/uploads").header("sec-fetch-site", "cross-site").json(&json!({}));
    server.send(request).await.expect_problem(403, "forbidden_origin");
}

#[tokio::test]
async fn every_problem_has_a_page_that_explains_it() {
    let server = TestServer::start().await;
    for kind in antigen::error::Kind::all() {
        let page = server.get(&format!("/docs/errors/{}", kind.code())).await;
        assert_eq!(page.status, 200, "{kind:?}");
        assert!(page.text().contains(kind.meaning().split('.').next().unwrap()), "{}", page.text());
    }
    server.get("/docs/errors/none").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_failure_of_ours_tells_its_cause_to_the_log_alone() {
    let server = TestServer::start().await;
    server.app.db.close().await;
    let problem = server.get("/v1/jobs").await.expect_problem(500, "internal");
    assert!(!problem.to_string().to_lowercase().contains("pool"), "{problem}");
}
