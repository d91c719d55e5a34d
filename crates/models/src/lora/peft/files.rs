//! `adapter_model.safetensors`: the factors in and out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};

use super::config::{PeftConfig, open_adapter_config, write_adapter_config};
use super::targets::AdaptedModule;
use crate::checkpoint::header::{Dtype, TensorEntry};
use crate::checkpoint::tensor_file::TensorFile;
use crate::checkpoint::write_tensor_file;
use crate::error::{ModelError, Result};
use crate::families::FamilyConfig;
use crate::lora::{LoraAdapter, LoraFactors, fresh_rows};

const FILE_NAME: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

fn key_a(module: &str) -> String {
    format!("{PREFIX}{module}.lora_A.weight")
}

fn key_b(module: &str) -> String {
    format!("{PREFIX}{module}.lora_B.weight")
}

/// Loads an adapter folder for a base.
///
/// # Errors
/// Whatever [`open_adapter_config`] and [`check_adapter_tensors`] refuse, and [`ModelError::NotFinite`].
pub fn load_adapter(dir: &Path, base: &FamilyConfig, device: &Device) -> Result<LoraAdapter> {
    let mut config = open_adapter_config(dir)?;
    let file = TensorFile::open(&dir.join(FILE_NAME))?;
    let adapted = check_adapter_tensors(&config, base, file.entries())?;
    config.dtype = common_dtype(file.entries());
    let mut factors = BTreeMap::new();
    for module in adapted {
        let name = module.shape.name;
        let a = file.load_finite(&key_a(&name), device)?;
        let b = file.load_finite(&key_b(&name), device)?;
        factors.insert(name, LoraFactors { a, b, scaling: module.scaling });
    }
    Ok(LoraAdapter { config, factors })
}

/// Checks that a file has exactly the tensors that its configuration promises for this base; headers suffice.
///
/// # Errors
/// [`ModelError::Tensor`] for a missing tensor, one too many, or another shape or element type.
pub fn check_adapter_tensors(
    config: &PeftConfig,
    base: &FamilyConfig,
    entries: &[TensorEntry],
) -> Result<Vec<AdaptedModule>> {
    let adapted = config.adapted_modules(base)?;
    let by_name: BTreeMap<&str, &TensorEntry> = entries.iter().map(|entry| (entry.name.as_str(), entry)).collect();
    let mut expected = BTreeSet::new();
    for AdaptedModule { shape, rank, .. } in &adapted {
        for (key, extents) in
            [(key_a(&shape.name), [*rank, shape.in_features]), (key_b(&shape.name), [shape.out_features, *rank])]
        {
            check_tensor(&key, &extents, by_name.get(key.as_str()).copied())?;
            expected.insert(key);
        }
    }
    match by_name.keys().find(|name| !expected.contains(**name)) {
        None => Ok(adapted),
        Some(name) => Err(ModelError::Tensor {
            tensor: (*name).to_owned(),
            expected: "only LoRA factors of the layers that the configuration targets in this base".into(),
            found: "a tensor that belongs to none of them".into(),
        }),
    }
}

fn check_tensor(name: &str, shape: &[usize], entry: Option<&TensorEntry>) -> Result<()> {
    let found = match entry {
        Some(entry) if entry.shape != shape => format!("shape {:?}", entry.shape),
        Some(entry) if !matches!(entry.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16) => entry.dtype.name().to_owned(),
        Some(_) => return Ok(()),
        None => "no such tensor".into(),
    };
    Err(ModelError::Tensor { tensor: name.to_owned(), expected: format!("F32, F16 or BF16 of shape {shape:?}"), found })
}

/// The element type that all tensors share; float32, which holds the others, when they differ.
fn common_dtype(entries: &[TensorEntry]) -> Dtype {
    let first = entries.first().map_or(Dtype::F32, |entry| entry.dtype);
    if entries.iter().all(|entry| entry.dtype == first) { first } else { Dtype::F32 }
}

/// Writes an adapter folder that PEFT loads; equal adapters give equal bytes.
///
/// # Errors
/// [`ModelError::Tensor`] when a factor's rank is not the one its configuration gives (PEFT could not load
/// it), [`ModelError::NotFinite`] for NaN or a value beyond the stored element type, [`ModelError::Io`].
pub fn save_adapter(adapter: &LoraAdapter, dir: &Path) -> Result<()> {
    let mut tensors: Vec<(String, Tensor)> = Vec::with_capacity(2 * adapter.factors.len());
    let ranks = adapter.config.rank_lookup()?;
    for (module, factors) in &adapter.factors {
        let (rank, _) = ranks.find(module);
        check_rank(&key_a(module), factors.a.dims(), 0, rank)?;
        check_rank(&key_b(module), factors.b.dims(), 1, rank)?;
        tensors.push((key_a(module), factors.a.clone()));
        tensors.push((key_b(module), factors.b.clone()));
    }
    fs::create_dir_all(dir).map_err(ModelError::io(dir))?;
    write_tensor_file(&dir.join(FILE_NAME), &tensors, Some(adapter.config.dtype))?;
    write_adapter_config(&adapter.config, dir)
}

fn check_rank(tensor: &str, shape: &[usize], axis: usize, rank: usize) -> Result<()> {
    if shape.len() == 2 && shape[axis] == rank {
        return Ok(());
    }
    let expected = format!("two dimensions with rank {rank} at dimension {axis}");
    Err(ModelError::Tensor { tensor: tensor.to_owned(), expected, found: format!("shape {shape:?}") })
}

impl LoraAdapter {
    /// A new adapter that changes nothing yet: `a` uniform in `±1/sqrt(in)` (what PEFT's Kaiming start
    /// amounts to), `b` zero. `rng` draws uniformly from -1 to 1; draws are taken in the base's layer order,
    /// so equal draws give equal adapters.
    ///
    /// # Errors
    /// Those of [`PeftConfig::adapted_modules`].
    pub fn fresh(config: PeftConfig, base: &FamilyConfig, rng: &mut dyn FnMut() -> f32) -> Result<Self> {
        let mut factors = BTreeMap::new();
        for AdaptedModule { shape, rank, scaling } in config.adapted_modules(base)? {
            let a = fresh_rows(rank, shape.in_features, &Device::Cpu, rng)?;
            let b = Tensor::zeros((shape.out_features, rank), candle_core::DType::F32, &Device::Cpu)?;
            factors.insert(shape.name, LoraFactors { a, b, scaling });
        }
        Ok(Self { config, factors })
    }
}
