//! Operands of a product, seen as lines of inner elements whichever way they are stored.

use std::borrow::Cow;

use candle_core::{CpuStorage, Storage, StorageRef, Tensor};
use half::bf16;

use super::not_contiguous;
use crate::error::{ModelError, Result};

/// The numbers of an operand as they are stored.
#[derive(Debug, Clone, Copy)]
pub(super) enum Numbers<'a> {
    Float32(&'a [f32]),
    Bfloat16(&'a [bf16]),
}

impl<'a> Numbers<'a> {
    pub fn len(self) -> usize {
        match self {
            Self::Float32(numbers) => numbers.len(),
            Self::Bfloat16(numbers) => numbers.len(),
        }
    }

    /// In float32, rounded to bfloat16 where that is asked for and they are not so already.
    pub fn widened(self, rounded: bool) -> Cow<'a, [f32]> {
        match self {
            Self::Float32(numbers) if rounded => numbers.iter().map(|&x| bf16::from_f32(x).to_f32()).collect(),
            Self::Float32(numbers) => Cow::Borrowed(numbers),
            Self::Bfloat16(numbers) => numbers.iter().map(|x| x.to_f32()).collect(),
        }
    }
}

/// Rows of the left matrix of a product, or columns of the right one: `lines` of them, each of `depth`
/// elements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lines<'a> {
    pub numbers: Numbers<'a>,
    pub lines: usize,
    pub depth: usize,
    /// Distance of neighbours along the lines and along the depth; one of them is 1.
    pub strides: (usize, usize),
    /// The place in which a right operand that comes again stays packed.
    pub prepared: Option<&'a Prepared>,
}

impl<'a> Lines<'a> {
    /// The same lines, packed only once.
    pub fn kept_in(self, prepared: Option<&'a Prepared>) -> Self {
        Self { prepared, ..self }
    }
}

/// A weight as the matrix unit wants it, from its first product on: products of few rows would spend most of
/// their time on packing. It belongs to one weight that does not change, always taken the same way round, in
/// one precision.
///
/// # Cost
/// Six bytes a number in float32, two in bfloat16, on processors with the unit.
#[derive(Debug, Default)]
pub struct Prepared {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    pub(super) tiles: std::sync::OnceLock<Vec<super::packing::Tile>>,
}

/// Read access to a contiguous matrix on the CPU, float32 or bfloat16.
pub(super) struct CpuMatrix<'a> {
    storage: StorageRef<'a>,
    start: usize,
    shape: (usize, usize),
}

impl<'a> CpuMatrix<'a> {
    pub fn of(tensor: &'a Tensor) -> Result<Self> {
        let shape = tensor.dims2()?;
        let (storage, layout) = tensor.storage_and_layout();
        let (start, _) = layout.contiguous_offsets().ok_or_else(|| not_contiguous("an operand of a product"))?;
        match &*storage {
            Storage::Cpu(CpuStorage::F32(_) | CpuStorage::BF16(_)) => Ok(Self { storage, start, shape }),
            _ => Err(ModelError::Unsupported {
                what: format!("a product with {:?} numbers on {:?}", tensor.dtype(), tensor.device().location()),
                instead: "both operands are float32 or bfloat16, on one device".into(),
            }),
        }
    }

    fn numbers(&self) -> Numbers<'_> {
        let range = self.start..self.start + self.shape.0 * self.shape.1;
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(numbers)) => Numbers::Float32(&numbers[range]),
            Storage::Cpu(CpuStorage::BF16(numbers)) => Numbers::Bfloat16(&numbers[range]),
            _ => unreachable!("checked in `of`"),
        }
    }

    /// A line is a row.
    pub fn by_rows(&self) -> Lines<'_> {
        let (lines, depth) = self.shape;
        Lines { numbers: self.numbers(), lines, depth, strides: (depth, 1), prepared: None }
    }

    /// A line is a column.
    pub fn by_columns(&self) -> Lines<'_> {
        let (depth, lines) = self.shape;
        Lines { numbers: self.numbers(), lines, depth, strides: (1, lines), prepared: None }
    }
}
