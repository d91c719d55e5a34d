//! Float32 matrix products on the tile unit of recent Xeons (AMX), as exact as the ordinary ones.
//!
//! The unit multiplies bfloat16 and adds in float32, sixteen times as fast as AVX-512 multiplies float32. A float32 has 24
//! significant bits, a bfloat16 eight: `x = high + middle + low`, three bfloat16 that add up to `x`. Of the nine products of two
//! such sums the six largest are computed; what is left out is below 2^-26 of the whole, less than the rounding of a float32.
//!
//! Both operands are packed into tiles of 16 x 32 (1 KiB), two tiles a panel and plane; `multiply_panels` then works on 32 x 32
//! results. Every element is computed in the same order however the work is split: the same input gives the same bytes.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::sync::LazyLock;

use rayon::prelude::*;

/// Rows of a left panel, columns of a right one, and depth of one step.
const PANEL: usize = 32;
/// Rows of a tile.
const TILE: usize = 16;
/// Tiles of one panel and step: three planes of two.
const TILES: usize = 6;
/// Rows of one task: its packed operand stays in the second-level cache.
const TASK_ROWS: usize = 128;
/// Steps between two stores of the results, and right panels that all rows of a task meet in turn: 960 KiB of packed operand.
const STEPS: usize = 8;
const COLUMN_PANELS: usize = 20;

/// One operand: `lines` rows of the left matrix or columns of the right one, each of `depth` elements.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub data: &'a [f32],
    pub lines: usize,
    pub depth: usize,
    /// Distance of neighbours along the lines and along the depth; one of them is 1.
    pub strides: (usize, usize),
}

/// Whether this processor has the unit and the system lets this process use it.
pub(super) fn available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        let vectors = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        vectors && processor_has_tiles() && system_grants_tiles()
    });
    *AVAILABLE
}

/// `target (+)= scale * left * right`; `target` has `left.lines` rows of `right.lines` columns.
pub(super) fn product(target: &mut [f32], add: bool, left: Operand<'_>, right: Operand<'_>, scale: f32) {
    thread_local! { static PACKED: RefCell<Vec<Tile>> = const { RefCell::new(Vec::new()) } }
    assert!(available() && left.depth == right.depth && target.len() == left.lines * right.lines);
    let steps = left.depth.div_ceil(PANEL);
    // Taken, not borrowed: while this thread waits for others, it may begin another product.
    let mut packed = PACKED.take();
    let size = right.lines.div_ceil(PANEL) * steps * TILES;
    reserve(&mut packed, size);
    packed[..size].par_chunks_mut(steps * TILES).enumerate().for_each(|(panel, tiles)| {
        // SAFETY: `available` was asserted.
        unsafe { pack_panel(right, panel, Side::Right, 1.0, tiles) };
    });
    multiply(target, add, left, right.lines, scale, &packed[..size]);
    PACKED.set(packed);
}

