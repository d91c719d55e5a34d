//! Causal self-attention with rotary positions and grouped key-value heads, and the cache that decoding fills.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::{Gradients, Linear, LinearTrace, Pass};
use crate::error::Result;
use crate::kernels::{AttentionSettings, Direction, RopeTable, attention, attention_backward, rotate, scatter_rows};

/// Query, key, value and output projections around the attention kernel.
#[derive(Debug, Clone)]
pub struct SelfAttention {
    /// `[t, d] -> [t, h * k]`.
    pub query: Linear,
    /// `[t, d] -> [t, g * k]`.
    pub key: Linear,
    /// `[t, d] -> [t, g * k]`.
    pub value: Linear,
    /// `[t, h * k] -> [t, d]`.
    pub output: Linear,
    /// What the kernel computes.
    pub settings: AttentionSettings,
    /// Rotations of every position, shared by all layers.
    pub rope: Arc<RopeTable>,
}

/// What backward needs beside the input: rotated queries and keys, values, the heads' outputs.
#[derive(Debug)]
pub struct AttentionTrace {
    query: (Tensor, LinearTrace),
    key: (Tensor, LinearTrace),
    value: (Tensor, LinearTrace),
    heads: Tensor,
    output: LinearTrace,
}

impl SelfAttention {
    /// `[t, d] -> [t, d]`. `layer` says which part of the cache is this layer's.
    pub fn forward(&self, x: &Tensor, layer: usize, pass: Pass<'_>) -> Result<(Tensor, AttentionTrace)> {
        let query = self.query.forward(x, pass)?;
        let key = self.key.forward(x, pass)?;
        let value = self.value.forward(x, pass)?;
        rotate(&query.0, &self.rope, &pass.rows.positions, Direction::Forward)?;
        rotate(&key.0, &self.rope, &pass.rows.positions, Direction::Forward)?;
        let heads = match pass.cache {
            None => attention(&query.0, &key.0, &value.0, &pass.rows.spans, self.settings)?,
            Some((cache, rows)) => {
                let (keys, values) = &cache.layers[layer];
                scatter_rows(keys, rows, &key.0)?;
                scatter_rows(values, rows, &value.0)?;
                attention(&query.0, keys, values, &pass.rows.spans, self.settings)?
            }
        };
        let (y, output) = self.output.forward(&heads, pass)?;
        Ok((y, AttentionTrace { query, key, value, heads, output }))
    }

    /// Gradient of the input `x`.
    pub fn backward(
        &self,
        x: &Tensor,
        trace: &AttentionTrace,
        dy: &Tensor,
        pass: Pass<'_>,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let d_heads = self.output.backward(&trace.heads, &trace.output, dy, pass, gradients, None)?;
        let inputs = (&trace.query.0, &trace.key.0, &trace.value.0);
        let (dq, dk, dv) = attention_backward(inputs, &d_heads, &pass.rows.spans, self.settings)?;
        rotate(&dq, &self.rope, &pass.rows.positions, Direction::Backward)?;
        rotate(&dk, &self.rope, &pass.rows.positions, Direction::Backward)?;
        let dx = self.query.backward(x, &trace.query.1, &dq, pass, gradients, None)?;
        let dx = self.key.backward(x, &trace.key.1, &dk, pass, gradients, Some(dx))?;
        self.value.backward(x, &trace.value.1, &dv, pass, gradients, Some(dx))
    }
}

/// Keys and values of the rows seen so far: `slots` sequences of up to `capacity` rows each, for every layer.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
}

impl KvCache {
    /// An empty cache of `rows` rows of `width` numbers (key-value heads times head width) for each layer.
    ///
    /// # Cost
    /// `2 * layers * rows * width` float32.
    pub fn new(layers: usize, rows: usize, width: usize, device: &Device) -> Result<Self> {
        let zeros = || Tensor::zeros((rows, width), DType::F32, device);
        let layers = (0..layers).map(|_| Ok((zeros()?, zeros()?))).collect::<Result<_>>()?;
        Ok(Self { layers })
    }
}
