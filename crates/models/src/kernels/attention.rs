//! Grouped-query attention over packed rows, forward and backward: causal or not, whole or in a sliding
//! window, with capped scores or plain ones.
//!
//! Rows of several sequences lie one after another; a [`Span`] says which query rows may look at which key
//! rows. The same kernel serves training (keys are the queries' own rows), prefill and decoding (keys lie in
//! a cache). Work is split by span and head, and inside by tiles of query rows: the scores of one tile live
//! in a scratch buffer of one thread and are never kept; backward computes them again.

use std::ops::Range;

use candle_core::Tensor;
use rayon::prelude::*;

use super::math::{dot, exp, maximum, sum, tanh, vectorised};
use super::multiply::{Operand, Place, Sizes, Target, multiply};
use super::{CpuSlice, cuda, output};
use crate::error::Result;

/// Query rows of one tile.
const TILE: usize = 64;

/// One sequence: its query rows, its key rows, and where the first query stands among the keys.
///
/// Query `i` (from 0) stands at position `offset + i` among the keys; which of them it sees is up to
/// [`AttentionSettings`].
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

/// The arithmetic of one layer's attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSettings {
    /// Width `k` of one head.
    pub head_width: usize,
    /// Factor on `q kᵀ`; `1 / sqrt(k)` in most families.
    pub scale: f32,
    /// If set, a scaled score `s` becomes `cap * tanh(s / cap)` (Gemma 2, arXiv 2408.00118).
    pub softcap: Option<f32>,
    /// If set, a query sees no key further back than this many positions, itself included (Mistral,
    /// arXiv 2310.06825).
    pub window: Option<usize>,
    /// True when a query sees no later key.
    pub causal: bool,
}

impl AttentionSettings {
    /// Causal attention over everything before, scaled by `1 / sqrt(head_width)`.
    pub fn causal(head_width: usize) -> Self {
        let scale = (1.0 / (head_width as f64).sqrt()) as f32;
        Self { head_width, scale, softcap: None, window: None, causal: true }
    }

    /// Attention over everything before and behind, scaled by `1 / sqrt(head_width)`.
    pub fn of_both_directions(head_width: usize) -> Self {
        Self { causal: false, ..Self::causal(head_width) }
    }

    /// The score of a product `q kᵀ`.
    pub(crate) fn score(&self, product: f32) -> f32 {
        let scaled = self.scale * product;
        self.softcap.map_or(scaled, |cap| cap * (scaled / cap).tanh())
    }

    /// The keys, of `keys`, that the query at `position` sees.
    pub(crate) fn seen(&self, position: usize, keys: usize) -> Range<usize> {
        let end = if self.causal { (position + 1).min(keys) } else { keys };
        let start = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        start.min(end)..end
    }
}

/// Head counts and widths, read off the tensors.
#[derive(Clone, Copy)]
struct Heads {
    settings: AttentionSettings,
    query_width: usize,
    key_width: usize,
    head_width: usize,
    /// Query heads that share one key-value head.
    share: usize,
    heads: usize,
}

impl Heads {
    fn of(q: &Tensor, k: &Tensor, settings: AttentionSettings) -> Result<Self> {
        let (query_width, key_width) = (q.dims2()?.1, k.dims2()?.1);
        let head_width = settings.head_width;
        let heads = query_width / head_width;
        Ok(Self { settings, query_width, key_width, head_width, heads, share: query_width / key_width })
    }
}

/// One tile of queries of one head, and the keys that any of its queries sees.
struct Tile {
    rows: usize,
    keys: usize,
    query: Place,
    key: Place,
    /// Position of the first query among the span's keys.
    position: usize,
    /// Index of the tile's first key among the span's keys.
    first_key: usize,
}

impl Tile {
    /// The place of the tile's scores in a buffer of their own, `[rows, keys]`.
    fn scores(&self) -> Place {
        Place { start: 0, row: self.keys, column: 1 }
    }

    /// The tile's keys that its query `row` sees.
    fn seen(&self, row: usize, settings: AttentionSettings) -> Range<usize> {
        let seen = settings.seen(self.position + row, self.first_key + self.keys);
        seen.start - self.first_key..seen.end - self.first_key
    }
}