/// Splits the results into blocks, by rows and, where these are few, by columns, and computes them side by side.
fn multiply(target: &mut [f32], add: bool, left: Operand<'_>, columns: usize, scale: f32, packed: &[Tile]) {
    thread_local! { static PACKED: RefCell<Vec<Tile>> = const { RefCell::new(Vec::new()) } }
    let steps = left.depth.div_ceil(PANEL);
    let panels = columns.div_ceil(PANEL);
    let row_tasks = left.lines.div_ceil(TASK_ROWS);
    let column_tasks = (2 * rayon::current_num_threads()).div_ceil(row_tasks).min(panels);
    let task_panels = panels.div_ceil(column_tasks);
    let target = Target { start: target.as_mut_ptr(), rows: left.lines, columns };
    (0..row_tasks * column_tasks).into_par_iter().for_each(|task| {
        let target = &target;
        let (rows, columns) = (task / column_tasks * TASK_ROWS, task % column_tasks * task_panels);
        let right = columns..(columns + task_panels).min(panels);
        let left_panels = rows / PANEL..(rows + TASK_ROWS).min(left.lines).div_ceil(PANEL);
        let mut own = PACKED.take();
        reserve(&mut own, left_panels.len() * steps * TILES);
        for (panel, tiles) in left_panels.clone().zip(own.chunks_mut(steps * TILES)) {
            // SAFETY: `available` was asserted in `product`.
            unsafe { pack_panel(left, panel, Side::Left, scale, tiles) };
        }
        // SAFETY: as above; no other task has these rows and columns of the target.
        unsafe {
            let _tiles = Tiles::configure();
            for right in right.clone().step_by(COLUMN_PANELS).map(|p| p..(p + COLUMN_PANELS).min(right.end)) {
                for step in (0..steps).step_by(STEPS) {
                    let count = STEPS.min(steps - step);
                    let add = add || step > 0;
                    for (i, row_panel) in left_panels.clone().enumerate() {
                        let a = &own[(i * steps + step) * TILES..][..count * TILES];
                        for column_panel in right.clone() {
                            let b = &packed[(column_panel * steps + step) * TILES..][..count * TILES];
                            multiply_into(target, row_panel, column_panel, add, a, b);
                        }
                    }
                }
            }
        }
        PACKED.set(own);
    });
}

/// The result matrix, written by tasks at places that never overlap.
struct Target {
    start: *mut f32,
    rows: usize,
    columns: usize,
}
// SAFETY: every task writes rows and columns of its own; see `multiply`.
unsafe impl Sync for Target {}

/// One tile in memory: 16 rows of 32 bfloat16, two in each word.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Tile([u32; 256]);

fn reserve(tiles: &mut Vec<Tile>, size: usize) {
    if tiles.len() < size {
        tiles.resize(size, Tile([0; 256]));
    }
}

/// `target[32 x 32 block] (+)= a b`; at the matrix's edge by way of a block of its own.
///
/// # Safety
/// The unit is configured on this thread; nobody else touches the block.
unsafe fn multiply_into(target: &Target, row_panel: usize, column_panel: usize, add: bool, a: &[Tile], b: &[Tile]) {
    let (row, column) = (row_panel * PANEL, column_panel * PANEL);
    let (rows, columns) = (PANEL.min(target.rows - row), PANEL.min(target.columns - column));
    // SAFETY: the block lies inside the target: its first element here, `rows` and `columns` cut to what there is.
    unsafe {
        let block = target.start.add(row * target.columns + column);
        if rows == PANEL && columns == PANEL {
            return multiply_panels(block, target.columns, add, a, b);
        }
        let mut whole = [0f32; PANEL * PANEL];
        multiply_panels(whole.as_mut_ptr(), PANEL, false, a, b);
        for i in 0..rows {
            let line = std::slice::from_raw_parts_mut(block.add(i * target.columns), columns);
            for (x, y) in line.iter_mut().zip(&whole[i * PANEL..]) {
                *x = if add { *x + y } else { *y };
            }
        }
    }
}

