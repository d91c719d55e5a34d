//! Runs launches on the CPU, for the tests: a host compiler makes a program of the kernels' sources and
//! tests/cuda_emulation, and each launch of this thread goes to it while [`emulated`] is on. Products of
//! matrices follow cuBLAS's documentation, element by element.

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex};

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Shape, Tensor};

use super::launch::{Argument, ColumnMajor, Gemm, Launch};
use crate::error::Result;
use crate::kernels::Precision;

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
}

static EMULATOR: LazyLock<Option<Mutex<Child>>> = LazyLock::new(|| start().map(Mutex::new));

/// True while launches of this thread are emulated.
pub(super) fn is_on() -> bool {
    ON.get()
}

/// Does `work` with every kernel of this thread emulated, on CPU tensors; `None`, said on standard error,
/// without a C++ compiler.
pub fn emulated<R>(work: impl FnOnce() -> R) -> Option<R> {
    struct Off;
    impl Drop for Off {
        fn drop(&mut self) {
            ON.set(false);
        }
    }
    EMULATOR.as_ref()?;
    ON.set(true);
    let _off = Off;
    Some(work())
}

fn start() -> Option<Child> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (kernels, emulator) = (here.join("src/kernels/cuda"), here.join("tests/cuda_emulation"));
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("emulator");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let compile = |sanitizers: &[&str]| {
        Command::new(&compiler)
            .args(["-std=c++17", "-O1", "-fno-strict-aliasing", "-Wno-unknown-pragmas", "-DEMULATED", "-I"])
            .args([&kernels, Path::new("-I"), &emulator, Path::new("-o"), &program, &emulator.join("emulator.cpp")])
            .args(sanitizers)
            .output()
    };
    let mut output = match compile(&["-fsanitize=address,alignment", "-fno-sanitize-recover=all"]) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("no C++ compiler (`{compiler}`): the CUDA kernels are not emulated here");
            return None;
        }
        output => output.unwrap(),
    };
    if !output.status.success() {
        eprintln!("the emulated kernels run without an address sanitizer");
        output = compile(&[]).unwrap();
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
}

/// The emulated twin of `on_gpu::launch`.
pub(super) fn launch(launch: Launch, arguments: &[Argument<'_>]) -> Result<()> {
    let mut message = Vec::new();
    let mut put = |bytes: &[u8]| {
        message.extend((bytes.len() as u32).to_le_bytes());
        message.extend(bytes);
    };
    put(launch.kernel.as_bytes());
    let (x, y) = launch.blocks;
    for number in [x, y, launch.threads, launch.shared_bytes, arguments.len()] {
        message.extend((number as u32).to_le_bytes());
    }
    for argument in arguments {
        let (kind, is_buffer, bytes) = match argument {
            Argument::Read(tensor) => (letter(tensor), 1u32, bytes_of(tensor)?),
            Argument::Write(tensor) => (letter(tensor).to_ascii_uppercase(), 1, bytes_of(tensor)?),
            Argument::Count(count) => ('u', 0, u32::try_from(*count).unwrap().to_le_bytes().to_vec()),
            Argument::Number(number) => ('f', 0, (*number as f32).to_le_bytes().to_vec()),
        };
        for number in [kind as u32, is_buffer, bytes.len() as u32] {
            message.extend(number.to_le_bytes());
        }
        message.extend(bytes);
    }
    let mut child = EMULATOR.as_ref().unwrap().lock().unwrap();
    child.stdin.as_mut().unwrap().write_all(&message).unwrap();
    for argument in arguments {
        if let Argument::Write(tensor) = argument {
            let mut bytes = bytes_of(tensor)?;
            let answer = child.stdout.as_mut().unwrap().read_exact(&mut bytes);
            assert!(answer.is_ok(), "the emulated kernel `{}` failed: standard error says why", launch.kernel);
            overwrite(tensor, &bytes)?;
        }
    }
    Ok(())
}

fn letter(tensor: &Tensor) -> char {
    match tensor.dtype() {
        DType::F32 => 'f',
        DType::U32 => 'u',
        DType::F64 => 'd',
        other => panic!("kernels take no {other:?}"),
    }
}

fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>> {
    assert!(tensor.is_contiguous(), "kernels take contiguous tensors");
    let flat = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::F32 => flat.to_vec1::<f32>()?.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::U32 => flat.to_vec1::<u32>()?.iter().flat_map(|x| x.to_le_bytes()).collect(),
        _ => flat.to_vec1::<f64>()?.iter().flat_map(|x| x.to_le_bytes()).collect(),
    })
}

