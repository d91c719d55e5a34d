//! Where the arithmetic happens.

use candle_core::Device;

use crate::error::{ModelError, Result};

/// Opens `cpu`, `cuda` or `cuda:N`.
///
/// # Errors
/// [`ModelError::Unsupported`] for another word, [`ModelError::Device`] when this build or machine has no such device.
pub fn open_device(name: &str) -> Result<Device> {
    match name.split_once(':').unwrap_or((name, "0")) {
        ("cpu", "0") => Ok(Device::Cpu),
        ("cuda", index) if index.parse::<usize>().is_ok() => Ok(Device::new_cuda(index.parse().unwrap_or(0))?),
        _ => {
            Err(ModelError::Unsupported { what: format!("device `{name}`"), instead: "use cpu, cuda or cuda:N".into() })
        }
    }
}
