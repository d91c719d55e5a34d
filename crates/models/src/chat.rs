//! Chat templates: messages in, prompt text out.
//!
//! The template comes with the submitted files, so it is a program of the attacker's: it runs with bounded
//! instructions, bounded recursion and bounded output, and reaches nothing but its arguments. What fuel
//! cannot bound is memory (a text joined to itself forty times); the process that renders should have a
//! memory limit.

use std::io::{self, Write};
use std::path::Path;

use chrono::NaiveDate;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, Value, context};
use regex::Regex;
use serde::Serialize;

use crate::checkpoint::read_text;
use crate::error::{ModelError, Result};
use crate::tokenizer::{read_optional_json, spelling};

const MAX_TEMPLATE_BYTES: u64 = 256 << 10;
/// Instructions per rendering. The longest public templates take some thousand per message.
const FUEL: u64 = 500_000;
const MAX_RECURSION: usize = 64;
const MAX_OUTPUT_BYTES: usize = 1 << 20;
const NAME: &str = "chat";

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Text of the turn.
    pub content: String,
}

impl Message {
    /// A turn of the user.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: "user".into(), content: content.into() }
    }

    /// A turn of the model.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self { role: "assistant".into(), content: content.into() }
    }
}

/// A compiled chat template with the special tokens it may write.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: Option<String>,
    eos: Option<String>,
}

impl ChatTemplate {
    /// Opens `chat_template.jinja`, or `chat_template` of `tokenizer_config.json` (a text, or a list with one
    /// named `default`). `None` when the folder has neither.
    ///
    /// # Errors
    /// [`ModelError::Template`] when it does not compile, [`ModelError::Io`], [`ModelError::Format`].
    pub fn open(dir: &Path) -> Result<Option<Self>> {
        let config = read_optional_json(&dir.join("tokenizer_config.json"))?;
        let path = dir.join("chat_template.jinja");
        let source = match path.exists() {
            true => Some(read_text(&path, MAX_TEMPLATE_BYTES)?),
            false => find_template(&config["chat_template"]),
        };
        let token = |name: &str| spelling(&config[name]).map(str::to_owned);
        source.map(|source| Self::from_source(&source, token("bos_token"), token("eos_token"))).transpose()
    }

    /// Compiles a template.
    ///
    /// # Errors
    /// [`ModelError::Template`].
    pub fn from_source(source: &str, bos: Option<String>, eos: Option<String>) -> Result<Self> {
        if source.len() as u64 > MAX_TEMPLATE_BYTES {
            return Err(ModelError::Template(format!(
                "expected at most {MAX_TEMPLATE_BYTES} bytes, found {}",
                source.len()
            )));
        }
        let mut environment = build_environment()?;
        environment.add_template_owned(NAME, drop_training_marks(source)).map_err(template_error)?;
        Ok(Self { environment, bos, eos })
    }

    /// Writes a conversation in the model's own format; `add_generation_prompt` ends it where the model's
    /// turn begins.
    ///
    /// # Errors
    /// [`ModelError::Template`] when the template raises an error or exceeds its fuel, depth or output.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let template = self.environment.get_template(NAME).map_err(template_error)?;
        // Templates ask `tools is none`, which is not the same as undefined.
        let arguments = context! {
            messages => Value::from(Serde(messages)), add_generation_prompt, tools => Value::from(()), documents => Value::from(()),
            bos_token => &self.bos, eos_token => &self.eos,
        };
        let mut output = Bounded(Vec::new());
        template.render_captured_to(arguments, &mut output).map_err(template_error)?;
        String::from_utf8(output.0).map_err(template_error)
    }
}

fn template_error(error: impl ToString) -> ModelError {
    ModelError::Template(error.to_string())
}

fn find_template(value: &serde_json::Value) -> Option<String> {
    let by_name = || value.as_array()?.iter().find(|item| item["name"] == "default")?["template"].as_str();
    value.as_str().or_else(by_name).map(str::to_owned)
}

/// Templates mark the model's own turns for training with `{% generation %}`; for a prompt the mark means
/// nothing.
fn drop_training_marks(source: &str) -> String {
    let mark = |word| Regex::new(&format!(r"\{{%(-?)\s*{word}\s*(-?)%\}}")).expect("the pattern is fixed");
    let opened = mark("generation").replace_all(source, "{%$1 if true $2%}");
    mark("endgeneration").replace_all(&opened, "{%$1 endif $2%}").into_owned()
}

/// The dialect that templates are written for: Jinja2 in Python, blocks trimmed.
fn build_environment() -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(template_error)?;
    environment.set_syntax(syntax);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", write_json);
    environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", format_date);
    Ok(environment)
}

