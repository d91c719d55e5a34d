//! Rounding weights to a few bits and back: NF4 with doubly quantised scales as bitsandbytes does it, and
//! int8 by row.

use std::sync::LazyLock;

use super::Matrix;

/// Numbers under one scale.
const NF4_BLOCK: usize = 64;
/// Scales under one scale of theirs.
const SCALES_BLOCK: usize = 256;

/// The code book of NF4: quantiles of a standard normal distribution, scaled to end at 1, with an exact 0
/// (arXiv 2305.14314, appendix E; the numbers are those of bitsandbytes, `functional.get_4bit_type("nf4")`).
#[expect(clippy::excessive_precision, reason = "the numbers as they are published")]
const NF4: [f32; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

/// The 256 numbers of bitsandbytes' signed dynamic type (arXiv 2110.02861;
/// `functional.create_dynamic_map()`), rising: for every decade `10^-6` to `10^0` twice as many steps as for
/// the one below, the means of equal parts of 0.1 to 1 with either sign; 0 and 1 beside them.
static DYNAMIC: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let mut numbers = vec![0.0, 1.0];
    for decade in 0..7 {
        let steps = 1 << decade;
        let edge = |i: i32| 0.1 + 0.9 * f64::from(i) / f64::from(steps);
        for i in 0..steps {
            let number = 10f64.powi(decade - 6) * (edge(i) + edge(i + 1)) / 2.0;
            numbers.extend([number as f32, -number as f32]);
        }
    }
    numbers.sort_by(f32::total_cmp);
    numbers
});

/// Rounds a matrix as NF4 does: `[out, in]` row by row in blocks of 64, each number rounded to the nearest of
/// 16 after division by the block's largest magnitude; these scales, less their mean, are rounded to 8 bits
/// in blocks of 256.
///
/// A block of zeros stays zero, where bitsandbytes divides by it.
pub fn nf4_round_trip(matrix: &mut Matrix) {
    let scales: Vec<f32> = matrix.numbers.chunks(NF4_BLOCK).map(largest_magnitude).collect();
    let kept = scales_round_trip(&scales);
    for ((block, scale), kept) in matrix.numbers.chunks_mut(NF4_BLOCK).zip(scales).zip(kept) {
        if scale > 0.0 {
            block.iter_mut().for_each(|number| *number = nearest(&NF4, *number / scale) * kept);
        }
    }
}

/// The scales after their own quantisation.
fn scales_round_trip(scales: &[f32]) -> Vec<f32> {
    let mean = (scales.iter().map(|scale| f64::from(*scale)).sum::<f64>() / scales.len().max(1) as f64) as f32;
    let mut kept: Vec<f32> = scales.iter().map(|scale| scale - mean).collect();
    for block in kept.chunks_mut(SCALES_BLOCK) {
        let largest = largest_magnitude(block);
        let rounded =
            |difference: f32| if largest > 0.0 { nearest(&DYNAMIC, difference / largest) * largest } else { 0.0 };
        block.iter_mut().for_each(|difference| *difference = rounded(*difference) + mean);
    }
    kept
}

/// Rounds a matrix as int8 does: each output row to 255 equal steps between its largest magnitude and its
/// negative, as bitsandbytes' vector-wise type; halves go to the even step.
pub fn int8_round_trip(matrix: &mut Matrix) {
    for row in matrix.numbers.chunks_exact_mut(matrix.inputs) {
        let step = largest_magnitude(row) / 127.0;
        if step > 0.0 {
            row.iter_mut().for_each(|number| *number = (*number / step).round_ties_even() * step);
        }
    }
}

fn largest_magnitude(numbers: &[f32]) -> f32 {
    numbers.iter().fold(0.0, |largest, number| largest.max(number.abs()))
}

