//! Adapters between their two forms: factors by module name, and by module index for one model.

use super::{BoundAdapter, LoraAdapter};
use crate::error::{ModelError, Result};
use crate::modules::ModuleShape;

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
        Ok(Self::new(factors))
    }

    /// An adapter with the configuration of `like` and these factors.
    pub fn unbind(&self, like: &LoraAdapter, modules: &[ModuleShape]) -> LoraAdapter {
        let named = modules.iter().zip(self.slots());
        let factors = named.filter_map(|(module, f)| Some((module.name.clone(), f.clone()?))).collect();
        LoraAdapter { config: like.config.clone(), factors }
    }
}
