//! Files that are made of the stored comparison: the page of the methods, and the numbers that the service
//! shows.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;

use antigen_engine::catalogue::{Summary, methods_catalogue};
use antigen_experiments::comparison::{measured_json, methods_page, read_cells};

fn committed(file: &str) -> String {
    fs::read_to_string(format!("{}/../../docs/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn the_page_of_the_methods_is_what_the_command_writes_and_shows_every_method() {
    let page = methods_page();
    assert!(page == committed("METHODS.md"), "docs/METHODS.md is out of date: run `cargo xtask regenerate`");
    for method in methods_catalogue() {
        assert!(page.contains(&format!("\n## `{}`\n", method.name)), "{}", method.name);
    }
}

#[test]
fn the_numbers_that_the_service_shows_are_those_of_the_stored_cells() {
    let committed = committed("results/methods.json");
    assert!(measured_json() == committed, "docs/results/methods.json is out of date: run `cargo xtask regenerate`");
    let summaries: Vec<Summary> = serde_json::from_str(&committed).unwrap();
    let cells = read_cells(File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/results/compare.csv")).unwrap());
    let cells = cells.unwrap();
    let stored: BTreeSet<_> = cells.iter().map(|cell| (&cell.method, &cell.kind, &cell.model)).collect();
    assert!(!stored.is_empty());
    for method in methods_catalogue() {
        let of_method = stored.iter().filter(|(name, ..)| **name == method.name).count();
        let shown = summaries.iter().filter(|summary| summary.method == method.name).count();
        assert_eq!(shown, of_method, "{}", method.name);
    }
}
