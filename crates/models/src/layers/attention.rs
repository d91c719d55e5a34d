//! Self-attention with grouped key-value heads, and the cache that decoding fills.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::{Gradients, Linear, LinearTrace, Norm, Pass};
use crate::error::Result;
use crate::kernels::{
    AttentionSettings, Direction, Prepared, RopeTable, attention, attention_backward, join_columns, rotate,
    scatter_rows, split_columns,
};

/// Projections around the attention kernel.
#[derive(Debug, Clone)]
pub struct SelfAttention {
    /// `[t, d] -> [t, h * k]` and twice `[t, g * k]`.
    pub inputs: AttentionInputs,
    /// Normalisation of each head's queries and keys before they turn (Qwen 3).
    pub head_norms: Option<HeadNorms>,
    /// Rotations of every position, shared by all layers; none where positions are added to the embeddings.
    pub rope: Option<Arc<RopeTable>>,
    /// The arithmetic of the kernel.
    pub settings: AttentionSettings,
    /// `[t, h * k] -> [t, d]`.
    pub output: Linear,
}

/// The layers that make queries, keys and values.
#[derive(Debug, Clone)]
pub enum AttentionInputs {
    /// One for each.
    Separate {
        /// `[t, d] -> [t, h * k]`.
        query: Linear,
        /// `[t, d] -> [t, g * k]`.
        key: Linear,
        /// `[t, d] -> [t, g * k]`.
        value: Linear,
    },
    /// One for all three, in this order.
    Fused {
        /// `[t, d] -> [t, (h + 2 g) * k]`.
        all: Linear,
        /// `h * k`, `g * k`, `g * k`.
        widths: [usize; 3],
    },
}

/// Norms over the `k` numbers of a head; the same for every head.
#[derive(Debug, Clone)]
pub struct HeadNorms {
    /// Of queries.
    pub query: Norm,
    /// Of keys.
    pub key: Norm,
}

/// The tensors that backward needs beside the input.
#[derive(Debug)]
pub struct AttentionTrace {
    inputs: Vec<LinearTrace>,
    /// Queries and keys before their norms, where there are norms.
    before_norms: Option<(Tensor, Tensor)>,
    /// As the kernel saw them.
    pub(super) query: Tensor,
    pub(super) key: Tensor,
    value: Tensor,
    pub(super) heads: Tensor,
    output: LinearTrace,
}

impl SelfAttention {
    /// `[t, d] -> [t, d]`. `layer` says which part of the cache is this layer's.
    pub fn forward(&self, x: &Tensor, layer: usize, pass: Pass<'_>) -> Result<(Tensor, AttentionTrace)> {
        let ([mut query, mut key, value], inputs) = self.inputs.forward(x, pass)?;
        let mut before_norms = None;
        if let Some(norms) = &self.head_norms {
            let normed = (self.norm_heads(&norms.query, &query, pass)?, self.norm_heads(&norms.key, &key, pass)?);
            before_norms = Some((query, key));
            (query, key) = normed;
        }
        self.turn(&query, &key, pass, Direction::Forward)?;
        let heads = match pass.cache {
            None => {
                let (keys, values) = (pass.rows.gather_keys(&key)?, pass.rows.gather_keys(&value)?);
                attention(&query, &keys, &values, &pass.rows.spans, self.settings)?
            }
            Some((cache, rows)) => {
                let (keys, values) = &cache.layers[layer];
                scatter_rows(keys, rows, &pass.rows.gather_keys(&key)?)?;
                scatter_rows(values, rows, &pass.rows.gather_keys(&value)?)?;
                attention(&query, keys, values, &pass.rows.spans, self.settings)?
            }
        };
        let (y, output) = self.output.forward(&heads, pass)?;
        Ok((y, AttentionTrace { inputs, before_norms, query, key, value, heads, output }))
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
        let d_heads = self.output.backward(&trace.heads, &trace.output, dy, pass, gradients)?;
        let (keys, values) = (pass.rows.gather_keys(&trace.key)?, pass.rows.gather_keys(&trace.value)?);
        let (spans, settings) = (&pass.rows.spans, self.settings);
        let (mut dq, dk, dv) = attention_backward(&trace.query, &keys, &values, &d_heads, spans, settings)?;
        let (mut dk, dv) = (pass.rows.return_keys(dk)?, pass.rows.return_keys(dv)?);
        self.turn(&dq, &dk, pass, Direction::Backward)?;
        if let (Some(norms), Some((query, key))) = (&self.head_norms, &trace.before_norms) {
            dq = self.norm_heads_backward(&norms.query, query, &dq, pass, gradients)?;
            dk = self.norm_heads_backward(&norms.key, key, &dk, pass, gradients)?;
        }
        self.inputs.backward(x, &trace.inputs, [&dq, &dk, &dv], pass, gradients)
    }

