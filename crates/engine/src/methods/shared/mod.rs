//! Pieces that several methods share: synthetic backdoors in pairs of variants, edits of weights, attention
//! heads, controls.

pub mod controls;
pub mod edit;
pub(crate) mod eigen;
pub(crate) mod fine_tune_only;
pub mod head_pruning;
pub(crate) mod pairs;
pub(crate) mod read_rows;
pub(crate) mod streams;
pub(crate) mod variants;
pub mod weight_edit;