/// Puts these bytes into a tensor, in place.
fn overwrite(tensor: &Tensor, bytes: &[u8]) -> Result<()> {
    struct Overwrite<'a>(&'a [u8]);
    impl InplaceOp1 for Overwrite<'_> {
        fn name(&self) -> &'static str {
            "overwrite"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
            let (start, end) = layout.contiguous_offsets().unwrap();
            fn fill<T, const N: usize>(data: &mut [T], bytes: &[u8], number: fn([u8; N]) -> T) {
                let (numbers, _) = bytes.as_chunks::<N>();
                data.iter_mut().zip(numbers).for_each(|(to, &from)| *to = number(from));
            }
            match storage {
                CpuStorage::F32(data) => fill(&mut data[start..end], self.0, f32::from_le_bytes),
                CpuStorage::U32(data) => fill(&mut data[start..end], self.0, u32::from_le_bytes),
                CpuStorage::F64(data) => fill(&mut data[start..end], self.0, f64::from_le_bytes),
                _ => unreachable!("`letter` refuses other types"),
            }
            Ok(())
        }
    }
    Ok(tensor.inplace_op1(&Overwrite(bytes))?)
}

/// A tensor on which a kernel that leaves an element unwritten shows.
pub(super) fn fresh(shape: Shape, dtype: DType) -> Result<Tensor> {
    Ok(match dtype {
        DType::U32 => Tensor::full(u32::MAX, shape, &Device::Cpu)?,
        _ => Tensor::full(f32::NAN, shape, &Device::Cpu)?.to_dtype(dtype)?,
    })
}

/// `gemm` as cuBLAS's documentation has it, on matrices stored by columns.
pub(super) fn gemm(product: &Gemm<'_>, call: ColumnMajor) -> Result<()> {
    let flat = |x: &Tensor| -> Result<Vec<f32>> { Ok(x.flatten_all()?.to_vec1()?) };
    let rounded = |x: &Tensor| -> Result<Vec<f32>> {
        let round = |x: f32| match product.precision {
            Precision::Float32 => x,
            Precision::Bfloat16 => half::bf16::from_f32(x).to_f32(),
        };
        Ok(flat(x)?.into_iter().map(round).collect())
    };
    let (a, b, mut c) = (rounded(product.b.0)?, rounded(product.a.0)?, flat(product.dst)?);
    let element = |x: &[f32], stride: usize, transposed: bool, row: usize, column: usize| {
        let (row, column) = if transposed { (column, row) } else { (row, column) };
        assert!(row < stride, "a row lies inside its column");
        x[column * stride + row]
    };
    for column in 0..call.n {
        for row in 0..call.m {
            let terms = (0..call.k).map(|inner| {
                element(&a, call.lda, call.transpose_a, row, inner)
                    * element(&b, call.ldb, call.transpose_b, inner, column)
            });
            let sum: f32 = terms.sum();
            let target = &mut c[product.start + column * call.ldc + row];
            // A beta of zero means that the old value is not read.
            *target = call.alpha * sum + if call.beta == 0.0 { 0.0 } else { call.beta * *target };
        }
    }
    let bytes: Vec<u8> = c.iter().flat_map(|x| x.to_le_bytes()).collect();
    overwrite(product.dst, &bytes)
}
