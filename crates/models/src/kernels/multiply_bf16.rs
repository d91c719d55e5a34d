//! Products whose operands are rounded to bfloat16 and summed in float32, on the matrix unit (AMX) of recent Xeons.
//!
//! Both operands are rounded once, to nearest even, into *tiles* of 16 lines by 32 inner elements, the shape of a tile register;
//! one instruction multiplies two tiles into a 16 x 16 block of float32 sums. A relative error of 2^-9 an operand is the price
//! (0.2 % of a product's norm); on two cores it pays 650 to 1,000 GFLOP/s where float32 reaches 300 (`docs/BENCHMARKS.md`).
//! On other processors the operands are rounded alike and multiplied in float32: the same numbers up to the order of a sum, no gain.

use rayon::prelude::*;

use super::math::vectorised;
use super::multiply::{Operand, Place, Sizes, Target};

/// Lines (rows of the left operand, columns of the right one) of a tile.
const LINES: usize = 16;
/// Inner elements of a tile: 16 pairs.
const DEPTH: usize = 32;
/// A panel is two tiles of lines: what the micro-kernel multiplies at a time.
const PANEL: usize = 2 * LINES;

/// One tile register: 16 rows of 16 pairs of bfloat16, the earlier element of a pair in the lower half.
type Tile = [[u32; LINES]; LINES];

/// Which way round a tile's rows lie in its register.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Row `i`, column `p`: line `i`, pair `p`.
    Left,
    /// Row `p`, column `j`: line `j`, pair `p`.
    Right,
}

/// An operand seen as lines of inner elements, whichever way it is stored.
#[derive(Clone, Copy)]
struct Lines<'a> {
    data: &'a [f32],
    start: usize,
    lines: usize,
    line_stride: usize,
    depth: usize,
    depth_stride: usize,
}

impl<'a> Lines<'a> {
    fn of_left(a: Operand<'a>, Sizes { m, k, .. }: Sizes) -> Self {
        let Place { start, row, column } = a.place;
        Self { data: a.data, start, lines: m, line_stride: row, depth: k, depth_stride: column }
    }

    fn of_right(b: Operand<'a>, Sizes { n, k, .. }: Sizes) -> Self {
        let Place { start, row, column } = b.place;
        Self { data: b.data, start, lines: n, line_stride: column, depth: k, depth_stride: row }
    }

    /// Contiguous elements along the inner dimension?
    fn runs_along_depth(&self) -> bool {
        self.depth_stride == 1
    }
}

/// `target = scale * a b`, or `+=` with `add`, over all of rayon's threads. `target` is `[m, n]`, contiguous.
pub(super) fn multiply_bf16(sizes: Sizes, target: &mut [f32], add: bool, scale: f32, a: Operand<'_>, b: Operand<'_>) {
    assert_eq!(target.len(), sizes.m * sizes.n, "a product has as many elements as its target");
    let left = Panels::pack(Lines::of_left(a, sizes), Side::Left, scale);
    let right = Panels::pack(Lines::of_right(b, sizes), Side::Right, 1.0);
    unit::multiply_panels(sizes, Target::new(target), add, &left, &right);
}

/// An operand in tiles: for every panel of lines and every step along the inner dimension, its upper and its lower tile.
struct Panels {
    tiles: Vec<Tile>,
    /// Steps of [`DEPTH`] inner elements.
    steps: usize,
}

impl Panels {
    fn pack(lines: Lines<'_>, side: Side, scale: f32) -> Self {
        let steps = lines.depth.div_ceil(DEPTH);
        let mut tiles = vec![[[0; LINES]; LINES]; lines.lines.div_ceil(PANEL) * steps * 2];
        tiles.par_chunks_exact_mut(2 * steps).enumerate().for_each(|(panel, tiles)| {
            vectorised(|| {
                for (i, tile) in tiles.iter_mut().enumerate() {
                    let first = (panel * PANEL + i % 2 * LINES, i / 2 * DEPTH);
                    fill(tile, lines, first, side, scale);
                }
            });
        });
        Self { tiles, steps }
    }

    /// The tiles of the panel that begins at `line`.
    fn panel(&self, line: usize) -> &[Tile] {
        &self.tiles[line / PANEL * self.steps * 2..][..self.steps * 2]
    }
}

