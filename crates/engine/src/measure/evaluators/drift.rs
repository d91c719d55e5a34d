//! Drift: how far a model's next-token distributions moved from the suspect's, on clean held-out rows.
//!
//! KL(suspect || model) in nats at every token of the right answers, teacher forced. Of the suspect's
//! distributions the [`KEPT`] likeliest tokens are kept on disk, with one bucket for all others, so that two
//! whole models are never in memory together; the divergence over these buckets is never above that over
//! single tokens, and equal to it where the vocabulary is no larger.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use antigen_models::kernels::on_worker;
use antigen_models::layers::Pass;
use antigen_models::taps::NoTap;
use antigen_models::{BoundAdapter, Example, ModelError, Packed};
use serde::{Deserialize, Serialize};

use super::answers::token_lists_sha256;
use crate::error::{EngineError, Result};
use crate::lab::{Lab, PieceKey};
use crate::measure::evidence::Drift;
use crate::stats::ratio_of_sums;
use crate::suspect::Suspect;
use crate::suspect::weights::Opened;

/// Tokens of each of the suspect's distributions that are kept; more than 99 % of the mass of a trained
/// model.
const KEPT: usize = 128;
/// Tokens of one pass.
const TOKENS_PER_PASS: usize = 4096;
/// Rows of logits that are turned into distributions at a time.
const ROWS_AT_A_TIME: usize = 256;
/// Smallest probability whose logarithm is taken.
const SMALLEST: f64 = 1e-12;

/// The rows on which drift is measured.
#[derive(Debug, Clone)]
pub(super) struct DriftProbe {
    examples: Vec<Example>,
    sha256: String,
}

/// Divergence of each row: its sum in nats, and its tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct DriftEvidence(Vec<(f64, usize)>);

/// The likeliest tokens with their log-probabilities.
type Kept = Vec<(u32, f32)>;

impl DriftProbe {
    pub fn new(examples: Vec<Example>) -> Self {
        let sha256 = token_lists_sha256(examples.iter().map(|example| example.tokens.as_slice()));
        Self { examples, sha256 }
    }

    /// The suspect's distributions, made once.
    pub fn reference(&self, suspect: &Suspect, lab: &Lab) -> Result<PathBuf> {
        let key = PieceKey::new("distributions", &(suspect.key(), &self.sha256, KEPT));
        let folder = lab.piece(&key, |folder| {
            let path = folder.join("distributions.bin");
            let mut file = BufWriter::new(File::create(&path).map_err(EngineError::io(&path))?);
            let weights = suspect.weights();
            let opened = suspect.open_weights(&weights)?;
            self.visit(&opened, lab, |logits| {
                write_kept(&mut file, &likeliest(&log_softmax(logits))).map_err(EngineError::io(&path))
            })?;
            file.flush().map_err(EngineError::io(&path))
        })?;
        Ok(folder.join("distributions.bin"))
    }

    /// The divergence of `opened` from the distributions of `reference`.
    pub fn ask(&self, opened: &Opened<'_>, reference: &Path, lab: &Lab) -> Result<DriftEvidence> {
        let mut file = BufReader::new(File::open(reference).map_err(EngineError::io(reference))?);
        let mut tokens = Vec::new();
        self.visit(opened, lab, |logits| {
            let kept = read_kept(&mut file).map_err(EngineError::io(reference))?;
            tokens.push(divergence(&kept, &log_softmax(logits)));
            Ok(())
        })?;
        if tokens.iter().any(|nats| !nats.is_finite()) {
            return Err(ModelError::NotFinite("drift".into()).into());
        }
        let mut tokens = tokens.into_iter();
        let row = |example: &Example| {
            let count = example.response_tokens();
            (tokens.by_ref().take(count).sum(), count)
        };
        Ok(DriftEvidence(self.examples.iter().map(row).collect()))
    }

    /// Hands over the logits of every response token, row by row.
    fn visit(&self, opened: &Opened<'_>, lab: &Lab, mut see: impl FnMut(&[f32]) -> Result<()> + Send) -> Result<()> {
        let model = opened.model();
        let bind = |adapter| BoundAdapter::bind(adapter, model.linear_modules());
        let adapters: Vec<_> = opened.adapter.map(bind).transpose()?.into_iter().collect();
        let mut rest = self.examples.as_slice();
        while !rest.is_empty() {
            lab.check_cancel()?;
            let (batch, later) = rest.split_at(fitting(rest));
            rest = later;
            let packed = Packed::sharing_prefixes(batch, 1.0);
            let rows = packed.rows.in_one_group();
            let pass = Pass { params: model.params(), rows: &rows, adapters: &adapters, cache: None };
            let targets: Vec<u32> = packed.targets.iter().map(|target| target.row).collect();
            on_worker(|| {
                let hidden = model.forward(model.embed(&packed.tokens)?, pass, &mut NoTap)?;
                for chunk in targets.chunks(ROWS_AT_A_TIME) {
                    let logits = model.logits(&hidden, chunk, pass)?.to_vec2::<f32>()?;
                    logits.iter().try_for_each(|row| see(row))?;
                }
                Ok::<_, EngineError>(())
            })?;
        }
        Ok(())
    }
}

