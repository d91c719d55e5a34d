//! Operands of products on the tile unit, packed into tiles of bfloat16.
//!
//! A tile register holds 16 rows of 32 bfloat16. A *panel* is 32 lines (rows of a left operand, columns of a
//! right one); for every 32 inner elements (a *step*) it has two tiles for each *plane*: one plane holds the
//! numbers rounded to bfloat16, three hold the high, middle and low parts that add up to a float32.

use std::arch::x86_64::*;

use super::lines::{Lines, Numbers};

/// Lines of a panel, and inner elements of a step.
pub(super) const PANEL: usize = 32;
/// Lines of a tile.
pub(super) const TILE: usize = 16;

impl Lines<'_> {
    pub fn panels(&self) -> usize {
        self.lines.div_ceil(PANEL)
    }

    /// Tiles of one panel of so many planes.
    pub fn panel_tiles(&self, planes: usize) -> usize {
        2 * planes * self.depth.div_ceil(PANEL)
    }
}

/// One tile in memory: 16 rows of 32 bfloat16, two in each word.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Tile(pub [u32; 256]);

/// The order in which the unit wants a tile's numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Line by line.
    Left,
    /// By pairs of depths.
    Right,
}

/// Sixteen depths of sixteen lines, one or the other in each row.
type Square = [__m512; TILE];

/// Packs panel `panel` of an operand, times `scale`, zeros beyond its edges: for each step two tiles of the
/// first plane, two of the next, and so on. A word holds depths `i` and `i + 16` of its step: any pairs will
/// do, as long as both operands have the same.
///
/// # Safety
/// The processor has AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn pack_panel<const PLANES: usize>(
    operand: Lines<'_>,
    panel: usize,
    side: Side,
    scale: f32,
    tiles: &mut [Tile],
) {
    let (along_lines, along_depth) = operand.strides;
    let by_line = along_depth == 1;
    assert!(by_line || along_lines == 1, "an operand is contiguous in one direction");
    let last = (operand.lines - 1) * along_lines + (operand.depth - 1) * along_depth;
    assert!(last < operand.numbers.len(), "an operand stays inside its slice");
    let scale = _mm512_set1_ps(scale);
    for (step, tiles) in tiles.chunks_exact_mut(2 * PLANES).enumerate() {
        for half in 0..2 {
            let (line, depth) = (panel * PANEL + half * TILE, step * PANEL);
            let lines = operand.lines.saturating_sub(line).min(TILE);
            let mut squares = [[_mm512_setzero_ps(); TILE]; 2];
            for (square, depth) in squares.iter_mut().zip([depth, depth + TILE]) {
                let depths = operand.depth.saturating_sub(depth).min(TILE);
                let start = line * along_lines + depth * along_depth;
                let (stride, rows, columns) =
                    if by_line { (along_lines, lines, depths) } else { (along_depth, depths, lines) };
                // SAFETY: the reads are limited to `lines` and `depths`, which lie inside the slice as
                // asserted above.
                unsafe {
                    match operand.numbers {
                        Numbers::Float32(data) => {
                            load(
                                square,
                                data.as_ptr().wrapping_add(start),
                                stride,
                                (rows, columns),
                                PANEL * along_depth,
                            );
                        }
                        Numbers::Bfloat16(data) => {
                            widen(square, data.as_ptr().wrapping_add(start).cast(), stride, rows, columns);
                        }
                    }
                }
                if by_line == (side == Side::Right) {
                    transpose(square);
                }
            }
            for (i, (low, high)) in squares[0].iter().zip(&squares[1]).enumerate() {
                let low = split::<PLANES>(_mm512_mul_ps(*low, scale));
                let high = split::<PLANES>(_mm512_mul_ps(*high, scale));
                for (plane, (low, high)) in low.into_iter().zip(high).enumerate() {
                    let words = &mut tiles[2 * plane + half].0[TILE * i..][..TILE];
                    let word = _mm512_or_si512(_mm512_srli_epi32::<16>(low), high);
                    // SAFETY: the slice holds 16 words.
                    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), word) };
                }
            }
        }
    }
}

