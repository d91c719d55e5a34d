//! The experiments: everything that serves no job. Zoos of suspects that we trained ourselves, comparisons of
//! methods on them, sweeps of settings, ablations, published attack data, sentence classifiers, speed.
//!
//! [`cli`] has the commands of `antigen-experiments`, one file each: read the one that interests you first.
//! What they measure lies in docs/results. The service knows nothing of this package.
#![warn(missing_docs)]

pub mod ablate;
pub mod bench;
pub mod classify;
pub mod cli;
pub mod comparison;
pub mod published;
pub mod zoo;
