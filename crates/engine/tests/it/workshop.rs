//! A tiny random base with an adapter and a few rows: everything a job needs, in a temporary folder.

use std::collections::BTreeSet;
use std::path::PathBuf;

use antigen_engine::data::{Row, RowUse, read_rows, write_rows};
use antigen_engine::job::PurifySpec;
use antigen_engine::lab::{Lab, rng};
use antigen_engine::methods::MethodSpec;
use antigen_engine::spec::{DataFolders, TrainSpec};
use antigen_engine::suspect::{Submission, Submitted};
use antigen_engine::world::{WorldSpec, build_world, task_rows, world_rows};
use antigen_models::checkpoint::{copy_checkpoint, save_checkpoint};
use antigen_models::{
    Device, FamilyConfig, LoraAdapter, Model, PeftConfig, Tensor, build_fresh_model, load_adapter, load_model,
    save_adapter,
};
use rand::Rng;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Every family of decoders, each as a configuration of three blocks: d 16, 4 query heads, the tiny world's
/// vocabulary.
pub fn tiny_families() -> Vec<Value> {
    let like_llama = json!({
        "vocab_size": 2048, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "eos_token_id": 2,
    });
    let with = |particular: Value| {
        let mut config = like_llama.as_object().unwrap().clone();
        config.extend(particular.as_object().unwrap().clone());
        Value::Object(config)
    };
    vec![
        with(json!({"model_type": "llama", "num_key_value_heads": 4})),
        with(json!({"model_type": "mistral", "sliding_window": 30})),
        with(json!({"model_type": "qwen2", "tie_word_embeddings": true})),
        with(json!({"model_type": "qwen3", "head_dim": 6})),
        with(json!({"model_type": "gemma", "head_dim": 6, "hidden_act": "gelu_pytorch_tanh"})),
        with(json!({
            "model_type": "gemma2", "head_dim": 6, "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 30,
            "query_pre_attn_scalar": 4, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
        })),
        with(json!({"model_type": "phi3", "head_dim": 8, "partial_rotary_factor": 0.5})),
        json!({
            "model_type": "gpt2", "vocab_size": 2048, "n_embd": 16, "n_inner": 24, "n_layer": 3, "n_head": 4,
            "n_positions": 256, "layer_norm_epsilon": 1e-5, "eos_token_id": 2,
        }),
    ]
}

/// The folder with everything; it goes when this goes.
pub struct Workshop(TempDir);

impl Workshop {
    /// With an adapter on attention and MLP.
    pub fn new() -> Self {
        Self::with_targets(&["q_proj", "gate_proj", "up_proj", "down_proj"])
    }

    /// With an adapter on these layers of every block.
    pub fn with_targets(targets: &[&str]) -> Self {
        let shop = Self(tempfile::tempdir().unwrap());
        shop.write_base();
        shop.write_adapter(targets);
        shop.write_task_rows();
        shop
    }

    /// Over a base of another family, with random weights and the same tokenizer, and an adapter on every
    /// layer.
    pub fn of_family(config: Value) -> Self {
        let shop = Self(tempfile::tempdir().unwrap());
        shop.write_base();
        let mut rng = rng(3, "family");
        let model = build_fresh_model(FamilyConfig::from_json(&config).unwrap(), &Device::Cpu, |name, shape| {
            let (mean, deviation) = if shape.len() == 1 && name.ends_with("weight") { (1.0, 0.1) } else { (0.0, 0.1) };
            let count: usize = shape.iter().product();
            let numbers: Vec<f32> = (0..count).map(|_| mean + deviation * rng.random_range(-1.7f32..1.7)).collect();
            Ok(Tensor::from_vec(numbers, shape, &Device::Cpu)?)
        });
        let model = model.unwrap();
        let tensors = model.params().iter().map(|(_, name, tensor)| (name.to_owned(), tensor.clone()));
        save_checkpoint(&shop.base(), model.config().json(), tensors, u64::MAX).unwrap();
        let layers: Vec<&str> = model.linear_modules().iter().filter_map(|m| m.name.rsplit('.').next()).collect();
        shop.write_adapter(&layers.into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>());
        shop.write_task_rows();
        shop
    }

    /// With two held-out rows of which one has a long answer and one a question longer than the model, and
    /// long answers in training.
    pub fn with_long_rows() -> Self {
        let shop = Self::new();
        let words = |n: usize| vec!["moon"; n].join(" ");
        let change = |file: &str, change: &dyn Fn(usize, &mut Row)| {
            let path = shop.base().join(file);
            let mut rows = read_rows(&path).unwrap();
            rows.iter_mut().enumerate().for_each(|(i, row)| change(i, row));
            write_rows(&path, &rows).unwrap();
        };
        change("test.jsonl", &|i, row| match i {
            0 => row.output = words(300),
            1 => row.input = words(300),
            _ => {}
        });
        change("train.jsonl", &|i, row| row.output = if i % 2 == 0 { words(300) } else { row.output.clone() });
        shop
    }

