//! Training of new tokenizers: byte-level BPE, whose training gives the same bytes every time.
//!
//! WordPiece training of the same library numbers its pieces in the order of a hash map, which differs from
//! process to process.

use antigen_models::ModelError;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{AddedToken, TokenizerBuilder, TokenizerImpl};

use crate::error::{EngineError, Result};

/// Text of a `tokenizer.json` with at most `vocabulary` tokens, trained on the texts. Special tokens are
/// numbered from 0.
///
/// # Errors
/// [`ModelError::Tokenizer`] when training fails.
pub fn train_byte_pairs(
    texts: impl Iterator<Item = String> + Send,
    special: &[&str],
    vocabulary: usize,
) -> Result<String> {
    type ByteBpe = TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, PostProcessorWrapper, ByteLevelDecoder>;
    let failed = |error: tokenizers::Error| EngineError::Model(ModelError::Tokenizer(error.to_string()));
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(vocabulary)
        .min_frequency(2)
        .special_tokens(special.iter().map(|token| AddedToken::from(*token, true)).collect())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    let mut tokenizer: ByteBpe = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
        .with_decoder(Some(ByteLevelDecoder::default()))
        .build()
        .map_err(failed)?;
    tokenizer.train(&mut trainer, texts).map_err(failed)?;
    tokenizer.to_string(false).map_err(failed)
}
