//! Weights that can be measured: the bare base, an adapter over it, or a whole model on disk.
//!
//! A submission, every candidate and every control is one [`Weights`]. Adapters are small and live in memory;
//! whole models stay in their folders and are opened one at a time, so that memory does not grow with their
//! number.

use std::path::{Path, PathBuf};

use antigen_models::checkpoint::copy_checkpoint;
use antigen_models::{LoraAdapter, Model, Tensor};
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::lab::hex;

/// The weights of a model; its family and configuration lie with the suspect.
#[derive(Debug, Clone)]
pub enum Weights {
    /// The base without an adapter.
    Base,
    /// An adapter over the base.
    Adapter(LoraAdapter),
    /// A whole model.
    Checkpoint(CheckpointFolder),
}

/// A whole model on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointFolder {
    /// The folder: configuration, weights, tokenizer.
    pub dir: PathBuf,
    /// Digest of everything that determines its numbers: equal digests, equal numbers.
    pub digest: String,
}

impl Weights {
    /// The adapter, if this is one.
    pub fn adapter(&self) -> Option<&LoraAdapter> {
        match self {
            Self::Adapter(adapter) => Some(adapter),
            Self::Base | Self::Checkpoint(_) => None,
        }
    }

    /// A digest that tells these weights from others over the same base; `None` is the base itself.
    ///
    /// # Errors
    /// Those of the device.
    pub fn digest(&self) -> Result<Option<String>> {
        match self {
            Self::Base => Ok(None),
            Self::Adapter(adapter) => adapter_sha256(adapter).map(Some),
            Self::Checkpoint(folder) => Ok(Some(folder.digest.clone())),
        }
    }
}

/// Weights in memory, ready to be asked.
pub struct Opened<'a> {
    pub(crate) model: Held<'a>,
    /// The adapter over the model, if there is one.
    pub adapter: Option<&'a LoraAdapter>,
}

pub(crate) enum Held<'a> {
    Shared(&'a Model),
    Own(Box<Model>),
}

impl Opened<'_> {
    /// The model under the adapter.
    pub fn model(&self) -> &Model {
        match &self.model {
            Held::Shared(model) => model,
            Held::Own(model) => model,
        }
    }
}

/// Digest of an adapter's factors: names, shapes, scalings and every number.
///
/// # Errors
/// Those of the device.
pub fn adapter_sha256(adapter: &LoraAdapter) -> Result<String> {
    let mut hash = Sha256::new();
    for (name, factors) in &adapter.factors {
        hash.update(name.as_bytes());
        hash.update(factors.scaling.to_le_bytes());
        for tensor in [&factors.a, &factors.b] {
            hash.update(format!("{:?}", tensor.dims()));
            let numbers = tensor.flatten_all()?.to_vec1::<f32>()?;
            numbers.iter().for_each(|x| hash.update(x.to_le_bytes()));
        }
    }
    Ok(hex(&hash.finalize()))
}

/// Writes `model` as a copy of the checkpoint folder `like`, which it was loaded from: the same files,
/// shards, names and element types, with the model's numbers.
///
/// # Errors
/// [`crate::error::EngineError::Model`] for a number that the stored element type cannot hold, or when the
/// disk refuses.
///
/// # Cost
/// One tensor at a time beside the model.
pub fn write_model(model: &Model, like: &Path, to: &Path) -> Result<()> {
    let params = model.params();
    Ok(copy_checkpoint(like, to, |entry| {
        // Some exports of tied models store the head a second time; it must stay equal to the embedding.
        let tied = || {
            let is_twin = |tensor: &&Tensor| tensor.dims() == entry.shape;
            params.iter().map(|(_, _, tensor)| tensor).find(is_twin).filter(|_| entry.name == "lm_head.weight")
        };
        Ok(params.find(&entry.name).map(|id| params.get(id)).or_else(tied).cloned())
    })?)
}
