//! A whole model through the API, from upload to download, with the real worker and the real engine.

use std::io::Read;

use flate2::read::GzDecoder;
use reqwest::Client;
use serde_json::{Value, json};

use crate::intake::{Files, read_files, tar};
use crate::support::Program;

/// The built-in base as somebody else's upload: the files of a model, without rows.
fn world_files() -> Files {
    let dir = tempfile::tempdir().unwrap();
    let world = antigen::worker::materialise_builtin(dir.path()).unwrap();
    let mut files = read_files(&world);
    files.retain(|(name, _)| !name.ends_with(".jsonl"));
    files
}

/// Every stage on as few rows as it takes to pass through it.
fn small_spec() -> Value {
    let train = json!({ "epochs": 1, "learning_rate": 1e-3 });
    json!({
        "seed": 5,
        "purify": "always",
        "screen": { "seeds": 1 },
        "method": {
            "type": "immunize", "pairs": { "count": 2, "rows": 8 }, "train": train,
            "heal": { "rows": 8, "train": train },
            "heads": { "count": 1, "scope": "model", "parts": ["q", "o"] },
        },
        "evaluators": [
            { "type": "asr", "attack": { "type": "badnets" }, "behaviour": { "type": "insult" }, "rows": 8,
              "formats": ["alpaca"], "max_new_tokens": 8 },
            { "type": "utility", "rows": 8, "max_new_tokens": 8 },
        ],
        "controls": ["plain_fine_tuning", "adapter_dropped"],
    })
}

async fn get(url: String) -> Vec<u8> {
    let answer = Client::new().get(&url).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{url}");
    answer.bytes().await.unwrap().to_vec()
}

async fn get_json(url: String) -> Value {
    serde_json::from_slice(&get(url).await).unwrap()
}

/// Uploads the files as a tar archive; gives the id of the artifact.
async fn uploaded(api: &str, files: &Files) -> Value {
    let http = Client::new();
    let upload: Value =
        http.post(format!("{api}/uploads")).json(&json!({})).send().await.unwrap().json().await.unwrap();
    let content = format!("{api}/uploads/{}/content", upload["id"].as_str().unwrap());
    let accepted: Value = http.put(content).body(tar(files)).send().await.unwrap().json().await.unwrap();
    assert_eq!(accepted["state"], "accepted", "{accepted}");
    accepted["artifact_id"].clone()
}

/// The ended job of an artifact, given the signature of another job or null.
async fn purified(api: &str, artifact: &Value, signature: &Value) -> Value {
    let http = Client::new();
    let request = json!({
        "artifact_id": artifact, "base": "builtin:tiny-world", "signature_artifact_id": signature, "spec": small_spec(),
    });
    let job: Value = http.post(format!("{api}/jobs")).json(&request).send().await.unwrap().json().await.unwrap();
    let job = format!("{api}/jobs/{}", job["id"].as_str().unwrap());
    for _ in 0..120 {
        let seen: Value = http.get(&job).header("prefer", "wait=30").send().await.unwrap().json().await.unwrap();
        if !matches!(seen["state"].as_str(), Some("queued" | "running")) {
            return seen;
        }
    }
    panic!("the job does not end");
}

#[tokio::test]
async fn a_whole_model_is_purified_and_comes_back_file_by_file_and_as_an_archive() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::serve(dir.path(), "", ":");
    let (origin, api) = (&program.origin, format!("{}/v1", program.origin));
    let submitted = world_files();
    let suspect = uploaded(&api, &submitted).await;
    let job = purified(&api, &suspect, &Value::Null).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let id = job["id"].as_str().unwrap();

    let artifact = format!("{api}/artifacts/{}", job["purified_artifact_id"].as_str().unwrap());
    assert_eq!(get_json(artifact.clone()).await["kind"], "checkpoint");
    let mut archive = tar_files(&get(format!("{artifact}/download")).await);
    archive.sort();
    assert_eq!(archive.len(), submitted.len());
    for (name, was) in &submitted {
        let file = get(format!("{artifact}/files/{name}")).await;
        assert_eq!(&file == was, name != "model.safetensors", "{name}");
        assert_eq!(file.len(), was.len());
        assert!(archive.contains(&(name.clone(), file)), "{name}");
    }

    let report = get_json(format!("{api}/jobs/{id}/report")).await;
    assert_eq!(report["subject"]["kind"], "checkpoint");
    assert_eq!(report["signature"]["heads"].as_array().unwrap().len(), 1);
    assert!(report["left_out"][0].as_str().unwrap().starts_with("adapter_dropped"));
    assert!(!get(format!("{api}/jobs/{id}/signature")).await.is_empty());
    let page = String::from_utf8(get(format!("{origin}/jobs/{id}")).await).unwrap();
    for shown in ["Whole model", "model.safetensors", "adapter_dropped", "head"] {
        assert!(page.contains(shown), "{shown} is not on the page");
    }

    // Its own signature, given back: the same artifact, and no pair is trained.
    let signature = &job["signature_artifact_id"];
    let again = purified(&api, &suspect, signature).await;
    assert_eq!((&again["state"], &again["given_signature_artifact_id"]), (&json!("succeeded"), signature), "{again}");
    assert_eq!(again["signature_artifact_id"], Value::Null);
    let of_again = get_json(format!("{api}/jobs/{}/report", again["id"].as_str().unwrap())).await;
    assert_eq!((&of_again["artifact"], &of_again["signature"]), (&report["artifact"], &report["signature"]));
    assert_eq!(of_again["subject"]["signature"]["sha256"], report["signature"]["sha256"]);
    let events = String::from_utf8(get(format!("{api}/jobs/{}/events", again["id"].as_str().unwrap())).await).unwrap();
    assert!(events.contains("heal") && !events.contains("pairs"), "{events}");
}

fn tar_files(bytes: &[u8]) -> Files {
    let is_gzip = bytes.starts_with(&[0x1f, 0x8b]);
    let reader: Box<dyn Read + '_> = if is_gzip { Box::new(GzDecoder::new(bytes)) } else { Box::new(bytes) };
    let mut archive = ::tar::Archive::new(reader);
    let files = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (name, bytes)
    });
    files.collect()
}