/// The four result tiles of two panels over all their steps. Planes are named h, m, l (high, middle, low); their six products go
/// from small to large, and each differs from the one before in one operand only.
///
/// # Safety
/// The unit is configured on this thread; `block` has 32 rows of 32 elements, `stride` elements apart.
unsafe fn multiply_panels(block: *mut f32, stride: usize, add: bool, a: &[Tile], b: &[Tile]) {
    assert!(a.len() == b.len() && !a.is_empty() && a.len().is_multiple_of(TILES));
    // SAFETY: the slices hold `a.len() / 6` steps of six tiles, asserted above; the caller vouches for the block.
    unsafe {
        asm!(
            "test {add:e}, {add:e}",
            "jnz 3f",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "jmp 2f",
            "3:",
            "tileloadd tmm0, [{c} + {cs}*1]",
            "tileloadd tmm1, [{c} + {cs}*1 + 64]",
            "tileloadd tmm2, [{c2} + {cs}*1]",
            "tileloadd tmm3, [{c2} + {cs}*1 + 64]",
            "2:",
            "tileloadd tmm4, [{a} + {s}*1]", // ah
            "tileloadd tmm5, [{a} + {s}*1 + 1024]",
            "tileloadd tmm6, [{b} + {s}*1 + 4096]", // bl
            "tileloadd tmm7, [{b} + {s}*1 + 5120]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm6, [{b} + {s}*1 + 2048]", // bm
            "tileloadd tmm7, [{b} + {s}*1 + 3072]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm4, [{a} + {s}*1 + 2048]", // am
            "tileloadd tmm5, [{a} + {s}*1 + 3072]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm6, [{b} + {s}*1]", // bh
            "tileloadd tmm7, [{b} + {s}*1 + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm4, [{a} + {s}*1 + 4096]", // al
            "tileloadd tmm5, [{a} + {s}*1 + 5120]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm4, [{a} + {s}*1]", // ah
            "tileloadd tmm5, [{a} + {s}*1 + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 6144",
            "add {b}, 6144",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {cs}*1], tmm0",
            "tilestored [{c} + {cs}*1 + 64], tmm1",
            "tilestored [{c2} + {cs}*1], tmm2",
            "tilestored [{c2} + {cs}*1 + 64], tmm3",
            add = in(reg) u64::from(add),
            a = inout(reg) a.as_ptr() => _,
            b = inout(reg) b.as_ptr() => _,
            c = in(reg) block,
            c2 = in(reg) block.add(TILE * stride),
            cs = in(reg) 4 * stride,
            s = in(reg) 64usize,
            steps = inout(reg) a.len() / TILES => _,
            options(nostack),
        );
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

/// Packs lines `32 * panel ..` of an operand, times `scale`, zeros beyond its edges: for each step two tiles of the high parts, two of
/// the middle, two of the low. The unit wants the left operand line by line and the right one by pairs of depths.
///
/// # Safety
/// The processor has AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack_panel(operand: Operand<'_>, panel: usize, side: Side, scale: f32, tiles: &mut [Tile]) {
    let (along_lines, along_depth) = operand.strides;
    let by_line = along_depth == 1;
    assert!(by_line || along_lines == 1, "an operand is contiguous in one direction");
    let last = (operand.lines - 1) * along_lines + (operand.depth - 1) * along_depth;
    assert!(last < operand.data.len(), "an operand stays inside its slice");
    for (step, tiles) in tiles.chunks_exact_mut(TILES).enumerate() {
        for half in 0..2 {
            let (line, depth) = (panel * PANEL + half * TILE, step * PANEL);
            let lines = operand.lines.saturating_sub(line).min(TILE);
            let depths = (operand.depth - depth).min(PANEL);
            let start = operand.data.as_ptr().wrapping_add(line * along_lines + depth * along_depth);
            // SAFETY: the reads are masked to `lines` and `depths`, which lie inside the slice as asserted above.
            unsafe {
                let mut planes = match by_line {
                    true => split_lines(start, along_lines, lines, depths, scale),
                    false => split_pairs(start, along_depth, lines, depths, scale),
                };
                for (plane, rows) in planes.iter_mut().enumerate() {
                    if by_line == (side == Side::Right) {
                        transpose(rows);
                    }
                    let tile = &mut tiles[2 * plane + half];
                    for (row, words) in rows.iter().zip(tile.0.chunks_exact_mut(16)) {
                        _mm512_storeu_si512(words.as_mut_ptr().cast(), *row);
                    }
                }
            }
        }
    }
}

type Rows = [__m512i; TILE];

