//! The measurements of every method on the same suspects: the stored cells (`docs/results/compare.csv`,
//! written by `antigen-experiments compare`), their summaries, and what is made of them: tables, a plot, the
//! page of the methods, the numbers of `GET /v1/methods`. Nothing here runs a method.

mod cells;
mod methods_page;
mod plot;
mod summary;
mod table;

use antigen_engine::catalogue::Summary;

pub use cells::{Cell, csv_of, joined, read_cells};
pub use methods_page::methods_page;
pub use plot::draw;
pub use summary::summaries;
pub use table::table;

/// The kinds of suspects as cells name them, and as headings do.
const KINDS: [(&str, &str); 2] = [("adapter", "Adapters"), ("model", "Whole models")];

/// The stored results summed up: adapters first, in the order of the file.
pub fn stored_summaries() -> Vec<Summary> {
    let stored = include_bytes!("../../../../docs/results/compare.csv").as_slice();
    let cells = read_cells(stored).expect("the stored results are tested");
    KINDS.iter().flat_map(|(kind, _)| summaries(&cells, kind)).collect()
}

/// `docs/results/methods.json`, the stored summaries as the service shows them: one on a line.
pub fn measured_json() -> String {
    let line = |summary| serde_json::to_string(summary).expect("summaries always serialise");
    let lines: Vec<String> = stored_summaries().iter().map(line).collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}
