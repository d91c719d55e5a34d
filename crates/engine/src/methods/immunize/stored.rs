//! Deltas of whole models (Eq. 1), read from the variants' files a block of channels at a time.
//!
//! Whichever way round a matrix lies, a block is `[channels, d]`: rows where channels are rows, else a strip
//! of columns, transposed. Every sum is float64. One block buffer bounds the memory:
//! [`StoredDeltas::products`] reads the same channels of all pairs into it,
//! [`StoredDeltas::shared_directions`] one pair after another, so that neither grows with the number of
//! pairs.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;

use antigen_models::ModuleShape;
use antigen_models::checkpoint::header::Dtype;
use antigen_models::checkpoint::tensor_file::TensorFile;
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::removal::channels_are_rows;
use super::score::PairProducts;
use super::setting::MatrixDeltas;
use crate::error::{EngineError, Result};
use crate::methods::shared::eigen::strongest;

/// One float32 matrix of a variant's file.
#[derive(Debug, Clone)]
struct StoredMatrix {
    path: PathBuf,
    /// Offset of its numbers in the file, in bytes.
    start: u64,
    rows: usize,
    columns: usize,
}

impl StoredMatrix {
    fn find(file: &TensorFile, module: &ModuleShape) -> Result<Self> {
        let name = module.weight_name();
        match file.find(&name) {
            Some(entry) if entry.dtype == Dtype::F32 && entry.shape.len() == 2 => Ok(Self {
                path: file.path().to_owned(),
                start: entry.range.start,
                rows: entry.shape[0],
                columns: entry.shape[1],
            }),
            _ => Err(EngineError::Data(format!("{}: expected the float32 matrix {name}", file.path().display()))),
        }
    }

    /// Numbers of some rows and some columns, row by row.
    fn read(&self, rows: Range<usize>, columns: Range<usize>) -> Result<Vec<f32>> {
        let mut file = File::open(&self.path).map_err(EngineError::io(&self.path))?;
        let mut numbers = Vec::with_capacity(rows.len() * columns.len());
        // Whole rows lie together; of a strip each row is read for itself.
        let (runs, run) = if columns.len() == self.columns { (1, rows.len()) } else { (rows.len(), 1) };
        let mut bytes = vec![0u8; run * columns.len() * 4];
        for i in 0..runs {
            let at = ((rows.start + i) * self.columns + columns.start) as u64 * 4;
            let read = file.seek(SeekFrom::Start(self.start + at)).and_then(|_| file.read_exact(&mut bytes));
            read.map_err(EngineError::io(&self.path))?;
            numbers.extend(bytes.as_chunks().0.iter().map(|number| f32::from_le_bytes(*number)));
        }
        Ok(numbers)
    }
}

/// The deltas of one matrix, one a pair, on disk.
pub struct StoredDeltas {
    /// Clean and poisoned variant of each pair.
    pairs: Vec<[StoredMatrix; 2]>,
    channels: usize,
    width: usize,
    channels_are_rows: bool,
    block_bytes: usize,
}

impl StoredDeltas {
    /// The deltas of `module` between the files of each pair. At most about `block_bytes` of them are in
    /// memory at a time.
    ///
    /// # Errors
    /// [`EngineError::Data`] when a file lacks the matrix.
    pub fn open(pairs: &[[TensorFile; 2]], module: &ModuleShape, block_bytes: usize) -> Result<Self> {
        let find = |[clean, poisoned]: &[TensorFile; 2]| {
            Ok([StoredMatrix::find(clean, module)?, StoredMatrix::find(poisoned, module)?])
        };
        Ok(Self {
            pairs: pairs.iter().map(find).collect::<Result<_>>()?,
            channels: module.channels(),
            width: module.residual_width(),
            channels_are_rows: channels_are_rows(module),
            block_bytes,
        })
    }

    /// Runs of channels of which `at_once` blocks in float64 fit the budget; at least one channel each.
    fn runs(&self, at_once: usize) -> impl Iterator<Item = Range<usize>> {
        let channels = self.channels;
        let run = (self.block_bytes / (8 * self.width * at_once).max(1)).clamp(1, channels.max(1));
        (0..channels.div_ceil(run)).map(move |i| i * run..((i + 1) * run).min(channels))
    }

    /// Some channels of one pair's delta, `[channels, d]`.
    fn block(&self, pair: usize, channels: Range<usize>) -> Result<Vec<f64>> {
        let read = |matrix: &StoredMatrix| match self.channels_are_rows {
            true => matrix.read(channels.clone(), 0..matrix.columns),
            false => matrix.read(0..matrix.rows, channels.clone()),
        };
        let [clean, poisoned] = &self.pairs[pair];
        let (clean, poisoned) = (read(clean)?, read(poisoned)?);
        let difference = |at: usize| f64::from(poisoned[at]) - f64::from(clean[at]);
        if self.channels_are_rows {
            return Ok((0..clean.len()).map(difference).collect());
        }
        let (count, width) = (channels.len(), self.width);
        Ok((0..count).flat_map(|j| (0..width).map(move |k| k * count + j)).map(difference).collect())
    }
}

impl MatrixDeltas for StoredDeltas {
    /// # Cost
    /// Reads every file once; O(N^2 channels d).
    fn products(&self) -> Result<PairProducts> {
        let n = self.pairs.len();
        let mut products = vec![vec![0.0; self.channels]; n * n];
        for run in self.runs(n) {
            let blocks = (0..n).map(|i| self.block(i, run.clone())).collect::<Result<Vec<_>>>()?;
            for i in 0..n {
                for l in i..n {
                    let rows = blocks[i].par_chunks(self.width).zip(blocks[l].par_chunks(self.width));
                    let found = &mut products[i * n + l][run.clone()];
                    rows.map(|(a, b)| dot(a, b)).zip(found).for_each(|(product, found)| *found = product);
                }
            }
        }
        PairProducts::build(n, |i, l| Ok(std::mem::take(&mut products[i * n + l])))
    }

    fn norms(&self, products: &PairProducts) -> Result<Vec<f64>> {
        Ok((0..self.pairs.len()).map(|i| products.of(i, i).iter().sum::<f64>().max(0.0).sqrt()).collect())
    }

    /// From the Gram matrix over d of the stacked, normalised deltas, summed block by block.
    ///
    /// # Cost
    /// Reads every file once; O(N channels d^2), and three matrices of d x d float64.
    fn shared_directions(&self, norms: &[f64], rank: usize) -> Result<(Vec<Vec<f32>>, f64)> {
        let mut gram = Tensor::zeros((self.width, self.width), DType::F64, &Device::Cpu)?;
        for (pair, norm) in norms.iter().enumerate().filter(|(_, norm)| **norm > 0.0) {
            for run in self.runs(1) {
                let shape = (run.len(), self.width);
                let rows = Tensor::from_vec(self.block(pair, run)?, shape, &Device::Cpu)?;
                gram = (gram + rows.t()?.matmul(&rows)?.affine(1.0 / (norm * norm), 0.0)?)?;
            }
        }
        Ok(strongest(gram.flatten_all()?.to_vec1()?, self.width, rank))
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}
