//! Tests of the whole crate against numbers that it did not make: PyTorch's (`parity`) and finite differences (`gradients`).

mod gradients;
mod parity;
mod support;
