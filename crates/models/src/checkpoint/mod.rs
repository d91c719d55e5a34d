//! Checkpoint folders in and out: `config.json` and one safetensors file, or shards with an index.
//!
//! Opening reads headers only; weights are read one tensor at a time, by range. Read `header.rs` first: it decides what we
//! believe of a file. What the weights mean belongs to `families/`.

pub mod header;
mod rewrite;
mod save;
pub mod strict_json;
pub mod tensor_file;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::Value;

pub use rewrite::copy_checkpoint;
pub use save::{save_checkpoint, write_tensor_file};

use crate::error::{ModelError, Result};
use header::TensorEntry;
use strict_json::Pairs;
use tensor_file::TensorFile;

/// Name of a checkpoint that fits into one file.
pub const SINGLE_FILE: &str = "model.safetensors";
/// Name of the list of shards.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// A `config.json` has a few kilobytes.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Indexes of the largest public checkpoints have about 10 MiB.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// An opened checkpoint folder. Only its configuration and headers are in memory.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The folder.
    pub dir: PathBuf,
    /// `config.json` as it stands.
    pub config_json: Value,
    files: Vec<TensorFile>,
    /// Tensor name to index in `files`.
    index: BTreeMap<String, usize>,
}

/// Opens a checkpoint folder: headers only.
///
/// # Errors
/// [`ModelError::Io`] for a missing file, [`ModelError::Format`] for one that is not what its name promises,
/// [`ModelError::Tensor`] when index and shards disagree.
pub fn open_checkpoint(dir: &Path) -> Result<Checkpoint> {
    let config_path = dir.join("config.json");
    let config_json = serde_json::from_str(&read_text(&config_path, MAX_CONFIG_BYTES)?)
        .map_err(|error| format_error(&config_path, "a JSON object", error))?;
    let index_path = dir.join(INDEX_FILE);
    let (files, index) = match index_path.exists() {
        true => open_shards(dir, &index_path)?,
        false => open_single(&dir.join(SINGLE_FILE))?,
    };
    Ok(Checkpoint { dir: dir.to_owned(), config_json, files, index })
}

impl Checkpoint {
    /// Every tensor name, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// The header's entry of one tensor.
    pub fn find(&self, name: &str) -> Option<&TensorEntry> {
        self.index.get(name).and_then(|file| self.files[*file].find(name))
    }

    /// The shape of one tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.find(name).map(|entry| entry.shape.as_slice())
    }

    /// Loads one tensor as float32, from F32, F16 or BF16.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] when it is missing or of another element type, [`ModelError::Io`].
    pub fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        match self.index.get(name) {
            Some(file) => self.files[*file].load(name, device),
            None => Err(ModelError::Tensor {
                tensor: name.to_owned(),
                expected: format!("to be in the checkpoint {}", self.dir.display()),
                found: "no such tensor".into(),
            }),
        }
    }

    /// The safetensors files, in the order of their names.
    pub fn files(&self) -> &[TensorFile] {
        &self.files
    }
}

type Files = (Vec<TensorFile>, BTreeMap<String, usize>);

fn open_single(path: &Path) -> Result<Files> {
    let file = TensorFile::open(path)?;
    let index = file.entries().iter().map(|entry| (entry.name.clone(), 0)).collect();
    Ok((vec![file], index))
}

fn open_shards(dir: &Path, index_path: &Path) -> Result<Files> {
    let weight_map = read_index(index_path)?;
    let mut shard_names: Vec<&str> = weight_map.values().map(String::as_str).collect();
    shard_names.sort_unstable();
    shard_names.dedup();
    let mut files = Vec::with_capacity(shard_names.len());
    let mut index = BTreeMap::new();
    for (i, shard) in shard_names.iter().enumerate() {
        let file = TensorFile::open(&dir.join(shard))?;
        for entry in file.entries() {
            let listed = weight_map.get(&entry.name).map(String::as_str);
            if listed != Some(*shard) {
                return Err(misplaced(&entry.name, listed, shard));
            }
            index.insert(entry.name.clone(), i);
        }
        files.push(file);
    }
    match weight_map.iter().find(|(tensor, _)| !index.contains_key(*tensor)) {
        Some((tensor, shard)) => Err(ModelError::Tensor {
            tensor: tensor.clone(),
            expected: format!("to be in `{shard}`, as the index says"),
            found: "no such tensor".into(),
        }),
        None => Ok((files, index)),
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

/// Reads `weight_map`: tensor name to file name. A file name that could leave the folder is refused.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
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

fn format_error(path: &Path, expected: &str, found: impl ToString) -> ModelError {
    ModelError::Format { path: path.to_owned(), expected: expected.to_owned(), found: found.to_string() }
}

/// Reads a text file of at most `max_bytes`, however long it says it is.
///
/// # Errors
/// [`ModelError::Io`], or [`ModelError::Format`] when it is longer or not UTF-8.
pub fn read_text(path: &Path, max_bytes: u64) -> Result<String> {
    let file = File::open(path).map_err(ModelError::io(path))?;
    let mut bytes = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(ModelError::io(path))?;
    if bytes.len() as u64 > max_bytes {
        return Err(format_error(path, &format!("at most {max_bytes} bytes"), "more"));
    }
    String::from_utf8(bytes).map_err(|error| format_error(path, "text in UTF-8", error))
}

#[cfg(test)]
mod tests;