    /// Turns queries and keys, or their gradients, in place.
    fn turn(&self, query: &Tensor, key: &Tensor, pass: Pass<'_>, direction: Direction) -> Result<()> {
        let Some(rope) = &self.rope else { return Ok(()) };
        rotate(query, rope, &pass.rows.positions, direction)?;
        rotate(key, rope, &pass.rows.positions, direction)
    }

    /// The same numbers with one row for each head: `[t, heads * k] -> [t * heads, k]`.
    fn by_head(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.reshape(((), self.settings.head_width))?)
    }

    fn norm_heads(&self, norm: &Norm, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        Ok(norm.forward(&self.by_head(x)?, pass)?.reshape(x.shape())?)
    }

    fn norm_heads_backward(
        &self,
        norm: &Norm,
        x: &Tensor,
        dy: &Tensor,
        pass: Pass<'_>,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        Ok(norm.backward(&self.by_head(x)?, &self.by_head(dy)?, pass, gradients)?.reshape(x.shape())?)
    }
}

impl AttentionInputs {
    /// The layers, in this order.
    pub(super) fn layers(&self) -> Vec<&Linear> {
        match self {
            Self::Separate { query, key, value } => vec![query, key, value],
            Self::Fused { all, .. } => vec![all],
        }
    }

    /// Queries, keys and values of the rows `x`.
    fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Result<([Tensor; 3], Vec<LinearTrace>)> {
        match self {
            Self::Separate { query, key, value } => {
                let results = Linear::forward_each([query, key, value], x, pass)?;
                let mut traces = Vec::with_capacity(results.len());
                let heads = results.map(|(y, trace)| {
                    traces.push(trace);
                    y
                });
                Ok((heads, traces))
            }
            Self::Fused { all, widths } => {
                let (all, trace) = all.forward(x, pass)?;
                Ok((split_columns(&all, *widths)?, vec![trace]))
            }
        }
    }

    fn backward(
        &self,
        x: &Tensor,
        traces: &[LinearTrace],
        d: [&Tensor; 3],
        pass: Pass<'_>,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        match (self, traces) {
            (Self::Separate { query, key, value }, [query_trace, key_trace, value_trace]) => {
                let (layers, traces) = ([query, key, value], [query_trace, key_trace, value_trace]);
                Linear::backward_each(layers, x, traces, d, pass, gradients)
            }
            (Self::Fused { all, .. }, [trace]) => all.backward(x, trace, &join_columns(d)?, pass, gradients),
            _ => unreachable!("a trace is given back to the layer that made it"),
        }
    }
}

/// Keys and values of the rows seen so far: `slots` sequences of up to `capacity` rows each, for every layer.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
    /// The weights, packed at their first product: each decoding step needs all of them for a few rows.
    pub(super) prepared: Vec<Prepared>,
}

impl KvCache {
    /// An empty cache of `rows` rows of `width` numbers (key-value heads times head width) for each layer.
    ///
    /// # Cost
    /// `2 * layers * rows * width` float32, and room for `weights` prepared weights.
    pub fn new(layers: usize, rows: usize, width: usize, weights: usize, device: &Device) -> Result<Self> {
        let zeros = || Tensor::zeros((rows, width), DType::F32, device);
        let layers = (0..layers).map(|_| Ok((zeros()?, zeros()?))).collect::<Result<_>>()?;
        let prepared = (0..weights).map(|_| Prepared::default()).collect();
        Ok(Self { layers, prepared })
    }
}
