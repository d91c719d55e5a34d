//! The commands that repeat a report.

use antigen_engine::report::Report;

use crate::views::JobView;

/// Addresses of the parts of a report's job.
#[derive(Debug)]
pub struct Reproduce {
    report: String,
    artifact: Option<String>,
    base: String,
}

impl Reproduce {
    /// From the service at `origin`.
    pub fn of(job: &JobView, origin: &str) -> Self {
        // A base that is built in is called the same everywhere; any other is a folder on the machine of
        // whoever repeats it.
        let base = if job.base.starts_with("builtin:") { job.base.clone() } else { "BASE_FOLDER".to_owned() };
        Reproduce {
            report: format!("{origin}/v1/jobs/{}/report?format=json", job.id),
            artifact: job.purified_artifact_id.map(|id| format!("{origin}/v1/artifacts/{id}/download")),
            base,
        }
    }

    /// One command a line, for a shell.
    pub(super) fn commands(&self, report: &Report) -> String {
        let mut lines = vec![format!("curl -so report.json '{}'", self.report)];
        let mut replay = "antigen replay report.json --suspect SUSPECT_FOLDER".to_owned();
        replay += &format!(" --base {}", self.base);
        if report.subject.rows.iter().any(|rows| rows.role == "task") {
            replay += " --task-rows TASK_ROWS.jsonl";
        }
        if let Some(artifact) = self.artifact.as_ref().filter(|_| !report.candidates.is_empty()) {
            lines.push(format!("curl -so purified.tar '{artifact}'"));
            replay += " --artifact purified.tar";
        }
        lines.push(replay);
        lines.join("\n")
    }
}