/// Rounds one tile of `lines`; what lies beyond its edges stays zero.
#[inline(always)]
fn fill(tile: &mut Tile, lines: Lines<'_>, (line, depth): (usize, usize), side: Side, scale: f32) {
    let here = (lines.lines.saturating_sub(line).min(LINES), lines.depth.saturating_sub(depth).min(DEPTH));
    if here.0 == 0 {
        return;
    }
    let data = &lines.data[lines.start + line * lines.line_stride + depth * lines.depth_stride..];
    let (rows, own_side) = if lines.runs_along_depth() {
        (pairs_along_rows(data, lines.line_stride, here, scale), Side::Left)
    } else {
        (pairs_of_rows(data, lines.depth_stride, here, scale), Side::Right)
    };
    if own_side == side {
        *tile = rows;
    } else {
        for (i, row) in rows.iter().enumerate() {
            for (j, &pair) in row.iter().enumerate() {
                tile[j][i] = pair;
            }
        }
    }
}

/// Row `i`, column `p`: elements `2p` and `2p + 1` of line `i`, whose elements lie side by side.
#[inline(always)]
fn pairs_along_rows(data: &[f32], stride: usize, (lines, depth): (usize, usize), scale: f32) -> Tile {
    let mut tile = [[0; LINES]; LINES];
    for (i, pairs) in tile.iter_mut().enumerate().take(lines) {
        let line = &data[i * stride..][..depth];
        if let Ok(line) = <&[f32; DEPTH]>::try_from(line) {
            for (p, pair) in pairs.iter_mut().enumerate() {
                *pair = round(line[2 * p] * scale) | round(line[2 * p + 1] * scale) << 16;
            }
        } else {
            for (d, &x) in line.iter().enumerate() {
                pairs[d / 2] |= round(x * scale) << (16 * (d % 2));
            }
        }
    }
    tile
}

/// Row `p`, column `i`: elements `2p` and `2p + 1` of line `i`, where the lines lie side by side.
#[inline(always)]
fn pairs_of_rows(data: &[f32], stride: usize, (lines, depth): (usize, usize), scale: f32) -> Tile {
    let mut tile = [[0; LINES]; LINES];
    for d in 0..depth {
        let shift = 16 * (d % 2);
        for (pair, &x) in tile[d / 2].iter_mut().zip(&data[d * stride..][..lines]) {
            *pair |= round(x * scale) << shift;
        }
    }
    tile
}

/// The nearest bfloat16, ties to even, in the lower half.
#[inline(always)]
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    // Adding to the bits of a NaN could turn it into a number.
    if x.is_nan() { 0x7fc0 } else { bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16 }
}

/// Output rows and columns of one task: its right panels and left panels stay in a core's second-level cache.
const TASK: usize = 256;

