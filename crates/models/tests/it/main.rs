//! Tests of the whole crate against numbers that it did not make: PyTorch's (`parity`), those of candle's own
//! models (`reference`), and finite differences (`gradients`).

#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod families;
mod gradients;
mod parity;
mod precision;
mod reference;
mod sampling;
mod shared_data;
mod sharing;
mod streaming;
mod support;

#[cfg(feature = "cuda")]
mod on_gpu;

/// The device on which the tests of these modules compute; `on_gpu` runs the same bodies elsewhere.
fn device() -> antigen_models::Device {
    antigen_models::Device::Cpu
}
