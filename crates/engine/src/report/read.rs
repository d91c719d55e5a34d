//! Stored reports of every version as the present one.
//!
//! Version 1 has other names for the same things; its numbers, digests and sentences stay as they are.

use serde_json::{Map, Value};

use super::{Report, SCHEMA};
use crate::error::{EngineError, Result};

/// The schema before names were changed.
const VERSION_1: &str = "antigen.report/1";

/// Fields of version 1 and their names now.
const FIELDS: [(&str, &str); 7] = [
    ("own_rows", "task_rows"),
    ("train_with_own_rows", "train_with_task_rows"),
    ("validation_own_rows", "validation_task_rows"),
    ("frontier", "search"),
    ("rungs", "trials"),
    ("ladders", "curves"),
    ("without_own_rows", "without_task_rows"),
];

/// Reads a report of any version.
///
/// # Errors
/// [`EngineError::Data`] for a file that is no report or one of an unknown version.
pub fn read_report(json: &[u8]) -> Result<Report> {
    let parse = |error: serde_json::Error| EngineError::Data(format!("expected a report, found {error}"));
    let mut report: Value = serde_json::from_slice(json).map_err(parse)?;
    match report["schema"].as_str() {
        Some(SCHEMA) => {}
        Some(VERSION_1) => upgrade(&mut report),
        found => {
            let found = found.map_or_else(|| "a file without a schema".to_owned(), |schema| format!("schema {schema}"));
            return Err(EngineError::Data(format!(
                "expected a report of schema {VERSION_1} or {SCHEMA}, found {found}"
            )));
        }
    }
    serde_json::from_value(report).map_err(parse)
}

fn upgrade(report: &mut Value) {
    rename(report);
    report["schema"] = SCHEMA.into();
    let curves = report.pointer_mut("/relearning/backdoors").and_then(Value::as_array_mut).into_iter().flatten();
    for curve in curves.flat_map(|backdoor| backdoor["curves"].as_array_mut().into_iter().flatten()) {
        if let Some(points) = curve.as_object_mut().and_then(|curve| curve.remove("trials")) {
            curve["points"] = points;
        }
    }
}

fn rename(value: &mut Value) {
    match value {
        Value::Object(fields) => *fields = std::mem::take(fields).into_iter().map(rename_field).collect::<Map<_, _>>(),
        Value::Array(items) => items.iter_mut().for_each(rename),
        _ => {}
    }
}

fn rename_field((name, mut value): (String, Value)) -> (String, Value) {
    match (name.as_str(), &mut value) {
        ("name" | "group" | "purpose" | "role", Value::String(text)) => *text = rename_words(text),
        ("controls" | "left_out", Value::Array(items)) if items.iter().all(Value::is_string) => {
            for item in items {
                *item = rename_words(item.as_str().unwrap_or_default()).into();
            }
        }
        (_, other) => rename(other),
    }
    let renamed = FIELDS.iter().find(|(old, _)| *old == name).map_or(name, |(_, new)| (*new).to_owned());
    (renamed, value)
}

/// A group of rows, a control or a role under its name now.
fn rename_words(text: &str) -> String {
    match text {
        "own" => "task".to_owned(),
        text => match text.strip_prefix("own_") {
            Some(kind) => format!("task_{kind}"),
            None => text.replace("without_own_rows", "without_task_rows"),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_of_version_1_has_its_new_names_and_its_old_numbers() {
        let mut report = json!({
            "schema": VERSION_1,
            "subject": {"rows": [{"role": "own", "rows": 9}]},
            "recipe": {"spec": {"controls": ["without_own_rows"]}, "method": {"heal": {"own_rows": 7}}},
            "before": {"utility": {"groups": [{"name": "own_new"}, {"name": "general"}, {"name": "own"}]}},
            "frontier": {"rungs": [{"name": "fine_tune", "utility": [{"group": "own_extended"}]}]},
            "left_out": ["without_own_rows: nothing to leave out"],
            "relearning": {"backdoors": [{"ladders": [{"rungs": [{"samples": 8}]}]}]},
        });
        upgrade(&mut report);
        assert_eq!(
            report,
            json!({
                "schema": SCHEMA,
                "subject": {"rows": [{"role": "task", "rows": 9}]},
                "recipe": {"spec": {"controls": ["without_task_rows"]}, "method": {"heal": {"task_rows": 7}}},
                "before": {"utility": {"groups": [{"name": "task_new"}, {"name": "general"}, {"name": "task"}]}},
                "search": {"trials": [{"name": "fine_tune", "utility": [{"group": "task_extended"}]}]},
                "left_out": ["without_task_rows: nothing to leave out"],
                "relearning": {"backdoors": [{"curves": [{"points": [{"samples": 8}]}]}]},
            })
        );
    }

    #[test]
    fn another_version_is_refused_with_those_that_are_read() {
        let error = read_report(br#"{"schema": "antigen.report/9"}"#).unwrap_err().to_string();
        for part in [VERSION_1, SCHEMA, "antigen.report/9"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(read_report(b"{}").unwrap_err().to_string().contains("without a schema"));
    }
}
