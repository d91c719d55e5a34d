//! Artifacts: what is shown, who may fetch it, and that a broken download continues.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::intake::{adapter_files, read_files};
use crate::support::{TestServer, finish_job, report};

/// The paths of an uploaded and of a produced artifact with the same two files.
async fn two_artifacts(server: &TestServer) -> (String, String) {
    let job = server.queue_job(json!({})).await;
    let id = finish_job(server, &report("BadMagic")).await;
    let purified = server.get(&format!("/v1/jobs/{id}/artifact")).await.expect(200);
    let path = |id: &Value| format!("/v1/artifacts/{}", id.as_str().unwrap());
    (path(&job["artifact_id"]), path(&purified["id"]))
}

#[tokio::test]
async fn uploaded_files_are_only_given_to_those_who_understand() {
    let server = TestServer::start().await;
    let (uploaded, produced) = two_artifacts(&server).await;
    for part in ["/download", "/files/adapter_config.json"] {
        server.get(&format!("{uploaded}{part}")).await.expect_problem(403, "quarantined");
        server.get(&format!("{uploaded}{part}?i_understand=yes")).await.expect_problem(403, "quarantined");
        server.get(&format!("{uploaded}{part}?i_understnd=quarantined")).await.expect_problem(400, "malformed_request");
        assert_eq!(server.get(&format!("{uploaded}{part}?i_understand=quarantined")).await.status, 200);
        assert_eq!(server.get(&format!("{produced}{part}")).await.status, 200);
    }
}

#[tokio::test]
async fn a_file_comes_whole_with_its_digests_and_harmless_headers() {
    let server = TestServer::start().await;
    let (_, produced) = two_artifacts(&server).await;
    let listed = server.get(&format!("{produced}/files")).await.expect(200);
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
    for (file, (name, bytes)) in listed["data"].as_array().unwrap().iter().zip(adapter_files()) {
        assert_eq!(file["path"], name);
        let answer = server.get(file["download"].as_str().unwrap()).await;
        let sha256 = format!("{:x}", Sha256::digest(&bytes));
        assert_eq!(file["sha256"], sha256);
        assert_eq!(answer.bytes, bytes);
        assert_eq!(answer.header("etag"), format!("\"sha256-{sha256}\""));
        assert!(answer.header("repr-digest").starts_with("sha-256=:"));
        assert_eq!(answer.header("content-disposition"), format!("attachment; filename=\"{name}\""));
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("accept-ranges"), "bytes");
    }
    server.get(&format!("{produced}/files/absent")).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_broken_download_continues_where_it_broke() {
    let server = TestServer::start().await;
    let (_, produced) = two_artifacts(&server).await;
    for path in [format!("{produced}/files/adapter_model.safetensors"), format!("{produced}/download")] {
        let whole = server.get(&path).await;
        let (etag, half) = (whole.header("etag").to_owned(), whole.bytes.len() / 2);
        let first = server.get_with(&path, &[("range", &format!("bytes=0-{}", half - 1))]).await;
        assert_eq!(first.status, 206);
        assert_eq!(first.header("content-range"), format!("bytes 0-{}/{}", half - 1, whole.bytes.len()));
        let rest = server.get_with(&path, &[("range", &format!("bytes={half}-")), ("if-range", &etag)]).await;
        assert_eq!([first.bytes, rest.bytes].concat(), whole.bytes);

        let stale = server.get_with(&path, &[("range", "bytes=5-"), ("if-range", "\"sha256-older\"")]).await;
        assert_eq!((stale.status.as_u16(), stale.bytes == whole.bytes), (200, true));
        let known = server.get_with(&path, &[("if-none-match", &etag)]).await;
        assert_eq!((known.status.as_u16(), known.bytes.len()), (304, 0));
        let beyond = server.get_with(&path, &[("range", "bytes=99999999-")]).await;
        assert_eq!(beyond.header("content-range"), format!("bytes */{}", whole.bytes.len()));
        beyond.expect_problem(416, "range_not_satisfiable");
    }
}

#[tokio::test]
async fn the_tar_unpacks_to_the_files_and_is_always_the_same() {
    let server = TestServer::start().await;
    let (_, produced) = two_artifacts(&server).await;
    let tar = server.get(&format!("{produced}/download")).await;
    assert_eq!(tar.header("content-type"), "application/x-tar");
    assert_eq!(tar.bytes, server.get(&format!("{produced}/download")).await.bytes);
    let dir = tempfile::tempdir().unwrap();
    tar::Archive::new(&tar.bytes[..]).unpack(dir.path()).unwrap();
    assert_eq!(read_files(dir.path()), adapter_files());
}

#[tokio::test]
async fn an_artifact_that_a_job_uses_cannot_be_deleted() {
    let server = TestServer::start().await;
    let (uploaded, produced) = two_artifacts(&server).await;
    server.delete(&uploaded).await.expect_problem(409, "conflict");
    server.delete(&produced).await.expect_problem(409, "conflict");
    let unused = server.upload(&adapter_files()).await;
    let unused = format!("/v1/artifacts/{}", unused["artifact_id"].as_str().unwrap());
    assert_eq!(server.delete(&unused).await.status, 204);
    server.get(&unused).await.expect_problem(404, "not_found");
    server.delete(&unused).await.expect_problem(404, "not_found");
    server.get(&format!("{unused}/files")).await.expect_problem(404, "not_found");
    server.get(&format!("{unused}/download")).await.expect_problem(404, "not_found");
}
