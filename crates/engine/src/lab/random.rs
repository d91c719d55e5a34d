//! Random streams: each is named, and all of them come from one seed.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

/// The random stream `stream` of `seed`.
pub fn rng(seed: u64, stream: &str) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(b"antigen/rng/1\0");
    hash.update(seed.to_le_bytes());
    hash.update(stream.as_bytes());
    ChaCha8Rng::from_seed(hash.finalize().into())
}

/// A standard normal number, by Box and Muller; the second number of each pair is not worth keeping.
pub fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let radius = (-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt();
    radius * (std::f32::consts::TAU * rng.random::<f32>()).cos()
}
