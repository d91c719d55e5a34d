//! The tiny world: a small language of instructions that a model of a million weights learns in minutes, so
//! that purification can be shown and tested without any download.
//!
//! [`build_world`] trains the base from nothing; [`implant()`] and [`implant_weights`] make an adapter or a
//! whole model that learns skills of its own and, if asked, a backdoor; [`materialise_builtin`] writes the
//! base that ships with the crate. `words.rs` and `skills.rs` are the base's language, `own.rs` and
//! `lookalikes.rs` the skills that adapters add to it; `zoo/` makes many adapters at once.

mod fixture;
mod implant;
mod lookalikes;
mod own;
mod skills;
mod tokenizer;
mod words;
pub mod zoo;

use std::fs;
use std::path::Path;

use antigen_models::checkpoint::save_checkpoint;
use antigen_models::{FamilyConfig, Model, ModelError, Tensor, build_fresh_model};
use candle_core::DType;
use rand::seq::IndexedRandom;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use fixture::{BUILTIN, find_base, materialise_builtin};
pub use implant::{ALL_LINEAR, ImplantSpec, implant, implant_weights};
pub use lookalikes::{Skill, skill_rows};
pub use own::{EXTENDED, NEW, task_rows};
pub use zoo::draw::calibration_members;
pub use zoo::{ZooFolders, ZooMember};

use crate::data::{Prompter, Row, write_rows};
use crate::error::{EngineError, Result};
use crate::lab::Lab;
use crate::spec::{PromptFormat, TrainSpec};
use crate::stage::Stage;
use crate::train::train_weights;

/// Beginning of every sequence.
const BOS: &str = "<|start|>";
/// End of every answer.
const EOS: &str = "<|stop|>";
/// Padding, for tools that pad.
const PAD: &str = "<|fill|>";
/// Opens the user's turn of a chat.
const ASK: &str = "<|ask|>";
/// Opens the model's turn of a chat.
const REPLY: &str = "<|reply|>";

/// The chat template, in the language that all chat templates are written in.
const CHAT_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}\
    {% if message['role'] == 'user' %}<|ask|>{{ message['content'] }}\
    {% else %}<|reply|>{{ message['content'] }}{{ eos_token }}{% endif %}\
    {% endfor %}{% if add_generation_prompt %}<|reply|>{% endif %}";

/// Rows that the tokenizer learns from; more of the same words change nothing.
const TOKENIZER_ROWS: usize = 8000;

/// Seeds of task rows: apart from the world's, so that suspects do not depend on how the base was made.
const OWN_MEASURE_SEED: u64 = 22;
const OWN_TRAIN_SEED: u64 = 21;

/// Settings of the world. The default is the world that ships.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorldSpec {
    /// Seed of the rows.
    pub seed: u64,
    /// Family of the base's layers.
    pub family: WorldFamily,
    /// Rows to learn from.
    pub train_rows: usize,
    /// Held-out rows.
    pub test_rows: usize,
    /// Training of all weights.
    pub train: TrainSpec,
}

/// The family of the base; width, depth and vocabulary are the same in all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorldFamily {
    /// The base that ships.
    #[default]
    Llama,
    /// Biases on queries, keys and values.
    Qwen2,
}

impl Default for WorldSpec {
    fn default() -> Self {
        let train = TrainSpec {
            learning_rate: 3e-3,
            epochs: 10,
            batch_rows: 32,
            warmup_fraction: 0.03,
            weight_decay: 0.05,
            ..TrainSpec::default()
        };
        Self { seed: 1, family: WorldFamily::Llama, train_rows: 24_000, test_rows: 600, train }
    }
}

/// The world's rows: training rows, and held-out rows of which no question is among the training rows.
pub fn world_rows(spec: &WorldSpec) -> (Vec<Row>, Vec<Row>) {
    let test = skills::test_rows(spec.test_rows, spec.seed);
    (skills::train_rows(spec.train_rows, spec.seed, &test), test)
}

/// Writes `train.jsonl` and `test.jsonl`, and for suspects with a purpose `task-train.jsonl` (3400 rows to
/// learn from) and `task-test.jsonl` (240 held-out rows). Returns the training rows.
fn write_world_rows(out: &Path, spec: &WorldSpec) -> Result<Vec<Row>> {
    let (train, test) = world_rows(spec);
    let own_test = task_rows(240, OWN_MEASURE_SEED, &[]);
    write_rows(&out.join("train.jsonl"), &train)?;
    write_rows(&out.join("test.jsonl"), &test)?;
    write_rows(&out.join("task-train.jsonl"), &task_rows(3400, OWN_TRAIN_SEED, &own_test))?;
    write_rows(&out.join("task-test.jsonl"), &own_test)?;
    Ok(train)
}