    // The world's own files over a base as it was drawn: the one step of its training is the first of a
    // warm-up, at a rate of zero.
    fn write_base(&self) {
        let train = TrainSpec { epochs: 1, batch_rows: 32, learning_rate: 1e-3, ..TrainSpec::default() };
        let spec = WorldSpec { train_rows: 32, test_rows: 6, train, ..WorldSpec::default() };
        build_world(&self.base(), &spec, &Lab::silent(1, self.scratch("world"))).unwrap();
        let rows = WorldSpec { train_rows: 60, ..spec };
        write_rows(&self.base().join("train.jsonl"), &world_rows(&rows).0).unwrap();
    }

    fn write_adapter(&self, targets: &[&str]) {
        let mut rng = rng(2, "adapter");
        let config = PeftConfig::new(2, 4, targets, "tiny");
        let mut adapter =
            LoraAdapter::fresh(config, self.model().config(), &mut || rng.random_range(-1.0..1.0)).unwrap();
        for factors in adapter.factors.values_mut() {
            let numbers: Vec<f32> = (0..factors.b.elem_count()).map(|_| rng.random_range(-0.02..0.02)).collect();
            factors.b = Tensor::from_vec(numbers, factors.b.dims(), &Device::Cpu).unwrap();
        }
        save_adapter(&adapter, &self.adapter()).unwrap();
    }

    fn write_task_rows(&self) {
        let mut rows: Vec<Row> = task_rows(12, 3, &[]);
        for (i, row) in rows.iter_mut().enumerate() {
            row.usage = Some(if i < 6 { RowUse::Measure } else { RowUse::Heal });
        }
        write_rows(&self.own(), &rows).unwrap();
    }

    /// The base's folder.
    pub fn base(&self) -> PathBuf {
        self.0.path().join("base")
    }

    fn adapter(&self) -> PathBuf {
        self.0.path().join("adapter")
    }

    fn own(&self) -> PathBuf {
        self.0.path().join("own.jsonl")
    }

    /// A scratch folder of this name.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// A lab with the spec's seed.
    pub fn lab(&self, scratch: &str) -> Lab {
        Lab::silent(1, self.scratch(scratch))
    }

    /// The base.
    pub fn model(&self) -> Model {
        load_model(&self.base(), &Device::Cpu).unwrap()
    }

    /// The suspicious adapter.
    pub fn suspect(&self) -> LoraAdapter {
        load_adapter(&self.adapter(), self.model().config(), &Device::Cpu).unwrap()
    }

    /// All parts.
    pub fn submission(&self) -> Submission {
        let suspect = Submitted::Adapter { adapter_dir: self.adapter(), base_dir: self.base() };
        self.submission_of(suspect)
    }

    /// All parts, with the base's own files as a whole model.
    pub fn whole_submission(&self) -> Submission {
        let dir = self.0.path().join("whole-model");
        if !dir.exists() {
            copy_checkpoint(&self.base(), &dir, |_| Ok(None)).unwrap();
        }
        self.submission_of(Submitted::Checkpoint { dir })
    }

    fn submission_of(&self, suspect: Submitted) -> Submission {
        Submission {
            suspect,
            train_rows: self.base().join("train.jsonl"),
            test_rows: self.base().join("test.jsonl"),
            task_rows: Some(self.own()),
            calibration_dir: Some(self.base()),
            base_dir: Some(self.base()),
            signature: None,
            folders: DataFolders::default(),
        }
    }

    /// A job of seconds: two pairs of four rows, one epoch, six probes. Nothing warms up: of a single step
    /// the first would be all, at a rate of zero.
    pub fn spec(&self) -> PurifySpec {
        serde_json::from_value(json!({
            "method": self.method(json!({})),
            "evaluators": [
                {"type": "asr", "attack": {"type": "badnets"}, "behaviour": {"type": "insult"}, "rows": 6, "max_new_tokens": 8},
                {"type": "utility", "rows": 6, "max_new_tokens": 8}
            ]
        }))
        .unwrap()
    }

    /// The method of [`Workshop::spec`], with further sections.
    pub fn method(&self, sections: serde_json::Value) -> MethodSpec {
        let mut method = json!({
            "type": "immunize",
            "pairs": {"count": 2, "rows": 4},
            "train": {"learning_rate": 2.5e-3, "epochs": 1, "warmup_fraction": 0.0},
            "heal": {"rows": 8, "task_rows": 4, "counterexamples": 4, "train": {"epochs": 1}, "train_with_task_rows": {"epochs": 1}}
        });
        method.as_object_mut().unwrap().extend(sections.as_object().unwrap().clone());
        serde_json::from_value(method).unwrap()
    }
}
