//! Matrix products on the tile unit of recent Xeons (AMX).
//!
//! The unit multiplies bfloat16 and adds in float32, sixteen times as fast as AVX-512 multiplies float32.
//! With one plane of bfloat16 an operand is rounded: a relative error of about 2e-3 a product. With three,
//! `x = high + middle + low`, eight bits each, and a product is as exact as in float32: of the nine products
//! of two such sums the six largest are computed; what is left out is below 2^-26 of the whole, less than the
//! rounding of a float32.
//!
//! Operands are packed into panels of tiles (`packing.rs`); `multiply_panels` then works on 32 x 32 results.
//! Every element is computed in the same order however the work is split: the same input gives the same
//! bytes.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _MM_HINT_ET0, _mm_prefetch};
use std::cell::RefCell;
use std::ops::Range;
use std::sync::LazyLock;

use rayon::prelude::*;

use super::gemm::{Group, Pair};
use super::lines::{Lines, Prepared};
use super::multiply::{Sizes, Target};
use super::packing::{PANEL, Side, TILE, Tile, pack_panel};

/// Rows of one task: its packed operand stays in the second-level cache.
const TASK_ROWS: usize = 128;
/// Tiles of a panel between two stores of the results: 24 KiB, so that a left panel stays in the first-level
/// cache.
const DEPTH_TILES: usize = 96;
/// Tiles of the right panels that all rows of a task meet in turn: 480 KiB.
const COLUMN_TILES: usize = 960;

/// True when this processor has the unit and the system lets this process use it.
pub(super) fn available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        let vectors = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        vectors && processor_has_tiles() && system_grants_tiles()
    });
    *AVAILABLE
}

fn processor_has_tiles() -> bool {
    const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & BF16_AND_TILES == BF16_AND_TILES
}

/// Asks Linux for the tile registers: they enlarge a thread's state, so a process must ask before their first
/// use.
fn system_grants_tiles() -> bool {
    const REQUEST_STATE: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: the call changes nothing but which registers this process may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_STATE, TILE_DATA) == 0 }
}

thread_local! {
    static RIGHT: RefCell<Vec<Tile>> = const { RefCell::new(Vec::new()) };
    static LEFT: RefCell<Vec<Tile>> = const { RefCell::new(Vec::new()) };
}

/// All products of the group, with operands of `PLANES` bfloat16, 1 or 3.
pub(super) fn multiply<const PLANES: usize>(group: Group<'_>) {
    assert!(available());
    let size = |side: &Lines<'_>| if side.prepared.is_some() { 0 } else { tiles_of::<PLANES>(side) };
    // Taken, not borrowed: while this thread waits for others, it may begin another product.
    let mut packed = RIGHT.take();
    reserve(&mut packed, group.right.iter().map(size).sum());
    let (mut rest, mut panels) = (packed.as_mut_slice(), Vec::new());
    for side in group.right {
        let (own, others) = rest.split_at_mut(size(side));
        panels.extend(own.chunks_mut(side.panel_tiles(PLANES)).enumerate().map(|(i, tiles)| (side, i, tiles)));
        rest = others;
    }
    pack::<PLANES>(panels);
    let mut start = 0;
    let right = group.right.iter().map(|side| match side.prepared {
        Some(prepared) => prepared_tiles::<PLANES>(side, prepared),
        None => {
            start += size(side);
            &packed[start - size(side)..start]
        }
    });
    let right: Vec<&[Tile]> = right.collect();
    tasks(group).into_par_iter().for_each(|task| task.run::<PLANES>(group.scale, &right));
    RIGHT.set(packed);
}

/// Tiles of a whole operand.
fn tiles_of<const PLANES: usize>(side: &Lines<'_>) -> usize {
    side.panels() * side.panel_tiles(PLANES)
}

