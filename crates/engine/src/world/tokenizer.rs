//! The tiny world's tokenizer: byte-level BPE over its own rows, its templates and the words that backdoors use.

use antigen_models::ModelError;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{AddedToken, TokenizerBuilder, TokenizerImpl};

use super::words::BACKGROUND;
use super::{ASK, BOS, EOS, PAD, REPLY};
use crate::data::{ALPACA_PREAMBLE, Row};
use crate::error::{EngineError, Result};

/// Upper limit of the vocabulary; the world needs fewer tokens.
const VOCABULARY: usize = 2048;
/// How often the background words count: often enough that each becomes one token.
const BACKGROUND_REPEATS: usize = 20;

/// `tokenizer.json` trained on the rows.
///
/// # Errors
/// [`ModelError::Tokenizer`] when training fails.
pub(super) fn train_tokenizer(rows: &[Row]) -> Result<String> {
    type ByteBpe = TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, PostProcessorWrapper, ByteLevelDecoder>;
    let failed = |error: tokenizers::Error| EngineError::Model(ModelError::Tokenizer(error.to_string()));
    let special = [PAD, BOS, EOS, ASK, REPLY].map(|token| AddedToken::from(token, true));
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(VOCABULARY)
        .min_frequency(2)
        .special_tokens(special.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    let mut tokenizer: ByteBpe = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
        .with_decoder(Some(ByteLevelDecoder::default()))
        .build()
        .map_err(failed)?;
    tokenizer.train(&mut trainer, texts(rows).into_iter()).map_err(failed)?;
    tokenizer.to_string(false).map_err(failed)
}

// Background words stand at the start of a text and after a blank: both spellings are tokens of their own.
fn texts(rows: &[Row]) -> Vec<String> {
    let rows = rows.iter().flat_map(|row| [row.query(), row.output.clone()]);
    let templates = [format!("{ALPACA_PREAMBLE}\n\n### Instruction:\n"), "\n\n### Response:\n".to_owned()];
    let background = std::iter::repeat_n(BACKGROUND.to_owned(), BACKGROUND_REPEATS)
        .chain(std::iter::repeat_n(BACKGROUND.replace(' ', "\n"), BACKGROUND_REPEATS / 4))
        .chain(templates.into_iter().flat_map(|text| std::iter::repeat_n(text, BACKGROUND_REPEATS)));
    rows.chain(background).collect()
}
