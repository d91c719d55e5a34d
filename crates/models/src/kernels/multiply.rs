//! One strided float32 product on the calling thread: the only place that calls a library for it.
//!
//! On x86-64 that library is `private-gemm-x86`, elsewhere `gemm`, candle's default. On two cores of a Xeon
//! with AVX-512 the former reached 270 to 340 GFLOP/s on the shapes of training, the latter 90 to 100
//! (`docs/results/speed.md`).

/// Sizes of a product `[m, k] x [k, n] -> [m, n]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// The place of a matrix in its slice: first element, distance of rows and of columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub start: usize,
    pub row: usize,
    pub column: usize,
}

impl Place {
    /// The same matrix from another row and column on.
    pub fn from(self, row: usize, column: usize) -> Self {
        Self { start: self.start + row * self.row + column * self.column, ..self }
    }

    /// The same elements with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self { row: self.column, column: self.row, ..self }
    }

    /// True when `rows x columns` elements from here lie inside `len`.
    fn fits(self, rows: usize, columns: usize, len: usize) -> bool {
        rows == 0 || columns == 0 || self.start + (rows - 1) * self.row + (columns - 1) * self.column < len
    }
}

/// A matrix to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand<'a> {
    pub data: &'a [f32],
    pub place: Place,
}

impl<'a> Operand<'a> {
    pub fn new(data: &'a [f32], place: Place) -> Self {
        Self { data, place }
    }
}

/// A buffer that several threads write at places which never overlap. Its rows are contiguous: `place.column`
/// is 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    data: *mut f32,
    len: usize,
}

// SAFETY: `multiply` is the only writer, and its callers vouch for disjoint places.
unsafe impl Send for Target {}
unsafe impl Sync for Target {}

impl Target {
    pub fn new(data: &mut [f32]) -> Self {
        Self { data: data.as_mut_ptr(), len: data.len() }
    }

    /// The first of `rows x columns` elements whose rows lie `stride` apart, once it is sure that they lie
    /// inside.
    pub fn block(self, start: usize, stride: usize, (rows, columns): (usize, usize)) -> *mut f32 {
        assert!(
            Place { start, row: stride, column: 1 }.fits(rows, columns, self.len),
            "a block lies inside its target"
        );
        self.data.wrapping_add(start)
    }
}

/// `target = scale * a b`, or `+=` with `add`, as the libraries are asked for it; rows of the target lie
/// `row` apart.
#[derive(Clone, Copy)]
struct Product<'a> {
    sizes: Sizes,
    target: *mut f32,
    row: usize,
    add: bool,
    scale: f32,
    a: Operand<'a>,
    b: Operand<'a>,
}

/// `target[place] = scale * a b`, or `+=` with `add`, on this thread.
///
/// # Safety
/// The slice behind `target` must still be there, and no other thread may touch this place of it meanwhile.
pub(super) unsafe fn multiply(
    sizes: Sizes,
    target: Target,
    place: Place,
    add: bool,
    scale: f32,
    a: Operand<'_>,
    b: Operand<'_>,
) {
    let Sizes { m, n, k } = sizes;
    assert!(k > 0, "a product sums over something");
    assert!(place.column == 1 && place.fits(m, n, target.len), "the product stays inside its target");
    assert!(a.place.fits(m, k, a.data.len()), "the left operand stays inside its slice");
    assert!(b.place.fits(k, n, b.data.len()), "the right operand stays inside its slice");
    // SAFETY: asserted above; the caller vouches for the target.
    unsafe {
        let target = target.data.add(place.start);
        library::multiply(Product { sizes, target, row: place.row, add, scale, a, b });
    }
}

#[cfg(target_arch = "x86_64")]
mod library {
    use std::ptr::null;
    use std::sync::LazyLock;

    use private_gemm_x86::{Accum, DType, DstKind, IType, InstrSet, gemm};

    use super::{Product, Sizes, portable};

    static INSTRUCTIONS: LazyLock<Option<InstrSet>> = LazyLock::new(|| {
        if is_x86_feature_detected!("avx512f") {
            Some(InstrSet::Avx512)
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            Some(InstrSet::Avx256)
        } else {
            None
        }
    });

    pub unsafe fn multiply(product: Product<'_>) {
        // SAFETY: the caller's promise is passed on; the processor has these instructions.
        unsafe {
            match *INSTRUCTIONS {
                Some(instructions) => multiply_with(instructions, product),
                None => portable::multiply(product),
            }
        }
    }