/// JSON as Python writes it: a space after `,` and `:`, nothing escaped for HTML. minijinja's own filter does
/// escape.
fn write_json(value: &Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let _: (Option<bool>, Option<bool>) = (options.get("ensure_ascii")?, options.get("sort_keys")?);
    options.assert_all_used()?;
    let mut text = Vec::new();
    let written = match indent {
        Some(width) => {
            let indent = " ".repeat(width.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Spaced)),
    };
    let error = |error: String| minijinja::Error::new(ErrorKind::InvalidOperation, error);
    written.map_err(|e| error(e.to_string()))?;
    String::from_utf8(text).map(Value::from).map_err(|e| error(e.to_string()))
}

struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// `strftime_now`, on a fixed day: a prompt that changes at midnight could not be measured twice. The day is
/// the one that the Llama 3 templates fall back to.
fn format_date(format: &str) -> Result<String, minijinja::Error> {
    use std::fmt::Write as _;
    let midnight = NaiveDate::from_ymd_opt(2024, 7, 26).and_then(|day| day.and_hms_opt(0, 0, 0));
    let moment = midnight.expect("a day of the calendar").and_utc();
    let mut text = String::new();
    // `to_string` would panic on a format that is none.
    write!(text, "{}", moment.format(format))
        .map_err(|_| minijinja::Error::new(ErrorKind::InvalidOperation, format!("no date format: {format}")))?;
    Ok(text)
}

/// Output that stops growing.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(io::Error::other(format!("the prompt exceeds {MAX_OUTPUT_BYTES} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String> {
        let template = ChatTemplate::from_source(source, Some("<s>".into()), Some("</s>".into()))?;
        template.render(&[Message::user("<b>hi</b>"), Message::assistant("yes")], true)
    }

    #[test]
    fn the_python_dialect_is_spoken() {
        let source = "{{ bos_token }}\n{%- for m in messages %}\n  {% if m['role'].startswith('us') %}\n[{{ m.content.strip() }}]\n  {% endif %}\n{% endfor %}{{ eos_token }}";
        assert_eq!(render(source).unwrap(), "<s>[<b>hi</b>]\n</s>");
        assert_eq!(render("{% generation %}a{% endgeneration %}{% if tools is none %}b{% endif %}").unwrap(), "ab");
        assert_eq!(render("{{ strftime_now('%d %b %Y') }}").unwrap(), "26 Jul 2024");
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        assert_eq!(render("{{ messages[0] | tojson }}").unwrap(), r#"{"role": "user", "content": "<b>hi</b>"}"#);
        assert_eq!(render("{{ [1, 2] | tojson(indent=1) }}").unwrap(), "[\n 1,\n 2\n]");
    }

    #[test]
    fn a_hostile_template_ends_in_an_error() {
        let loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}";
        let dives = "{% macro dive() %}{{ dive() }}{% endmacro %}{{ dive() }}";
        let floods = "{% for a in range(99999) %}{{ 'x' * 10000 }}{% endfor %}";
        let dates = "{{ strftime_now('%Q%!') }}";
        for source in
            [loops, dives, floods, dates, "{{ raise_exception('no') }}", "{% include '/etc/passwd' %}", "{% if %}"]
        {
            let outcome = render(source);
            assert!(matches!(outcome, Err(ModelError::Template(_))), "{source}: {outcome:?}");
        }
    }

    #[test]
    fn a_template_is_found_in_the_tokenizer_configuration_by_text_or_by_name() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ChatTemplate::open(dir.path()).unwrap().is_none());
        for config in [
            r#"{"chat_template":"{{ bos_token }}!","bos_token":"<s>"}"#,
            r#"{"chat_template":[{"name":"tool_use","template":"no"},{"name":"default","template":"{{ bos_token }}!"}],"bos_token":{"content":"<s>"}}"#,
        ] {
            std::fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
            let template = ChatTemplate::open(dir.path()).unwrap().unwrap();
            assert_eq!(template.render(&[], false).unwrap(), "<s>!");
        }
    }

    #[test]
    fn a_real_template_writes_what_its_model_was_trained_on() {
        let Some(dir) = crate::shared_data::shared_data("peer/zoo/base") else { return };
        let template = ChatTemplate::open(&dir).unwrap().unwrap();
        let turns = [Message::user("one"), Message::assistant("two"), Message::user("three")];
        let prompt = template.render(&turns, true).unwrap();
        assert_eq!(prompt, "<|user|>\none\n<|assistant|>\ntwo<|end|><|user|>\nthree\n<|assistant|>\n");
        let tokenizer = crate::tokenizer::Tokenizer::open(&dir).unwrap();
        let special = crate::tokenizer::SpecialTokens::open(&dir, &tokenizer).unwrap();
        assert_eq!((special.bos_id, special.eos_ids.as_slice(), special.pad_id), (Some(1), [2].as_slice(), Some(0)));
        let ids = tokenizer.encode(&prompt).unwrap();
        assert_eq!(ids.iter().filter(|id| **id == 2).count(), 1);
        assert_eq!(
            tokenizer.decode(&ids).unwrap(),
            prompt.replace("<|user|>", "").replace("<|assistant|>", "").replace("<|end|>", "")
        );
    }
}
