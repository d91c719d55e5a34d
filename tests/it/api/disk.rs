//! A disk that is full: the real program under a limit on the size of its files, which the system enforces as it would a quota.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use reqwest::Client;
use serde_json::{Value, json};

/// 16 or 32 MiB, depending on whether this shell counts in blocks of 512 or 1024 bytes.
const LIMIT_BLOCKS: u32 = 32_768;
/// More than either.
const BODY_BYTES: usize = 40 << 20;

struct Limited(Child);

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `antigen serve` and gives its address. Writing beyond the limit fails instead of ending the process.
fn serve_limited(data_dir: &Path) -> (Limited, String) {
    let script =
        format!("trap '' XFSZ; ulimit -f {LIMIT_BLOCKS}; exec \"$0\" serve --bind 127.0.0.1:0 --data-dir \"$1\"");
    let mut child = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_antigen")])
        .arg(data_dir)
        .env("ANTIGEN_LOG", "error")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let origin = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}")).to_owned();
    (Limited(child), origin)
}

#[tokio::test]
async fn an_upload_onto_a_full_disk_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, origin) = serve_limited(dir.path());
    let client = Client::new();
    let upload: Value =
        client.post(format!("{origin}/v1/uploads")).json(&json!({})).send().await.unwrap().json().await.unwrap();
    let path = format!("{origin}/v1/uploads/{}", upload["id"].as_str().unwrap());

    let refused = client.put(format!("{path}/content")).body(vec![0; BODY_BYTES]).send().await.unwrap();
    assert_eq!(refused.status(), 507);
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(problem["code"], "store_full", "{problem}");

    let staged = antigen::artifacts::list_files(&dir.path().join("store/staging")).unwrap_or_default();
    assert_eq!(staged, [""; 0]);
    let upload: Value = client.get(&path).send().await.unwrap().json().await.unwrap();
    assert_eq!(upload["state"], "created", "it may be sent again when there is room");
    assert_eq!(client.get(format!("{origin}/livez")).send().await.unwrap().status(), 200);
}
