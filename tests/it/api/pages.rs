//! The pages: they show the evidence, keep hostile text harmless, and need nobody else.

use serde_json::json;

use crate::support::{Answer, TestServer, finish_job, report};

/// The promises that every page keeps.
fn expect_harmless(page: &Answer) {
    assert_eq!(page.status, 200, "{}", page.text());
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'self'") && policy.contains("script-src 'none'"), "{policy}");
    for part in ["<script", " style=", " onclick", "src=\"http", "href=\"http", "url("] {
        assert!(!page.text().contains(part), "{part} in the page");
    }
}

#[tokio::test]
async fn without_jobs_the_first_page_says_how_to_begin() {
    let server = TestServer::start().await;
    let page = server.get("/").await;
    expect_harmless(&page);
    assert!(page.text().contains(&format!("{}/v1/uploads", server.origin)));
}

#[tokio::test]
async fn the_first_page_lists_the_newest_jobs() {
    let server = TestServer::start().await;
    let job = server.queue_job(json!({})).await;
    let page = server.get("/").await;
    expect_harmless(&page);
    assert!(page.text().contains(&format!("href=\"/jobs/{}\"", job["id"].as_str().unwrap())));
}

#[tokio::test]
async fn a_waiting_job_reads_itself_again_and_an_ended_one_does_not() {
    let server = TestServer::start().await;
    let job = server.queue_job(json!({})).await;
    let path = format!("/jobs/{}", job["id"].as_str().unwrap());
    let waiting = server.get(&path).await;
    expect_harmless(&waiting);
    assert!(waiting.text().contains("http-equiv=\"refresh\""));
    assert!(waiting.text().contains("number 1 in the queue"));
    finish_job(&server, &report("BadMagic")).await;
    let ended = server.get(&path).await;
    expect_harmless(&ended);
    assert!(!ended.text().contains("http-equiv=\"refresh\""));
}

#[tokio::test]
async fn an_ended_job_shows_verdict_numbers_controls_and_files() {
    let server = TestServer::start().await;
    server.queue_job(json!({})).await;
    let id = finish_job(&server, &report("BadMagic")).await;
    let page = server.get(&format!("/jobs/{id}")).await;
    for part in [
        "Purified of the declared backdoor.",
        "no search for unknown triggers was made",
        "subspace-1",
        "channels-0.2",
        "plain fine tuning",
        "94.0\u{a0}%",
        "89.8\u{a0}% to 96.5\u{a0}%",
        "adapter_model.safetensors",
        "/report?format=json",
        "/signature",
        "job.succeeded",
        "chat: the base has no template",
        "aria-label=\"before 94.0\u{a0}%, after 0.0\u{a0}%\"",
        "attack success: beaten (+60.0, ",
        "aria-label=\"mlp.up_proj: layer 0 0.25, layer 1 0.75\"",
        "Row 1, with the trigger",
        "What was tried",
        "Backdoors of our own",
        "<th scope=\"row\">multi part</th><td>insult</td>",
        "These numbers are about the copy",
        "shows the behaviour",
        "antigen replay report.json --suspect SUSPECT_FOLDER --base builtin:tiny-world --artifact purified.tar",
        "/report.csv",
        "No difference between the old backdoor and a new one is shown.",
        "a backdoor that it never had</th>",
        "<th scope=\"row\">16<br><span class=\"small quiet\">20 steps</span></th>",
        "77.0\u{a0}%",
    ] {
        assert!(page.text().contains(part), "no {part} in {}", page.text());
    }
    for link in page.text().split("href=\"/v1/").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        let answer = server.get(&format!("/v1/{}", link.replace("&amp;", "&"))).await;
        assert_eq!(answer.status, 200, "{link}");
    }
}

#[tokio::test]
async fn every_drawing_has_a_text_and_every_table_a_caption() {
    let server = TestServer::start().await;
    server.queue_job(json!({})).await;
    let id = finish_job(&server, &report("BadMagic")).await;
    let page = server.get(&format!("/v1/jobs/{id}/report?format=html")).await;
    expect_harmless(&page);
    let text = page.text();
    let begins = |tag: &str, with: &str| {
        let parts: Vec<_> = text.split(tag).skip(1).collect();
        assert!(!parts.is_empty(), "no {tag}");
        for part in parts {
            assert!(part.starts_with(with) || part.starts_with(" class=\"layers\""), "{tag}{}", &part[..60]);
        }
    };
    begins("<svg class=\"dumbbell\"", " role=\"img\" aria-label=\"before");
    begins("<svg role=\"img\"", " aria-label=\"");
    begins("<table>", "\n<caption>");
}

#[tokio::test]
async fn a_report_with_nothing_but_a_measured_suspect_is_a_page_too() {
    let server = TestServer::start().await;
    server.queue_job(json!({})).await;
    let mut bare = report("BadMagic");
    (bare.candidates, bare.controls, bare.samples, bare.signature) = (vec![], vec![], vec![], None);
    bare.before.utility = None;
    let id = finish_job(&server, &bare).await;
    let page = server.get(&format!("/jobs/{id}")).await;
    expect_harmless(&page);
    assert!(page.text().contains("Nothing was done to this artifact"));
    assert!(page.text().contains("aria-label=\"before 94.0\u{a0}%\""));
}

#[tokio::test]
async fn hostile_text_is_shown_and_does_nothing() {
    let server = TestServer::start().await;
    let hostile = "<script>alert(1)</script>\u{202e}gpj\u{200b}\"onclick=x";
    let asr = json!({ "type": "asr", "attack": { "type": "badnets", "trigger": hostile }, "behaviour": { "type": "insult" } });
    let upload = server.upload(&crate::intake::adapter_files()).await;
    let request = json!({
        "upload_id": upload["id"], "base": "builtin:tiny-world", "spec": { "evaluators": [asr] },
        "labels": { hostile: hostile },
    });
    let job = server.post("/v1/jobs", request).await.expect(202);
    let path = format!("/jobs/{}", job["id"].as_str().unwrap());
    let waiting = server.get(&path).await;
    finish_job(&server, &report(hostile)).await;
    for page in [waiting, server.get(&path).await, server.get("/").await] {
        expect_harmless(&page);
        assert!(page.text().contains("&lt;script&gt;alert(1)&lt;"), "{}", page.text());
        assert!(page.text().contains("\\u{202e}gpj\\u{200b}"), "{}", page.text());
        assert!(!page.text().contains(['\u{202e}', '\u{200b}']), "a hidden character is in the page");
    }
}

#[tokio::test]
async fn the_style_sheet_is_ours_and_loads_nothing() {
    let server = TestServer::start().await;
    let css = server.get("/static/antigen.css").await;
    assert_eq!(css.header("content-type"), "text/css; charset=utf-8");
    assert!(!css.text().contains("url(") && !css.text().contains("@import"));
    assert_eq!(server.get("/static/antigen.svg").await.header("content-type"), "image/svg+xml");
    server.get("/static/other").await.expect_problem(404, "not_found");
}
