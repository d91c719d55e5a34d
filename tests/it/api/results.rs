//! The results of a job, and the answers while there are none.

use serde_json::{Value, json};

use crate::support::{TestServer, finish_job, report, report_of_version_1};

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
async fn every_rate_is_a_line_of_the_csv() {
    let server = TestServer::start().await;
    server.queue_job(json!({})).await;
    let id = finish_job(&server, &report("BadMagic")).await;
    let answer = server.get(&format!("/v1/jobs/{id}/report.csv")).await;
    assert_eq!(answer.header("content-type"), "text/csv; charset=utf-8");
    let text = answer.text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "role,model,evaluator,item,measure,format,hits,n,rate,low,high,recipe_sha256");
    // Suspect, two candidates and a control, each with five rates in two formats and one group; two canaries
    // before, after and after a control; two curves of three points with two rates; two methods that were
    // tried, each with two canaries and one group.
    assert_eq!(lines.len(), 1 + 4 * (5 * 2 + 1) + 2 * (2 * (5 * 2) + 1) + 2 * 3 * 2 + 2 * (2 + 1));
    assert!(lines.iter().any(|line| line.starts_with("trial,subspace-1,utility,general,exact_match,")), "{lines:?}");
    let begins = |line: usize, with: &str| assert!(lines[line].starts_with(with), "{lines:?}");
    begins(lines.len() - 15, "canary,copy_after,asr,multi_part insult,degenerate,raw,");
    begins(lines.len() - 13, "canary,plain_fine_tuning,asr,multi_part insult,with_trigger,alpaca,80,200,0.4,");
    begins(lines.len() - 1, "relearning,fresh_trigger,asr,0 badnets insult after 16 samples,");
    assert!(
        lines[1].starts_with("suspect,suspect,asr,0 badnets insult,with_trigger,alpaca,188,200,0.94,0.898"),
        "{}",
        lines[1]
    );
    assert!(lines.iter().all(|line| line.split(',').count() == 12));
}

#[tokio::test]
async fn the_schema_of_a_report_has_a_stable_address_and_reports_obey_it() {
    let server = TestServer::start().await;
    for report in [report_of_version_1("BadMagic"), serde_json::to_value(report("BadMagic")).unwrap()] {
        let name = report["schema"].as_str().unwrap();
        let answer = server.get(&format!("/v1/schemas/{name}")).await;
        assert_eq!(answer.header("content-type"), "application/schema+json");
        let schema = answer.json();
        assert_eq!(schema["title"], name);
        obey(&report, &schema["$defs"]["Report"], &schema, "");
    }
    server.get("/v1/schemas/antigen.report/3").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_report_of_version_1_is_sent_as_it_was_and_shown_as_any_other() {
    let server = TestServer::start().await;
    server.queue_job(json!({})).await;
    let old = report_of_version_1("BadMagic");
    let earlier = finish_job(&server, &old).await;
    server.queue_job(json!({})).await;
    let later = finish_job(&server, &report("BadMagic")).await;
    assert_eq!(server.get(&format!("/v1/jobs/{earlier}/report")).await.expect(200), old);

    let rates = async |id| server.get(&format!("/v1/jobs/{id}/report.csv")).await.text().to_owned();
    assert_eq!(rates(earlier).await, rates(later).await);
    let page = async |id| {
        let page = server.get(&format!("/v1/jobs/{id}/report?format=html")).await;
        let lines = page.text().lines().filter(|line| !line.contains("/v1/artifacts/"));
        lines.map(|line| line.replace(&format!("{id}"), "")).collect::<Vec<_>>()
    };
    let shown = page(earlier).await;
    assert!(shown.iter().any(|line| line == "<h2>What was tried</h2>"), "{shown:?}");
    assert_eq!(shown, page(later).await);
}

/// The part of JSON schema that says whether a reader of the schema would be surprised: every field is
/// described, none that must be there is missing.
fn obey(value: &Value, described: &Value, schema: &Value, at: &str) {
    let described = match described["$ref"].as_str() {
        Some(reference) => &schema["$defs"][reference.rsplit('/').next().unwrap()],
        None => described,
    };
    match value {
        Value::Object(fields) if described.get("properties").is_some() => {
            for name in described["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                assert!(fields.contains_key(name), "{at}: no {name}");
            }
            for (name, field) in fields {
                let property =
                    described["properties"].get(name).unwrap_or_else(|| panic!("{at}: {name} is not described"));
                obey(field, property, schema, &format!("{at}/{name}"));
            }
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, item)| obey(item, &described["items"], schema, &format!("{at}/{i}")))
        }
        Value::String(text) => {
            let known = described["enum"].as_array();
            assert!(known.is_none_or(|known| known.iter().any(|one| one == text)), "{at}: {text} is not described");
        }
        _ => {}
    }
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
