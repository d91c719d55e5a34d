//! Causal grouped-query attention over packed rows, forward and backward.
//!
//! Rows of several sequences lie one after another; a [`Span`] says which query rows may look at which key rows. The same
//! kernel serves training (keys are the queries' own rows), prefill and decoding (keys lie in a cache).
//! Work is split by span and head, and inside by tiles of query rows: the scores of one tile live in a scratch buffer of
//! one thread and are never kept; backward computes them again.

use std::ops::Range;

use candle_core::Tensor;
use gemm::Parallelism;
use rayon::prelude::*;

use super::math::{dot, exp, maximum, sum, vectorised};
use super::{CpuSlice, output};
use crate::error::Result;

/// Query rows of one tile.
const TILE: usize = 64;

/// One sequence: its query rows, its key rows, and where the first query stands among the keys.
///
/// Query `i` (from 0) sees keys `0 ..= offset + i`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Rows of the query matrix.
    pub queries: Range<usize>,
    /// Rows of the key and value matrices.
    pub keys: Range<usize>,
    /// Position of the first query among the keys.
    pub offset: usize,
}

impl Span {
    /// A sequence whose keys are its own rows: training and prefill.
    pub fn causal(rows: Range<usize>) -> Self {
        Self { queries: rows.clone(), keys: rows, offset: 0 }
    }
}

/// Head counts and widths, read off the tensors.
#[derive(Clone, Copy)]
struct Heads {
    query_width: usize,
    key_width: usize,
    head_width: usize,
    /// Query heads that share one key-value head.
    share: usize,
    heads: usize,
}

impl Heads {
    fn of(q: &Tensor, k: &Tensor, head_width: usize) -> Result<Self> {
        let (query_width, key_width) = (q.dims2()?.1, k.dims2()?.1);
        let heads = query_width / head_width;
        Ok(Self { query_width, key_width, head_width, heads, share: query_width / key_width })
    }

    fn scale(self) -> f32 {
        (1.0 / (self.head_width as f64).sqrt()) as f32
    }
}

/// A strided matrix inside a slice: `rows x columns`, row stride `stride`, starting at `start`.
#[derive(Clone, Copy)]
struct Block {
    start: usize,
    stride: usize,
}

/// A buffer that tasks write at places which never overlap.
struct Disjoint(*mut f32, usize);
// SAFETY: every task writes its own (rows, head) block; see `gemm_block`, the only writer.
unsafe impl Send for Disjoint {}
unsafe impl Sync for Disjoint {}

/// `softmax(q kᵀ / sqrt(head_width)) v` for every span and head.
///
/// # Shapes
/// `q` `[t, h * k]`, `k` and `v` `[n, g * k]` with `h` a multiple of `g` -> `[t, h * k]`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span], head_width: usize) -> Result<Tensor> {
    let shape = q.dims2()?;
    let heads = Heads::of(q, k, head_width)?;
    let (q, k, v) = (CpuSlice::of(q)?, CpuSlice::of(k)?, CpuSlice::of(v)?);
    let mut out = vec![0f32; shape.0 * shape.1];
    let target = Disjoint(out.as_mut_ptr(), out.len());
    tasks(spans, heads.heads).into_par_iter().for_each_init(Vec::new, |scores, (span, head)| {
        let target = &target;
        for tile in tiles(span) {
            let keys = visible(span, &tile);
            let query = Block { start: (span.queries.start + tile.start) * heads.query_width + head * head_width, stride: heads.query_width };
            let key = key_block(span, heads, head);
            probabilities(scores, &q, query, &k, key, span, &tile, heads);
            let (rows, scores) = (tile.len(), &scores[..]);
            // SAFETY: this (tile, head) block of `out` belongs to this task alone.
            unsafe {
                gemm_block((rows, head_width, keys), target, query, false, 1.0, (scores, 0, keys, 1), (&v, key.start, key.stride, 1));
            }
        }
    });
    output(out, shape)
}