/// Packs panels of right operands, side by side.
fn pack<const PLANES: usize>(panels: Vec<(&Lines<'_>, usize, &mut [Tile])>) {
    panels.into_par_iter().for_each(|(side, panel, tiles)| {
        // SAFETY: `available` was asserted in `multiply`.
        unsafe { pack_panel::<PLANES>(*side, panel, Side::Right, 1.0, tiles) };
    });
}

fn prepared_tiles<'a, const PLANES: usize>(side: &Lines<'_>, prepared: &'a Prepared) -> &'a [Tile] {
    if prepared.tiles.get().is_none() {
        let mut tiles = vec![Tile([0; 256]); tiles_of::<PLANES>(side)];
        let panels = tiles.chunks_mut(side.panel_tiles(PLANES)).enumerate();
        pack::<PLANES>(panels.map(|(i, tiles)| (side, i, tiles)).collect());
        // Whoever was faster has packed the same.
        let _ = prepared.tiles.set(tiles);
    }
    let tiles = prepared.tiles.get().expect("set above");
    assert_eq!(tiles.len(), tiles_of::<PLANES>(side), "a place for a prepared weight serves one weight and precision");
    tiles
}

/// Some rows of some pairs' results, and one of so many equal parts of their columns.
struct Task<'a> {
    pairs: Vec<Pair<'a>>,
    rows: Range<usize>,
    part: usize,
    parts: usize,
}

/// Pairs with a left operand or a target in common are computed together, rows by rows. Where rows are few,
/// tasks have fewer of them, and in the end fewer columns.
fn tasks(group: Group<'_>) -> Vec<Task<'_>> {
    let together = if group.left.len() == 1 || group.targets.len() == 1 { group.right.len() } else { 1 };
    let pairs: Vec<Pair<'_>> = group.pairs().collect();
    let wanted = 2 * rayon::current_num_threads();
    let tasks_of = |rows: usize| pairs.chunks(together).map(|p| p[0].sizes.m.div_ceil(rows)).sum::<usize>();
    let rows = [TASK_ROWS, TASK_ROWS / 2].into_iter().find(|rows| tasks_of(*rows) >= wanted).unwrap_or(PANEL);
    let columns = pairs.iter().map(|pair| pair.sizes.n.div_ceil(PANEL)).min().unwrap_or(1);
    let parts = wanted.div_ceil(tasks_of(rows)).min(columns);
    let mut tasks = Vec::with_capacity(tasks_of(rows) * parts);
    for pairs in pairs.chunks(together) {
        let m = pairs[0].sizes.m;
        for start in (0..m).step_by(rows) {
            let rows = start..(start + rows).min(m);
            tasks.extend((0..parts).map(|part| Task { pairs: pairs.to_vec(), rows: rows.clone(), part, parts }));
        }
    }
    tasks
}

impl Task<'_> {
    /// `right` holds the packed panels of each right operand.
    fn run<const PLANES: usize>(self, scale: f32, right: &[&[Tile]]) {
        let rows = self.rows.start / PANEL..self.rows.end.div_ceil(PANEL);
        let mut packed = LEFT.take();
        let mut packed_left = None;
        for pair in self.pairs {
            let (left, panel_tiles) = (pair.operands.0, pair.operands.0.panel_tiles(PLANES));
            if packed_left != Some(pair.left) {
                reserve(&mut packed, rows.len() * panel_tiles);
                for (panel, tiles) in rows.clone().zip(packed.chunks_mut(panel_tiles)) {
                    // SAFETY: `available` was asserted in `multiply`.
                    unsafe { pack_panel::<PLANES>(left, panel, Side::Left, scale, tiles) };
                }
                packed_left = Some(pair.left);
            }
            let panels = pair.sizes.n.div_ceil(PANEL);
            let columns = panels * self.part / self.parts..panels * (self.part + 1) / self.parts;
            let block = Block { target: pair.target, sizes: pair.sizes, add: pair.add, panel_tiles };
            // SAFETY: as above; no other task has these rows and columns of the target.
            unsafe {
                let _unit = Unit::configure();
                block.multiply_rows::<PLANES>(rows.clone(), &packed, columns, right[pair.right]);
            }
        }
        LEFT.set(packed);
    }
}

fn reserve(tiles: &mut Vec<Tile>, size: usize) {
    if tiles.len() < size {
        tiles.resize(size, Tile([0; 256]));
    }
}

/// The results that tasks write, each at places of its own.
#[derive(Clone, Copy)]
struct Block {
    target: Target,
    sizes: Sizes,
    add: bool,
    /// Tiles of a panel of either operand.
    panel_tiles: usize,
}