    pub(super) unsafe fn multiply_with(instructions: InstrSet, product: Product<'_>) {
        let Product { sizes: Sizes { m, n, k }, target, row, add, scale, a, b } = product;
        let stride = |distance: usize| distance as isize;
        // SAFETY: the caller has checked that all three matrices lie inside their slices; index lists and
        // diagonal are absent.
        unsafe {
            gemm(
                DType::F32,
                IType::U64,
                instructions,
                m,
                n,
                k,
                target.cast(),
                stride(row),
                1,
                null(),
                null(),
                DstKind::Full,
                if add { Accum::Add } else { Accum::Replace },
                a.data.as_ptr().add(a.place.start).cast(),
                stride(a.place.row),
                stride(a.place.column),
                false,
                null(),
                0,
                b.data.as_ptr().add(b.place.start).cast(),
                stride(b.place.row),
                stride(b.place.column),
                false,
                (&raw const scale).cast(),
                1,
            );
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
use portable as library;

mod portable {
    use super::{Product, Sizes};

    pub unsafe fn multiply(product: Product<'_>) {
        let Product { sizes: Sizes { m, n, k }, target, row, add, scale, a, b } = product;
        let stride = |distance: usize| distance as isize;
        // SAFETY: the caller has checked that all three matrices lie inside their slices.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                target,
                1,
                stride(row),
                add,
                a.data.as_ptr().add(a.place.start),
                stride(a.place.column),
                stride(a.place.row),
                b.data.as_ptr().add(b.place.start),
                stride(b.place.column),
                stride(b.place.row),
                1.0f32,
                scale,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn wider_vectors_give_the_same_bytes() {
        use private_gemm_x86::InstrSet;
        if !is_x86_feature_detected!("avx512f") {
            return; // there is one width here
        }
        let numbers = |n: usize, by: f32| (0..n).map(|i| (i as f32 * by).sin()).collect::<Vec<_>>();
        for (m, n, k) in [(1, 9, 700), (3, 70, 5), (65, 33, 200), (200, 150, 1100)] {
            let (a, b) = (numbers(m * k, 1.7), numbers(n * k, 2.3));
            let a = Operand { data: &a, place: Place { start: 0, row: k, column: 1 } };
            let b = Operand { data: &b, place: Place { start: 0, row: 1, column: k } };
            let [wide, narrow] = [InstrSet::Avx512, InstrSet::Avx256].map(|instructions| {
                let mut found = numbers(m * n, 3.1);
                let target = found.as_mut_ptr();
                // SAFETY: the target holds m * n elements; who has AVX-512 has AVX2 and FMA.
                unsafe {
                    let sizes = Sizes { m, n, k };
                    let product = Product { sizes, target, row: n, add: true, scale: 0.3, a, b };
                    library::multiply_with(instructions, product);
                }
                found
            });
            assert!(wide == narrow, "{m} x {k} x {n}");
        }
    }

    #[test]
    fn the_fast_library_and_the_portable_one_agree() {
        let numbers = |n: usize, by: usize| (0..n).map(|i| (i * by % 101) as f32 / 50.0 - 1.0).collect::<Vec<_>>();
        for (m, n, k) in [(1, 1, 1), (3, 70, 5), (65, 33, 200), (256, 16, 128)] {
            let (a, b) = (numbers(m * k, 37), numbers(n * k, 53));
            for (row_a, row_b, add) in [((k, 1), (n, 1), false), ((k, 1), (1, k), true), ((1, m), (n, 1), true)] {
                let a = Operand { data: &a, place: Place { start: 0, row: row_a.0, column: row_a.1 } };
                let b = Operand { data: &b, place: Place { start: 0, row: row_b.0, column: row_b.1 } };
                let (mut found, mut expected) = (vec![1f32; m * n], vec![1f32; m * n]);
                let whole = Place { start: 0, row: n, column: 1 };
                // SAFETY: both targets hold m * n elements and belong to this thread.
                unsafe {
                    let sizes = Sizes { m, n, k };
                    multiply(sizes, Target::new(&mut found), whole, add, 0.5, a, b);
                    let target = expected.as_mut_ptr();
                    portable::multiply(Product { sizes, target, row: n, add, scale: 0.5, a, b });
                }
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((found - expected).abs() < 1e-4, "{m} x {k} x {n}: {found} and {expected}");
                }
            }
        }
    }
}
