//! Rooms of the engine use only rooms below them: the order in `lib.rs`, read from the sources.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms from the floor up. Rooms of one line do not use each other, but for `error` and `stage`.
const ORDER: [&[&str]; 13] = [
    &["stage", "stats"],
    &["error"],
    &["lab"],
    &["spec"],
    &["data"],
    &["suspect"],
    &["threat"],
    &["train"],
    &["world"],
    &["measure"],
    &["methods"],
    &["job"],
    &["catalogue", "report"],
];

/// On top of all of them.
const TOP: [&str; 2] = ["run", "replay"];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(sources(&path)),
            false if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
            false => {}
        }
    }
    found
}

/// The room of a source file: the first part of its path.
fn room(source: &Path, root: &Path) -> String {
    let first = source.strip_prefix(root).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

fn height(room: &str) -> Option<usize> {
    let top = TOP.iter().position(|name| *name == room).map(|i| ORDER.len() + i);
    ORDER.iter().position(|rooms| rooms.contains(&room)).or(top)
}

/// Rooms that the code of a file names, tests and comments left out.
fn used(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let named = lines.flat_map(|line| line.split("crate::").skip(1).map(str::to_owned).collect::<Vec<_>>());
    named.map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()).collect()
}

#[test]
fn no_room_uses_a_room_above_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut upward = Vec::new();
    for source in sources(&root) {
        let from = room(&source, &root);
        if from == "lib" {
            continue;
        }
        let floor = height(&from).unwrap_or_else(|| panic!("{from}: a room without a place in the order"));
        for to in used(&fs::read_to_string(&source).unwrap()) {
            if to != from && height(&to).is_some_and(|height| height >= floor) {
                upward.push(format!("{} -> {to}", source.display()));
            }
        }
    }
    assert!(upward.is_empty(), "{}", upward.join("\n"));
}

#[test]
fn methods_do_not_import_each_other_but_for_the_search_through_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/methods");
    let folders: Vec<String> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_str().unwrap().to_owned())
        .filter(|name| name != "shared")
        .collect();
    assert!(folders.len() >= 14, "{folders:?}");
    let mut imports = Vec::new();
    for folder in folders.iter().filter(|folder| *folder != "auto") {
        for source in sources(&root.join(folder)) {
            let text = fs::read_to_string(&source).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let others = folders.iter().filter(|other| *other != folder);
            let named = others.filter(|other| code.contains(&format!("methods::{other}::")));
            imports.extend(named.map(|other| format!("{} -> {other}", source.display())));
        }
    }
    assert!(imports.is_empty(), "{}", imports.join("\n"));
}