/// `softmax(cap(scale * q kᵀ)) v` for every span and head, over the keys that each query sees.
///
/// # Shapes
/// `q` `[t, h * k]`, `k` and `v` `[n, g * k]` with `h` a multiple of `g` -> `[t, h * k]`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span], settings: AttentionSettings) -> Result<Tensor> {
    if cuda::serves(q) {
        return cuda::attention(q, k, v, spans, settings);
    }
    let shape = q.dims2()?;
    let heads = Heads::of(q, k, settings)?;
    let head_width = heads.head_width;
    let (q, k, v) = (CpuSlice::of(q)?, CpuSlice::of(k)?, CpuSlice::of(v)?);
    let mut out = vec![0f32; shape.0 * shape.1];
    let target = Target::new(&mut out);
    tasks(spans, heads.heads).into_par_iter().for_each_init(Vec::new, |scores, (span, head)| {
        for tile in tiles(span, heads, head) {
            probabilities(scores, None, &q, &k, &tile, heads);
            let sizes = Sizes { m: tile.rows, n: head_width, k: tile.keys };
            let (weights, values) = (Operand::new(scores, tile.scores()), Operand::new(&v, tile.key));
            // SAFETY: this (tile, head) block of `out` belongs to this task alone.
            unsafe { multiply(sizes, target, tile.query, false, 1.0, weights, values) };
        }
    });
    output(out, shape)
}

/// Gradients of [`attention`] with respect to `q`, `k` and `v`. With `P` the probabilities and `dP = dy vᵀ`:
/// `dS = P * (dP - rowsum(P * dP)) * (1 - tanh²)` (the last factor only with a cap), `dq = dS k * scale`,
/// `dk = dSᵀ q * scale`, `dv = Pᵀ dy`.
///
/// # Shapes
/// As in [`attention`]; `dy` `[t, h * k]`. Every span's keys must be its own (training has no cache).
pub fn attention_backward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    dy: &Tensor,
    spans: &[Span],
    settings: AttentionSettings,
) -> Result<(Tensor, Tensor, Tensor)> {
    if cuda::serves(q) {
        return cuda::attention_backward(q, k, v, dy, spans, settings);
    }
    let (q_shape, k_shape) = (q.dims2()?, k.dims2()?);
    let heads = Heads::of(q, k, settings)?;
    let (head_width, scale) = (heads.head_width, settings.scale);
    let (q, k, v, dy) = (CpuSlice::of(q)?, CpuSlice::of(k)?, CpuSlice::of(v)?, CpuSlice::of(dy)?);
    let (mut dq, mut dk, mut dv) = (vec![0f32; q.len()], vec![0f32; k.len()], vec![0f32; v.len()]);
    let dq_out = Target::new(&mut dq);
    let dk_out = Target::new(&mut dk);
    let dv_out = Target::new(&mut dv);
    // One task per span and key-value head: the query heads that share it add to the same dk and dv, one
    // after another.
    tasks(spans, heads.heads / heads.share).into_par_iter().for_each_init(
        || (Vec::new(), Vec::new(), Vec::new()),
        |(scores, d_scores, slopes), (span, group)| {
            let shared = group * heads.share..(group + 1) * heads.share;
            for tile in shared.flat_map(|head| tiles(span, heads, head)) {
                probabilities(scores, Some(slopes), &q, &k, &tile, heads);
                score_gradients(scores, d_scores, &dy, &v, &tile, heads);
                if settings.softcap.is_some() {
                    vectorised!(d_scores.iter_mut().zip(slopes.iter()).for_each(|(ds, slope)| *ds *= slope));
                }
                let Tile { rows, keys, query, key, .. } = tile;
                let by_query = Sizes { m: rows, n: head_width, k: keys };
                let by_key = Sizes { m: keys, n: head_width, k: rows };
                let transposed = |scores| Operand::new(scores, tile.scores().transposed());
                let ds = Operand::new(d_scores, tile.scores());
                // SAFETY: the dq block belongs to this (tile, head), the dk and dv blocks to this (span,
                // group).
                unsafe {
                    multiply(by_query, dq_out, query, false, scale, ds, Operand::new(&k, key));
                    multiply(by_key, dk_out, key, true, scale, transposed(d_scores), Operand::new(&q, query));
                    multiply(by_key, dv_out, key, true, 1.0, transposed(scores), Operand::new(&dy, query));
                }
            }
        },
    );
    Ok((output(dq, q_shape)?, output(dk, k_shape)?, output(dv, k_shape)?))
}

