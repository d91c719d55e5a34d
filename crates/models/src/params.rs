//! A model's weights by name, and their gradients by index.

use std::collections::HashMap;

use candle_core::Tensor;

use crate::error::{ModelError, Result};
use crate::kernels::Precision;

/// Index of one weight in [`Params`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub usize);

/// All weights of one model, in the order in which the family asked for them.
#[derive(Debug, Default)]
pub struct Params {
    names: Vec<String>,
    tensors: Vec<Tensor>,
    index: HashMap<String, ParamId>,
    precision: Precision,
}

impl Params {
    /// Adds a weight under its checkpoint name.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] when the name is taken.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) -> Result<ParamId> {
        let name = name.into();
        let id = ParamId(self.tensors.len());
        if self.index.insert(name.clone(), id).is_some() {
            return Err(ModelError::Tensor {
                tensor: name,
                expected: "one tensor of this name".into(),
                found: "two".into(),
            });
        }
        self.names.push(name);
        self.tensors.push(tensor);
        Ok(id)
    }

    /// In what precision these weights are multiplied with activations.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Chooses the precision of products with these weights.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// The weight itself.
    pub fn get(&self, id: ParamId) -> &Tensor {
        &self.tensors[id.0]
    }

    /// Replaces a weight by one of the same shape.
    pub fn set(&mut self, id: ParamId, tensor: Tensor) {
        debug_assert_eq!(self.tensors[id.0].dims(), tensor.dims());
        self.tensors[id.0] = tensor;
    }

    /// The weight of this name, if the model has it.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.index.get(name).copied()
    }

    /// The checkpoint name of a weight.
    pub fn name(&self, id: ParamId) -> &str {
        &self.names[id.0]
    }

    /// Every weight with its name, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (ParamId, &str, &Tensor)> {
        self.names.iter().zip(&self.tensors).enumerate().map(|(i, (n, t))| (ParamId(i), n.as_str(), t))
    }

    /// Number of weights (tensors, not scalars).
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Number of scalars in all weights.
    pub fn count_scalars(&self) -> usize {
        self.tensors.iter().map(Tensor::elem_count).sum()
    }
}
