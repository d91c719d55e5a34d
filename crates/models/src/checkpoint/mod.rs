//! Checkpoint folders in and out: `config.json` with one safetensors file or shards and an index, or one GGUF
//! file.
//!
//! Opening reads headers only; weights are read one tensor at a time, by range, and always come out as plain
//! float32: quantised files are widened (`encoding.rs`, `fp8.rs`, `gguf/`) or refused by name
//! (`quantised.rs`). Read `header.rs` first: it decides what we believe of a file. What the weights mean
//! belongs to `families/`.

pub mod encoding;
mod fp8;
pub mod gguf;
pub mod header;
mod quantised;
mod rewrite;
mod save;
mod shards;
pub mod strict_json;
pub mod tensor_file;
pub mod values;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde_json::Value;

pub use quantised::UPLOAD_INSTEAD;
pub use rewrite::copy_checkpoint;
pub use save::{save_checkpoint, write_tensor_file};
pub use shards::read_index;

use crate::error::{ModelError, Result};
use encoding::Encoding;
use fp8::{ScaleGrid, Spread};
use header::{Dtype, TensorEntry};
use tensor_file::TensorFile;
use values::ValueReader;

/// Name of a checkpoint that fits into one file.
pub const SINGLE_FILE: &str = "model.safetensors";
/// Name of the list of shards.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// The word of [`Checkpoint::storage`] for plain numbers in safetensors.
const PLAIN: &str = "float";
/// A `config.json` has a few kilobytes.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Indexes of the largest public checkpoints have about 10 MiB.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// An opened checkpoint folder. Only its configuration and headers are in memory.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The folder.
    pub dir: PathBuf,
    /// `config.json` without what it says of quantisation; for GGUF, what the file's metadata amounts to.
    pub config_json: Value,
    files: Vec<PathBuf>,
    sources: BTreeMap<String, Source>,
    storage: String,
}

/// The place of one tensor's numbers, and the way to make float32 of them.
#[derive(Debug, Clone)]
struct Source {
    /// Index in `files`.
    file: usize,
    shape: Vec<usize>,
    /// Held against the file's true length by the header reader.
    range: Range<u64>,
    /// The element type's name when it is none of weights.
    encoding: Result<Encoding, &'static str>,
    scales: Option<Box<Scales>>,
    /// Number of heads whose two halves alternate row by row, as GGUF has them.
    interleaved: Option<usize>,
}

/// The place of an fp8 tensor's scales.
#[derive(Debug, Clone)]
struct Scales {
    source: Source,
    spread: Spread,
}

/// Opens a checkpoint folder: headers only.
///
/// # Errors
/// [`ModelError::Io`] for a missing file, [`ModelError::Format`] for one that is not what its name promises,
/// [`ModelError::Tensor`] when index and shards disagree, [`ModelError::Quantised`] for weights stored in a
/// way that is not read or that configuration and tensors tell differently.
pub fn open_checkpoint(dir: &Path) -> Result<Checkpoint> {
    let names = list_files(dir)?;
    if let Some(path) = find_gguf(dir, &names)? {
        let checkpoint = gguf::open_checkpoint(dir, &path)?;
        if names.iter().any(|name| name == "config.json") {
            agree_on_sizes(&dir.join("config.json"), &checkpoint.config_json)?;
        }
        return Ok(checkpoint);
    }
    let mut config_json = read_json_object(&dir.join("config.json"))?;
    let files = shards::open_files(dir, &names)?;
    let (sources, storage) = find_sources(&config_json, &files)?;
    if let (Value::Object(fields), true) = (&mut config_json, storage != PLAIN) {
        fields.retain(|key, _| !["quantization_config", "compression_config"].contains(&key.as_str()));
    }
    let files = files.iter().map(|file| file.path().to_owned()).collect();
    Ok(Checkpoint { dir: dir.to_owned(), config_json, files, sources, storage: storage.into() })
}

/// The configuration of a checkpoint folder, from `config.json` or from a GGUF file; none when there is
/// neither.
///
/// # Errors
/// Those of [`open_checkpoint`], as far as the configuration is concerned.
pub fn read_config(dir: &Path) -> Result<Option<Value>> {
    let names = list_files(dir)?;
    match find_gguf(dir, &names)? {
        Some(path) => gguf::read_config(&path).map(Some),
        None if names.iter().any(|name| name == "config.json") => read_json_object(&dir.join("config.json")).map(Some),
        None => Ok(None),
    }
}

