//! The same tests with everything on a GPU.

#![allow(clippy::duplicate_mod)] // one body for every device

#[path = "families.rs"]
mod families;
#[path = "gradients.rs"]
mod gradients;
#[path = "parity.rs"]
mod parity;
#[path = "precision.rs"]
mod precision;
#[path = "sharing.rs"]
mod sharing;
#[path = "streaming.rs"]
mod streaming;
#[path = "support.rs"]
mod support;

use std::sync::LazyLock;

use antigen_models::{Device, open_device};

/// The first GPU; where none opens, which standard error says, the CPU once more.
fn device() -> Device {
    static DEVICE: LazyLock<Device> = LazyLock::new(|| {
        open_device("cuda").unwrap_or_else(|why| {
            eprintln!("no GPU opens, so these tests run on the CPU once more: {why}");
            Device::Cpu
        })
    });
    DEVICE.clone()
}
