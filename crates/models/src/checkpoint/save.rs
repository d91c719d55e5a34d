//! Checkpoints and single safetensors files out, with bytes that depend on nothing but the tensors.
//!
//! A file appears under its name only when it is complete: it is written beside it first. A full disk leaves
//! nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use half::{bf16, f16};
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Value, json};

use super::header::Dtype;
use super::{misfit, wrong_type};
use crate::error::{ModelError, Result};

/// Writes a checkpoint folder: `config.json` and `model.safetensors`, or shards
/// `model-00001-of-0000N.safetensors` with `model.safetensors.index.json` when the tensors exceed
/// `max_shard_bytes`. Each tensor keeps its element type.
///
/// # Errors
/// [`ModelError::Io`], [`ModelError::NotFinite`], [`ModelError::Tensor`] for an element type other than F32,
/// F16 and BF16.
///
/// # Cost
/// Holds the tensors of one shard at a time, so an iterator that loads lazily needs no more than that.
pub fn save_checkpoint(
    dir: &Path,
    config_json: &Value,
    tensors: impl Iterator<Item = (String, Tensor)>,
    max_shard_bytes: u64,
) -> Result<()> {
    fs::create_dir_all(dir).map_err(ModelError::io(dir))?;
    let shards = write_shards(dir, tensors, max_shard_bytes)?;
    name_shards(dir, shards)?;
    write_json(&dir.join("config.json"), config_json)
}

/// A written shard that does not know its final name yet: the number of shards is part of it.
struct Shard {
    path: PathBuf,
    names: Vec<String>,
    bytes: u64,
}

fn write_shards(
    dir: &Path,
    tensors: impl Iterator<Item = (String, Tensor)>,
    max_shard_bytes: u64,
) -> Result<Vec<Shard>> {
    let mut shards = Vec::new();
    let mut pending: Vec<(String, Tensor)> = Vec::new();
    let mut pending_bytes = 0;
    for (name, tensor) in tensors {
        let bytes = stored_dtype(&name, tensor.dtype())?.bytes() * tensor.elem_count() as u64;
        if !pending.is_empty() && pending_bytes + bytes > max_shard_bytes {
            shards.push(write_shard(dir, shards.len(), std::mem::take(&mut pending), pending_bytes)?);
            pending_bytes = 0;
        }
        pending_bytes += bytes;
        pending.push((name, tensor));
    }
    shards.push(write_shard(dir, shards.len(), pending, pending_bytes)?);
    Ok(shards)
}

fn write_shard(dir: &Path, number: usize, tensors: Vec<(String, Tensor)>, bytes: u64) -> Result<Shard> {
    let path = dir.join(format!("shard-{number}.unnamed"));
    write_tensor_file(&path, &tensors, None)?;
    Ok(Shard { path, names: tensors.into_iter().map(|(name, _)| name).collect(), bytes })
}

fn name_shards(dir: &Path, shards: Vec<Shard>) -> Result<()> {
    if let [single] = shards.as_slice() {
        let path = dir.join("model.safetensors");
        return fs::rename(&single.path, &path).map_err(ModelError::io(path));
    }
    let mut weight_map = BTreeMap::new();
    let total_bytes: u64 = shards.iter().map(|shard| shard.bytes).sum();
    let count = shards.len();
    for (i, shard) in shards.into_iter().enumerate() {
        let name = format!("model-{:05}-of-{count:05}.safetensors", i + 1);
        fs::rename(&shard.path, dir.join(&name)).map_err(ModelError::io(dir.join(&name)))?;
        weight_map.extend(shard.names.into_iter().map(|tensor| (tensor, name.clone())));
    }
    let index = json!({ "metadata": { "total_size": total_bytes }, "weight_map": weight_map });
    write_json(&dir.join("model.safetensors.index.json"), &index)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, format!("{value:#}\n")).map_err(ModelError::io(path))
}

fn stored_dtype(name: &str, dtype: DType) -> Result<Dtype> {
    match dtype {
        DType::F32 => Ok(Dtype::F32),
        DType::F16 => Ok(Dtype::F16),
        DType::BF16 => Ok(Dtype::Bf16),
        other => Err(wrong_type(name, other.as_str())),
    }
}

