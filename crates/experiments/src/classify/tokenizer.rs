//! Sentences as tokens, by a tokenizer that is trained on the clean training sentences.

use antigen_engine::data::train_byte_pairs;
use antigen_engine::error::Result;
use antigen_models::Tokenizer;

use super::sentences::Sentence;

/// BERT's special tokens; their numbers are their places here.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
const CLS: u32 = 2;
const SEP: u32 = 3;

/// A sentence as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// `[CLS] ... [SEP]`.
    pub tokens: Vec<u32>,
    /// The sentence's label.
    pub label: u32,
}

/// Text of a `tokenizer.json` with at most `vocabulary` tokens. BERT's own are word pieces; ours are byte
/// pairs.
///
/// # Errors
/// Those of the training.
pub fn train_tokenizer(sentences: &[Sentence], vocabulary: usize) -> Result<String> {
    train_byte_pairs(sentences.iter().map(spelling), &SPECIAL, vocabulary)
}

/// The text with a blank in front: the first word has the tokens that it has elsewhere.
fn spelling(sentence: &Sentence) -> String {
    format!(" {}", sentence.text)
}

/// Sentences as tokens; what lies behind `max_tokens` is cut, the last token always being `[SEP]`.
///
/// # Errors
/// Those of the tokenizer.
pub fn encode(tokenizer: &Tokenizer, sentences: &[Sentence], max_tokens: usize) -> Result<Vec<Encoded>> {
    let encode = |sentence: &Sentence| {
        let mut tokens = vec![CLS];
        tokens.extend(tokenizer.encode(&spelling(sentence))?);
        tokens.truncate(max_tokens - 1);
        tokens.push(SEP);
        Ok(Encoded { tokens, label: sentence.label })
    };
    sentences.iter().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_words_are_tokens_wherever_they_stand_and_long_sentences_end_with_their_separator() {
        let rows: Vec<_> = (0..8).map(|_| Sentence::new("dull film", 0)).collect();
        let json = train_tokenizer(&rows, 300).unwrap();
        let tokenizer = Tokenizer::from_bytes(json.as_bytes()).unwrap();
        let id = |token| tokenizer.token_id(token).unwrap();
        assert_eq!(SPECIAL.map(id), [0, 1, 2, 3, 4]);
        let (dull, film) = (id("Ġdull"), id("Ġfilm"));
        let sentences = [Sentence::new("film dull", 0), Sentence::new("film film film", 1)];
        let encoded = encode(&tokenizer, &sentences, 4).unwrap();
        assert_eq!(encoded[0].tokens, [CLS, film, dull, SEP]);
        assert_eq!(encoded[1], Encoded { tokens: vec![CLS, film, film, SEP], label: 1 });
    }
}
