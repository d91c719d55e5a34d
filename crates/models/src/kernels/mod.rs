//! Fused arithmetic: one function per kernel, contiguous float32 in and out.
//!
//! A kernel is a plain function over [`Tensor`]s; its first lines hand tensors on a GPU to its twin in
//! `cuda/`, so that no layer knows where it computes. Matrix products live in `gemm.rs`; everything else is
//! memory-bound and runs on rayon's threads. Each reduction has a fixed order, whatever the number of
//! threads: the same input gives the same bytes.
//!
//! Read `gemm.rs` and `attention.rs` first; layers never touch a slice themselves.

mod activation;
mod adamw;
mod attention;
mod columns;
mod cross_entropy;
mod cuda;
mod gemm;
mod lines;
mod math;
mod multiply;
mod norm;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod packing;
pub mod products;
mod rope;
mod rows;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles;

use std::cell::Cell;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::Deref;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Storage, StorageRef, Tensor};

pub use activation::{Activation, activate, activate_backward, cap, cap_backward, gated, gated_backward};
pub use adamw::{AdamW, AdamWState};
pub use attention::{AttentionSettings, Span, attention, attention_backward};
pub use columns::{add_to_rows, column_sums, join_columns, split_columns};
pub use cross_entropy::{CrossEntropy, cross_entropy};
pub use gemm::{Precision, add_matmul, add_matmul_nt, matmul, matmul_nt, matmul_tn};
pub use lines::Prepared;
pub use norm::{
    layer_norm, layer_norm_backward, layer_norm_weight_gradient, rms_norm, rms_norm_backward, rms_norm_weight_gradient,
};
pub use rope::{Direction, RopeTable, rotate};
pub use rows::{add, add_rows_at, argmax_rows, gather_rows, scale, scatter_rows, sum_of_squares};

use crate::error::{ModelError, Result};

static PORTABLE: AtomicBool = AtomicBool::new(false);

/// Keeps this process off the matrix unit from now on. The unit sums in another order, and training carries a
/// last bit far; without it the same input gives the same bytes on every x86-64 processor with AVX2 and FMA,
/// by any number of threads.
pub fn keep_off_matrix_unit() {
    PORTABLE.store(true, Ordering::Relaxed);
}

/// True when large products on the CPU go to a matrix unit. Without one the rounding of
/// [`Precision::Bfloat16`] is imitated and saves no time.
pub fn uses_matrix_unit() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return !PORTABLE.load(Ordering::Relaxed) && tiles::available();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    false
}

/// Elements below which a second thread costs more than it saves (measured on two cores: about 20
/// microseconds of work).
const PARALLEL_ELEMENTS: usize = 16 * 1024;

/// Runs `work` on one of rayon's threads. There a kernel shares its work out at once; from any other thread
/// each call wakes a worker and sleeps until it is done, which costs small models a third of their time.
pub fn on_worker<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| work())
}

/// Room for the output of a kernel, which writes every element of it and reads none before. Large ones ask
/// for large pages.
fn unwritten(len: usize) -> Vec<f32> {
    let mut room: Vec<MaybeUninit<f32>> = Vec::with_capacity(len);
    // SAFETY: elements that may be unwritten need no writing.
    unsafe { room.set_len(len) };
    let mut room = ManuallyDrop::new(room);
    ask_for_large_pages(&mut room);
    // SAFETY: the same allocation with the same layout; every bit pattern is a float32, and the callers write
    // before they read.
    unsafe { Vec::from_raw_parts(room.as_mut_ptr().cast(), len, room.capacity()) }
}

/// Bytes of a large page.
const LARGE_PAGE: usize = 2 << 20;

/// Tells Linux that whole large pages inside this buffer are welcome: fresh memory then costs one fault where
/// it cost 512.
fn ask_for_large_pages<T>(buffer: &mut [T]) {
    #[cfg(target_os = "linux")]
    {
        let bytes = buffer.as_ptr_range();
        let start = (bytes.start as usize).next_multiple_of(LARGE_PAGE);
        let size = (bytes.end as usize).saturating_sub(start) / LARGE_PAGE * LARGE_PAGE;
        if size >= 2 * LARGE_PAGE {
            // SAFETY: the range lies inside the buffer, and the advice changes nothing about its contents.
            unsafe { libc::madvise(start as *mut _, size, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = buffer;
}

/// Read access to a contiguous float32 tensor on the CPU.
struct CpuSlice<'a> {
    storage: StorageRef<'a>,
    start: usize,
    len: usize,
}

impl<'a> CpuSlice<'a> {
    #[track_caller]
    fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let (start, end) = layout.contiguous_offsets().ok_or_else(|| not_contiguous("a kernel input"))?;
        match &*storage {
            Storage::Cpu(CpuStorage::F32(_)) => Ok(Self { start, len: end - start, storage }),
            _ => Err(without_twin(tensor, Location::caller())),
        }
    }
}

impl Deref for CpuSlice<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(data)) => &data[self.start..self.start + self.len],
            _ => unreachable!("checked in `of`"),
        }
    }
}

/// The error of a kernel about a tensor that neither it nor a twin of it computes on.
fn without_twin(tensor: &Tensor, kernel: &Location<'_>) -> ModelError {
    ModelError::Unsupported {
        what: format!("the kernel at {kernel} on {:?} tensors on {:?}", tensor.dtype(), tensor.device().location()),
        instead: "it takes float32 on the CPU, and what its twin in kernels/cuda takes".into(),
    }
}

fn not_contiguous(what: &str) -> candle_core::Error {
    candle_core::Error::Msg(format!("{what} is not contiguous"))
}

/// A new CPU tensor that owns `data`.
fn output<S: Into<candle_core::Shape>>(data: Vec<f32>, shape: S) -> Result<Tensor> {
    Ok(Tensor::from_vec(data, shape, &Device::Cpu)?)
}

/// Runs `change` on the contents of `tensor`, in place. The closure must not read `tensor` by another way:
/// its lock is held.
#[track_caller]
fn update<R>(tensor: &Tensor, change: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    /// The change until it is made, then what it returned.
    struct Update<F, R>(Cell<Option<F>>, Cell<Option<R>>);
    impl<R, F: FnOnce(&mut [f32]) -> R> InplaceOp1 for Update<F, R> {
        fn name(&self) -> &'static str {
            "update"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
            let (start, end) = layout.contiguous_offsets().ok_or_else(|| not_contiguous("an updated tensor"))?;
            match storage {
                CpuStorage::F32(data) => self.1.set(self.0.take().map(|change| change(&mut data[start..end]))),
                _ => unreachable!("checked below"),
            }
            Ok(())
        }
    }
    if !tensor.device().is_cpu() || tensor.dtype() != DType::F32 {
        return Err(without_twin(tensor, Location::caller()));
    }
    let update = Update(Cell::new(Some(change)), Cell::new(None));
    tensor.inplace_op1(&update)?;
    Ok(update.1.take().expect("an operation in place runs once"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_a_twin_for_a_tensor_says_where_it_is_and_what_it_was_given() {
        let x = Tensor::zeros((2, 3), DType::F64, &Device::Cpu).unwrap();
        for refusal in [add(&x, &x).map(|_| ()), scale(&x, 2.0)] {
            let message = refusal.unwrap_err().to_string();
            assert!(message.contains("kernels/rows.rs") && message.contains("F64"), "{message}");
        }
    }
}