/// Writes one safetensors file, each tensor in its own element type or all in `dtype` (F32, F16 or BF16).
///
/// Tensors lie by element size, widest first, then by name, as the reference writer puts them, except that
/// F16 comes before BF16; equal tensors give equal bytes in whatever order they come. The file is streamed
/// here and not by `safetensors::serialize_to_file`, which chooses the order itself, gives the file to its
/// owner alone, does not flush it to the disk, and has no way to refuse a number half-way.
///
/// # Errors
/// [`ModelError::NotFinite`] for a NaN, an infinity or a value that `dtype` cannot hold;
/// [`ModelError::Tensor`] for two tensors of one name; [`ModelError::Io`].
pub fn write_tensor_file(path: &Path, tensors: &[(String, Tensor)], dtype: Option<Dtype>) -> Result<()> {
    let mut entries = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        entries.push((dtype.map_or_else(|| stored_dtype(name, tensor.dtype()), Ok)?, name.as_str(), tensor));
    }
    entries.sort_by(|x, y| y.0.bytes().cmp(&x.0.bytes()).then(x.0.cmp(&y.0)).then(x.1.cmp(y.1)));
    let partial = path.with_extension("partial");
    let written =
        write_entries(&partial, &entries).and_then(|()| fs::rename(&partial, path).map_err(ModelError::io(path)));
    if written.is_err() {
        // The first error is the one worth telling.
        let _ = fs::remove_file(&partial);
    }
    written
}

fn write_entries(path: &Path, entries: &[(Dtype, &str, &Tensor)]) -> Result<()> {
    let file = File::create(path).map_err(ModelError::io(path))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let header = header_text(entries)?;
    let length = (header.len() as u64).to_le_bytes();
    out.write_all(&length).and_then(|()| out.write_all(header.as_bytes())).map_err(ModelError::io(path))?;
    for (dtype, name, tensor) in entries {
        let values = tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        let all_held = write_values(&mut out, *dtype, &values).map_err(ModelError::io(path))?;
        if !all_held {
            return Err(ModelError::NotFinite((*name).to_owned()));
        }
    }
    let file = out.into_inner().map_err(|error| ModelError::io(path)(error.into_error()))?;
    file.sync_all().map_err(ModelError::io(path))
}

/// The header, padded with spaces so that the data starts at a multiple of 8 bytes.
fn header_text(entries: &[(Dtype, &str, &Tensor)]) -> Result<String> {
    let mut position = 0;
    let mut names = HashSet::new();
    let mut tensors = Vec::with_capacity(entries.len());
    for (dtype, name, tensor) in entries {
        if !names.insert(name) {
            return Err(misfit(name, "one tensor of this name", "two"));
        }
        let start = position;
        position += dtype.bytes() as usize * tensor.elem_count();
        let dtype = match dtype {
            Dtype::F16 => safetensors::Dtype::F16,
            Dtype::Bf16 => safetensors::Dtype::BF16,
            _ => safetensors::Dtype::F32,
        };
        let shape = tensor.dims().to_vec();
        tensors.push(((*name).to_owned(), TensorInfo { dtype, shape, data_offsets: (start, position) }));
    }
    // Readers of the Python side refuse a file that does not say which framework it is for.
    let framework = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(framework), tensors).expect("offsets that follow from the shapes");
    let mut text = serde_json::to_string(&metadata).expect("a header of text and whole numbers");
    let padding = text.len().next_multiple_of(8) - text.len();
    text.push_str(&" ".repeat(padding));
    Ok(text)
}

/// Writes the values; false when one of them is not finite in this element type.
pub(super) fn write_values(out: &mut impl Write, dtype: Dtype, values: &[f32]) -> io::Result<bool> {
    let mut finite = true;
    match dtype {
        Dtype::F16 => write_each(out, values, |value| {
            let stored = f16::from_f32(value);
            finite &= stored.is_finite();
            stored.to_le_bytes()
        }),
        Dtype::Bf16 => write_each(out, values, |value| {
            let stored = bf16::from_f32(value);
            finite &= stored.is_finite();
            stored.to_le_bytes()
        }),
        _ => write_each(out, values, |value| {
            finite &= value.is_finite();
            value.to_le_bytes()
        }),
    }?;
    Ok(finite)
}

fn write_each<const N: usize>(
    out: &mut impl Write,
    values: &[f32],
    mut convert: impl FnMut(f32) -> [u8; N],
) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(N * 4096);
    for part in values.chunks(4096) {
        bytes.clear();
        part.iter().for_each(|value| bytes.extend_from_slice(&convert(*value)));
        out.write_all(&bytes)?;
    }
    Ok(())
}