/// Gradients of [`attention`] with respect to `q`, `k` and `v`. With `P` the probabilities and `dP = dy vᵀ`:
/// `dS = P * (dP - rowsum(P * dP))`, `dq = dS k * scale`, `dk = dSᵀ q * scale`, `dv = Pᵀ dy`.
///
/// # Shapes
/// As in [`attention`]; `dy` `[t, h * k]`. Every span's keys must be its own (training has no cache).
pub fn attention_backward(
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    dy: &Tensor,
    spans: &[Span],
    head_width: usize,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (q_shape, k_shape) = (q.dims2()?, k.dims2()?);
    let heads = Heads::of(q, k, head_width)?;
    let (q, k, v, dy) = (CpuSlice::of(q)?, CpuSlice::of(k)?, CpuSlice::of(v)?, CpuSlice::of(dy)?);
    let (mut dq, mut dk, mut dv) = (vec![0f32; q.len()], vec![0f32; k.len()], vec![0f32; v.len()]);
    let (dq_out, dk_out, dv_out) = (
        Disjoint(dq.as_mut_ptr(), dq.len()),
        Disjoint(dk.as_mut_ptr(), dk.len()),
        Disjoint(dv.as_mut_ptr(), dv.len()),
    );
    // One task per span and key-value head: the query heads that share it add to the same dk and dv, one after another.
    tasks(spans, heads.heads / heads.share).into_par_iter().for_each_init(
        || (Vec::new(), Vec::new()),
        |(scores, d_scores), (span, group)| {
            let (dq, dk, dv) = (&dq_out, &dk_out, &dv_out);
            for head in group * heads.share..(group + 1) * heads.share {
                for tile in tiles(span) {
                    let (rows, keys) = (tile.len(), visible(span, &tile));
                    let query = Block { start: (span.queries.start + tile.start) * heads.query_width + head * head_width, stride: heads.query_width };
                    let key = key_block(span, heads, head);
                    probabilities(scores, &q, query, &k, key, span, &tile, heads);
                    score_gradients(scores, d_scores, &dy, query, &v, key, (rows, keys), heads);
                    let (p, ds) = (&scores[..], &d_scores[..]);
                    // SAFETY: the dq block belongs to this (tile, head), the dk and dv blocks to this (span, group).
                    unsafe {
                        gemm_block((rows, head_width, keys), dq, query, false, heads.scale(), (ds, 0, keys, 1), (&k, key.start, key.stride, 1));
                        gemm_block((keys, head_width, rows), dk, key, true, heads.scale(), (ds, 0, 1, keys), (&q, query.start, query.stride, 1));
                        gemm_block((keys, head_width, rows), dv, key, true, 1.0, (p, 0, 1, keys), (&dy, query.start, query.stride, 1));
                    }
                }
            }
        },
    );
    Ok((output(dq, q_shape)?, output(dk, k_shape)?, output(dv, k_shape)?))
}

fn tasks(spans: &[Span], heads: usize) -> Vec<(&Span, usize)> {
    spans.iter().flat_map(|span| (0..heads).map(move |head| (span, head))).collect()
}

/// Query rows of a span, relative to its start, in tiles.
fn tiles(span: &Span) -> impl Iterator<Item = Range<usize>> {
    let rows = span.queries.len();
    (0..rows).step_by(TILE).map(move |start| start..(start + TILE).min(rows))
}

/// Number of keys that the last query of a tile sees; later keys are nobody's business here.
fn visible(span: &Span, tile: &Range<usize>) -> usize {
    (span.offset + tile.end).min(span.keys.len())
}

fn key_block(span: &Span, heads: Heads, head: usize) -> Block {
    Block { start: span.keys.start * heads.key_width + head / heads.share * heads.head_width, stride: heads.key_width }
}

