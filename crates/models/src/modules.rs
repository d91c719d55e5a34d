//! The linear layers of a model as those who adapt, score or prune them see them: kinds, shapes and indices.
//! Knows no family.

use serde::{Deserialize, Serialize};

/// The part of a linear layer in its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleKind {
    /// Attention queries; reads the residual stream.
    Query,
    /// Attention keys; reads the residual stream.
    Key,
    /// Attention values; reads the residual stream.
    Value,
    /// Attention output; writes to the residual stream.
    Output,
    /// Attention queries, keys and values in one matrix, in this order; reads the residual stream.
    QueryKeyValue,
    /// MLP gate; reads the residual stream.
    Gate,
    /// MLP up-projection, or the first of two matrices; reads the residual stream.
    Up,
    /// MLP gate and up-projection in one matrix, in this order; reads the residual stream.
    GateUp,
    /// MLP down-projection; writes to the residual stream.
    Down,
}

impl ModuleKind {
    /// True when the module belongs to the MLP.
    pub fn is_mlp(self) -> bool {
        matches!(self, Self::Gate | Self::Up | Self::GateUp | Self::Down)
    }

    /// True when the module writes to the residual stream; the others read it.
    pub fn writes_residual(self) -> bool {
        matches!(self, Self::Output | Self::Down)
    }
}

/// The orientation of a linear layer's weight, on disk and in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stored {
    /// `[out, in]`, as almost everywhere.
    OutIn,
    /// `[in, out]`: GPT-2's `Conv1D`.
    InOut,
}

/// Index of an adaptable linear layer in `Model::linear_modules`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleIdx(pub usize);

/// One adaptable linear layer of a model. Its weight is the tensor `{name}.weight`, its bias, if it has one,
/// `{name}.bias`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleShape {
    /// Full module name, such as `model.layers.0.mlp.gate_proj`.
    pub name: String,
    /// Its part in the block.
    pub kind: ModuleKind,
    /// Index of its block.
    pub layer: usize,
    /// Numbers that come out for each row: rows of the weight, unless `stored` says otherwise.
    pub out_features: usize,
    /// Numbers that go in.
    pub in_features: usize,
    /// The orientation of its weight.
    pub stored: Stored,
}

impl ModuleShape {
    /// Name of the tensor that is its weight.
    pub fn weight_name(&self) -> String {
        format!("{}.weight", self.name)
    }

    /// Numbers on the side of the residual stream: what it reads, or what it writes.
    pub fn residual_width(&self) -> usize {
        if self.kind.writes_residual() { self.out_features } else { self.in_features }
    }

    /// Channels, which lie on the other side.
    pub fn channels(&self) -> usize {
        if self.kind.writes_residual() { self.in_features } else { self.out_features }
    }
}

/// Number and width of the attention's heads; the same in every block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionHeads {
    /// Query heads `h`.
    pub heads: usize,
    /// Key-value heads `g`; `h` is a multiple of it.
    pub key_value_heads: usize,
    /// Width `k` of one head.
    pub head_width: usize,
}

impl AttentionHeads {
    /// Numbers in all queries of one row, `h * k`.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_width
    }

    /// Numbers in all keys (or values) of one row, `g * k`.
    pub fn key_width(&self) -> usize {
        self.key_value_heads * self.head_width
    }
}
