//! A copy of a checkpoint folder in which some tensors have other numbers: the same files, names, element
//! types and places, so that whatever read the original reads the copy. A quantised folder becomes one of
//! plain numbers.

use std::fs::{self, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::header::{Dtype, TensorEntry};
use super::save::write_values;
use super::tensor_file::TensorFile;
use super::{Checkpoint, INDEX_FILE, open_checkpoint, save_checkpoint};
use crate::error::{ModelError, Result};

/// Largest file that a quantised checkpoint is written into.
const MAX_SHARD_BYTES: u64 = 1 << 30;

/// Copies the files of `from` into `to` byte by byte, then writes the numbers that `replace` gives over the
/// tensors that it gives them for, each rounded to its stored element type (F32, F16 or BF16). Rows that lie
/// beside a model (`*.jsonl`) are no part of it.
///
/// Of a quantised checkpoint all weights are written anew in [`Checkpoint::export_dtype`], with a
/// `config.json` that does not speak of quantisation; the entries that `replace` sees are those of the new
/// files, their ranges counted from the first byte of the tensor.
///
/// # Errors
/// [`ModelError::Tensor`] for numbers of another shape, [`ModelError::NotFinite`] for a number that the
/// element type cannot hold, [`ModelError::Io`]; what `replace` returns.
///
/// # Cost
/// One tensor at a time in memory; of a quantised checkpoint, the tensors of one file of 1 GiB.
pub fn copy_checkpoint(
    from: &Path,
    to: &Path,
    mut replace: impl FnMut(&TensorEntry) -> Result<Option<Tensor>>,
) -> Result<()> {
    fs::create_dir_all(to).map_err(ModelError::io(to))?;
    let checkpoint = open_checkpoint(from)?;
    for entry in fs::read_dir(from).map_err(ModelError::io(from))? {
        let source = entry.map_err(ModelError::io(from))?.path();
        let is_ending = |ending: &str| source.extension().is_some_and(|extension| extension == ending);
        let Some(name) = source.file_name().filter(|_| source.is_file() && !is_ending("jsonl")) else { continue };
        if !checkpoint.is_plain() && is_about_storage(&name.to_string_lossy()) {
            continue;
        }
        let copy = to.join(name);
        fs::copy(&source, &copy).map_err(ModelError::io(&source))?;
        if is_ending("safetensors") {
            replace_tensors(&TensorFile::open(&copy)?, &mut replace)?;
        }
    }
    if checkpoint.is_plain() { Ok(()) } else { write_widened(&checkpoint, to, &mut replace) }
}

/// Files that say how the weights of a quantised checkpoint are stored, and the weights.
fn is_about_storage(name: &str) -> bool {
    let settings = ["config.json", INDEX_FILE, "quantize_config.json", "quant_config.json", "hf_quant_config.json"];
    settings.contains(&name) || name.ends_with(".safetensors") || name.to_ascii_lowercase().ends_with(".gguf")
}

/// Writes every tensor of a quantised checkpoint as plain numbers.
fn write_widened(
    checkpoint: &Checkpoint,
    to: &Path,
    replace: &mut impl FnMut(&TensorEntry) -> Result<Option<Tensor>>,
) -> Result<()> {
    let mut produce = |name: &str| -> Result<Tensor> {
        let shape = checkpoint.shape(name).unwrap_or_default().to_vec();
        checkpoint.expect(name, &shape)?;
        let dtype = checkpoint.export_dtype(name).unwrap_or(Dtype::Bf16);
        let bytes = dtype.bytes() * shape.iter().product::<usize>() as u64;
        let tensor = match replace(&TensorEntry { name: name.to_owned(), dtype, shape, range: 0..bytes })? {
            Some(tensor) => tensor,
            None => checkpoint.load(name, &Device::Cpu)?,
        };
        checkpoint.expect(name, tensor.dims())?;
        Ok(tensor.to_dtype(match dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            _ => DType::BF16,
        })?)
    };
    let mut failure = None;
    let tensors = checkpoint.names().map_while(|name| match produce(name) {
        Ok(tensor) => Some((name.to_owned(), tensor)),
        Err(error) => {
            failure = Some(error);
            None
        }
    });
    let written = save_checkpoint(to, &checkpoint.config_json, tensors, MAX_SHARD_BYTES);
    failure.map_or(written, Err)
}

