//! Pages for people, rendered on the server from the same views as the API. No script, no outside host.
//!
//! Templates are in `templates/` and compiled into the program; `filters.rs` says how numbers read, `text.rs` keeps hostile text
//! harmless. What a page shows is decided by its template; what it may show, by its handler.

mod filters;
mod text;

use std::sync::LazyLock;

use antigen_engine::report::Report;
use minijinja::{Environment, UndefinedBehavior, value::Serde};
use serde::Serialize;
use serde_json::json;

use crate::{
    db::JobId,
    error::{Kind, Problem, ProblemBody},
    views::{EventView, FileView, JobView, JobsPage},
};

/// How often the page of an unfinished job reads itself again.
const REFRESH_SECONDS: u64 = 3;

const TEMPLATES: [(&str, &str); 8] = [
    ("layout.html", include_str!("templates/layout.html")),
    ("plots.html", include_str!("templates/plots.html")),
    ("jobs.html", include_str!("templates/jobs.html")),
    ("job.html", include_str!("templates/job.html")),
    ("report.html", include_str!("templates/report.html")),
    ("report_page.html", include_str!("templates/report_page.html")),
    ("problem.html", include_str!("templates/problem.html")),
    ("problem_kind.html", include_str!("templates/problem_kind.html")),
];

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    // A misspelt name is an error in the tests instead of a blank on the page.
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_formatter(text::visible_formatter);
    environment.add_global("version", env!("CARGO_PKG_VERSION"));
    filters::add_filters(&mut environment);
    for (name, source) in TEMPLATES {
        environment.add_template(name, source).expect("the embedded templates are parsed by a test");
    }
    environment
});

impl From<minijinja::Error> for Problem {
    fn from(error: minijinja::Error) -> Self {
        Problem::internal(error)
    }
}

type Page = Result<String, minijinja::Error>;

/// A link to something that can be downloaded.
#[derive(Debug, Serialize)]
pub struct FileLink {
    label: String,
    href: String,
    bytes: Option<i64>,
    sha256: String,
}

impl FileLink {
    /// Something whose size is not known beforehand.
    pub fn new(label: &str, href: &str) -> Self {
        FileLink { label: label.to_owned(), href: href.to_owned(), bytes: None, sha256: String::new() }
    }

    /// A file of an artifact.
    pub fn of(file: &FileView) -> Self {
        FileLink {
            label: file.path.clone(),
            href: file.download.clone(),
            bytes: Some(file.bytes),
            sha256: file.sha256.clone(),
        }
    }
}

/// What the page of a job shows.
pub struct JobPage {
    pub job: JobView,
    pub report: Option<Report>,
    pub files: Vec<FileLink>,
    pub events: Vec<EventView>,
    /// `http://host:port`, for the curl lines.
    pub origin: String,
}

/// `/`
pub fn jobs_page(page: &JobsPage, origin: &str) -> Page {
    render("jobs.html", json!({ "jobs": page.data, "next_cursor": page.next_cursor, "origin": origin }))
}

/// `/jobs/{id}`
pub fn job_page(page: &JobPage) -> Page {
    let recipe = page.report.as_ref().map(|report| pretty(&report.recipe));
    let refresh = (!page.job.state.is_final()).then_some(REFRESH_SECONDS);
    let context = json!({
        "job": page.job, "report": page.report, "files": page.files, "events": page.events, "origin": page.origin,
        "spec_json": pretty(&page.job.spec), "recipe_json": recipe, "refresh_seconds": refresh,
    });
    render("job.html", context)
}

/// `/v1/jobs/{id}/report` for a browser.
pub fn report_page(job_id: JobId, report: &Report) -> Page {
    render("report_page.html", json!({ "job_id": job_id, "report": report, "recipe_json": pretty(&report.recipe) }))
}

/// A refusal, for a browser.
pub fn problem_page(problem: &ProblemBody) -> Page {
    render("problem.html", json!({ "problem": problem }))
}

/// `/docs/errors/{code}`
pub fn problem_kind_page(kind: Kind) -> Page {
    let status = kind.status().to_string();
    let context = json!({ "title": kind.title(), "meaning": kind.meaning(), "status": status, "code": kind.code() });
    render("problem_kind.html", context)
}

fn render(template: &str, context: serde_json::Value) -> Page {
    ENVIRONMENT.get_template(template)?.render(Serde(context))
}

fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
