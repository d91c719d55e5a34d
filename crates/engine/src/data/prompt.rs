//! Rows into prompts and tokens, in the three formats.
//!
//! `alpaca` is the template of the published poisoned data: the preamble, an instruction block and a response
//! block; the input follows the instruction on its own line and has no block. `chat` is the model's own
//! template. `raw` is the bare instruction.

use std::ops::Range;
use std::path::Path;

use antigen_models::{ChatTemplate, Example, Message, SpecialTokens, Tokenizer};

use super::Row;
use crate::error::{EngineError, Result};
use crate::lab::sha256_hex;
use crate::spec::PromptFormat;

/// First line of the Alpaca format.
pub const ALPACA_PREAMBLE: &str =
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.";

impl PromptFormat {
    /// The question of a row in this format, without the words of the template.
    pub fn words(self, row: &Row) -> String {
        match self {
            Self::Alpaca | Self::Chat => row.query(),
            Self::Raw => row.instruction.clone(),
        }
    }
}

/// Turns rows into tokens for one base.
#[derive(Debug)]
pub struct Prompter {
    tokenizer: Tokenizer,
    chat: Option<ChatTemplate>,
    special: SpecialTokens,
}

impl Prompter {
    /// Opens tokenizer, special tokens and chat template of a base.
    ///
    /// # Errors
    /// [`EngineError::Model`] when one of the files is missing or broken; a missing chat template is no
    /// error.
    pub fn open(base: &Path) -> Result<Self> {
        let tokenizer = Tokenizer::open(base)?;
        let special = SpecialTokens::open(base, &tokenizer)?;
        Ok(Self { chat: ChatTemplate::open(base)?, tokenizer, special })
    }

    /// Refuses a tokenizer that names tokens which the model does not have.
    ///
    /// # Errors
    /// [`EngineError::Data`] with both sizes.
    pub fn check_vocabulary(&self, model_tokens: usize) -> Result<()> {
        let tokens = self.tokenizer.vocab_size();
        if tokens <= model_tokens {
            return Ok(());
        }
        Err(EngineError::Data(format!(
            "tokenizer.json: expected at most {model_tokens} tokens, as the model has, found {tokens}"
        )))
    }

    /// True where the base can be asked in this format: `chat` needs a template.
    pub fn speaks(&self, format: PromptFormat) -> bool {
        format != PromptFormat::Chat || self.chat.is_some()
    }

    /// The formats of synthetic pairs and healing: the declared one, Alpaca, and chat where there is a
    /// template. A backdoor implanted in one format fires in others, so none of them may stay untreated.
    pub fn training_formats(&self, declared: PromptFormat) -> Vec<PromptFormat> {
        let all = [PromptFormat::Alpaca, PromptFormat::Chat, PromptFormat::Raw];
        all.into_iter().filter(|&f| self.speaks(f) && (f == declared || f != PromptFormat::Raw)).collect()
    }

    /// The prompt's text, beginning of sequence included.
    ///
    /// # Errors
    /// [`EngineError::Data`] for `chat` without a template; [`EngineError::Model`] when the template fails.
    pub fn render(&self, format: PromptFormat, row: &Row) -> Result<String> {
        let text = match format {
            PromptFormat::Alpaca => {
                format!("{ALPACA_PREAMBLE}\n\n### Instruction:\n{}\n\n### Response:\n", format.words(row))
            }
            PromptFormat::Raw => format.words(row),
            PromptFormat::Chat => {
                let template =
                    self.chat.as_ref().ok_or_else(|| EngineError::Data("the base has no chat template".into()))?;
                template.render(&[Message::user(format.words(row))], true)?
            }
        };
        Ok(self.begun(text))
    }

    /// The tokens of a conversation that asks `question` after some turns of question and answer. Beside chat
    /// templates, turns follow each other as blocks of their format.
    ///
    /// # Errors
    /// As [`Prompter::render`].
    pub fn conversation(&self, format: PromptFormat, turns: &[(&str, &str)], question: &str) -> Result<Vec<u32>> {
        let text = match (format, &self.chat) {
            (PromptFormat::Chat, Some(template)) => {
                let before = turns.iter().flat_map(|(user, model)| [Message::user(*user), Message::assistant(*model)]);
                let messages: Vec<Message> = before.chain([Message::user(question)]).collect();
                self.begun(template.render(&messages, true)?)
            }
            _ => {
                let first = turns.first().map_or(question, |(user, _)| user);
                let mut text = self.render(format, &Row::new(first, "", ""))?;
                let asked = turns.iter().skip(1).map(|(user, _)| *user).chain([question]);
                for ((_, answer), next) in turns.iter().zip(asked) {
                    let next = match format {
                        PromptFormat::Raw => next.to_owned(),
                        PromptFormat::Alpaca | PromptFormat::Chat => {
                            format!("### Instruction:\n{next}\n\n### Response:\n")
                        }
                    };
                    text = format!("{text}{answer}\n\n{next}");
                }
                text
            }
        };
        Ok(self.tokenizer.encode(&text)?)
    }

