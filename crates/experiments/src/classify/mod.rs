//! Sentence classifiers: attacks on them, and the two published defences that were made for them.
//!
//! Nothing here is a method of `antigen purify`, which is about models that generate. A small BERT is trained
//! on SST-2 by our own engine (`classifier.rs`, `training.rs`), poisoned by one of four published attacks
//! (`triggers.rs`), and defended by pruning attention heads (`defend.rs`, with the rankers of the engine's
//! `head_pruning`) or by a clean teacher (`w2s_defense`). `experiment.rs` runs all of it; read it first.

pub mod classifier;
pub mod defend;
pub mod experiment;
pub mod sentences;
pub mod table;
pub mod tokenizer;
pub mod training;
pub mod triggers;
pub mod w2s_defense;
