//! Pages for people, rendered on the server from the same views as the API. No script, no outside host.
//!
//! Templates are in `templates/` and compiled into the program; `filters.rs` says how numbers read, `text.rs`
//! keeps hostile text harmless, `figures/` says where the marks of the drawings go, `reproduce.rs` how to
//! repeat a report. What a page shows is decided by its template; what it may show, by its handler.

mod figures;
mod filters;
mod reproduce;
mod text;

use std::sync::LazyLock;

use antigen_engine::report::{Control, Report};
use minijinja::{Environment, UndefinedBehavior, value::Serde};
use serde::Serialize;
use serde_json::{Value as Json, json};

use self::figures::Figures;
pub use self::reproduce::Reproduce;
use crate::error::{Kind, Problem, ProblemBody};
use crate::views::{EventView, FileView, JobView, JobsPage};

/// Interval at which the page of an unfinished job reads itself again.
const REFRESH_SECONDS: u64 = 3;

const TEMPLATES: [(&str, &str); 10] = [
    ("layout.html", include_str!("templates/layout.html")),
    ("figures.html", include_str!("templates/figures.html")),
    ("tables.html", include_str!("templates/tables.html")),
    ("samples.html", include_str!("templates/samples.html")),
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

/// The content of a job's page.
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
    let refresh = (!page.job.state.is_final()).then_some(REFRESH_SECONDS);
    let context = json!({
        "job": page.job, "files": page.files, "events": page.events, "origin": page.origin,
        "spec_json": pretty(&page.job.spec), "refresh_seconds": refresh,
    });
    let source = Reproduce::of(&page.job, &page.origin);
    render("job.html", with_report(context, page.report.as_ref(), &source))
}

/// `/v1/jobs/{id}/report` for a browser.
pub fn report_page(job: &JobView, report: &Report, origin: &str) -> Page {
    let source = Reproduce::of(job, origin);
    render("report_page.html", with_report(json!({ "job_id": job.id }), Some(report), &source))
}

/// The context of `report.html` beside the report itself.
fn with_report(mut context: Json, report: Option<&Report>, source: &Reproduce) -> Json {
    context["report"] = json!(report);
    if let Some(report) = report {
        context["figures"] = json!(Figures::of(report));
        context["outcomes"] = report.controls.iter().map(Control::outcome_words).collect();
        context["recipe_json"] = pretty(&report.recipe).into();
        context["reproduce"] = source.commands(report).into();
    }
    context
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
