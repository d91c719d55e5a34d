//! An adapter laid out for one model: factors by module index instead of by name.

use candle_core::{Device, Tensor};

use super::{LoraAdapter, LoraFactors};
use crate::error::{ModelError, Result};
use crate::families::ModuleShape;
use crate::layers::ModuleIdx;

/// The factors of one adapter, one slot for each adaptable module of the model.
#[derive(Debug, Clone)]
pub struct BoundAdapter {
    factors: Vec<Option<LoraFactors>>,
}

impl BoundAdapter {
    /// Looks up every module of `adapter` in the model's list. The tensors are shared, not copied.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] when the adapter names a module that the model lacks.
    pub fn bind(adapter: &LoraAdapter, modules: &[ModuleShape]) -> Result<Self> {
        let mut left = adapter.factors.len();
        let factors =
            modules.iter().map(|module| adapter.factors.get(&module.name).cloned().inspect(|_| left -= 1)).collect();
        if left > 0 {
            let stranger = adapter.factors.keys().find(|name| modules.iter().all(|m| m.name != **name));
            return Err(ModelError::Tensor {
                tensor: stranger.cloned().unwrap_or_default(),
                expected: "a linear layer of this model".into(),
                found: "no layer of that name".into(),
            });
        }
        Ok(Self { factors })
    }

    /// The same numbers in memory of their own on `device`, so that training cannot change the adapter they came from.
    pub fn deep_copy(&self, device: &Device) -> Result<Self> {
        // Between devices `to_device` copies, on the same one it shares.
        let moved = |x: &Tensor| if x.device().same_device(device) { x.copy() } else { x.to_device(device) };
        let copy = |f: &LoraFactors| Ok(LoraFactors { a: moved(&f.a)?, b: moved(&f.b)?, scaling: f.scaling });
        let factors = self.factors.iter().map(|f| f.as_ref().map(copy).transpose()).collect::<Result<_>>()?;
        Ok(Self { factors })
    }

    /// An adapter with the configuration of `like` and these factors.
    pub fn unbind(&self, like: &LoraAdapter, modules: &[ModuleShape]) -> LoraAdapter {
        let named = modules.iter().zip(&self.factors);
        let factors = named.filter_map(|(module, f)| Some((module.name.clone(), f.clone()?))).collect();
        LoraAdapter { config: like.config.clone(), factors }
    }

    /// The factors on one module, if it is adapted.
    pub fn factors(&self, module: ModuleIdx) -> Option<&LoraFactors> {
        self.factors.get(module.0)?.as_ref()
    }

    /// Every trained tensor with its module: first `a`, then `b`, module by module.
    pub fn tensors(&self) -> impl Iterator<Item = (ModuleIdx, &Tensor, &Tensor)> {
        self.factors.iter().enumerate().filter_map(|(i, f)| f.as_ref().map(|f| (ModuleIdx(i), &f.a, &f.b)))
    }
}