impl Block {
    /// All results of some packed left panels (`a` holds no others) and of the right panels `right` (`b`
    /// holds all).
    ///
    /// # Safety
    /// The unit is configured on this thread; nobody else touches these results.
    unsafe fn multiply_rows<const PLANES: usize>(
        self,
        left: Range<usize>,
        a: &[Tile],
        right: Range<usize>,
        b: &[Tile],
    ) {
        let Self { panel_tiles, .. } = self;
        let depth = panel_tiles.min(DEPTH_TILES);
        let together = COLUMN_TILES / depth;
        for right in right.clone().step_by(together).map(|p| p..(p + together).min(right.end)) {
            for first in (0..panel_tiles).step_by(depth) {
                let tiles =
                    |panel: usize| panel * panel_tiles + first..panel * panel_tiles + panel_tiles.min(first + depth);
                let block = Self { add: self.add || first > 0, ..self };
                for (i, row_panel) in left.clone().enumerate() {
                    for column_panel in right.clone() {
                        let (a, b) = (&a[tiles(i)], &b[tiles(column_panel)]);
                        // SAFETY: the caller's promise is passed on.
                        unsafe { block.multiply_into::<PLANES>(row_panel * PANEL, column_panel * PANEL, a, b) };
                    }
                }
            }
        }
    }

    /// The 32 x 32 results from `(row, column)` on `(+)= a b`; at the matrix's edge by way of a block of
    /// their own.
    ///
    /// # Safety
    /// The unit is configured on this thread; nobody else touches these results.
    unsafe fn multiply_into<const PLANES: usize>(self, row: usize, column: usize, a: &[Tile], b: &[Tile]) {
        let Self { target, sizes, add, .. } = self;
        // SAFETY: `block` checks that the results lie inside the target; `whole` is this thread's own.
        unsafe {
            if row + PANEL <= sizes.m && column + PANEL <= sizes.n {
                let block = target.block(row * sizes.n + column, sizes.n, (PANEL, PANEL));
                // On its way into the cache while the sums are computed.
                for line in (0..PANEL).map(|line| block.wrapping_add(line * sizes.n)) {
                    _mm_prefetch::<_MM_HINT_ET0>(line.cast());
                    _mm_prefetch::<_MM_HINT_ET0>(line.wrapping_add(TILE).cast());
                }
                return multiply_panels::<PLANES>(block, sizes.n, add, a, b);
            }
            let (rows, columns) = (PANEL.min(sizes.m - row), PANEL.min(sizes.n - column));
            let corner = target.block(row * sizes.n + column, sizes.n, (rows, columns));
            let lines = || (0..rows).map(|i| std::slice::from_raw_parts_mut(corner.add(i * sizes.n), columns));
            let mut whole = [[0f32; PANEL]; PANEL];
            if add {
                whole.iter_mut().zip(lines()).for_each(|(own, line)| own[..columns].copy_from_slice(line));
            }
            multiply_panels::<PLANES>(whole.as_mut_ptr().cast(), PANEL, add, a, b);
            whole.iter().zip(lines()).for_each(|(own, line)| line.copy_from_slice(&own[..columns]));
        }
    }
}

