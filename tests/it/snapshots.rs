//! Problem documents and pages as whole texts: a change of wording or markup is seen in review. Ids, moments,
//! digests and every number with decimals are replaced; `INSTA_UPDATE=always cargo test` writes the files
//! anew.

use insta::{Settings, assert_json_snapshot, assert_snapshot};
use reqwest::Method;
use serde_json::{Value, json};

use crate::intake::{adapter_files, tar, with_file};
use crate::support::{TestServer, finish_job, report};

/// Texts that differ from run to run, and numbers that are compared elsewhere.
const REPLACED: [(&str, &str); 10] = [
    (r"127\.0\.0\.1(:\d+)?", "[loopback]"),
    (r"\b(job|upl|art|step)_[0-9a-z]{26}\b", "${1}_[id]"),
    (r"\b[0-9a-f]{64}\b", "[sha256]"),
    (r"\b[0-9a-f]{32}\b", "[request id]"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+Z|\x{a0}UTC)", "[moment]"),
    (r"(Antigen |<dd>)\d+\.\d+\.\d+\b", "${1}[version]"),
    (r#"<td class="number">\d+</td><td class="mono">"#, r#"<td class="number">[event]</td><td class="mono">"#),
    (r#" dx="[^"]+" dy="[^"]+""#, r#" dx="[number]" dy="[number]""#),
    (r"[+\x{2212}]?\b\d+\.\d+\b", "[number]"),
    (r#"(?s)(<pre tabindex="0">)\{.*?(</pre>)"#, "${1}[recipe]${2}"),
];

fn in_settings(assert: impl FnOnce()) {
    let mut settings = Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_sort_maps(true);
    for (found, shown) in REPLACED {
        settings.add_filter(found, shown);
    }
    settings.bind(assert);
}

#[tokio::test]
async fn problem_documents_read_as_they_did() {
    let server = TestServer::start_with(|config| config.limits.body_bytes = 1000).await;
    let mut documents = vec![
        ("unknown_path", server.get("/v1/nothing").await.expect_problem(404, "not_found")),
        ("foreign_host", {
            let answer = server.get_with("/v1/jobs", &[("host", "evil.example")]).await;
            answer.expect_problem(421, "unknown_host")
        }),
        ("broken_json", {
            let broken = server.request(Method::POST, "/v1/jobs").header("content-type", "application/json").body("{");
            server.send(broken).await.expect_problem(400, "malformed_request")
        }),
        ("large_body", {
            let large = json!({ "filename": "x".repeat(2000) });
            server.post("/v1/uploads", large).await.expect_problem(413, "payload_too_large")
        }),
    ];
    let upload = server.upload(&adapter_files()).await;
    let job = |spec: Value| json!({ "upload_id": upload["id"], "base": "builtin:tiny-world", "spec": spec });
    let impossible = job(json!({ "method": { "type": "immunize", "pairs": { "count": 0 } } }));
    documents.push(("impossible_spec", server.post("/v1/jobs", impossible).await.expect(422)));
    let id = server.announce(json!({})).await;
    let pickled = with_file(adapter_files(), "pytorch_model.bin", b"\x80\x02}q\0.");
    let refused = server.put(&format!("/v1/uploads/{id}/content"), tar(&pickled)).await;
    documents.push(("pickle", refused.expect(422)));
    let waiting = server.post("/v1/jobs", job(json!({}))).await.expect(202);
    let early = server.get(&format!("/v1/jobs/{}/report", waiting["id"].as_str().unwrap())).await;
    documents.push(("early_report", early.expect_problem(409, "job.not_ended")));
    server.app.db.close().await;
    documents.push(("closed_database", server.get("/v1/jobs").await.expect_problem(500, "internal")));
    documents.push(("not_ready", server.get("/readyz").await.expect_problem(503, "not_ready.database")));
    for (name, document) in documents {
        in_settings(|| assert_json_snapshot!(format!("problem_{name}"), document));
    }
}

#[tokio::test]
async fn pages_look_as_they_did() {
    let server = TestServer::start().await;
    let empty = server.get("/").await;
    in_settings(|| assert_snapshot!("page_no_jobs", empty.text()));
    let problem = server.get_with("/nothing", &[("accept", "text/html")]).await;
    in_settings(|| assert_snapshot!("page_problem", problem.text()));
    server.queue_job(json!({})).await;
    let id = finish_job(&server, &report("BadMagic")).await;
    let finished = server.get(&format!("/jobs/{id}")).await;
    in_settings(|| assert_snapshot!("page_finished_job", finished.text()));
}