/// Cuts the target into tasks and calls `block` with row and column of every 32 x 32 block, task by task.
fn for_each_block(sizes: Sizes, task_begins: impl Fn() + Sync, block: impl Fn(usize, usize) + Sync) {
    let tasks = (sizes.m.div_ceil(TASK), sizes.n.div_ceil(TASK));
    (0..tasks.0 * tasks.1).into_par_iter().for_each(|task| {
        let (row, column) = (task % tasks.0 * TASK, task / tasks.0 * TASK);
        task_begins();
        for column in (column..sizes.n.min(column + TASK)).step_by(PANEL) {
            for row in (row..sizes.m.min(row + TASK)).step_by(PANEL) {
                block(row, column);
            }
        }
    });
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod unit {
    use std::arch::asm;
    use std::arch::x86_64::__cpuid_count;
    use std::sync::LazyLock;

    use super::{PANEL, Panels, Sizes, Target, Tile, for_each_block, software};

    /// Linux gives the tile registers to a process that asks for them.
    static GRANTED: LazyLock<bool> = LazyLock::new(|| {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        const AMX_BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
        let has_unit = __cpuid_count(7, 0).edx & AMX_BF16_AND_TILE == AMX_BF16_AND_TILE;
        // SAFETY: the call changes nothing but which registers this process may use.
        has_unit && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } == 0
    });

    pub fn is_available() -> bool {
        *GRANTED
    }

    pub fn multiply_panels(sizes: Sizes, target: Target, add: bool, left: &Panels, right: &Panels) {
        if !*GRANTED {
            return software::multiply_panels(sizes, target, add, left, right);
        }
        for_each_block(sizes, configure, |row, column| {
            let (left, right) = (left.panel(row), right.panel(column));
            if row + PANEL <= sizes.m && column + PANEL <= sizes.n {
                let block = target.block(row * sizes.n + column, sizes.n, (PANEL, PANEL));
                // SAFETY: this thread is configured; `block` checks its bounds, and blocks are disjoint.
                unsafe { multiply_block(left, right, block, sizes.n, add) };
            } else {
                let mut whole = [0f32; PANEL * PANEL];
                // SAFETY: this thread is configured, and `whole` is its own.
                unsafe { multiply_block(left, right, whole.as_mut_ptr(), PANEL, false) };
                target.store_corner(&whole, PANEL, (row, column), sizes, add);
            }
        });
    }

    /// Sizes of the eight tile registers: 16 rows of 64 bytes each.
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    static CONFIGURATION: Configuration = Configuration {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
        rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
    };

    fn configure() {
        // SAFETY: permission was granted; the configuration is valid and changes only tile registers, which nobody else uses.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack)) };
    }

    /// `block = left right`, or `+=`: 32 x 32 float32 with rows `stride` elements apart.
    ///
    /// # Safety
    /// The tile registers of this thread are configured, and the block may be written.
    #[inline(never)]
    unsafe fn multiply_block(left: &[Tile], right: &[Tile], block: *mut f32, stride: usize, add: bool) {
        debug_assert_eq!(left.len(), right.len());
        // SAFETY: the loop reads `left.len() / 2` pairs of tiles of 1,024 bytes from both sides.
        unsafe {
            asm!(
                "test {add}, {add}",
                "jz 2f",
                "tileloadd tmm0, [{block} + {row_bytes}]",
                "tileloadd tmm1, [{block} + {row_bytes} + 64]",
                "tileloadd tmm2, [{lower} + {row_bytes}]",
                "tileloadd tmm3, [{lower} + {row_bytes} + 64]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                "tileloadd tmm4, [{left} + {line_bytes}]",
                "tileloadd tmm6, [{right} + {line_bytes}]",
                "tileloadd tmm5, [{left} + {line_bytes} + 1024]",
                "tileloadd tmm7, [{right} + {line_bytes} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {left}, 2048",
                "add {right}, 2048",
                "dec {steps}",
                "jnz 3b",
                "tilestored [{block} + {row_bytes}], tmm0",
                "tilestored [{block} + {row_bytes} + 64], tmm1",
                "tilestored [{lower} + {row_bytes}], tmm2",
                "tilestored [{lower} + {row_bytes} + 64], tmm3",
                left = inout(reg) left.as_ptr() => _,
                right = inout(reg) right.as_ptr() => _,
                steps = inout(reg) left.len() / 2 => _,
                block = in(reg) block,
                lower = in(reg) block.wrapping_add(16 * stride),
                row_bytes = in(reg) stride * size_of::<f32>(),
                line_bytes = in(reg) 64usize,
                add = in(reg) usize::from(add),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod unit {
    pub use super::software::multiply_panels;

    pub fn is_available() -> bool {
        false
    }
}

/// Whether this processor multiplies bfloat16 on a matrix unit; elsewhere the rounding is imitated and saves no time.
pub fn has_bf16_unit() -> bool {
    unit::is_available()
}

/// The same product of rounded operands in float32.
mod software {
    use super::super::multiply::{Operand, Place, multiply};
    use super::{DEPTH, LINES, PANEL, Panels, Sizes, Target, Tile, for_each_block};

    pub fn multiply_panels(sizes: Sizes, target: Target, add: bool, left: &Panels, right: &Panels) {
        for_each_block(
            sizes,
            || (),
            |row, column| {
                let (left, right) = (widen(left.panel(row), true), widen(right.panel(column), false));
                let depth = left.len() / PANEL;
                let lines = Place { start: 0, row: depth, column: 1 };
                let mut whole = [0f32; PANEL * PANEL];
                let block = Sizes { m: PANEL, n: PANEL, k: depth };
                let (left, right) = (Operand::new(&left, lines), Operand::new(&right, lines.transposed()));
                // SAFETY: `whole` is this thread's own.
                unsafe {
                    let place = Place { start: 0, row: PANEL, column: 1 };
                    multiply(block, Target::new(&mut whole), place, false, 1.0, left, right);
                }
                target.store_corner(&whole, PANEL, (row, column), sizes, add);
            },
        );
    }

    /// The panel's lines as float32, `[32, depth]`.
    fn widen(panel: &[Tile], is_left: bool) -> Vec<f32> {
        let depth = panel.len() / 2 * DEPTH;
        let mut lines = vec![0f32; PANEL * depth];
        for (t, tile) in panel.iter().enumerate() {
            let first = t % 2 * LINES * depth + t / 2 * DEPTH;
            for (i, row) in tile.iter().enumerate() {
                for (j, pair) in row.iter().enumerate() {
                    let (line, pair_index) = if is_left { (i, j) } else { (j, i) };
                    let at = first + line * depth + 2 * pair_index;
                    lines[at] = f32::from_bits(pair << 16);
                    lines[at + 1] = f32::from_bits(pair & 0xffff_0000);
                }
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::super::multiply::multiply;
    use super::*;

    fn numbers(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|i| (i * step % 997) as f32 / 498.0 - 1.0).collect()
    }

    fn rows_of(width: usize) -> Place {
        Place { start: 0, row: width, column: 1 }
    }

    fn distance(found: &[f32], expected: &[f32]) -> f64 {
        let square = |x: f32| f64::from(x) * f64::from(x);
        let apart: f64 = found.iter().zip(expected).map(|(f, e)| square(f - e)).sum();
        (apart / expected.iter().map(|e| square(*e)).sum::<f64>()).sqrt()
    }

    fn nearest_bf16(x: &[f32]) -> Vec<f32> {
        x.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect()
    }

    #[test]
    fn every_form_of_product_is_that_of_the_rounded_operands() {
        for (m, n, k) in [(1, 1, 1), (32, 32, 32), (33, 65, 31), (300, 40, 100), (16, 270, 500)] {
            let (a, b) = (nearest_bf16(&numbers(m * k, 37)), nearest_bf16(&numbers(n * k, 53)));
            for (place_a, place_b, add) in [
                (rows_of(k), rows_of(n), false),
                (rows_of(k), rows_of(k).transposed(), true),
                (rows_of(m).transposed(), rows_of(n), true),
            ] {
                let sizes = Sizes { m, n, k };
                let (a, b) = (Operand::new(&a, place_a), Operand::new(&b, place_b));
                let start = numbers(m * n, 11);
                let (mut found, mut software, mut expected) = (start.clone(), start.clone(), start);
                multiply_bf16(sizes, &mut found, add, 0.5, a, b);
                let left = Panels::pack(Lines::of_left(a, sizes), Side::Left, 0.5);
                let right = Panels::pack(Lines::of_right(b, sizes), Side::Right, 1.0);
                software::multiply_panels(sizes, Target::new(&mut software), add, &left, &right);
                // SAFETY: the target belongs to this thread and holds m * n elements.
                unsafe { multiply(sizes, Target::new(&mut expected), rows_of(n), add, 0.5, a, b) };
                assert!(distance(&found, &expected) < 1e-5, "{m} x {k} x {n}: {}", distance(&found, &expected));
                assert!(distance(&software, &expected) < 1e-5, "{m} x {k} x {n}, in software");
            }
        }
    }

    #[test]
    fn rounding_goes_to_the_nearest_and_a_nan_stays_one() {
        for x in [0.0, -0.0, 1.0, 1.003_906_3, 1.007_812_5, 1.011_718_8, -3.1e-39, 3.39e38, f32::INFINITY, 1e-45] {
            assert_eq!(round(x) as u16, half::bf16::from_f32(x).to_bits(), "{x}");
        }
        for nan in [f32::NAN, f32::from_bits(0x7fff_ffff), f32::from_bits(0xffff_ffff)] {
            assert!(f32::from_bits(round(nan) << 16).is_nan());
        }
    }
}
