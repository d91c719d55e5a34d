//! An adversary of a recipe as the objective of a training.

use std::ops::Range;

use rand_chacha::ChaCha8Rng;

use super::consistency::Consistency;
use super::objective::Objective;
use super::soft_triggers::SoftTriggers;
use crate::spec::Adversary;

impl Adversary {
    /// The objective of a training against it. `places` gives for each training row the range of tokens that
    /// are its own words; it is read only by an adversary that makes rows longer.
    pub fn objective(&self, places: Vec<Range<usize>>, rng: ChaCha8Rng) -> Objective {
        match self {
            Self::SoftTriggers(settings) => {
                Objective::SoftTriggers(Box::new(SoftTriggers::new(settings.clone(), places, rng)))
            }
            Self::Consistency(settings) => Objective::Consistency(Consistency::new(*settings)),
        }
    }
}
