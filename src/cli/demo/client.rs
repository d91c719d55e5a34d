//! The few requests of a caller with curl: upload, create a job, follow its events, download.

use std::path::Path;

use anyhow::{Context, bail};
use futures::StreamExt;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

/// A caller of one server.
pub struct Api {
    http: reqwest::Client,
    origin: String,
}

impl Api {
    /// Calls the server at `origin`, such as `http://127.0.0.1:8080`.
    pub fn new(origin: String) -> anyhow::Result<Self> {
        Ok(Self { http: reqwest::Client::builder().no_proxy().build()?, origin })
    }

    /// Uploads the named files of a folder as one artifact; returns the upload's id.
    pub async fn upload_folder(&self, dir: &Path, names: &[&str]) -> anyhow::Result<String> {
        let upload = self.json(self.request(Method::POST, "/v1/uploads").json(&json!({}))).await?;
        let id = text(&upload, "id")?;
        for name in names {
            let bytes = read(&dir.join(name))?;
            self.send(self.request(Method::PUT, &format!("/v1/uploads/{id}/files/{name}")).body(bytes)).await?;
        }
        self.send(self.request(Method::POST, &format!("/v1/uploads/{id}/complete"))).await?;
        Ok(id)
    }

    /// Uploads a file of the caller's task rows; returns the upload's id.
    pub async fn upload_rows(&self, file: &Path) -> anyhow::Result<String> {
        let upload = self.json(self.request(Method::POST, "/v1/uploads").json(&json!({ "purpose": "rows" }))).await?;
        let id = text(&upload, "id")?;
        self.send(self.request(Method::PUT, &format!("/v1/uploads/{id}/content")).body(read(file)?)).await?;
        Ok(id)
    }

    /// Creates a job; returns its id.
    pub async fn create_job(&self, body: &Value) -> anyhow::Result<String> {
        text(&self.json(self.request(Method::POST, "/v1/jobs").json(body)).await?, "id")
    }

    /// Hands every event of a job to `see`, until the job has ended.
    pub async fn follow(&self, job: &str, mut see: impl FnMut(&Value)) -> anyhow::Result<()> {
        let request = self.request(Method::GET, &format!("/v1/jobs/{job}/events"));
        let mut stream = self.send(request.header("accept", "text/event-stream")).await?.bytes_stream();
        let mut pending = Vec::new();
        while let Some(bytes) = stream.next().await {
            pending.extend_from_slice(&bytes?);
            while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                if let Some(event) = line.strip_prefix(b"data:").and_then(|data| serde_json::from_slice(data).ok()) {
                    see(&event);
                }
            }
        }
        Ok(())
    }

    /// A resource as JSON.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.json(self.request(Method::GET, path).header("accept", "application/json")).await
    }

    /// Saves what a path serves.
    pub async fn download(&self, path: &str, to: &Path) -> anyhow::Result<()> {
        let bytes = self.send(self.request(Method::GET, path)).await?.bytes().await?;
        std::fs::write(to, bytes).with_context(|| format!("writing {}", to.display()))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.origin))
    }

    async fn json(&self, request: RequestBuilder) -> anyhow::Result<Value> {
        Ok(self.send(request).await?.json().await?)
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = request.send().await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (url, status) = (response.url().path().to_owned(), response.status());
        bail!("{url} answered {status}: {}", response.text().await.unwrap_or_default())
    }
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("reading {}", file.display()))
}

/// A text field of a body.
pub fn text(body: &Value, field: &str) -> anyhow::Result<String> {
    body[field].as_str().map(str::to_owned).with_context(|| format!("expected a text `{field}`, found {}", body[field]))
}
