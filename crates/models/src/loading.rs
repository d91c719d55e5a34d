//! Models out of checkpoints, or out of weights that the caller makes.

use std::path::Path;

use candle_core::{Device, Tensor};

use crate::checkpoint::open_checkpoint;
use crate::error::Result;
use crate::families::{FamilyConfig, check_tensors, check_tied_head};
use crate::model::Model;
use crate::params::Params;
use crate::wiring::Blueprint;

/// Loads a checkpoint folder (`config.json` and safetensors, or GGUF) as float32.
///
/// # Errors
/// [`ModelError`](crate::ModelError) naming the file or tensor that is not what the configuration says.
pub fn load_model(dir: &Path, device: &Device) -> Result<Model> {
    let checkpoint = open_checkpoint(dir)?;
    let family = FamilyConfig::from_json(&checkpoint.config_json)?;
    check_tensors(&family, &checkpoint)?;
    check_tied_head(&family, &checkpoint)?;
    build_fresh_model(family, device, |name, _| checkpoint.load(name, device))
}

/// A model of this configuration with the weights that `weight` gives for each tensor name and shape.
///
/// # Errors
/// Those of `weight`.
pub fn build_fresh_model(
    config: FamilyConfig,
    device: &Device,
    mut weight: impl FnMut(&str, &[usize]) -> Result<Tensor>,
) -> Result<Model> {
    let Blueprint { tensors, modules, wiring } = config.blueprint();
    let mut params = Params::default();
    for (name, shape) in tensors {
        let tensor = weight(&name, &shape)?;
        params.insert(name, tensor)?;
    }
    Ok(Model::new(config, modules, params, wiring, device.clone()))
}