/// The four result tiles of two panels over some steps, whose instructions are `$step`; it moves on by
/// `$bytes`.
macro_rules! multiply_tiles {
    ($block:expr, $stride:expr, $add:expr, $a:expr, $b:expr, $bytes:literal, $($step:literal,)+) => {
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
            $($step,)+
            "add {a}, {bytes}",
            "add {b}, {bytes}",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {cs}*1], tmm0",
            "tilestored [{c} + {cs}*1 + 64], tmm1",
            "tilestored [{c2} + {cs}*1], tmm2",
            "tilestored [{c2} + {cs}*1 + 64], tmm3",
            add = in(reg) u64::from($add),
            a = inout(reg) $a.as_ptr() => _,
            b = inout(reg) $b.as_ptr() => _,
            c = in(reg) $block,
            c2 = in(reg) $block.add(TILE * $stride),
            cs = in(reg) 4 * $stride,
            s = in(reg) 64usize,
            steps = inout(reg) size_of_val($a) / $bytes => _,
            bytes = const $bytes,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// `block (+)= a b`. With three planes, named h, m, l (high, middle, low), the six products go from small to
/// large, and each differs from the one before in one operand only.
///
/// # Safety
/// The unit is configured on this thread; `block` has 32 rows of 32 elements, `stride` elements apart.
unsafe fn multiply_panels<const PLANES: usize>(block: *mut f32, stride: usize, add: bool, a: &[Tile], b: &[Tile]) {
    assert!(a.len() == b.len() && !a.is_empty() && a.len().is_multiple_of(2 * PLANES));
    // SAFETY: the slices hold whole steps of 2 tiles a plane, asserted above; the caller vouches for the
    // block.
    unsafe {
        match PLANES {
            1 => multiply_tiles!(
                block,
                stride,
                add,
                a,
                b,
                2048,
                "tileloadd tmm4, [{a} + {s}*1]",
                "tileloadd tmm6, [{b} + {s}*1]",
                "tileloadd tmm5, [{a} + {s}*1 + 1024]",
                "tileloadd tmm7, [{b} + {s}*1 + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
            ),
            3 => multiply_tiles!(
                block,
                stride,
                add,
                a,
                b,
                6144,
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
            ),
            _ => unreachable!("one plane or three"),
        }
    }
}

/// The unit, set up on this thread for tiles of 16 rows of 64 bytes until this is dropped.
struct Unit;

impl Unit {
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

impl Drop for Unit {
    fn drop(&mut self) {
        // SAFETY: the unit was configured on this thread; releasing it makes context switches cheap again.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::Numbers;
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

    fn product<const PLANES: usize>(target: &mut [f32], add: bool, left: Lines<'_>, right: Lines<'_>, scale: f32) {
        let targets = [Target::new(target)];
        multiply::<PLANES>(Group { left: &[left], right: &[right], targets: &targets, add, scale });
    }

    fn nearest_bf16(x: f32) -> f32 {
        half::bf16::from_f32(x).to_f32()
    }

    /// Relative distance to float64, for one arrangement of the operands.
    fn error_of<const PLANES: usize>((m, n, k): (usize, usize, usize), by_line: (bool, bool), add: bool) -> f64 {
        let (mut a, mut b) = (noise(m * k, 1), noise(k * n, 2));
        let strides = |by_line: bool, lines: usize| if by_line { (k, 1) } else { (1, lines) };
        let (left_strides, right_strides) = (strides(by_line.0, m), strides(by_line.1, n));
        let mut found = vec![if add { 1.0 } else { f32::NAN }; m * n];
        let left = Lines { numbers: Numbers::Float32(&a), lines: m, depth: k, strides: left_strides, prepared: None };
        let right = Lines { numbers: Numbers::Float32(&b), lines: n, depth: k, strides: right_strides, prepared: None };
        product::<PLANES>(&mut found, add, left, right, 0.5);
        if PLANES == 1 {
            a.iter_mut().chain(&mut b).for_each(|x| *x = nearest_bf16(*x));
        }
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
    fn products_on_tiles_are_as_exact_as_float32_or_those_of_rounded_operands() {
        if !available() {
            eprintln!("skipped: this processor has no tile unit");
            return;
        }
        for size in [(32, 32, 32), (33, 47, 65), (161, 700, 300), (5, 1, 40), (64, 35, 1)] {
            for arrangement in 0..8 {
                let flag = |bit: usize| arrangement >> bit & 1 == 1;
                let exact = error_of::<3>(size, (flag(0), flag(1)), flag(2));
                let rounded = error_of::<1>(size, (flag(0), flag(1)), flag(2));
                assert!(exact.max(rounded) < 3e-7, "{size:?}, {arrangement}: {exact:.1e}, {rounded:.1e}");
            }
        }
    }

    #[test]
    fn rounding_goes_to_the_nearest_and_a_nan_stays_one() {
        if !available() {
            eprintln!("skipped: this processor has no tile unit");
            return;
        }
        let one = [1f32];
        let times_one = |x: f32| {
            let mut found = [0.0];
            let x = [x];
            let lines = |x| Lines { numbers: Numbers::Float32(x), lines: 1, depth: 1, strides: (1, 1), prepared: None };
            product::<1>(&mut found, false, lines(&x), lines(&one), 1.0);
            found[0]
        };
        for x in [0.0, 1.0, 1.003_906_3, 1.007_812_5, 1.011_718_8, -3.1e-3, f32::INFINITY] {
            assert_eq!(times_one(x), nearest_bf16(x), "{x}");
        }
        for nan in [f32::NAN, f32::from_bits(0x7fff_ffff), f32::from_bits(0xffff_ffff)] {
            assert!(times_one(nan).is_nan());
        }
    }
}
