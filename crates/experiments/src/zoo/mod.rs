//! Suspects that we trained ourselves: the sets that experiments run on (`sets.rs`), the screen over a set
//! (`check.rs`), and how well its scores tell poisoned members from honest ones (`roc.rs`).

mod check;
mod roc;
mod sets;

pub use check::{CheckedMember, check_zoo};
pub use roc::{Separation, separation};
pub use sets::{ZooSet, held_out_rows, zoo_members};
