//! PEFT's LoRA files in and out.
//!
//! `config.rs` reads `adapter_config.json` and refuses by name what would change the arithmetic; `targets.rs`
//! decides which layers of a base an adapter touches, with which rank and scaling; `files.rs` moves the
//! factors. Adapters of other kinds (DoRA, IA3, prompt tuning ...) do not live here.

mod config;
mod files;
mod targets;

pub use config::{PeftConfig, PeftTask, open_adapter_config};
pub use files::{check_adapter_tensors, load_adapter, save_adapter};
pub use targets::{AdaptedModule, RankLookup, TargetModules};

#[cfg(test)]
mod tests;
