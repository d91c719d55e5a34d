//! Launches of attention: which block takes which rows.

use candle_core::{DType, Tensor};

use super::launch::Argument::{Count, Number, Read, Write};
use super::launch::{Argument, Launch, fresh, launch, upload};
use crate::error::{ModelError, Result};
use crate::kernels::{AttentionSettings, Span};

/// Rows and keys of one tile, and threads of one block, as `attention.cu` has them.
const TILE: usize = 32;
const THREADS: usize = 128;
const PAD: usize = 4;

/// The entry points of one width of tiles.
struct Entry {
    width: usize,
    forward: &'static str,
    backward_queries: &'static str,
    backward_keys: &'static str,
}

macro_rules! entry {
    ($width:literal) => {
        Entry {
            width: $width,
            forward: concat!("attention_", $width),
            backward_queries: concat!("attention_backward_queries_", $width),
            backward_keys: concat!("attention_backward_keys_", $width),
        }
    };
}

static ENTRIES: [Entry; 4] = [entry!(32), entry!(64), entry!(128), entry!(256)];

impl Entry {
    /// The narrowest tiles that hold a head.
    fn of(head_width: usize) -> Result<&'static Self> {
        ENTRIES.iter().find(|entry| head_width <= entry.width).ok_or_else(|| ModelError::Unsupported {
            what: format!("attention on a GPU with heads of width {head_width}"),
            instead: "heads are at most 256 wide".into(),
        })
    }

    /// A block for each tile and head, with room for `tiles` tiles of rows and one of scores.
    fn launch(&self, kernel: &'static str, blocks: (usize, usize), tiles: usize) -> Launch {
        let floats = tiles * TILE * (self.width + PAD) + TILE * (TILE + 1);
        Launch { shared_bytes: floats * size_of::<f32>(), ..Launch::new(kernel, blocks, THREADS) }
    }
}

/// The last arguments of every entry point.
fn settings_arguments<'a>(q: &Tensor, k: &Tensor, settings: AttentionSettings) -> Result<[Argument<'a>; 7]> {
    let (heads, groups) = (q.dims2()?.1 / settings.head_width, k.dims2()?.1 / settings.head_width);
    Ok([
        Count(heads),
        Count(heads / groups),
        Count(settings.head_width),
        Number(f64::from(settings.scale)),
        Number(f64::from(settings.softcap.unwrap_or(0.0))),
        // A window beyond any sequence is none; positions and windows are added up in 32 bits.
        Count(settings.window.filter(|&window| window < 1 << 30).unwrap_or(0)),
        Count(usize::from(settings.causal)),
    ])
}

/// Twin of [`crate::kernels::attention()`].
pub(in super::super) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &[Span],
    settings: AttentionSettings,
) -> Result<Tensor> {
    let out = q.zeros_like()?; // rows of no span stay zero
    let entry = Entry::of(settings.head_width)?;
    let (blocks, tiles) = query_tiles(spans, q)?;
    let mut arguments = vec![Write(&out), Read(q), Read(k), Read(v), Read(&tiles)];
    arguments.extend(settings_arguments(q, k, settings)?);
    let heads = q.dims2()?.1 / settings.head_width;
    launch(entry.launch(entry.forward, (blocks, heads), 2), &arguments)?;
    Ok(out)
}

/// Twin of [`crate::kernels::attention_backward`].
pub(in super::super) fn attention_backward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    dy: &Tensor,
    spans: &[Span],
    settings: AttentionSettings,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (t, width) = q.dims2()?;
    let (heads, groups) = (width / settings.head_width, k.dims2()?.1 / settings.head_width);
    let entry = Entry::of(settings.head_width)?;
    let (dq, dk, dv) = (q.zeros_like()?, k.zeros_like()?, v.zeros_like()?);
    let (logs, dots) = (fresh((t, heads), DType::F32, q)?, fresh((t, heads), DType::F32, q)?);
    let settings = settings_arguments(q, k, settings)?;

    let (blocks, tiles) = query_tiles(spans, q)?;
    let mut arguments = vec![Write(&dq), Write(&logs), Write(&dots), Read(q), Read(k), Read(v), Read(dy), Read(&tiles)];
    arguments.extend(settings);
    launch(entry.launch(entry.backward_queries, (blocks, heads), 3), &arguments)?;

    let (blocks, tiles) = key_tiles(spans, q)?;
    let mut arguments =
        vec![Write(&dk), Write(&dv), Read(q), Read(k), Read(v), Read(dy), Read(&logs), Read(&dots), Read(&tiles)];
    arguments.extend(settings);
    launch(entry.launch(entry.backward_keys, (blocks, groups), 3), &arguments)?;
    Ok((dq, dk, dv))
}

/// Tiles of queries: first row, rows, the span's first key row, its keys, position of the first query among
/// them.
fn query_tiles(spans: &[Span], like: &Tensor) -> Result<(usize, Tensor)> {
    let tiles = spans.iter().flat_map(|span| {
        span.queries.clone().step_by(TILE).map(move |row| {
            let rows = TILE.min(span.queries.end - row);
            [row, rows, span.keys.start, span.keys.len(), span.offset + row - span.queries.start]
        })
    });
    upload_tiles(tiles.collect(), like)
}

/// Tiles of keys: first row, rows, number of the first key in its span, the span's first query row, its
/// queries, position of the first query among the keys.
fn key_tiles(spans: &[Span], like: &Tensor) -> Result<(usize, Tensor)> {
    let tiles = spans.iter().flat_map(|span| {
        span.keys.clone().step_by(TILE).map(move |row| {
            let rows = TILE.min(span.keys.end - row);
            [row, rows, row - span.keys.start, span.queries.start, span.queries.len(), span.offset]
        })
    });
    upload_tiles(tiles.collect(), like)
}

fn upload_tiles<const N: usize>(tiles: Vec<[usize; N]>, like: &Tensor) -> Result<(usize, Tensor)> {
    let numbers: Vec<u32> = tiles.iter().flatten().map(|&number| number as u32).collect();
    Ok((tiles.len(), upload(&numbers, like)?))
}
