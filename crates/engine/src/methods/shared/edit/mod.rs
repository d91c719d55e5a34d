//! Editing weights without training: the parts that methods of cutting channels, pruning entries and rounding
//! have in common.
//!
//! An edit sees the weight of a linear layer as `Matrix`, `[out, in]`, whichever way round its file has it;
//! a whole model is edited one matrix at a time (`whole.rs`), an adapter in its factors (`factors.rs`); edits
//! that look at activations take either block by block (`calibrated.rs`), attention heads at once
//! (`without_heads.rs`). `channels.rs` decides which channels go, and how many.

mod activation_scores;
mod calibrated;
mod channels;
mod factors;
mod low_rank;
mod matrix;
mod quantise;
mod whole;
mod without_heads;

pub(crate) use activation_scores::{dormant_channels, prune_rows};
pub(crate) use calibrated::{Reads, edit_calibrated, rewrite_calibrated};
pub(crate) use channels::{Channels, changed_mlp, channel_count, cut_channels, random_channels, weakest};
pub(crate) use factors::{update_norms, zero_channels};
pub(crate) use low_rank::truncate;
pub(crate) use matrix::{Matrix, zero_up_to};
pub(crate) use quantise::{int8_round_trip, nf4_round_trip};
pub(crate) use whole::rewrite_matrices;
pub use without_heads::without_heads;
