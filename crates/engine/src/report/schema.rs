//! The JSON schema of a report, generated from the types.

use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

use super::{Report, SCHEMA};

/// JSON schema (2020-12) of version 2 of the report, which is not frozen yet. [`super::read_report`] reads
/// version 1 too.
pub fn report_schema() -> Value {
    let mut named = vec![(Report::name().into_owned(), Report::schema())];
    Report::schemas(&mut named);
    let mut definitions = Map::new();
    for (name, schema) in named {
        definitions.insert(name, serde_json::to_value(schema).expect("schemas are maps, lists and texts"));
    }
    definitions.sort_keys();
    let mut document = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": format!("urn:{}", SCHEMA.replace(['.', '/'], ":")),
        "title": SCHEMA,
        "$ref": "#/components/schemas/Report",
        "$defs": definitions,
    });
    point_into_definitions(&mut document);
    document
}

// An OpenAPI document keeps its schemas elsewhere.
fn point_into_definitions(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(target) if name == "$ref" => {
                        *target = target.replace("#/components/schemas/", "#/$defs/");
                    }
                    other => point_into_definitions(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(point_into_definitions),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_must_have_its_verdict_and_need_not_have_samples() {
        let report = &report_schema()["$defs"]["Report"];
        let required = report["required"].as_array().unwrap();
        assert!(required.contains(&json!("verdict")) && !required.contains(&json!("samples")));
        assert!(report["properties"].get("samples").is_some());
    }
}
