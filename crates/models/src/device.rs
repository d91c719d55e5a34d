//! The devices that the arithmetic runs on.

use candle_core::Device;

use crate::error::{ModelError, Result};
use crate::kernels::keep_off_matrix_unit;

/// Lets all threads allocate from one heap, which keeps what is freed for the next large buffer. glibc gives
/// each thread a heap of its own, but training allocates on whichever worker it runs: with two workers the
/// peak was twice as high (measured). And it takes large buffers from the system page by page and gives them
/// back at once, which costs a twentieth of a training step. To be called before threads start.
pub fn share_one_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
    // SAFETY: the calls change settings of the allocator and no memory.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
    }
}

/// Opens `cpu`, `cpu:portable`, `cuda` or `cuda:N`. The second is the first with the same bytes on every
/// processor, for which this whole process is kept off the matrix unit ([`keep_off_matrix_unit`]).
///
/// # Errors
/// [`ModelError::Unsupported`] for another word, [`ModelError::Device`] when this build or machine has no
/// such device.
pub fn open_device(name: &str) -> Result<Device> {
    match name.split_once(':').unwrap_or((name, "0")) {
        ("cpu", "0") => Ok(Device::Cpu),
        ("cpu", "portable") => {
            keep_off_matrix_unit();
            Ok(Device::Cpu)
        }
        ("cuda", index) if index.parse::<usize>().is_ok() => open_cuda(index.parse().unwrap_or(0)),
        _ => Err(ModelError::Unsupported {
            what: format!("device `{name}`"),
            instead: "use cpu, cpu:portable, cuda or cuda:N".into(),
        }),
    }
}

/// A GPU with one stream for all threads. With candle's default, a stream for each thread, a model loaded by
/// one thread and trained by another would need events to keep the order.
fn open_cuda(index: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(index).map_err(|why| {
        let why = why.to_string(); // the other lines are a backtrace
        candle_core::Error::Msg(format!("no GPU opens as cuda:{index}: {}", why.lines().next().unwrap_or_default()))
    })?;
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = &device {
        // SAFETY: all work of this device goes through its one stream, which keeps the order; there is
        // nothing to wait for.
        unsafe { cuda.disable_event_tracking() };
    }
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_is_not_there_is_named_in_one_line() {
        let message = open_device("cuda:4095").unwrap_err().to_string();
        assert!(message.contains("cuda:4095") && !message.contains('\n'), "{message}");
        assert!(open_device("tpu").unwrap_err().to_string().contains("device `tpu`"));
    }
}
