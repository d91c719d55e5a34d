//! With the feature `cuda`: compiles the kernels to PTX with nvcc, found as `NVCC`, under `CUDA_HOME`, or in
//! the path. Without it: nothing.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=src/kernels/cuda");
    for variable in ["NVCC", "CUDA_HOME", "CUDA_COMPUTE_CAP"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let nvcc = match (env::var_os("NVCC"), env::var_os("CUDA_HOME")) {
        (Some(nvcc), _) => PathBuf::from(nvcc),
        (None, Some(home)) => Path::new(&home).join("bin/nvcc"),
        (None, None) => "nvcc".into(),
    };
    // The driver compiles PTX for the GPU it finds, of this compute capability or a newer one.
    let capability = env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "80".into());
    let target = Path::new(&env::var_os("OUT_DIR").expect("cargo says where output goes")).join("kernels.ptx");
    let status = Command::new(&nvcc)
        .arg("-ptx")
        .arg(format!("-arch=compute_{}", capability.replace('.', "")))
        .args(["-std=c++17", "-O3", "-o"])
        .args([&target, Path::new("src/kernels/cuda/kernels.cu")])
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{} did not compile the CUDA kernels: {status}", nvcc.display()),
        Err(error) => panic!("the feature `cuda` needs nvcc, looked for as {}: {error}", nvcc.display()),
    }
}
