//! The learning rate over the steps of one fine-tuning.

use crate::spec::TrainSpec;

/// Rate of step `step` (from 0) of `total`: linear from 0 during the warm-up, then half a cosine down to 0,
/// as in LLaMA-Factory's `cosine` and transformers' `get_cosine_schedule_with_warmup`.
pub(super) fn learning_rate(spec: &TrainSpec, step: usize, total: usize) -> f64 {
    let (step, total) = (step as f64, total as f64);
    let warmup = spec.warmup_fraction * total;
    if step < warmup {
        return spec.learning_rate * step / warmup;
    }
    let progress = (step - warmup) / (total - warmup).max(1.0);
    spec.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_to_its_peak_and_falls_to_nothing() {
        let spec = TrainSpec { learning_rate: 2.0, warmup_fraction: 0.1, ..TrainSpec::default() };
        let rate = |step| learning_rate(&spec, step, 100);
        assert_eq!(rate(0), 0.0);
        assert_eq!(rate(5), 1.0);
        assert_eq!(rate(10), 2.0);
        assert!((rate(55) - 1.0).abs() < 1e-12, "half way down at half of the cosine");
        assert!(rate(99) < 0.001);
    }
}
