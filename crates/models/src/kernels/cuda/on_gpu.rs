//! The GPU itself: kernels through the driver, products through cuBLAS.

use std::ffi::c_void;

use candle_core::cuda_backend::cudarc::cublas::result::gemm_ex;
use candle_core::cuda_backend::cudarc::cublas::sys::{
    cublasComputeType_t as Compute, cublasGemmAlgo_t as Algorithm, cublasOperation_t as Operation, cudaDataType,
};
use candle_core::cuda_backend::cudarc::driver::{
    CudaStream, DevicePtr, LaunchConfig, PushKernelArg, SyncOnDrop, sys::CUfunction_attribute_enum as Attribute,
};
use candle_core::cuda_backend::{CudaDevice, CudaStorageSlice, WrapErr};
use candle_core::{Layout, Storage, StorageRef, Tensor};

use super::launch::{Argument, ColumnMajor, Gemm, Launch};
use crate::error::{ModelError, Result};
use crate::kernels::Precision;

/// The kernels, compiled by the build script; the driver turns them into machine code when the first one is
/// launched.
const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));

/// Shared memory that a block gets without asking, in bytes.
const ORDINARY_SHARED_BYTES: usize = 48 * 1024;

/// One parameter as the driver takes it.
enum Word {
    Address(u64),
    Count(u32),
    Number(f32),
}

pub fn launch(launch: Launch, arguments: &[Argument<'_>]) -> Result<()> {
    let tensors: Vec<&Tensor> = arguments.iter().filter_map(tensor_of).collect();
    let Some(first) = tensors.first() else {
        return Err(failed(format!("the kernel `{}` has no tensor", launch.kernel)));
    };
    let device = first.device().as_cuda_device()?;
    let stream = device.cuda_stream();
    let guards: Vec<(StorageRef<'_>, &Layout)> = tensors.iter().map(|t| t.storage_and_layout()).collect();
    // The second of each pair orders streams when it is dropped, after the launch.
    let addresses = guards.iter().map(|(s, l)| address(s, l, &stream, launch.kernel)).collect::<Result<Vec<_>>>()?;
    let mut next_address = addresses.iter().map(|(address, _)| *address);
    let words: Vec<Word> = arguments
        .iter()
        .map(|argument| match argument {
            Argument::Read(_) | Argument::Write(_) => Ok(Word::Address(next_address.next().unwrap_or_default())),
            Argument::Count(count) => u32::try_from(*count)
                .map(Word::Count)
                .map_err(|_| failed(format!("the kernel `{}` counts to 2^32, found {count}", launch.kernel))),
            Argument::Number(number) => Ok(Word::Number(*number as f32)),
        })
        .collect::<Result<_>>()?;
    let function = device.get_or_load_custom_func(launch.kernel, "antigen", PTX)?;
    if launch.shared_bytes > ORDINARY_SHARED_BYTES {
        let bytes = launch.shared_bytes as i32;
        function.set_attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes).w()?;
    }
    let mut builder = function.builder();
    for word in &words {
        match word {
            Word::Address(address) => builder.arg(address),
            Word::Count(count) => builder.arg(count),
            Word::Number(number) => builder.arg(number),
        };
    }
    let grid = LaunchConfig {
        grid_dim: (launch.blocks.0 as u32, launch.blocks.1 as u32, 1),
        block_dim: (launch.threads as u32, 1, 1),
        shared_mem_bytes: launch.shared_bytes as u32,
    };
    // SAFETY: the tests run every launch of this module against its source, types and bounds checked
    // (`emulated.rs`); the tensors are alive until the guards drop, and what follows on this stream waits for
    // the kernel.
    unsafe { builder.launch(grid) }.w()?;
    Ok(())
}

pub fn gemm(product: &Gemm<'_>, call: ColumnMajor) -> Result<()> {
    let device: &CudaDevice = product.dst.device().as_cuda_device()?;
    let stream = device.cuda_stream();
    let guards = [product.dst, product.a.0, product.b.0].map(Tensor::storage_and_layout);
    let [dst, a, b] = &guards;
    let (dst, _dst) = address(&dst.0, dst.1, &stream, "gemm")?;
    let (a, _a) = address(&a.0, a.1, &stream, "gemm")?;
    let (b, _b) = address(&b.0, b.1, &stream, "gemm")?;
    let operation = |transpose| if transpose { Operation::CUBLAS_OP_T } else { Operation::CUBLAS_OP_N };
    let size = |n: usize| i32::try_from(n).map_err(|_| failed(format!("a product's sizes are below 2^31, found {n}")));
    // cuBLAS rounds operands as it reads them; they and the result are float32 in memory, and so are the
    // sums.
    let compute = match product.precision {
        Precision::Float32 => Compute::CUBLAS_COMPUTE_32F,
        Precision::Bfloat16 => Compute::CUBLAS_COMPUTE_32F_FAST_16BF,
    };
    let float = cudaDataType::CUDA_R_32F;
    // SAFETY: `launch::gemm` checks the sizes against the tensors, whose memory the guards keep alive.
    unsafe {
        gemm_ex(
            *device.cublas_handle().handle(),
            operation(call.transpose_a),
            operation(call.transpose_b),
            size(call.m)?,
            size(call.n)?,
            size(call.k)?,
            (&raw const call.alpha).cast(),
            b as *const c_void,
            float,
            size(call.lda)?,
            a as *const c_void,
            float,
            size(call.ldb)?,
            (&raw const call.beta).cast(),
            (dst + (product.start * size_of::<f32>()) as u64) as *mut c_void,
            float,
            size(call.ldc)?,
            compute,
            Algorithm::CUBLAS_GEMM_DEFAULT,
        )
    }
    .w()?;
    Ok(())
}

fn tensor_of<'a>(argument: &Argument<'a>) -> Option<&'a Tensor> {
    match argument {
        Argument::Read(tensor) | Argument::Write(tensor) => Some(tensor),
        Argument::Count(_) | Argument::Number(_) => None,
    }
}

/// Address of the first element of a contiguous tensor.
fn address<'a>(
    storage: &'a Storage,
    layout: &Layout,
    stream: &'a CudaStream,
    kernel: &str,
) -> Result<(u64, SyncOnDrop<'a>)> {
    let wanted =
        |found: String| failed(format!("the kernel `{kernel}` takes contiguous tensors on one GPU, found {found}"));
    let Some((start, _)) = layout.contiguous_offsets() else { return Err(wanted("a strided one".into())) };
    let Storage::Cuda(storage) = storage else { return Err(wanted("one on another device".into())) };
    let (size, (address, guard)) = match &storage.slice {
        CudaStorageSlice::F32(data) => (size_of::<f32>(), data.device_ptr(stream)),
        CudaStorageSlice::U32(data) => (size_of::<u32>(), data.device_ptr(stream)),
        CudaStorageSlice::F64(data) => (size_of::<f64>(), data.device_ptr(stream)),
        _ => return Err(wanted(format!("one of type {:?}", candle_core::backend::BackendStorage::dtype(storage)))),
    };
    Ok((address + (start * size) as u64, guard))
}

fn failed(why: String) -> ModelError {
    candle_core::Error::Msg(why).into()
}
