//! The server and its client.

use antigen::{app::App, artifacts::open_store, config::Config, db::Db, router::build_router};
use reqwest::{Method, RequestBuilder, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::intake::{Files, adapter_files, gzip, tar};

/// A running server without a worker: jobs stay queued until a test finishes them.
pub struct TestServer {
    pub origin: String,
    pub app: App,
    client: reqwest::Client,
    task: tokio::task::JoinHandle<()>,
    dir: TempDir,
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The server's answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Requires this status and gives the JSON body.
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        if self.bytes.is_empty() { Value::Null } else { self.json() }
    }

    /// Requires a problem document with this status and code.
    pub fn expect_problem(self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text());
        let body = self.json();
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(body["status"], status, "{body}");
        assert_eq!(body["request_id"], self.header("x-request-id"), "{body}");
        for field in ["type", "title", "detail", "instance"] {
            assert!(body[field].as_str().is_some_and(|text| !text.is_empty()), "no {field} in {body}");
        }
        body
    }
}

impl TestServer {
    /// A server with the default settings.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A server with changed settings.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config { data_dir: dir.path().to_owned(), ..Config::default() };
        change(&mut config);
        let db = Db::open(&config.database_url(), &config.database).await.unwrap();
        db.migrate().await.unwrap();
        let store = open_store(&config).unwrap();
        let app = App::new(config, db, store);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let router = build_router(app.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        TestServer { origin, app, client, task, dir }
    }

    /// A request to be filled in and given to [`send`](Self::send).
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.origin))
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { status, headers, bytes: response.bytes().await.unwrap().to_vec() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let request = self.request(Method::GET, path);
        self.send(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::POST, path).json(&body)).await
    }

    pub async fn put(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        self.send(self.request(Method::PUT, path).body(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Announces an upload and gives its id.
    pub async fn announce(&self, body: Value) -> String {
        let upload = self.post("/v1/uploads", body).await.expect(201);
        upload["id"].as_str().unwrap().to_owned()
    }

    /// Uploads files as one tar.gz and gives the upload.
    pub async fn upload(&self, files: &Files) -> Value {
        let id = self.announce(json!({})).await;
        self.put(&format!("/v1/uploads/{id}/content"), gzip(&tar(files))).await.expect(200)
    }

    /// Uploads rows and gives the id of the upload.
    pub async fn upload_rows(&self, lines: &str) -> String {
        let id = self.announce(json!({ "purpose": "rows" })).await;
        self.put(&format!("/v1/uploads/{id}/content"), lines.to_owned()).await.expect(200);
        id
    }

    /// Uploads a sound adapter and queues a job on it with this spec.
    pub async fn queue_job(&self, spec: Value) -> Value {
        let upload = self.upload(&adapter_files()).await;
        let request = json!({ "upload_id": upload["id"], "base": "builtin:tiny-world", "spec": spec });
        self.post("/v1/jobs", request).await.expect(202)
    }

    /// Every file below the staging folder.
    pub fn staged_files(&self) -> Vec<String> {
        let staging = self.dir.path().join("store/staging");
        if staging.exists() { antigen::artifacts::list_files(&staging).unwrap() } else { Vec::new() }
    }
}
