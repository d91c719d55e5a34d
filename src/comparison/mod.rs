//! What was measured when every method was run on the same suspects: the stored cells (`docs/results/compare.csv`, written by
//! `antigen lab compare`), their summaries, and what is made of them: tables, a plot, the page of the methods, the numbers of
//! `GET /v1/methods`. Nothing here runs a method.

mod cells;
mod methods_page;
mod plot;
mod summary;
mod table;

use std::sync::LazyLock;

pub use cells::{Cell, csv_of, joined, read_cells};
pub use methods_page::methods_page;
pub use plot::draw;
pub use summary::{Mean, Summary, summaries};
pub use table::table;

/// The kinds of suspects as cells name them, and as headings do.
const KINDS: [(&str, &str); 2] = [("adapter", "Adapters"), ("model", "Whole models")];

/// The stored results, summed up once: bootstraps are no work for every request.
static STORED: LazyLock<Vec<Summary>> = LazyLock::new(|| {
    let stored = include_bytes!("../../docs/results/compare.csv").as_slice();
    let cells = read_cells(stored).expect("the stored results are tested");
    KINDS.iter().flat_map(|(kind, _)| summaries(&cells, kind)).collect()
});

/// The stored results of one method: adapters first, in the order of the file.
pub fn stored_summaries(method: &str) -> Vec<Summary> {
    STORED.iter().filter(|summary| summary.method == method).cloned().collect()
}