/// Row `i`: the 32 depths of line `i`, which lie side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn split_lines(start: *const f32, stride: usize, lines: usize, depths: usize, scale: f32) -> [Rows; 3] {
    let mut planes = [[_mm512_setzero_si512(); TILE]; 3];
    let masks = [prefix_mask(depths), prefix_mask(depths.saturating_sub(16))];
    let scale = _mm512_set1_ps(scale);
    let [highs, middles, lows] = &mut planes;
    for (i, ((h, m), l)) in highs.iter_mut().zip(middles).zip(lows).enumerate().take(lines) {
        let line = start.wrapping_add(i * stride);
        // SAFETY: the caller vouches for `lines` lines of `depths` elements; the masks hide the rest.
        let (low, high) =
            unsafe { (_mm512_maskz_loadu_ps(masks[0], line), _mm512_maskz_loadu_ps(masks[1], line.wrapping_add(16))) };
        let (low, high) = (split(_mm512_mul_ps(low, scale)), split(_mm512_mul_ps(high, scale)));
        let joined = |low, high| {
            let narrow = |x| _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(x));
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(narrow(low)), narrow(high))
        };
        (*h, *m, *l) = (joined(low[0], high[0]), joined(low[1], high[1]), joined(low[2], high[2]));
    }
    planes
}

/// Row `i`: depths `2i` and `2i + 1` of the 16 lines, which lie side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn split_pairs(start: *const f32, stride: usize, lines: usize, depths: usize, scale: f32) -> [Rows; 3] {
    let mut planes = [[_mm512_setzero_si512(); TILE]; 3];
    let mask = prefix_mask(lines);
    let scale = _mm512_set1_ps(scale);
    let [highs, middles, lows] = &mut planes;
    for (i, ((h, m), l)) in highs.iter_mut().zip(middles).zip(lows).enumerate().take(depths.div_ceil(2)) {
        let first = start.wrapping_add(2 * i * stride);
        let second = if 2 * i + 1 < depths { mask } else { 0 };
        // SAFETY: the caller vouches for `depths` runs of `lines` elements; the masks hide the rest.
        let (even, odd) =
            unsafe { (_mm512_maskz_loadu_ps(mask, first), _mm512_maskz_loadu_ps(second, first.wrapping_add(stride))) };
        let (even, odd) = (split(_mm512_mul_ps(even, scale)), split(_mm512_mul_ps(odd, scale)));
        let joined = |even, odd| _mm512_or_si512(_mm512_srli_epi32::<16>(even), odd);
        (*h, *m, *l) = (joined(even[0], odd[0]), joined(even[1], odd[1]), joined(even[2], odd[2]));
    }
    planes
}

fn prefix_mask(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1 << count) - 1 }
}

/// Three bfloat16, each in the upper half of its word, that add up to `x`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn split(x: __m512) -> [__m512i; 3] {
    let rounded = |x: __m512| {
        let word = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
        _mm512_and_si512(word, _mm512_set1_epi32(0xFFFF_0000_u32 as i32))
    };
    let high = rounded(x);
    let rest = _mm512_sub_ps(x, _mm512_castsi512_ps(high));
    let middle = rounded(rest);
    [high, middle, rounded(_mm512_sub_ps(rest, _mm512_castsi512_ps(middle)))]
}

/// Transposes 16 x 16 words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transpose(rows: &mut Rows) {
    let mut pairs = *rows;
    for i in (0..16).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    let mut fours = pairs;
    for i in (0..16).step_by(4) {
        fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    // Lane `l` of `fours[4 b + j]` now holds column `4 l + j` of rows `4 b .. 4 b + 4`.
    for j in 0..4 {
        let blocks = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
        let low =
            [_mm512_shuffle_i32x4::<0x44>(blocks[0], blocks[1]), _mm512_shuffle_i32x4::<0x44>(blocks[2], blocks[3])];
        let high =
            [_mm512_shuffle_i32x4::<0xEE>(blocks[0], blocks[1]), _mm512_shuffle_i32x4::<0xEE>(blocks[2], blocks[3])];
        rows[j] = _mm512_shuffle_i32x4::<0x88>(low[0], low[1]);
        rows[4 + j] = _mm512_shuffle_i32x4::<0xDD>(low[0], low[1]);
        rows[8 + j] = _mm512_shuffle_i32x4::<0x88>(high[0], high[1]);
        rows[12 + j] = _mm512_shuffle_i32x4::<0xDD>(high[0], high[1]);
    }
}