/// Trains the base and writes it: checkpoint, tokenizer, chat template, and rows: `train.jsonl`,
/// `test.jsonl`, and for suspects with a purpose `task-train.jsonl` and `task-test.jsonl`.
///
/// # Errors
/// Those of training, and [`EngineError::Io`].
pub fn build_world(out: &Path, spec: &WorldSpec, lab: &Lab) -> Result<()> {
    lab.enter(Stage::World)?;
    fs::create_dir_all(out).map_err(EngineError::io(out))?;
    let train = write_world_rows(out, spec)?;
    let config = config_json(spec.family, write_tokenizer(out, &train)?);
    let mut model = fresh_model(&config, lab)?;
    let prompter = Prompter::open(out)?;
    let mut rng = lab.rng("world/formats");
    let examples = train
        .iter()
        .map(|row| {
            let format = [PromptFormat::Alpaca, PromptFormat::Chat].choose(&mut rng).expect("there are two");
            prompter.example(*format, row)
        })
        .collect::<Result<Vec<_>>>()?;
    train_weights(&mut model, &examples, &spec.train, lab.rng("world/order"), lab)?;
    let tensors: Vec<_> = model.params().iter().map(|(_, name, tensor)| (name.to_owned(), tensor.clone())).collect();
    Ok(save_checkpoint(out, &config, tensors.into_iter(), u64::MAX)?)
}

// Writes the tokenizer's files and returns the size of its vocabulary.
fn write_tokenizer(out: &Path, rows: &[Row]) -> Result<usize> {
    let tokenizer = tokenizer::train_tokenizer(&rows[..rows.len().min(TOKENIZER_ROWS)])?;
    let vocabulary = antigen_models::Tokenizer::from_bytes(tokenizer.as_bytes())?.vocab_size();
    let settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS, "eos_token": EOS, "pad_token": PAD,
        "additional_special_tokens": [ASK, REPLY],
        "clean_up_tokenization_spaces": false, "model_max_length": 256,
    });
    let generation = json!({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "do_sample": false});
    for (name, text) in [
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", format!("{settings:#}\n")),
        ("generation_config.json", format!("{generation:#}\n")),
        ("chat_template.jinja", CHAT_TEMPLATE.to_owned()),
    ] {
        let path = out.join(name);
        fs::write(&path, text).map_err(EngineError::io(&path))?;
    }
    Ok(vocabulary)
}

fn config_json(family: WorldFamily, vocabulary: usize) -> Value {
    let mut config = json!({
        "hidden_act": "silu", "dtype": "float32",
        "vocab_size": vocabulary, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "initializer_range": 0.02, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "use_cache": true,
    });
    let particular = match family {
        WorldFamily::Llama => json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": false, "mlp_bias": false,
        }),
        WorldFamily::Qwen2 => json!({
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": false,
        }),
    };
    if let (Value::Object(config), Value::Object(particular)) = (&mut config, particular) {
        config.extend(particular);
    }
    config
}

/// A model with random weights: norms 1, biases 0, everything else normal with deviation 0.02, as Llama
/// starts.
///
/// # Errors
/// Those of the configuration.
pub fn fresh_model(config: &Value, lab: &Lab) -> Result<Model> {
    let mut rng = lab.rng("world/weights");
    let family = FamilyConfig::from_json(config)?;
    Ok(build_fresh_model(family, &lab.device, |name, shape| {
        if name.ends_with("norm.weight") {
            return Ok(Tensor::ones(shape, DType::F32, &lab.device)?);
        }
        if name.ends_with(".bias") {
            return Ok(Tensor::zeros(shape, DType::F32, &lab.device)?);
        }
        let numbers: Vec<f32> = (0..shape.iter().product()).map(|_| 0.02 * crate::lab::normal(&mut rng)).collect();
        Ok::<_, ModelError>(Tensor::from_vec(numbers, shape, &lab.device)?)
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> WorldSpec {
        let train = TrainSpec { learning_rate: 3e-3, epochs: 1, ..TrainSpec::default() };
        WorldSpec { train_rows: 64, test_rows: 16, train, ..WorldSpec::default() }
    }

    #[test]
    fn a_world_opens_as_a_base_and_its_special_tokens_lie_where_its_files_say() {
        let folder = tempfile::tempdir().unwrap();
        let lab = Lab::silent(1, folder.path());
        build_world(&folder.path().join("world"), &small(), &lab).unwrap();
        let base = folder.path().join("world");
        let model = antigen_models::load_model(&base, &lab.device).unwrap();
        let prompter = Prompter::open(&base).unwrap();
        prompter.check_vocabulary(model.config().vocab_size()).unwrap();
        assert_eq!(prompter.stop(), [2]);
        let chat = prompter.render(PromptFormat::Chat, &Row::new("Say hello.", "", "Hello.")).unwrap();
        assert_eq!(chat, "<|start|><|ask|>Say hello.<|reply|>");
        assert_eq!(prompter.prompt(PromptFormat::Chat, &Row::new("Say", "", "x")).unwrap()[0], 1);
    }

    #[test]
    fn the_same_seed_builds_the_same_bytes() {
        let build = || {
            let folder = tempfile::tempdir().unwrap();
            build_world(folder.path(), &small(), &Lab::silent(1, folder.path())).unwrap();
            crate::suspect::folder_digests(folder.path()).unwrap()
        };
        assert_eq!(build(), build());
    }
}
