//! Rotary positions as configurations give them: a base, and a scaling that stretches them over longer
//! contexts.

use std::f64::consts::TAU;
use std::sync::Arc;

use serde::Deserialize;

use super::{invalid, refuse, require};
use crate::error::Result;
use crate::kernels::RopeTable;

/// The fields of `config.json` about rotary positions.
#[derive(Debug, Default, Deserialize)]
pub(super) struct RopeFields {
    /// Base of the frequencies, in files written before `rope_parameters` existed.
    #[serde(default)]
    rope_theta: Option<f64>,
    /// Scaling, in such files.
    #[serde(default)]
    rope_scaling: Option<RopeParameters>,
    #[serde(default)]
    rope_parameters: Option<RopeParameters>,
    /// Share of a head's elements that turn, in such files.
    #[serde(default)]
    partial_rotary_factor: Option<f64>,
}

/// Base and scaling.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
struct RopeParameters {
    /// `default`, `linear` or `llama3`.
    #[serde(default)]
    rope_type: Option<String>,
    /// The same in old files; some have both.
    #[serde(default, rename = "type")]
    old_type: Option<String>,
    #[serde(default)]
    rope_theta: Option<f64>,
    #[serde(default)]
    partial_rotary_factor: Option<f64>,
    /// linear: how much all frequencies slow down; llama3: how much low ones do.
    #[serde(default)]
    factor: Option<f64>,
    /// llama3: below `original / low_freq_factor` wavelengths are slowed down wholly.
    #[serde(default)]
    low_freq_factor: Option<f64>,
    /// llama3: above `original / high_freq_factor` nothing changes.
    #[serde(default)]
    high_freq_factor: Option<f64>,
    /// llama3: context length before scaling.
    #[serde(default)]
    original_max_position_embeddings: Option<usize>,
}

impl RopeFields {
    /// The rotations of heads of `head_width` at `positions` positions. The fields have been checked.
    pub fn table(&self, head_width: usize, positions: usize) -> Arc<RopeTable> {
        let frequencies = self.frequencies(head_width).expect("checked when the configuration was read");
        Arc::new(RopeTable::new(&frequencies, head_width, positions))
    }

    /// Refuses scalings that are not computed here. `partial` says whether the family turns a part of each
    /// head.
    pub fn check(&self, head_width: usize, partial: bool) -> Result<()> {
        let (now, old) = (&self.rope_parameters, &self.rope_scaling);
        require(
            now.is_none() || old.is_none() || now == old,
            "`rope_parameters` and `rope_scaling` to agree",
            "two settings".into(),
        )?;
        let share = self.turning_share();
        if !partial && share != 1.0 {
            return Err(refuse(format!("partial_rotary_factor {share}"), "in this family all of each head turns"));
        }
        require(share > 0.0 && share <= 1.0, "partial_rotary_factor above 0, at most 1", share.to_string())?;
        let turning = self.turning_width(head_width);
        require(turning >= 2 && turning.is_multiple_of(2), "an even number of turning elements", turning.to_string())?;
        self.frequencies(head_width).map(|_| ())
    }

    fn parameters(&self) -> RopeParameters {
        self.rope_parameters.clone().or_else(|| self.rope_scaling.clone()).unwrap_or_default()
    }

    fn turning_share(&self) -> f64 {
        self.parameters().partial_rotary_factor.or(self.partial_rotary_factor).unwrap_or(1.0)
    }

    /// Elements of a head that turn.
    fn turning_width(&self, head_width: usize) -> usize {
        (head_width as f64 * self.turning_share()) as usize
    }

    /// Angular frequency of each rotary pair, radians per position: `theta^(-2i/n)` for `n` turning elements,
    /// slowed down by `factor`: everywhere (linear; Chen et al., arXiv 2306.15595), or at long wavelengths
    /// with a linear blend between two corner wavelengths (llama3).
    fn frequencies(&self, head_width: usize) -> Result<Vec<f64>> {
        let rope = self.parameters();
        let theta = rope.rope_theta.or(self.rope_theta).unwrap_or(10_000.0);
        require(theta.is_finite() && theta > 0.0, "rope_theta above 0", theta.to_string())?;
        let n = self.turning_width(head_width);
        let plain = (0..n / 2).map(|i| theta.powf(-2.0 * i as f64 / n as f64));
        let number = |value: Option<f64>, name: &str| {
            value
                .filter(|v| v.is_finite() && *v > 0.0)
                .ok_or_else(|| invalid(&format!("rope `{name}` above 0"), format!("{value:?}")))
        };
        match rope.kind()? {
            "default" => Ok(plain.collect()),
            "linear" => {
                let factor = number(rope.factor, "factor")?;
                Ok(plain.map(|f| f / factor).collect())
            }
            "llama3" => {
                let factor = number(rope.factor, "factor")?;
                let low = number(rope.low_freq_factor, "low_freq_factor")?;
                let high = number(rope.high_freq_factor, "high_freq_factor")?;
                let original = rope.original_max_position_embeddings.map(|n| n as f64);
                let original = number(original, "original_max_position_embeddings")?;
                require(high > low, "high_freq_factor above low_freq_factor", format!("{high} and {low}"))?;
                Ok(plain.map(|f| slow_down(f, factor, low, high, original)).collect())
            }
            other => Err(refuse(format!("rope type `{other}`"), "default, linear and llama3 are read")),
        }
    }
}

impl RopeParameters {
    fn kind(&self) -> Result<&str> {
        let (now, old) = (self.rope_type.as_deref(), self.old_type.as_deref());
        require(
            now.is_none() || old.is_none() || now == old,
            "`rope_type` and `type` to agree",
            format!("{now:?} and {old:?}"),
        )?;
        Ok(now.or(old).unwrap_or("default"))
    }
}

fn slow_down(frequency: f64, factor: f64, low: f64, high: f64, original: f64) -> f64 {
    let turns = original * frequency / TAU;
    if turns < low {
        frequency / factor
    } else if turns > high {
        frequency
    } else {
        let blend = (turns - low) / (high - low);
        frequency * ((1.0 - blend) / factor + blend)
    }
}
