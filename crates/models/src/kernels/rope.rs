//! Rotary position embedding (Su et al., arXiv 2104.09864), in the half-split layout of the Llama
//! checkpoints: element `i` of a head turns together with element `i + n`, where `2 n` elements of the head
//! turn at all.

use std::sync::{LazyLock, OnceLock};

use candle_core::Tensor;
use rayon::prelude::*;

use super::math::vectorised;
use super::{PARALLEL_ELEMENTS, cuda, update};
use crate::error::Result;

/// Cosines and sines of every position and frequency, computed when first used: a model may have a hundred
/// thousand positions, and who only asks for the names of its tensors needs none of them.
#[derive(Debug)]
pub struct RopeTable {
    turns: LazyLock<Turns, Box<dyn FnOnce() -> Turns + Send>>,
    half: usize,
    head_width: usize,
    positions: usize,
    /// The same on the GPU where it was first used.
    on_gpu: OnceLock<(Tensor, Tensor)>,
}

/// `[positions, n]` each.
#[derive(Debug)]
struct Turns {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// Rotate for the forward pass, or back for the gradient (a rotation's transpose is its inverse).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// By `+position * frequency`.
    Forward,
    /// By `-position * frequency`.
    Backward,
}

impl RopeTable {
    /// A table for `positions` positions and heads of `head_width`, of which the first `2 n` elements turn by
    /// the `n` angular frequencies (radians per position) and the others stay.
    pub fn new(frequencies: &[f64], head_width: usize, positions: usize) -> Self {
        let half = frequencies.len();
        assert!(2 * half <= head_width, "no more elements turn than a head has");
        let frequencies = frequencies.to_vec();
        let compute = move || {
            let angles = || (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
            Turns { cos: angles().map(|a| a.cos() as f32).collect(), sin: angles().map(|a| a.sin() as f32).collect() }
        };
        Self { turns: LazyLock::new(Box::new(compute)), half, head_width, positions, on_gpu: OnceLock::new() }
    }

    /// Cosines and sines beside `x`, `[positions, half]`.
    fn beside(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let upload = |numbers: &[f32]| Tensor::from_slice(numbers, (self.positions, self.half), x.device());
        if let Some(copy) = self.on_gpu.get().filter(|copy| copy.0.device().same_device(x.device())) {
            return Ok(copy.clone());
        }
        let copy = (upload(&self.turns.cos)?, upload(&self.turns.sin)?);
        Ok(self.on_gpu.get_or_init(|| copy.clone()).clone())
    }

    /// Number of positions in the table.
    pub fn positions(&self) -> usize {
        self.positions
    }
}

/// Rotates every head of every row of `x`, in place.
///
/// # Shapes
/// `x` `[t, heads * k]`; `positions` `[t]`, each below [`RopeTable::positions`].
pub fn rotate(x: &Tensor, table: &RopeTable, positions: &[u32], direction: Direction) -> Result<()> {
    let (t, width) = x.dims2()?;
    assert_eq!(t, positions.len(), "one position a row");
    if cuda::serves(x) {
        return cuda::rotate(x, &table.beside(x)?, table.head_width, positions, direction);
    }
    let (half, turns) = (table.half, &*table.turns);
    let sign = if direction == Direction::Forward { 1.0 } else { -1.0 };
    update(x, |data| {
        data.par_chunks_mut(width).zip(positions).with_min_len(PARALLEL_ELEMENTS / width + 1).for_each(
            |(row, &position)| {
                let start = position as usize * half;
                let (cos, sin) = (&turns.cos[start..start + half], &turns.sin[start..start + half]);
                vectorised!({
                    for head in row.chunks_exact_mut(table.head_width) {
                        let (low, high) = head[..2 * half].split_at_mut(half);
                        for (((low, high), &c), &s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                            let (a, b) = (*low, *high);
                            *low = a * c - b * s * sign;
                            *high = b * c + a * s * sign;
                        }
                    }
                })
            },
        );
    })
}