fn replace_tensors(file: &TensorFile, replace: &mut impl FnMut(&TensorEntry) -> Result<Option<Tensor>>) -> Result<()> {
    let path = file.path();
    let opened = OpenOptions::new().write(true).open(path).map_err(ModelError::io(path))?;
    let mut out = BufWriter::with_capacity(1 << 20, opened);
    for entry in file.entries() {
        let Some(tensor) = replace(entry)? else { continue };
        let is_float = matches!(entry.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16);
        if tensor.dims() != entry.shape || !is_float {
            return Err(ModelError::Tensor {
                tensor: entry.name.clone(),
                expected: format!("numbers of shape {:?} for F32, F16 or BF16", tensor.dims()),
                found: format!("{:?} in {}", entry.shape, entry.dtype.name()),
            });
        }
        let values = tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        out.seek(SeekFrom::Start(entry.range.start)).map_err(ModelError::io(path))?;
        if !write_values(&mut out, entry.dtype, &values).map_err(ModelError::io(path))? {
            return Err(ModelError::NotFinite(entry.name.clone()));
        }
    }
    out.flush().map_err(ModelError::io(path))?;
    out.get_ref().sync_all().map_err(ModelError::io(path))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::SINGLE_FILE;
    use super::super::tests::write_raw;
    use super::*;

    fn saved(dir: &Path) {
        let tensor = |n: usize, dtype| Tensor::arange(0f32, n as f32, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let tensors = [("a", 6, DType::F32), ("b", 4, DType::BF16), ("c", 2, DType::F16)];
        let tensors = tensors.map(|(name, n, dtype)| (name.to_owned(), tensor(n, dtype)));
        save_checkpoint(dir, &json!({ "model_type": "llama" }), tensors.into_iter(), 30).unwrap();
        fs::write(dir.join("tokenizer.json"), "{}").unwrap();
    }

    #[test]
    fn a_copy_without_other_numbers_has_the_same_bytes() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        saved(from.path());
        copy_checkpoint(from.path(), to.path(), |_| Ok(None)).unwrap();
        let names = |dir: &Path| {
            let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!((names(from.path()), names(from.path()).len()), (names(to.path()), 5));
        for name in names(from.path()) {
            assert_eq!(fs::read(from.path().join(&name)).unwrap(), fs::read(to.path().join(&name)).unwrap());
        }
    }

    #[test]
    fn other_numbers_are_rounded_to_the_stored_type_and_everything_else_stays() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        saved(from.path());
        let numbers = Tensor::new(&[1.0f32, 1.00001, 2.5, -3.0], &Device::Cpu).unwrap();
        copy_checkpoint(from.path(), to.path(), |entry| Ok((entry.name == "b").then(|| numbers.clone()))).unwrap();
        let copy = open_checkpoint(to.path()).unwrap();
        let load = |name: &str| copy.load(name, &Device::Cpu).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(load("b"), [1.0, 1.0, 2.5, -3.0]);
        assert_eq!((load("a"), load("c")), (vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0], vec![0.0, 1.0]));
        assert_eq!(copy.export_dtype("b"), Some(Dtype::Bf16));
    }

    #[test]
    fn a_quantised_folder_becomes_one_of_plain_numbers() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = json!({ "model_type": "llama", "quantization_config": { "quant_method": "fp8" } });
        fs::write(from.path().join("config.json"), config.to_string()).unwrap();
        fs::write(from.path().join("tokenizer.json"), "{}").unwrap();
        let tensor = |name: &str, dtype: &str, shape: &[usize], bytes: &[u8]| {
            (name.to_owned(), dtype.to_owned(), shape.to_vec(), bytes.to_vec())
        };
        let raw = [
            tensor("a.weight", "F8_E4M3", &[1, 2], &[0x38, 0x40]),
            tensor("a.weight_scale", "F32", &[], &0.5f32.to_le_bytes()),
            tensor("b.weight", "F8_E4M3", &[1, 1], &[0x38]),
            tensor("b.weight_scale", "F32", &[], &3.0f32.to_le_bytes()),
            tensor("c.weight", "F16", &[1], &[0, 0x3c]),
        ];
        fs::write(from.path().join(SINGLE_FILE), write_raw(&raw)).unwrap();
        let other = Tensor::new(&[[7.0f32]], &Device::Cpu).unwrap();
        copy_checkpoint(from.path(), to.path(), |entry| Ok((entry.name == "b.weight").then(|| other.clone()))).unwrap();
        let copy = open_checkpoint(to.path()).unwrap();
        assert_eq!((copy.storage(), &copy.config_json), ("float", &json!({ "model_type": "llama" })));
        assert_eq!(copy.names().collect::<Vec<_>>(), ["a.weight", "b.weight", "c.weight"]);
        let load = |name: &str| copy.load(name, &Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!((load("a.weight"), load("b.weight"), load("c.weight")), (vec![0.5, 1.0], vec![7.0], vec![1.0]));
        let dtypes = ["a.weight", "c.weight"].map(|name| copy.export_dtype(name));
        assert_eq!(dtypes, [Some(Dtype::Bf16), Some(Dtype::F16)]);
        assert!(to.path().join("tokenizer.json").exists());
        let misshapen = copy_checkpoint(from.path(), to.path(), |_| Ok(Some(other.clone()))).unwrap_err();
        assert!(misshapen.to_string().contains("a.weight"), "{misshapen}");
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        saved(from.path());
        let put = |name: &'static str, values: &[f32]| {
            let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
            copy_checkpoint(from.path(), to.path(), |entry| Ok((entry.name == name).then(|| tensor.clone())))
        };
        assert!(matches!(put("c", &[1.0, 1e6]), Err(ModelError::NotFinite(name)) if name == "c"));
        assert!(matches!(put("a", &[1.0]), Err(ModelError::Tensor { .. })));
    }
}
