//! What was measured when every method was run on the same suspects: the stored cells (`docs/results/compare.csv`, written by
//! `antigen lab compare`), their summaries, and what is made of them: tables, a plot, the page of the methods, the numbers of
//! `GET /v1/methods`. Nothing here runs a method.

mod cells;
mod methods_page;
mod plot;
mod summary;
mod table;

use std::sync::LazyLock;

pub use cells::{Cell, cells_csv, read_cells};
pub use methods_page::methods_page;
pub use plot::draw;
pub use summary::{Mean, Summary, summaries};
pub use table::table;

/// The stored results.
static STORED: LazyLock<Vec<Cell>> = LazyLock::new(|| {
    read_cells(include_bytes!("../../docs/results/compare.csv").as_slice()).expect("the stored results are tested")
});

/// The stored results, summed up: adapters first, in the order of the file.
pub fn stored_summaries() -> Vec<Summary> {
    ["adapter", "model"].into_iter().flat_map(|kind| summaries(&STORED, kind)).collect()
}
