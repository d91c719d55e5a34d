//! The OpenAPI 3.1 document, collected from the handlers. `openapi/openapi.json` is its committed copy; a
//! test compares the two, and `antigen openapi` writes it.

use utoipa::OpenApi;

/// The document's description of the whole.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Antigen",
        description = "Vets open-weight language models for hidden backdoors: a suspicious adapter goes in, a purified one comes \
                       out with the evidence.\n\nThree requests: announce an upload and send its bytes, create a job, read its \
                       report. Every refusal is a problem document (RFC 9457) with a stable `code`."
    ),
    tags(
        (name = "uploads", description = "Bytes on their way in"),
        (name = "artifacts", description = "Immutable files: what was uploaded, what jobs produced"),
        (name = "jobs", description = "Purification with its progress and its results"),
        (name = "catalogue", description = "What can be asked for"),
        (name = "operation", description = "For those who run the service"),
    )
)]
pub(crate) struct About;

/// The document as text, as it is committed.
pub fn document() -> String {
    let mut text = crate::router::openapi().to_pretty_json().expect("the document is made of strings, maps and lists");
    text.push('\n');
    text
}

/// The JSON schema of the report as text, as it is committed in `openapi/report-2.schema.json`.
pub fn report_schema() -> String {
    format!("{:#}\n", antigen_engine::report::report_schema())
}
