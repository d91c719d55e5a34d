//! `docs/METHODS.md`: every method with its facts, settings and measured numbers, from the catalogue, the
//! schemas of a job's specification and the stored results. Nothing on that page is typed by hand.

use std::fmt::Write;

use antigen_engine::catalogue::{MethodEntry, Summary, methods_catalogue};
use antigen_engine::job::PurifySpec;
use antigen_engine::spec::SubjectKind;
use serde_json::Value;
use utoipa::OpenApi;

use super::stored_summaries;
use super::table::table_of;

/// The schemas of a job's specification, as the service's own document has them.
#[derive(OpenApi)]
#[openapi(components(schemas(PurifySpec)))]
struct Schemas;

const INTRODUCTION: &str = "# Methods

Written by `cargo run -p antigen-experiments -- methods`; a test holds it against the code. Each section is
one `type` of a job's `method`: what it is, where it comes from, what it needs, its settings, where it is
known to fail, and what it did to the suspects of `antigen-experiments compare` (docs/results/compare.csv,
compare.svg). Measured on tiny models that we poisoned ourselves: read the columns against each other, not as
promises about larger models. Intervals are 95 %, of bootstrap draws of suspects; *shown removed* counts runs
whose attack success is at most 5 % at the upper end of its interval; *seconds a job* is the median of whole
jobs, all candidates and controls of a table together, on one thread while another job or two ran beside. Each
method has its default settings, out of the same training rows and the same task rows.
";

/// The page.
pub fn methods_page() -> String {
    let openapi = serde_json::to_value(Schemas::openapi()).expect("schemas are made of strings, maps and lists");
    let (mut page, stored) = (INTRODUCTION.to_owned(), stored_summaries());
    for entry in methods_catalogue() {
        let measured: Vec<_> = stored.iter().filter(|summary| summary.method == entry.name).cloned().collect();
        page += &section(&entry, &measured, &openapi);
    }
    page += "\n## Settings that methods share\n";
    for (schema, what) in SHARED {
        let _ = write!(page, "\n{what} (`{schema}`):\n{}", settings(schema, &Value::Null, &openapi));
    }
    page
}

/// Sections of settings that several methods have.
const SHARED: [(&str, &str); 6] = [
    ("HealSpec", "Healing, `heal`"),
    ("TrainSpec", "Training, `train`, `implant` and those of healing"),
    ("PairsSpec", "Synthetic backdoors, `pairs`"),
    ("ScoreSpec", "Channel scores, `score`"),
    ("HeadsSpec", "Attention heads, `heads`"),
    ("AutoBudget", "Where `auto` stops, `budget`"),
];

fn section(entry: &MethodEntry, measured: &[Summary], openapi: &Value) -> String {
    let kind = |kind: &SubjectKind| if *kind == SubjectKind::Adapter { "adapters" } else { "whole models" };
    let takes = entry.takes.iter().map(kind).collect::<Vec<_>>().join(" and ");
    let source = entry.source.as_deref().unwrap_or("ours");
    let mut text = format!("\n## `{}`\n\n{}.\n\n", entry.name, entry.summary);
    let _ = writeln!(text, "- Source: {source}. Takes {takes}.");
    let _ = writeln!(text, "- Needs: {}.", entry.needs.join("; "));
    let _ = writeln!(text, "- Trains {} times as many steps as `fine_tune` by default.", entry.fine_tunings);
    let _ = writeln!(text, "- Known to fail: {}.", entry.failures.join("; "));
    text += &settings(&schema_name(&entry.name, openapi), &entry.default, openapi);
    let of = |kind: &str| measured.iter().filter(|summary| summary.kind == kind).cloned().collect::<Vec<_>>();
    text += &table_of("\nMeasured on adapters", &of("adapter"));
    text += &table_of("\nMeasured on whole models", &of("model"));
    if measured.is_empty() {
        text += "\nNot part of the stored comparison yet.\n";
    }
    text
}

/// The settings of a schema as the API describes them, each with its default.
fn settings(schema: &str, defaults: &Value, openapi: &Value) -> String {
    let Some(properties) = openapi["components"]["schemas"][schema]["properties"].as_object() else {
        return String::new();
    };
    let mut text = "\n| setting | default | what it is |\n| --- | --- | --- |\n".to_owned();
    for (name, property) in properties {
        let default = defaults.get(name).or_else(|| property.get("default"));
        let default = default.map_or_else(|| "none".to_owned(), |value| format!("`{value}`"));
        let _ = writeln!(text, "| `{name}` | {default} | {} |", description(property));
    }
    text
}

/// A property's own description, or that of what it may be beside nothing.
fn description(property: &Value) -> String {
    let alternatives = property["oneOf"].as_array().into_iter().flatten();
    let described = std::iter::once(property).chain(alternatives).find_map(|one| one["description"].as_str());
    described.unwrap_or_default().replace('\n', " ")
}

/// The schema that the method's variant of `MethodSpec` refers to.
fn schema_name(method: &str, openapi: &Value) -> String {
    let variants = openapi["components"]["schemas"]["MethodSpec"]["oneOf"].as_array().cloned().unwrap_or_default();
    let parts = |variant: &Value| variant["allOf"].as_array().cloned().unwrap_or_default();
    let is_it = |part: &Value| part["properties"]["type"]["enum"][0] == method;
    let reference = variants.iter().map(parts).find(|parts| parts.iter().any(is_it));
    let reference = reference.and_then(|parts| parts.iter().find_map(|part| part["$ref"].as_str().map(str::to_owned)));
    reference.and_then(|path| path.rsplit('/').next().map(str::to_owned)).unwrap_or_default()
}