/// Fills `scores` with the causal softmax of one tile, `[rows, keys]`.
#[allow(clippy::too_many_arguments)]
fn probabilities(scores: &mut Vec<f32>, q: &[f32], query: Block, k: &[f32], key: Block, span: &Span, tile: &Range<usize>, heads: Heads) {
    let (rows, keys) = (tile.len(), visible(span, tile));
    scores.clear();
    scores.resize(rows * keys, 0.0);
    let out = Disjoint(scores.as_mut_ptr(), scores.len());
    // SAFETY: `scores` is this thread's own buffer of rows * keys.
    unsafe {
        gemm_block(
            (rows, keys, heads.head_width),
            &out,
            Block { start: 0, stride: keys },
            false,
            heads.scale(),
            (q, query.start, query.stride, 1),
            (k, key.start, 1, key.stride),
        );
    }
    vectorised(|| {
        for (i, row) in scores.chunks_mut(keys).enumerate() {
            softmax_prefix(row, (span.offset + tile.start + i + 1).min(keys));
        }
    });
}

/// Softmax over the first `seen` elements; the others become 0.
#[inline(always)]
fn softmax_prefix(row: &mut [f32], seen: usize) {
    let (row, hidden) = row.split_at_mut(seen);
    hidden.fill(0.0);
    let maximum = maximum(row);
    for z in row.iter_mut() {
        *z = exp(*z - maximum);
    }
    let inverse = 1.0 / sum(row, |p| p);
    row.iter_mut().for_each(|z| *z *= inverse);
}

/// Fills `d_scores` with `P * (dP - rowsum(P * dP))`, `dP = dy vᵀ`, for one tile.
#[allow(clippy::too_many_arguments)]
fn score_gradients(
    scores: &[f32],
    d_scores: &mut Vec<f32>,
    dy: &[f32],
    query: Block,
    v: &[f32],
    key: Block,
    (rows, keys): (usize, usize),
    heads: Heads,
) {
    d_scores.clear();
    d_scores.resize(rows * keys, 0.0);
    let out = Disjoint(d_scores.as_mut_ptr(), d_scores.len());
    // SAFETY: `d_scores` is this thread's own buffer of rows * keys.
    unsafe {
        gemm_block(
            (rows, keys, heads.head_width),
            &out,
            Block { start: 0, stride: keys },
            false,
            1.0,
            (dy, query.start, query.stride, 1),
            (v, key.start, 1, key.stride),
        );
    }
    vectorised(|| {
        for (dp, p) in d_scores.chunks_mut(keys).zip(scores.chunks(keys)) {
            let dot = dot(dp, p);
            for (dp, &p) in dp.iter_mut().zip(p) {
                *dp = p * (*dp - dot);
            }
        }
    });
}

/// `out[block] (+)= scale * a b` on this thread. Operands are (slice, start, row stride, column stride).
///
/// # Safety
/// No other thread may touch the block of `out` meanwhile.
unsafe fn gemm_block(
    (m, n, k): (usize, usize, usize),
    out: &Disjoint,
    block: Block,
    accumulate: bool,
    scale: f32,
    (a, a_start, a_rows, a_columns): (&[f32], usize, usize, usize),
    (b, b_start, b_rows, b_columns): (&[f32], usize, usize, usize),
) {
    assert!(block.start + (m - 1) * block.stride + n <= out.1, "the product stays inside its output");
    assert!(a_start + (m - 1) * a_rows + (k - 1) * a_columns < a.len(), "the left operand stays inside its slice");
    assert!(b_start + (k - 1) * b_rows + (n - 1) * b_columns < b.len(), "the right operand stays inside its slice");
    // SAFETY: the bounds are asserted above; the caller vouches for exclusive use of the output block.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.0.add(block.start),
            1,
            block.stride as isize,
            accumulate,
            a.as_ptr().add(a_start),
            a_columns as isize,
            a_rows as isize,
            b.as_ptr().add(b_start),
            b_columns as isize,
            b_rows as isize,
            1.0f32,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
