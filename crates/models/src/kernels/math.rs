//! Exponentials that the compiler turns into vector instructions, and the run-time choice of instruction set.

use std::sync::LazyLock;

static ARCH: LazyLock<pulp::Arch> = LazyLock::new(pulp::Arch::new);

/// An expression compiled for the widest vector instructions of this processor.
///
/// A macro, because only what is inlined into the dispatch is compiled for them: the compiler leaves a long
/// closure that is not marked as it is, with the narrowest instructions.
macro_rules! vectorised {
    ($work:expr) => {
        $crate::kernels::math::dispatch(
            #[inline(always)]
            || $work,
        )
    };
}
pub(super) use vectorised;

/// Runs `work` in the widest instruction set; [`vectorised!`] is the way to call it.
#[inline]
pub(super) fn dispatch<R>(work: impl FnMut() -> R) -> R {
    ARCH.dispatch(Work(work))
}

// `FnMut`, because a closure that is called as `FnOnce` is called through a function of its own, which is not
// inlined.
struct Work<F>(F);

impl<R, F: FnMut() -> R> pulp::WithSimd for Work<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(mut self, _: S) -> R {
        (self.0)()
    }
}

/// `e^x` to about 2 units in the last place, 0 below -87 (where float32 turns subnormal), capped at `e^88`.
///
/// Cody-Waite: `x = n ln 2 + r` with `|r| <= ln 2 / 2`, a degree-6 polynomial for `e^r`, `2^n` through the
/// exponent bits.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 rounds to the nearest integer n and leaves n in the lowest bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let tail = 1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0)));
    let polynomial = 1.0 + r + r * r * (0.5 + r * tail);
    // Wrapping, because a check for overflow would keep the loop from being vectorised.
    let scale = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { polynomial * scale }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `tanh(x)` to a few units in the last place.
///
/// Near 0 five terms of Lambert's continued fraction `x / (1 + x²/(3 + x²/(5 + ...)))`, whose error at 0.75
/// is a hundredth of a unit; further out `1 - 2 / (e^2|x| + 1)`, where that no longer cancels.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let (size, square) = (x.abs(), x * x);
    let near = x * (945.0 + square * (105.0 + square)) / (945.0 + square * (420.0 + square * 15.0));
    let far = (1.0 - 2.0 / (exp(2.0 * size) + 1.0)).copysign(x);
    if size < 0.75 { near } else { far }
}

/// The normal distribution's probability below `x`, to 1e-7: formula 7.1.26 of Abramowitz and Stegun's
/// handbook for the tail, so that a small probability is no difference of large numbers.
#[inline(always)]
pub(super) fn normal_cdf(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let series = t * (0.254_829_6 + t * (-0.284_496_73 + t * (1.421_413_8 + t * (-1.453_152 + t * 1.061_405_4))));
    let tail = 0.5 * series * exp(-z * z);
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// Running sums of a reduction: as many as the widest vector register holds, so that the compiler may use one
/// without reordering a float addition. They are added up in order at the end.
const LANES: usize = 16;

/// Sum of `term(x)` over a slice.
#[inline(always)]
pub(super) fn sum(x: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += term(chunk[lane]);
        }
    }
    rest.iter().fold(sums.iter().sum(), |sum, &x| sum + term(x))
}

/// Sum of `x * y`.
#[inline(always)]
pub(super) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x.iter().zip(y) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    x_rest.iter().zip(y_rest).fold(sums.iter().sum(), |sum, (x, y)| sum + x * y)
}

/// The largest element; minus infinity of none.
#[inline(always)]
pub(super) fn maximum(x: &[f32]) -> f32 {
    let mut maxima = [f32::NEG_INFINITY; LANES];
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            maxima[lane] = larger(maxima[lane], chunk[lane]);
        }
    }
    maxima.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reductions_cover_whole_chunks_and_the_rest() {
        let x: Vec<f32> = (0..37).map(|i| (i * 7 % 37) as f32).collect();
        assert_eq!(sum(&x, |v| v), 666.0);
        assert_eq!(dot(&x, &x), (0..37).map(|i| (i * i) as f32).sum::<f32>());
        assert_eq!(maximum(&x), 36.0);
    }

    #[test]
    fn tanh_agrees_with_the_standard_library_on_both_sides_of_its_seam() {
        for i in -2000..=2000 {
            let x = i as f32 / 200.0;
            let expected = f64::from(x).tanh();
            let error = (f64::from(tanh(x)) - expected).abs();
            assert!(error <= 5e-7 * expected.abs(), "tanh({x}): error {error}");
        }
        assert_eq!((tanh(1e-20), tanh(f32::MAX), tanh(f32::MIN)), (1e-20, 1.0, -1.0));
    }

    #[test]
    fn normal_probabilities_agree_with_tabulated_ones() {
        for (x, expected) in
            [(0.0, 0.5), (0.5, 0.691_462_46), (1.0, 0.841_344_8), (1.96, 0.975_002_1), (3.0, 0.998_650_1)]
        {
            assert!((normal_cdf(x) - expected).abs() < 2e-7, "{x}: {}", normal_cdf(x));
            assert!((normal_cdf(-x) - (1.0 - expected)).abs() < 2e-7, "-{x}: {}", normal_cdf(-x));
        }
        assert!(normal_cdf(-5.0) < 3e-7 && normal_cdf(-40.0) == 0.0);
    }

    #[test]
    fn exp_agrees_with_the_standard_library_over_its_whole_range() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            let expected = f64::from(x).exp();
            let relative = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(relative < 5e-7, "exp({x}): relative error {relative}");
        }
        assert_eq!(exp(-1000.0), 0.0);
        assert!(exp(f32::MAX).is_finite());
    }
}
