//! The order in which rows are seen.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Indices of the rows of every step: all rows once an epoch, in a fresh order, the last batch of an epoch
/// possibly smaller.
pub fn shuffled_batches(rows: usize, batch_rows: usize, epochs: usize, mut rng: ChaCha8Rng) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..rows).collect();
    let mut batches = Vec::with_capacity(epochs * rows.div_ceil(batch_rows.max(1)));
    for _ in 0..epochs {
        order.shuffle(&mut rng);
        batches.extend(order.chunks(batch_rows.max(1)).map(<[usize]>::to_vec));
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::rng;

    #[test]
    fn every_row_comes_once_an_epoch_in_an_order_of_its_own() {
        let batches = shuffled_batches(10, 4, 2, rng(1, "order"));
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2, 4, 4, 2]);
        let epoch = |range: std::ops::Range<usize>| batches[range].concat();
        let sorted = |mut rows: Vec<usize>| {
            rows.sort_unstable();
            rows
        };
        assert_eq!(sorted(epoch(0..3)), (0..10).collect::<Vec<_>>());
        assert_eq!(sorted(epoch(3..6)), (0..10).collect::<Vec<_>>());
        assert_ne!(epoch(0..3), epoch(3..6));
    }
}