fn tasks(spans: &[Span], heads: usize) -> Vec<(&Span, usize)> {
    spans.iter().flat_map(|span| (0..heads).map(move |head| (span, head))).collect()
}

fn tiles(span: &Span, heads: Heads, head: usize) -> impl Iterator<Item = Tile> {
    let queries = span.queries.len();
    (0..queries).step_by(TILE).filter_map(move |start| {
        let end = (start + TILE).min(queries);
        let position = span.offset + start;
        // Keys before what the first query sees and after what the last one sees are nobody's business here.
        let first_key = heads.settings.seen(position, span.keys.len()).start;
        let keys = heads.settings.seen(span.offset + end - 1, span.keys.len()).end - first_key;
        (keys > 0).then(|| Tile {
            rows: end - start,
            keys,
            position,
            first_key,
            query: Place {
                start: (span.queries.start + start) * heads.query_width + head * heads.head_width,
                row: heads.query_width,
                column: 1,
            },
            key: Place {
                start: (span.keys.start + first_key) * heads.key_width + head / heads.share * heads.head_width,
                row: heads.key_width,
                column: 1,
            },
        })
    })
}

/// Fills `scores` with the softmax of one tile, `[rows, keys]`, and `slopes`, where asked for, with the cap's
/// derivative.
fn probabilities(
    scores: &mut Vec<f32>,
    slopes: Option<&mut Vec<f32>>,
    q: &[f32],
    k: &[f32],
    tile: &Tile,
    heads: Heads,
) {
    head_products(scores, heads.settings.scale, q, k, tile, heads);
    if let Some(cap) = heads.settings.softcap {
        cap_scores(scores, slopes, cap);
    }
    vectorised!({
        for (i, row) in scores.chunks_mut(tile.keys).enumerate() {
            softmax_within(row, tile.seen(i, heads.settings));
        }
    });
}

/// `s -> cap * tanh(s / cap)`, whose derivative is `1 - tanh²`.
fn cap_scores(scores: &mut [f32], slopes: Option<&mut Vec<f32>>, cap: f32) {
    let inverse = 1.0 / cap;
    vectorised!(for s in scores.iter_mut() {
        *s = tanh(*s * inverse);
    });
    if let Some(slopes) = slopes {
        slopes.clear();
        slopes.extend(scores.iter().map(|tanh| 1.0 - tanh * tanh));
    }
    vectorised!(scores.iter_mut().for_each(|s| *s *= cap));
}

/// Softmax over the elements `seen`; the others become 0.
#[inline(always)]
fn softmax_within(row: &mut [f32], seen: Range<usize>) {
    row[..seen.start].fill(0.0);
    row[seen.end..].fill(0.0);
    let row = &mut row[seen];
    let maximum = maximum(row);
    for z in row.iter_mut() {
        *z = exp(*z - maximum);
    }
    let inverse = 1.0 / sum(row, |p| p);
    row.iter_mut().for_each(|z| *z *= inverse);
}

/// Fills `d_scores` with `P * (dP - rowsum(P * dP))`, `dP = dy vᵀ`, for one tile.
fn score_gradients(scores: &[f32], d_scores: &mut Vec<f32>, dy: &[f32], v: &[f32], tile: &Tile, heads: Heads) {
    head_products(d_scores, 1.0, dy, v, tile, heads);
    vectorised!({
        for (dp, p) in d_scores.chunks_mut(tile.keys).zip(scores.chunks(tile.keys)) {
            let dot = dot(dp, p);
            for (dp, &p) in dp.iter_mut().zip(p) {
                *dp = p * (*dp - dot);
            }
        }
    });
}

/// Fills `out` with `scale * a bᵀ` over one head of one tile, `[rows, keys]`: `a` lies like the queries, `b`
/// like the keys.
fn head_products(out: &mut Vec<f32>, scale: f32, a: &[f32], b: &[f32], tile: &Tile, heads: Heads) {
    let Tile { rows, keys, query, key, .. } = *tile;
    out.clear();
    out.resize(rows * keys, 0.0);
    let target = Target::new(out);
    let (a, b) = (Operand::new(a, query), Operand::new(b, key.transposed()));
    // SAFETY: `out` is this thread's own buffer.
    unsafe { multiply(Sizes { m: rows, n: keys, k: heads.head_width }, target, tile.scores(), false, scale, a, b) };
}
