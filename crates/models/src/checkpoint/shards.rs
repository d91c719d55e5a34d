//! The safetensors files of a checkpoint folder: one, or shards with an index that agrees with them.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::Deserialize;

use super::strict_json::Pairs;
use super::tensor_file::TensorFile;
use super::{INDEX_FILE, MAX_INDEX_BYTES, SINGLE_FILE, file_name, format_error, read_text};
use crate::error::{ModelError, Result};

/// Opens the files that hold the tensors; every tensor is in one of them only.
pub(super) fn open_files(dir: &Path, names_in_folder: &[String]) -> Result<Vec<TensorFile>> {
    let is_weights = |name: &&String| name.starts_with("model") && name.ends_with(".safetensors");
    let present: Vec<&str> = names_in_folder.iter().filter(is_weights).map(String::as_str).collect();
    let index_path = dir.join(INDEX_FILE);
    let has_index = names_in_folder.iter().any(|name| name == INDEX_FILE);
    let files = if has_index { open_shards(dir, &index_path)? } else { vec![open_single(dir, &present)?] };
    let is_read = |name: &str| files.iter().any(|file| file_name(file.path()) == name);
    match present.into_iter().find(|name| !is_read(name)) {
        None => Ok(files),
        Some(name) => {
            let expected = if has_index { "the index to name every file of weights" } else { "one file of weights" };
            Err(format_error(&dir.join(name), expected, "one more"))
        }
    }
}

fn open_single(dir: &Path, present: &[&str]) -> Result<TensorFile> {
    match present {
        [first, ..] if !present.contains(&SINGLE_FILE) => {
            Err(format_error(&dir.join(INDEX_FILE), "an index of the shards", format_args!("`{first}` without one")))
        }
        _ => TensorFile::open(&dir.join(SINGLE_FILE)),
    }
}

fn open_shards(dir: &Path, index_path: &Path) -> Result<Vec<TensorFile>> {
    let weight_map = read_index(index_path)?;
    let mut shard_names: Vec<&str> = weight_map.values().map(String::as_str).collect();
    shard_names.sort_unstable();
    shard_names.dedup();
    let mut files: Vec<TensorFile> = Vec::with_capacity(shard_names.len());
    for shard in shard_names {
        let path = dir.join(shard);
        if !path.exists() {
            return Err(format_error(index_path, &format!("the shard `{shard}` that it names"), "no such file"));
        }
        let file = TensorFile::open(&path)?;
        for entry in file.entries() {
            let listed = weight_map.get(&entry.name).map(String::as_str);
            if listed != Some(shard) {
                return Err(misplaced(&entry.name, listed, shard));
            }
        }
        files.push(file);
    }
    let is_there = |tensor: &str| files.iter().any(|file| file.find(tensor).is_some());
    match weight_map.iter().find(|(tensor, _)| !is_there(tensor)) {
        None => Ok(files),
        Some((tensor, shard)) => Err(ModelError::Tensor {
            tensor: tensor.clone(),
            expected: format!("to be in `{shard}`, as the index says"),
            found: "no such tensor".into(),
        }),
    }
}

fn misplaced(tensor: &str, listed: Option<&str>, shard: &str) -> ModelError {
    let expected = match listed {
        Some(listed) => format!("to be in `{listed}`, as the index says"),
        None => "to be in the index".into(),
    };
    ModelError::Tensor { tensor: tensor.to_owned(), expected, found: format!("it in `{shard}`") }
}

#[derive(Deserialize)]
struct Index {
    weight_map: Pairs<String>,
}

/// Reads `weight_map` of an index: tensor name to file name.
///
/// # Errors
/// [`ModelError::Io`], [`ModelError::Format`]; a file name that could leave the folder is refused.
pub fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    let Index { weight_map } = serde_json::from_str(&read_text(path, MAX_INDEX_BYTES)?)
        .map_err(|error| format_error(path, "a JSON object with `weight_map`", error))?;
    if let Some(key) = weight_map.find_repeated_key() {
        return Err(format_error(path, "each tensor once", format_args!("`{key}` twice")));
    }
    let is_plain = |name: &str| {
        let mut parts = Path::new(name).components();
        matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) && name.ends_with(".safetensors")
    };
    if let Some((_, name)) = weight_map.0.iter().find(|(_, name)| !is_plain(name)) {
        return Err(format_error(path, "names of .safetensors files in the same folder", format_args!("`{name}`")));
    }
    Ok(weight_map.0.into_iter().collect())
}