/// The unit, set up on this thread for tiles of 16 rows of 64 bytes until this is dropped.
struct Tiles;

impl Tiles {
    /// # Safety
    /// [`available`] must have said yes.
    unsafe fn configure() -> Self {
        #[repr(C, align(64))]
        struct Configuration {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        row_bytes[..8].fill(64);
        rows[..8].fill(16);
        let configuration = Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows };
        // SAFETY: the unit is there; palette 1 has eight tiles of up to 16 rows of 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly)) };
        Self
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the unit was configured on this thread; releasing it makes context switches cheap again.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

fn processor_has_tiles() -> bool {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    if __cpuid(0).eax < 7 {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    features & BF16 != 0 && features & TILE != 0
}

/// Asks Linux for the tile registers: they enlarge a thread's state, so a process must ask before their first use.
fn system_grants_tiles() -> bool {
    #[cfg(target_os = "linux")]
    {
        const ARCH_PRCTL: i64 = 158;
        const REQUEST_STATE: i64 = 0x1023;
        const TILE_DATA: i64 = 18;
        let result: i64;
        // SAFETY: arch_prctl(ARCH_REQ_XCOMP_PERM, 18) reads no memory of ours; the kernel overwrites rcx and r11.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") REQUEST_STATE,
                in("rsi") TILE_DATA,
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        result == 0
    }
    #[cfg(not(target_os = "linux"))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / 8_388_608.0 - 1.0
            })
            .collect()
    }

    /// Relative distance to float64, for one arrangement of the operands.
    fn error_of((m, n, k): (usize, usize, usize), left_by_line: bool, right_by_line: bool, add: bool) -> f64 {
        let (a, b) = (noise(m * k, 1), noise(k * n, 2));
        let strides = |by_line: bool, lines: usize| if by_line { (k, 1) } else { (1, lines) };
        let (left_strides, right_strides) = (strides(left_by_line, m), strides(right_by_line, n));
        let mut found = vec![if add { 1.0 } else { f32::NAN }; m * n];
        let left = Operand { data: &a, lines: m, depth: k, strides: left_strides };
        let right = Operand { data: &b, lines: n, depth: k, strides: right_strides };
        product(&mut found, add, left, right, 0.5);
        let (mut distance, mut length) = (0.0, 0.0);
        for i in 0..m {
            for j in 0..n {
                let at = |x: &[f32], line, depth, (s, t): (usize, usize)| f64::from(x[line * s + depth * t]);
                let sum: f64 = (0..k).map(|d| at(&a, i, d, left_strides) * at(&b, j, d, right_strides)).sum();
                let expected = 0.5 * sum + if add { 1.0 } else { 0.0 };
                distance += (f64::from(found[i * n + j]) - expected).powi(2);
                length += expected.powi(2);
            }
        }
        (distance / length).sqrt()
    }

    #[test]
    fn products_on_tiles_are_as_exact_as_float32() {
        if !available() {
            eprintln!("skipped: this processor has no tile unit");
            return;
        }
        for size in [(32, 32, 32), (33, 47, 65), (161, 700, 300), (5, 1, 40), (64, 35, 1)] {
            for arrangement in 0..8 {
                let flag = |bit: usize| arrangement >> bit & 1 == 1;
                let error = error_of(size, flag(0), flag(1), flag(2));
                assert!(error < 3e-7, "{size:?}, arrangement {arrangement}: {error:.1e}");
            }
        }
    }
}