/// Names of the files of a folder, sorted.
fn list_files(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(ModelError::io(dir))? {
        // A name that is not UTF-8 is none of ours.
        names.extend(entry.map_err(ModelError::io(dir))?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

/// The one GGUF file of a folder without other weights.
fn find_gguf(dir: &Path, names: &[String]) -> Result<Option<PathBuf>> {
    let mut found = names.iter().filter(|name| name.to_ascii_lowercase().ends_with(".gguf"));
    let Some(name) = found.next() else { return Ok(None) };
    let path = dir.join(name);
    let is_other = |name: &&String| name.starts_with("model") && name.ends_with(".safetensors");
    match found.next().or_else(|| names.iter().find(is_other)) {
        None => Ok(Some(path)),
        Some(other) => Err(format_error(&path, "the weights of one model", format_args!("`{other}` beside it"))),
    }
}

/// A `config.json` beside a GGUF file is not needed; where it speaks of sizes it must not say others.
fn agree_on_sizes(path: &Path, derived: &Value) -> Result<()> {
    let said = read_json_object(path)?;
    let fields = [
        "model_type",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    ];
    match fields.into_iter().find(|field| !said[*field].is_null() && said[*field] != derived[*field]) {
        None => Ok(()),
        Some(field) => {
            let expected = format!("`{field}` of {}, as the GGUF file has it", derived[field]);
            Err(format_error(path, &expected, &said[field]))
        }
    }
}

/// Finds out how the tensors are stored: every tensor of a model with its source, and a word for the whole.
fn find_sources(config: &Value, files: &[TensorFile]) -> Result<(BTreeMap<String, Source>, &'static str)> {
    let all = files.iter().enumerate().flat_map(|(i, file)| file.entries().iter().map(move |entry| (i, entry)));
    let mut sources: BTreeMap<String, Source> =
        all.clone().map(|(file, entry)| (entry.name.clone(), Source::of_entry(file, entry))).collect();
    let entries = all.map(|(i, entry)| (entry.name.as_str(), (entry, file_name(files[i].path())))).collect();
    let Some(settings) = quantised::find_fp8(config, &entries)? else { return Ok((sources, PLAIN)) };
    let entries = entries.into_iter().map(|(name, (entry, _))| (name, entry)).collect();
    let (scaled, left_out) = fp8::plan(&entries, &settings)?;
    for fp8::Scaled { weight, scales, spread } in scaled {
        let source = sources.get(&scales).cloned();
        if let (Some(weight), Some(source)) = (sources.get_mut(&weight), source) {
            weight.scales = Some(Box::new(Scales { source, spread }));
        }
    }
    left_out.iter().for_each(|name| drop(sources.remove(name)));
    Ok((sources, "fp8 e4m3"))
}

impl Source {
    fn of_entry(file: usize, entry: &TensorEntry) -> Self {
        let (shape, range) = (entry.shape.clone(), entry.range.clone());
        let encoding = Encoding::of_dtype(entry.dtype).ok_or(entry.dtype.name());
        Self { file, shape, range, encoding, scales: None, interleaved: None }
    }
}

impl Checkpoint {
    /// Every tensor name, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sources.keys().map(String::as_str)
    }

    /// The shape of one tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.sources.get(name).map(|source| source.shape.as_slice())
    }

    /// The storage of the weights in words: `float`, `fp8 e4m3`, `gguf q4_0 + q6_k`. All but `float` and GGUF
    /// of plain element types were widened, which is exact, but is not the model that was quantised.
    pub fn storage(&self) -> &str {
        &self.storage
    }

    /// True when the weights lie in safetensors as plain numbers.
    pub fn is_plain(&self) -> bool {
        self.storage == PLAIN
    }

    /// The element type in which to write a tensor out: its own, or BF16 for one that was widened.
    pub fn export_dtype(&self, name: &str) -> Option<Dtype> {
        let encoding = self.sources.get(name)?.encoding.ok()?;
        Some(match encoding.name {
            "F32" => Dtype::F32,
            "F16" => Dtype::F16,
            _ => Dtype::Bf16,
        })
    }

    /// Scalars of all tensors together.
    pub fn count_scalars(&self) -> u64 {
        self.sources.values().map(|source| source.shape.iter().map(|extent| *extent as u64).product::<u64>()).sum()
    }

    /// Checks from the headers that a tensor is there, in this shape and in an element type of weights.
    ///
    /// # Errors
    /// [`ModelError::Tensor`].
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<()> {
        let source = self.find(name)?;
        if source.shape != shape {
            return Err(misfit(name, format!("shape {shape:?}"), format!("shape {:?}", source.shape)));
        }
        source.encoding.map(drop).map_err(|found| wrong_type(name, found))
    }

    /// Loads one tensor as float32.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] when it is missing or of an element type that no weights come in,
    /// [`ModelError::Io`].
    ///
    /// # Cost
    /// The tensor itself, twice for queries and keys of a GGUF file, and one piece of 65,536 numbers.
    pub fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        let source = self.find(name)?;
        let mut values = self.read(name)?.read_all()?;
        if let Some(heads) = source.interleaved {
            values = separate_halves(&values, source.shape[0], heads);
        }
        Ok(Tensor::from_vec(values, source.shape.as_slice(), device)?)
    }

    /// The numbers of one tensor a piece at a time, in the order of the file, which is that of the tensor but
    /// for queries and keys of a GGUF file.
    ///
    /// # Errors
    /// Those of [`Checkpoint::load`].
    pub fn read(&self, name: &str) -> Result<ValueReader> {
        self.read_source(name, self.find(name)?)
    }

    fn read_source(&self, name: &str, source: &Source) -> Result<ValueReader> {
        let scales = match &source.scales {
            None => None,
            Some(scales) => {
                let values = self.read_source(name, &scales.source)?.read_all()?;
                Some(ScaleGrid { values, spread: scales.spread })
            }
        };
        let encoding = source.encoding.map_err(|found| wrong_type(name, found))?;
        ValueReader::open(&self.files[source.file], source.range.clone(), encoding, scales)
    }

    /// Checks that two tensors hold the same numbers; reads both.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] with the place of the first difference; those of [`Checkpoint::load`].
    pub fn expect_equal(&self, name: &str, other: &str) -> Result<()> {
        let expected = || format!("the same numbers as `{other}`, to which `tie_word_embeddings` ties it");
        let (shape, other_shape) = (&self.find(name)?.shape, &self.find(other)?.shape);
        if shape != other_shape {
            return Err(misfit(name, expected(), format!("shape {shape:?} against {other_shape:?}")));
        }
        let mut readers = [self.read(name)?, self.read(other)?];
        let (mut own, mut others) = (Vec::new(), Vec::new());
        let mut done = 0;
        while readers[0].read_piece(&mut own)? && readers[1].read_piece(&mut others)? {
            if let Some(at) = own.iter().zip(&others).position(|(own, other)| own != other) {
                let found = format!("{} against {} at element {}", own[at], others[at], done + at);
                return Err(misfit(name, expected(), found));
            }
            done += own.len();
            own.clear();
            others.clear();
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<&Source> {
        self.sources
            .get(name)
            .ok_or_else(|| misfit(name, format!("to be in the checkpoint {}", self.dir.display()), "no such tensor"))
    }
}

/// Undoes the order of rows that GGUF gives to queries and keys: row `2 i + p` of a head is row `i` of its
/// half `p`.
fn separate_halves(values: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let (width, half) = (values.len() / rows, rows / heads / 2);
    let mut out = Vec::with_capacity(values.len());
    for row in 0..rows {
        let (head, part, i) = (row / (2 * half), row / half % 2, row % half);
        let from = head * 2 * half + 2 * i + part;
        out.extend_from_slice(&values[from * width..][..width]);
    }
    out
}

fn misfit(tensor: &str, expected: impl Into<String>, found: impl Into<String>) -> ModelError {
    ModelError::Tensor { tensor: tensor.to_owned(), expected: expected.into(), found: found.into() }
}

fn wrong_type(tensor: &str, found: &str) -> ModelError {
    misfit(tensor, "an element type of F32, F16 or BF16", found)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn format_error(path: &Path, expected: &str, found: impl ToString) -> ModelError {
    ModelError::Format { path: path.to_owned(), expected: expected.to_owned(), found: found.to_string() }
}

/// Reads a JSON object in which no key stands twice.
fn read_json_object(path: &Path) -> Result<Value> {
    let text = read_text(path, MAX_CONFIG_BYTES)?;
    strict_json::parse_object(&text).map_err(|found| format_error(path, "a JSON object, each key once", found))
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
