//! Uploads: every way in, every refusal, and that a refusal leaves nothing behind.

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::Method;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::intake::{adapter_files, gzip, shared, tar, with_field, with_file, zip};
use crate::support::TestServer;

fn content(id: &str) -> String {
    format!("/v1/uploads/{id}/content")
}

fn hex(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

#[tokio::test]
async fn an_archive_becomes_an_artifact() {
    let server = TestServer::start().await;
    let bytes = gzip(&tar(&adapter_files()));
    let announced = json!({ "filename": "adapter.tar.gz", "bytes": bytes.len(), "sha256": hex(&bytes).to_uppercase() });
    let answer = server.post("/v1/uploads", announced).await;
    assert_eq!(answer.header("location"), format!("/v1/uploads/{}", answer.json()["id"].as_str().unwrap()));
    let id = answer.expect(201)["id"].as_str().unwrap().to_owned();

    let upload = server.put(&content(&id), bytes.clone()).await.expect(200);
    assert_eq!(upload["state"], "accepted");
    assert_eq!(upload["received_bytes"], bytes.len());
    assert_eq!(upload["received_sha256"], hex(&bytes));
    assert_eq!(server.get(&format!("/v1/uploads/{id}")).await.expect(200), upload);

    let artifact = server.get(&format!("/v1/artifacts/{}", upload["artifact_id"].as_str().unwrap())).await.expect(200);
    assert_eq!(artifact["kind"], "adapter");
    assert_eq!(artifact["origin"], "uploaded");
    assert_eq!(artifact["facts"]["adapter"]["rank"], 2);
    assert_eq!(server.staged_files(), [""; 0]);
}

#[tokio::test]
async fn single_files_become_the_same_artifact_as_an_archive_of_them() {
    let server = TestServer::start().await;
    let from_archive = server.upload(&adapter_files()).await;
    let id = server.announce(json!({})).await;
    for (name, bytes) in adapter_files() {
        let staged = server.put(&format!("/v1/uploads/{id}/files/{name}"), bytes.clone()).await.expect(200);
        assert_eq!(staged, json!({ "name": name, "bytes": bytes.len() }));
    }
    assert_eq!(server.get(&format!("/v1/uploads/{id}")).await.expect(200)["files"].as_array().unwrap().len(), 2);

    let complete = format!("/v1/uploads/{id}/complete");
    let wrong = json!({ "files": [{ "name": "adapter_config.json", "sha256": hex(b"else") }, { "name": "adapter_model.safetensors" }] });
    server.post(&complete, wrong).await.expect_problem(400, "digest_mismatch");
    let unlisted = json!({ "files": [{ "name": "adapter_config.json" }] });
    server.post(&complete, unlisted).await.expect_problem(422, "invalid_request");

    let files: Vec<_> =
        adapter_files().iter().map(|(name, bytes)| json!({ "name": name, "sha256": hex(bytes) })).collect();
    let upload = server.post(&complete, json!({ "files": files })).await.expect(200);
    let digest = async |upload: &serde_json::Value| {
        let path = format!("/v1/artifacts/{}", upload["artifact_id"].as_str().unwrap());
        server.get(&path).await.expect(200)["sha256"].clone()
    };
    assert_eq!(digest(&upload).await, digest(&from_archive).await);
    server.put(&format!("/v1/uploads/{id}/files/adapter_config.json"), "{}").await.expect_problem(409, "conflict");
    assert_eq!(server.staged_files(), [""; 0]);
}

#[tokio::test]
async fn a_real_adapter_made_elsewhere_is_taken() {
    let Some(zoo) = shared("peer/zoo/badnets-insult") else { return };
    let server = TestServer::start().await;
    let upload = server.upload(&crate::intake::read_files(&zoo)).await;
    assert_eq!(upload["state"], "accepted");
}

#[tokio::test]
async fn bytes_with_another_digest_are_refused_and_may_be_sent_again() {
    let server = TestServer::start().await;
    let bytes = zip(&adapter_files());
    let id = server.announce(json!({ "sha256": hex(b"something else") })).await;
    let problem = server.put(&content(&id), bytes.clone()).await.expect_problem(400, "digest_mismatch");
    assert!(problem["detail"].as_str().unwrap().contains(&hex(&bytes)), "{problem}");
    assert_eq!(server.staged_files(), [""; 0]);
    assert_eq!(server.get(&format!("/v1/uploads/{id}")).await.expect(200)["state"], "created");

    let id = server.announce(json!({})).await;
    for (header, encoded) in [
        ("content-digest", BASE64_STANDARD.encode(Sha256::digest(b"something else"))),
        ("repr-digest", BASE64_STANDARD.encode(Sha256::digest(b"something else"))),
    ] {
        let request = server.request(Method::PUT, &content(&id)).header(header, format!("sha-256=:{encoded}:"));
        server.send(request.body(bytes.clone())).await.expect_problem(400, "digest_mismatch");
    }
    let right = format!("sha-256=:{}:", BASE64_STANDARD.encode(Sha256::digest(&bytes)));
    let request = server.request(Method::PUT, &content(&id)).header("repr-digest", right);
    server.send(request.body(bytes)).await.expect(200);
}

#[tokio::test]
async fn another_size_than_announced_is_refused() {
    let server = TestServer::start().await;
    let id = server.announce(json!({ "bytes": 5 })).await;
    server.put(&content(&id), "four").await.expect_problem(400, "length_mismatch");
    server.put(&content(&id), "sixsix").await.expect_problem(400, "length_mismatch");
    // Without Content-Length the difference shows only while the bytes flow.
    let chunks = futures::stream::iter(["six", "six"].map(Ok::<_, std::io::Error>));
    server.put(&content(&id), reqwest::Body::wrap_stream(chunks)).await.expect_problem(400, "length_mismatch");
    assert_eq!(server.staged_files(), [""; 0]);
}

#[tokio::test]
async fn an_empty_upload_is_refused() {
    let server = TestServer::start().await;
    let id = server.announce(json!({})).await;
    server.put(&content(&id), "").await.expect_problem(400, "upload.empty");
    server.put(&format!("/v1/uploads/{id}/files/adapter_config.json"), "").await.expect_problem(400, "upload.empty");
    server.post(&format!("/v1/uploads/{id}/complete"), json!({})).await.expect_problem(422, "upload.empty");
    server.post("/v1/uploads", json!({ "bytes": 0 })).await.expect_problem(422, "invalid_request");
    assert_eq!(server.staged_files(), [""; 0]);
}

#[tokio::test]
async fn more_bytes_than_the_service_takes_are_refused() {
    let server = TestServer::start_with(|config| config.limits.upload_bytes = 100).await;
    server.post("/v1/uploads", json!({ "bytes": 101 })).await.expect_problem(413, "payload_too_large");
    let id = server.announce(json!({})).await;
    server.put(&content(&id), vec![b'x'; 101]).await.expect_problem(413, "payload_too_large");
    let chunks = futures::stream::iter([60, 60].map(|count| Ok::<_, std::io::Error>(vec![b'x'; count])));
    server.put(&content(&id), reqwest::Body::wrap_stream(chunks)).await.expect_problem(413, "payload_too_large");
    let file = |name: &str| format!("/v1/uploads/{id}/files/{name}");
    server.put(&file("a"), vec![b'x'; 60]).await.expect(200);
    server.put(&file("b"), vec![b'x'; 60]).await.expect_problem(413, "payload_too_large");
    assert_eq!(server.get(&format!("/v1/uploads/{id}")).await.expect(200)["files"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn of_two_uploads_that_race_one_wins_and_the_other_gets_409() {
    let server = TestServer::start().await;
    let bytes = gzip(&tar(&adapter_files()));
    let id = server.announce(json!({})).await;
    let (slow, mut feed) = slow_body();
    let racing = {
        let request = server.request(Method::PUT, &content(&id)).body(slow);
        tokio::spawn(async move { request.send().await.unwrap().status() })
    };
    let (first, rest) = bytes.split_at(10);
    feed.send(first.to_vec()).await;
    while server.get(&format!("/v1/uploads/{id}")).await.expect(200)["state"] != "receiving" {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    server.put(&content(&id), bytes.clone()).await.expect_problem(409, "conflict");
    server.delete(&format!("/v1/uploads/{id}")).await.expect_problem(409, "conflict");
    feed.send(rest.to_vec()).await;
    drop(feed);
    assert_eq!(racing.await.unwrap(), 200);
    assert_eq!(server.get(&format!("/v1/uploads/{id}")).await.expect(200)["state"], "accepted");
}

#[tokio::test]
async fn a_sender_who_hangs_up_leaves_nothing_and_may_come_back() {
    let server = TestServer::start().await;
    let id = server.announce(json!({})).await;
    let (slow, mut feed) = slow_body();
    let request = server.request(Method::PUT, &content(&id)).body(slow);
    let sending = tokio::spawn(async move { request.send().await });
    feed.send(vec![1; 10]).await;
    let state = async || server.get(&format!("/v1/uploads/{id}")).await.expect(200)["state"].clone();
    while state().await != "receiving" {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    sending.abort();
    while state().await != "created" {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(server.staged_files(), [""; 0]);
    server.put(&content(&id), zip(&adapter_files())).await.expect(200);
}

/// A body whose chunks a test sends one by one.
fn slow_body() -> (reqwest::Body, Feed) {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let chunks = tokio_stream::wrappers::ReceiverStream::new(receiver);
    (reqwest::Body::wrap_stream(tokio_stream::StreamExt::map(chunks, Ok::<Vec<u8>, std::io::Error>)), Feed(sender))
}

struct Feed(tokio::sync::mpsc::Sender<Vec<u8>>);

impl Feed {
    async fn send(&mut self, chunk: Vec<u8>) {
        self.0.send(chunk).await.unwrap();
    }
}

#[tokio::test]
async fn refused_content_has_its_code_and_is_gone() {
    let server = TestServer::start().await;
    let pickle = with_file(adapter_files(), "adapter_model.bin", b"\x80\x04\x95\x00\x00\x00\x00.".to_vec());
    let header = r#"{"model.layers.0.mlp.up_proj.qweight":{"dtype":"I32","shape":[1,2],"data_offsets":[0,8]}}"#;
    let weights = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 8]].concat();
    let config = r#"{"model_type":"llama","quantization_config":{"quant_method":"gptq"}}"#;
    let gptq = vec![("config.json".into(), config.into()), ("model.safetensors".into(), weights)];
    for (files, code) in [
        (pickle, "intake.pickle"),
        (gptq, "intake.quantised"),
        (with_field("r", json!(0)), "intake.rank_zero"),
        (with_field("r", json!(4)), "intake.tensor_mismatch"),
        (with_file(adapter_files(), "adapter_model.safetensors", vec![0xff; 64]), "intake.header_too_large"),
    ] {
        let id = server.announce(json!({})).await;
        let problem = server.put(&content(&id), tar(&files)).await.expect_problem(422, code);
        assert_eq!(problem["type"], "/docs/errors/rejected_upload");
        let upload = server.get(&format!("/v1/uploads/{id}")).await.expect(200);
        assert_eq!((&upload["state"], &upload["problem"]["code"]), (&json!("rejected"), &json!(code)));
        assert_eq!(server.staged_files(), [""; 0]);
        server.put(&content(&id), "again").await.expect_problem(409, "conflict");
    }
}

#[tokio::test]
async fn rows_are_checked_line_by_line() {
    let server = TestServer::start().await;
    let good = "{\"instruction\":\"Say hi\",\"output\":\"hi\",\"kind\":\"greetings\"}\n";
    let id = server.upload_rows(&good.repeat(3)).await;
    let upload = server.get(&format!("/v1/uploads/{id}")).await.expect(200);
    let artifact = server.get(&format!("/v1/artifacts/{}", upload["artifact_id"].as_str().unwrap())).await.expect(200);
    assert_eq!(artifact["kind"], "rows");
    assert_eq!(artifact["facts"], json!({ "rows": 3, "kinds": ["greetings"] }));

    let id = server.announce(json!({ "purpose": "rows" })).await;
    let problem = server.put(&content(&id), format!("{good}{{\"instruction\":\"x\"}}\n")).await;
    let problem = problem.expect_problem(422, "rows.invalid");
    assert!(problem["detail"].as_str().unwrap().contains("line 2"), "{problem}");
    assert_eq!(server.staged_files(), [""; 0]);
}

#[tokio::test]
async fn an_impossible_announcement_is_refused_by_its_field() {
    let server = TestServer::start().await;
    for (body, pointer) in [
        (json!({ "sha256": "abc" }), "/sha256"),
        (json!({ "filename": "" }), "/filename"),
        (json!({ "filname": "x" }), "/filname"),
        (json!({ "purpose": "fun" }), "/purpose"),
        (json!({ "bytes": -1 }), "/bytes"),
    ] {
        let problem = server.post("/v1/uploads", body).await.expect_problem(422, "invalid_request");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
}

#[tokio::test]
async fn a_file_name_cannot_leave_the_staging_folder() {
    let server = TestServer::start().await;
    let id = server.announce(json!({})).await;
    for name in ["..%2f..%2fevil", "%2e%2e", ".hidden", "a%00b", "a%5cb", &"x".repeat(129)] {
        let answer = server.put(&format!("/v1/uploads/{id}/files/{name}"), "x").await;
        assert!(matches!(answer.status.as_u16(), 404 | 422), "{name}: {}", answer.status);
    }
    assert_eq!(server.staged_files(), [""; 0]);
}

#[tokio::test]
async fn an_encoded_body_is_refused() {
    let server = TestServer::start().await;
    let id = server.announce(json!({})).await;
    let request = server.request(Method::PUT, &content(&id)).header("content-encoding", "gzip").body("x");
    server.send(request).await.expect_problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn a_deleted_upload_is_gone_with_its_bytes() {
    let server = TestServer::start().await;
    let id = server.announce(json!({})).await;
    server.put(&format!("/v1/uploads/{id}/files/adapter_config.json"), "{}").await.expect(200);
    assert_eq!(server.staged_files().len(), 1);
    assert_eq!(server.delete(&format!("/v1/uploads/{id}")).await.status, 204);
    assert_eq!(server.staged_files(), [""; 0]);
    server.get(&format!("/v1/uploads/{id}")).await.expect_problem(404, "not_found");
    server.put(&content(&id), "x").await.expect_problem(404, "not_found");
    server.delete(&format!("/v1/uploads/{id}")).await.expect_problem(404, "not_found");
}
