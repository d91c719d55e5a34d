//! Behaviour that only the whole program shows: a full disk, and submissions that do not fit their base.

use reqwest::Client;
use serde_json::{Value, json};

use crate::intake::{Files, adapter_files, base_folder, tar, with_field};
use crate::support::Program;

async fn get(path: &str) -> Value {
    Client::new().get(path).send().await.unwrap().json().await.unwrap()
}

async fn announce(origin: &str) -> String {
    let request = Client::new().post(format!("{origin}/v1/uploads"));
    let upload: Value = request.json(&json!({})).send().await.unwrap().json().await.unwrap();
    format!("{origin}/v1/uploads/{}", upload["id"].as_str().unwrap())
}

/// The system enforces a limit on the size of files as it would a quota. 32,768 blocks are 16 or 32 MiB,
/// depending on whether this shell counts in blocks of 512 or 1024 bytes; the body is larger than either.
#[tokio::test]
async fn an_upload_onto_a_full_disk_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::serve(dir.path(), "", "trap '' XFSZ; ulimit -f 32768");
    let upload = announce(&program.origin).await;
    let refused = Client::new().put(format!("{upload}/content")).body(vec![0; 40 << 20]).send().await.unwrap();
    assert_eq!(refused.status(), 507);
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "store_full");
    let staged = antigen::artifacts::list_files(&dir.path().join("store/staging")).unwrap_or_default();
    assert_eq!(staged, [""; 0]);
    assert_eq!(get(&upload).await["state"], "created", "it may be sent again when there is room");
    assert_eq!(get(&format!("{}/livez", program.origin)).await["status"], "ok");
}

#[tokio::test]
async fn a_submission_that_does_not_fit_its_base_fails_by_name_within_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let (narrow, wide) = (base_folder(8), base_folder(16));
    let settings = format!("[bases]\nnarrow = {:?}\nwide = {:?}\n", narrow.path(), wide.path());
    let program = Program::serve(dir.path(), &settings, ":");
    for (files, base, code) in [
        (adapter_files(), "wide", "intake.wrong_base"),
        (with_field("target_modules", json!(["q_proj", "c_attn"])), "narrow", "intake.unknown_target"),
        (with_field("target_modules", json!(["q_proj", "v_proj"])), "narrow", "intake.tensor_mismatch"),
    ] {
        let job = ended_job(&program.origin, &files, base).await;
        assert_eq!((&job["state"], &job["error"]["class"]), (&json!("failed"), &json!("input")), "{job}");
        assert_eq!(job["error"]["code"], code, "{job}");
        assert!(job["error"]["message"].as_str().unwrap().contains("expected"), "{job}");
    }
}

async fn ended_job(origin: &str, files: &Files, base: &str) -> Value {
    let upload = announce(origin).await;
    let accepted: Value =
        Client::new().put(format!("{upload}/content")).body(tar(files)).send().await.unwrap().json().await.unwrap();
    assert_eq!(accepted["state"], "accepted", "{accepted}");
    let request = json!({ "artifact_id": accepted["artifact_id"], "base": base });
    let create = Client::new().post(format!("{origin}/v1/jobs")).header("prefer", "wait=60").json(&request);
    create.send().await.unwrap().json().await.unwrap()
}