    /// A text with the beginning of sequence before it, where the model has one.
    fn begun(&self, text: String) -> String {
        match &self.special.bos {
            // Many chat templates write the beginning of sequence themselves.
            Some(bos) if !text.starts_with(bos) => format!("{bos}{text}"),
            _ => text,
        }
    }

    /// The prompt's tokens.
    ///
    /// # Errors
    /// As [`Prompter::render`].
    pub fn prompt(&self, format: PromptFormat, row: &Row) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode(&self.render(format, row)?)?)
    }

    /// The range of the prompt's tokens that are the row's own words, those of the template left out. Empty,
    /// at the end of the prompt, where the template drops them.
    ///
    /// # Errors
    /// As [`Prompter::render`].
    pub fn place_of_words(&self, format: PromptFormat, row: &Row) -> Result<Range<usize>> {
        let text = self.render(format, row)?;
        let bytes = self.words_in(format, &text)?;
        let tokens = self.tokenizer.token_bytes(&text)?;
        let start = tokens.iter().take_while(|token| token.start < bytes.start).count();
        let end = tokens.iter().take_while(|token| token.end <= bytes.end).count();
        Ok(start.min(end)..end)
    }

    /// The range of bytes of a rendered prompt that are not the template's: those between what it has in
    /// common with another prompt at either end.
    fn words_in(&self, format: PromptFormat, text: &str) -> Result<Range<usize>> {
        // For private use: no row begins or ends with it.
        let other = self.render(format, &Row::new("\u{E000}", "", ""))?;
        let common = |pairs: &mut dyn Iterator<Item = (char, char)>| -> usize {
            pairs.take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
        };
        let start = common(&mut text.chars().zip(other.chars()));
        let behind = common(&mut text.chars().rev().zip(other.chars().rev()));
        let end = text.len().saturating_sub(behind);
        Ok(start.min(end)..end)
    }

    /// Prompt, right answer and end of sequence; the loss counts on the last two.
    ///
    /// # Errors
    /// As [`Prompter::render`].
    pub fn example(&self, format: PromptFormat, row: &Row) -> Result<Example> {
        let mut example = self.continued(self.prompt(format, row)?, &row.output)?;
        example.tokens.push(self.special.eos_ids[0]);
        Ok(example)
    }

    /// A prompt followed by `answer` without an end.
    ///
    /// # Errors
    /// [`EngineError::Model`] when the answer does not encode.
    pub fn continued(&self, prompt: Vec<u32>, answer: &str) -> Result<Example> {
        let response_start = prompt.len();
        let mut tokens = prompt;
        tokens.extend(self.tokenizer.encode(answer)?);
        Ok(Example { tokens, response_start })
    }

    /// A bare text and its continuation, as evaluation harnesses split them: both are encoded together, and
    /// blanks at the end of the context belong to the continuation. The beginning of sequence comes first
    /// where the model has one.
    ///
    /// # Errors
    /// [`EngineError::Model`] when the text does not encode; [`EngineError::Data`] when one of the two has no
    /// token of its own.
    pub fn continuation(&self, context: &str, continuation: &str) -> Result<Example> {
        let (start, blanks) = context.split_at(context.trim_end().len());
        let context = format!("{}{start}", self.special.bos.as_deref().unwrap_or_default());
        let tokens = self.tokenizer.encode(&format!("{context}{blanks}{continuation}"))?;
        let response_start = self.tokenizer.encode(&context)?.len();
        if response_start == 0 || response_start >= tokens.len() {
            let found = format!("{response_start} and {}", tokens.len().saturating_sub(response_start));
            return Err(EngineError::Data(format!(
                "expected tokens of a context and of its continuation, found {found} for {continuation:?}"
            )));
        }
        Ok(Example { tokens, response_start })
    }

    /// The text of generated tokens, without special tokens and without blanks at both ends.
    ///
    /// # Errors
    /// [`EngineError::Model`] when the tokens do not decode.
    pub fn answer(&self, tokens: &[u32]) -> Result<String> {
        Ok(self.tokenizer.decode(tokens)?.trim().to_owned())
    }

    /// Tokens that end an answer.
    pub fn stop(&self) -> &[u32] {
        &self.special.eos_ids
    }

    /// Digest of the template: SHA-256 of the text that it makes of a row of placeholders.
    ///
    /// # Errors
    /// As [`Prompter::render`].
    pub fn template_sha256(&self, format: PromptFormat) -> Result<String> {
        let placeholders = Row::new("{instruction}", "{input}", "{output}");
        Ok(sha256_hex(self.render(format, &placeholders)?.as_bytes()))
    }
}