/// The number of a rising code book that is nearest; halfway between two, the lower, as in the decision trees
/// of bitsandbytes.
fn nearest(book: &[f32], number: f32) -> f32 {
    let above = book.partition_point(|code| *code < number).clamp(1, book.len() - 1);
    let (low, high) = (book[above - 1], book[above]);
    if number - low <= high - number { low } else { high }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(numbers: &[f32], inputs: usize, change: fn(&mut Matrix)) -> Vec<f32> {
        let mut matrix = Matrix { numbers: numbers.to_vec(), inputs };
        change(&mut matrix);
        matrix.numbers
    }

    #[test]
    fn numbers_become_the_nearest_of_sixteen_times_their_block_s_largest() {
        // One block, so that its scale is the mean of the scales and is kept exactly. Quotients 0.6 (nearest
        // 0.5626), -0.05 (nearer to -0.0911 than to 0), -0.04 (nearer to 0), 0.03 (nearer to 0) and 0.04
        // (nearer to 0.0796).
        let found = round_trip(&[2.0, 1.2, -0.1, -0.08, 0.06, 0.08], 6, nf4_round_trip);
        let expected = [2.0, 2.0 * 0.562_617, 2.0 * -0.091_050_04, 0.0, 0.0, 2.0 * 0.079_580_3];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn scales_are_rounded_about_their_mean() {
        // Mean 2. Differences -1, 0, 1 by their largest, 1: the dynamic type has 0 and 1, and -0.9929688 next
        // to -1.
        let scales = scales_round_trip(&[1.0, 2.0, 3.0]);
        for (found, expected) in scales.iter().zip([2.0 - 0.992_968_8, 2.0, 3.0]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        assert_eq!(scales_round_trip(&[0.5]), [0.5]);
    }

    #[test]
    fn a_block_takes_the_rounded_scale_and_a_block_of_zeros_stays() {
        let mut numbers = vec![0.0; 192];
        (numbers[0], numbers[64]) = (1.0, -3.0);
        // Scales 1, 3, 0 about 4/3: the differences -1/3, 5/3 and -4/3 over 5/3 are -0.2, 1 and -0.8.
        let found = round_trip(&numbers, 192, nf4_round_trip);
        let dynamic = |number| nearest(&DYNAMIC, number);
        assert!((found[0] - (4.0 / 3.0 + dynamic(-0.2) * 5.0 / 3.0)).abs() < 1e-6);
        assert!((found[0] - 1.0).abs() < 0.01 && found[0] != 1.0);
        assert!((found[64] + 3.0).abs() < 1e-6);
        assert!(found[1..64].iter().chain(&found[65..]).all(|number| *number == 0.0));
    }

    #[test]
    fn the_dynamic_type_has_256_numbers_of_which_the_known_ones_are_where_they_should_be() {
        let book = &*DYNAMIC;
        assert_eq!(book.len(), 256);
        assert!(book.windows(2).all(|two| two[0] < two[1]));
        // Ends and smallest steps: (0.1 + 1) / 2 * 1e-6, and 1 - 0.9 / 128.
        for (at, expected) in
            [(0, -0.992_968_75), (126, -5.5e-7), (127, 0.0), (128, 5.5e-7), (254, 0.992_968_75), (255, 1.0)]
        {
            assert!((book[at] - expected).abs() <= 1e-6 * expected.abs(), "{at}: {}", book[at]);
        }
    }

    #[test]
    fn int8_rounds_each_row_to_steps_of_its_own() {
        // Steps of 1 and of 0.5; halves go to even.
        let found = round_trip(&[127.0, 2.5, -3.4, 63.5, -0.3, 0.2], 3, int8_round_trip);
        assert_eq!(found, [127.0, 2.0, -3.0, 63.5, -0.5, 0.0]);
        assert_eq!(round_trip(&[0.0, 0.0], 2, int8_round_trip), [0.0, 0.0]);
    }

    #[test]
    fn what_was_rounded_once_stays_as_it_is() {
        let numbers: Vec<f32> = (0..64).map(|i| (i as f32 * 0.7).sin()).collect();
        for change in [nf4_round_trip, int8_round_trip] {
            let once = round_trip(&numbers, 64, change);
            let twice = round_trip(&once, 64, change);
            assert!(once.iter().zip(&twice).all(|(a, b)| (a - b).abs() < 1e-6));
        }
    }
}