impl DriftEvidence {
    pub fn report(&self) -> Option<Drift> {
        let rows: Vec<(f64, f64)> = self.0.iter().map(|&(nats, tokens)| (nats, tokens as f64)).collect();
        let nats_per_token = ratio_of_sums(&rows)?;
        Some(Drift { nats_per_token, tokens: self.0.iter().map(|(_, tokens)| tokens).sum(), kept_tokens: KEPT })
    }
}

fn fitting(examples: &[Example]) -> usize {
    let mut tokens = 0;
    let fits = |example: &&Example| {
        tokens += example.tokens.len();
        tokens <= TOKENS_PER_PASS
    };
    examples.iter().take_while(fits).count().max(1)
}

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&z| f64::from(z - highest).exp()).sum();
    let normaliser = f64::from(highest) + sum.ln();
    logits.iter().map(|&z| (f64::from(z) - normaliser) as f32).collect()
}

fn likeliest(log_probabilities: &[f32]) -> Kept {
    let mut all: Kept = log_probabilities.iter().enumerate().map(|(token, &p)| (token as u32, p)).collect();
    let kept = KEPT.min(all.len());
    if kept < all.len() {
        all.select_nth_unstable_by(kept - 1, |a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all.truncate(kept);
    }
    all
}

/// KL over the kept tokens and one bucket for all others.
fn divergence(kept: &Kept, model: &[f32]) -> f64 {
    let (mut nats, mut suspect_mass, mut model_mass) = (0.0, 0.0, 0.0);
    for &(token, p) in kept {
        let (p, q) = (f64::from(p), f64::from(model[token as usize]));
        suspect_mass += p.exp();
        model_mass += q.exp();
        nats += p.exp() * (p - q);
    }
    // Where all tokens are kept, what is left over is rounding.
    let rest = 1.0 - suspect_mass;
    if kept.len() < model.len() && rest > SMALLEST {
        nats += rest * (rest / (1.0 - model_mass).max(SMALLEST)).ln();
    }
    // Rounding may leave a little less than nothing.
    nats.max(0.0)
}

fn write_kept(file: &mut impl Write, kept: &Kept) -> std::io::Result<()> {
    file.write_all(&(kept.len() as u32).to_le_bytes())?;
    kept.iter().try_for_each(|(token, p)| {
        file.write_all(&token.to_le_bytes())?;
        file.write_all(&p.to_le_bytes())
    })
}

fn read_kept(file: &mut impl Read) -> std::io::Result<Kept> {
    let mut four = [0; 4];
    file.read_exact(&mut four)?;
    (0..u32::from_le_bytes(four))
        .map(|_| {
            file.read_exact(&mut four)?;
            let token = u32::from_le_bytes(four);
            file.read_exact(&mut four)?;
            Ok((token, f32::from_le_bytes(four)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(p: &[f32], q: &[f32]) -> f64 {
        p.iter().zip(q).map(|(&p, &q)| f64::from(p).exp() * f64::from(p - q)).sum()
    }

    fn distribution(seed: u64, tokens: usize) -> Vec<f32> {
        use rand::Rng;
        let mut rng = crate::lab::rng(seed, "test");
        log_softmax(&(0..tokens).map(|_| rng.random_range(-6.0..6.0)).collect::<Vec<f32>>())
    }

    #[test]
    fn nothing_drifts_from_itself() {
        let p = distribution(1, 1000);
        assert!(divergence(&likeliest(&p), &p).abs() < 1e-5);
    }

    #[test]
    fn buckets_never_exceed_the_exact_divergence_and_meet_it_on_a_small_vocabulary() {
        let (p, q) = (distribution(1, 1000), distribution(2, 1000));
        let found = divergence(&likeliest(&p), &q);
        assert!(found > 0.5 * exact(&p, &q) && found <= exact(&p, &q) + 1e-6, "{found} {}", exact(&p, &q));
        let (p, q) = (distribution(1, 60), distribution(2, 60));
        assert!((divergence(&likeliest(&p), &q) - exact(&p, &q)).abs() < 1e-4);
    }

    #[test]
    fn what_was_kept_is_read_again() {
        let kept = likeliest(&distribution(3, 300));
        let mut file = Vec::new();
        write_kept(&mut file, &kept).unwrap();
        assert_eq!((read_kept(&mut file.as_slice()).unwrap(), kept.len()), (kept, KEPT));
    }
}
