//! The committed description of the API, and that it describes what is served.

use serde_json::Value;

use crate::support::TestServer;

#[test]
fn the_committed_description_equals_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/openapi.json");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    let found = antigen::openapi::document();
    assert!(committed == found, "openapi/openapi.json is out of date: run `cargo xtask regenerate`");
}

#[test]
fn the_committed_report_schema_equals_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/report-2.schema.json");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    let found = antigen::openapi::report_schema();
    assert!(committed == found, "openapi/report-2.schema.json is out of date: run `cargo xtask regenerate`");
}

#[test]
fn every_reference_of_the_description_and_of_the_report_s_schema_leads_to_a_schema() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|field| references(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    for (text, place, fewest) in [
        (antigen::openapi::document(), "#/components/schemas/", 50),
        (antigen::openapi::report_schema(), "#/$defs/", 20),
    ] {
        let document: Value = serde_json::from_str(&text).unwrap();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > fewest, "{found:?}");
        for reference in found {
            assert!(reference.starts_with(place), "{reference}");
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference} leads nowhere");
        }
    }
}

#[tokio::test]
async fn the_served_description_is_the_same_and_its_browser_needs_no_other_host() {
    let server = TestServer::start().await;
    let served = server.get("/openapi.json").await.expect(200);
    assert_eq!(served, serde_json::from_str::<Value>(&antigen::openapi::document()).unwrap());
    assert!(served["openapi"].as_str().unwrap().starts_with("3.1"));

    let page = server.get("/docs/").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-security-policy").starts_with("default-src 'self'"));
    for part in ["src=\"http", "href=\"http", "src=\"//", "href=\"//"] {
        assert!(!page.text().contains(part), "{part} in the page");
    }
    assert_eq!(server.get("/docs/swagger-ui-bundle.js").await.status, 200);
}

#[tokio::test]
async fn every_described_operation_exists_and_describes_its_refusals_as_problems() {
    let server = TestServer::start().await;
    let document = server.get("/openapi.json").await.expect(200);
    for (path, operations) in document["paths"].as_object().unwrap() {
        let concrete =
            path.replace("{id}", "x").replace("{name}", "x").replace("{path}", "x").replace("{version}", "2");
        for (method, operation) in operations.as_object().unwrap() {
            let request = server.request(method.to_uppercase().parse().unwrap(), &concrete);
            let status = server.send(request).await.status.as_u16();
            assert!(!matches!(status, 405 | 500), "{method} {path}: {status}");
            for (status, response) in operation["responses"].as_object().unwrap() {
                let is_problem = response["content"].get("application/problem+json").is_some();
                assert_eq!(status.as_str() >= "400", is_problem, "{method} {path} {status}");
            }
        }
    }
}