/// Fills the square, which holds zeros, with `rows` rows of `columns` numbers, `stride` apart. Asks for what
/// lies `ahead`, the next step's, so that it is on its way while this one is packed.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn load(square: &mut Square, start: *const f32, stride: usize, (rows, columns): (usize, usize), ahead: usize) {
    let mask = ((1u32 << columns) - 1) as __mmask16;
    for (i, row) in square.iter_mut().enumerate().take(rows) {
        let start = start.wrapping_add(i * stride);
        // SAFETY: the caller vouches for these rows; the mask hides the rest. A prefetch of anything is
        // harmless.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(ahead).cast());
            *row = _mm512_maskz_loadu_ps(mask, start);
        }
    }
}

/// The same of bfloat16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn widen(square: &mut Square, start: *const u16, stride: usize, rows: usize, columns: usize) {
    let mask = ((1u32 << columns) - 1) as __mmask32;
    for (i, row) in square.iter_mut().enumerate().take(rows) {
        // SAFETY: the caller vouches for these rows; the mask hides the rest.
        let halves = unsafe { _mm512_maskz_loadu_epi16(mask, start.wrapping_add(i * stride).cast()) };
        let words = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(halves));
        *row = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words));
    }
}

/// Bfloat16, each in the upper half of its word, that add up to `x` as nearly as `PLANES` of them can.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn split<const PLANES: usize>(x: __m512) -> [__m512i; PLANES] {
    let (mut parts, mut rest) = ([_mm512_setzero_si512(); PLANES], x);
    for part in &mut parts {
        *part = if PLANES == 1 { nearest_even(rest) } else { nearest(rest) };
        rest = _mm512_sub_ps(rest, _mm512_castsi512_ps(*part));
    }
    parts
}

const UPPER_HALF: i32 = 0xFFFF_0000_u32 as i32;

/// Ties go away from zero: what is rounded off here is in the next plane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn nearest(x: __m512) -> __m512i {
    let word = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
    _mm512_and_si512(word, _mm512_set1_epi32(UPPER_HALF))
}

/// Ties go to even; a NaN stays one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn nearest_even(x: __m512) -> __m512i {
    let word = _mm512_castps_si512(x);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(word), _mm512_set1_epi32(1));
    let rounded = _mm512_add_epi32(word, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
    let rounded = _mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(0x7FC0_0000));
    _mm512_and_si512(rounded, _mm512_set1_epi32(UPPER_HALF))
}

/// Rows become columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transpose(rows: &mut Square) {
    let mut pairs = *rows;
    for i in (0..16).step_by(2) {
        pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    let fours_of = |low: __m512, high: __m512| {
        let (low, high) = (_mm512_castps_pd(low), _mm512_castps_pd(high));
        (_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)), _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)))
    };
    let mut fours = pairs;
    for i in (0..16).step_by(4) {
        (fours[i], fours[i + 1]) = fours_of(pairs[i], pairs[i + 2]);
        (fours[i + 2], fours[i + 3]) = fours_of(pairs[i + 1], pairs[i + 3]);
    }
    // Lane `l` of `fours[4 b + j]` now holds column `4 l + j` of rows `4 b .. 4 b + 4`.
    for j in 0..4 {
        let blocks = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
        let low =
            [_mm512_shuffle_f32x4::<0x44>(blocks[0], blocks[1]), _mm512_shuffle_f32x4::<0x44>(blocks[2], blocks[3])];
        let high =
            [_mm512_shuffle_f32x4::<0xEE>(blocks[0], blocks[1]), _mm512_shuffle_f32x4::<0xEE>(blocks[2], blocks[3])];
        rows[j] = _mm512_shuffle_f32x4::<0x88>(low[0], low[1]);
        rows[4 + j] = _mm512_shuffle_f32x4::<0xDD>(low[0], low[1]);
        rows[8 + j] = _mm512_shuffle_f32x4::<0x88>(high[0], high[1]);
        rows[12 + j] = _mm512_shuffle_f32x4::<0xDD>(high[0], high[1]);
    }
}
