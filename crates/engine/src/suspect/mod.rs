//! The submission, opened: an adapter with its base or a whole model, tokenizer and rows, each with its
//! digest.

mod subject;
mod submission;
pub mod weights;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use antigen_models::checkpoint::header::Dtype;
use antigen_models::checkpoint::open_checkpoint;
use antigen_models::families::check_tensors;
use antigen_models::kernels::Precision;
use antigen_models::{Device, FamilyConfig, LoraAdapter, Model, ModuleKind, ModuleShape, load_adapter, load_model};
use sha2::{Digest, Sha256};

use crate::data::{Prompter, Row, read_rows, rows_sha256};
use crate::error::{EngineError, Result};
use crate::lab::{Lab, PieceKey, hex};
use crate::spec::{DataFolders, PromptFormat, SubjectKind, SuspectFacts};
pub use subject::{FileDigest, RowsDigest, Subject};
pub use submission::{Submission, Submitted};
use weights::{CheckpointFolder, Held, Opened, Weights};

/// The model of a submission.
#[derive(Clone)]
pub enum SuspectModel {
    /// An adapter over its frozen base.
    Adapter {
        /// The base.
        base: Arc<Model>,
        /// The adapter.
        adapter: LoraAdapter,
    },
    /// A whole model on disk.
    Whole(CheckpointFolder),
}

impl SuspectModel {
    /// The same kind of model with other weights.
    fn with(&self, weights: Weights) -> Result<Self> {
        match (self, weights) {
            (Self::Adapter { base, .. }, Weights::Adapter(adapter)) => {
                Ok(Self::Adapter { base: Arc::clone(base), adapter })
            }
            (Self::Whole(_), Weights::Checkpoint(folder)) => Ok(Self::Whole(folder)),
            _ => Err(EngineError::Data("expected weights of the suspect's kind, found another".into())),
        }
    }
}

/// An opened submission.
#[derive(Clone)]
pub struct Suspect {
    /// The adapter over its base, or the whole model.
    pub model: SuspectModel,
    /// Rows into tokens.
    pub prompter: Arc<Prompter>,
    /// The format in which the suspect was trained, as declared.
    pub template: PromptFormat,
    /// Generic clean rows.
    pub train: Vec<Row>,
    /// Generic held-out rows.
    pub test: Vec<Row>,
    /// The caller's task rows; empty when there are none.
    pub task: Vec<Row>,
    /// The signature that is given, if one is.
    pub given_signature: Option<PathBuf>,
    /// Public data that evaluators read.
    pub folders: DataFolders,
    /// Folder of the base that the job names.
    base_dir: Option<PathBuf>,
    config: FamilyConfig,
    modules: Vec<ModuleShape>,
    device: Device,
    precision: Precision,
    subject: Subject,
}

const TOKENIZER: &str = "tokenizer.json";

/// Files of a base that decide about results.
const BASE_FILES: [&str; 5] =
    ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

impl Suspect {
    /// Opens and checks everything. Of a whole model only headers and digests are read here.
    ///
    /// # Errors
    /// [`EngineError::Model`] and [`EngineError::Data`] name the file and what is wrong there, such as a
    /// classifier; [`EngineError::Spec`] when the declared template is `chat` and the model has none.
    pub fn open(submission: &Submission, template: PromptFormat, lab: &Lab) -> Result<Self> {
        let opened = open_submitted(&submission.suspect, lab)?;
        if let Some(labels) = opened.config.sizes().labels {
            return Err(EngineError::Data(format!(
                "expected a language model, found a sequence classifier of {labels} labels"
            )));
        }
        let prompter = Prompter::open(submission.suspect.model_dir())?;
        prompter.check_vocabulary(opened.config.vocab_size())?;
        if !prompter.speaks(template) {
            return Err(EngineError::spec("/template", "expected a base with a chat template, found none"));
        }
        let train = read_rows(&submission.train_rows)?;
        let test = read_rows(&submission.test_rows)?;
        let task = submission.task_rows.as_deref().map(read_rows).transpose()?.unwrap_or_default();
        let rows = [("train", &train), ("test", &test), ("task", &task)]
            .into_iter()
            .filter(|(_, rows)| !rows.is_empty())
            .map(|(role, rows)| RowsDigest { role: role.into(), rows: rows.len(), sha256: rows_sha256(rows) })
            .collect();
        let signature = submission.signature.as_deref().map(single_digest).transpose()?;
        Ok(Self {
            model: opened.model,
            given_signature: submission.signature.clone(),
            base_dir: submission.base_dir.clone(),
            modules: opened.config.linear_modules(),
            config: opened.config,
            device: lab.device.clone(),
            precision: lab.precision,
            subject: Subject { rows, signature, ..opened.subject },
            prompter: Arc::new(prompter),
            template,
            train,
            test,
            task,
            folders: submission.folders.clone(),
        })
    }

    /// The same submission with other weights, which lie in the folder `dir` in the suspect's layout.
    ///
    /// # Errors
    /// [`EngineError::Data`] for weights of another kind, [`EngineError::Io`] when the folder cannot be read.
    pub fn with_weights(&self, weights: Weights, dir: &Path) -> Result<Self> {
        let mut other = Self { model: self.model.with(weights)?, ..self.clone() };
        match self.subject.kind {
            SubjectKind::Adapter => other.subject.adapter = folder_digests(dir)?,
            SubjectKind::Checkpoint => other.subject.checkpoint = folder_digests(dir)?,
        }
        Ok(other)
    }

    /// The same submission with other generic rows to train on and to measure with.
    pub fn with_rows(&self, train: Vec<Row>, test: Vec<Row>) -> Self {
        Self { train, test, ..self.clone() }
    }

    /// The submission by digests, for the report.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The facts that decide about the methods that take it.
    pub fn facts(&self) -> SuspectFacts {
        SuspectFacts {
            kind: self.subject.kind,
            blocks: Some(self.config.layers()),
            speaks_as_base: self.speaks_as_base(),
            given_signature: self.given_signature.is_some(),
        }
    }

    /// True when suspect and base have the same tokenizer, where both are known.
    fn speaks_as_base(&self) -> Option<bool> {
        let tokenizer = |files: &[FileDigest]| files.iter().find(|file| file.path == TOKENIZER).cloned();
        let base = file_digest(self.base_dir.as_deref()?, TOKENIZER.into()).ok()?;
        let own = tokenizer(&self.subject.checkpoint).or_else(|| tokenizer(&self.subject.base))?;
        Some(own.sha256 == base.sha256)
    }

    /// The base that the job names, which has the suspect's tokenizer: its folder, and the digests of the
    /// files that decide about results.
    ///
    /// # Errors
    /// [`EngineError::Data`] where none is named or it has another tokenizer; [`EngineError::Io`].
    pub fn named_base(&self) -> Result<(&Path, Vec<FileDigest>)> {
        match (&self.base_dir, self.speaks_as_base()) {
            (Some(dir), Some(true)) => Ok((dir, base_digests(dir)?)),
            (Some(_), _) => {
                Err(EngineError::Data("expected a base with the suspect's tokenizer, found another".into()))
            }
            (None, _) => Err(EngineError::Data("expected the base that the job names, found none".into())),
        }
    }

    /// The digests that name base and suspect in the keys of pieces.
    pub fn key(&self) -> (&[FileDigest], &[FileDigest]) {
        let suspect = if self.subject.checkpoint.is_empty() { &self.subject.adapter } else { &self.subject.checkpoint };
        (&self.subject.base, suspect)
    }

    /// The formats in which pairs and healing speak to this suspect.
    pub fn formats(&self) -> Vec<PromptFormat> {
        self.prompter.training_formats(self.template)
    }

    /// The model's configuration: the base's, or the whole model's own.
    pub fn config(&self) -> &FamilyConfig {
        &self.config
    }

    /// The model's linear layers.
    pub fn modules(&self) -> &[ModuleShape] {
        &self.modules
    }

    /// True when the suspect can have learnt in a layer of some kind: an adapter where it sits, a whole model
    /// everywhere.
    pub fn changes(&self, kind: impl Fn(ModuleKind) -> bool) -> bool {
        self.changed_modules().any(|module| kind(module.kind))
    }

    /// The linear layers that the suspect can have learnt in.
    pub fn changed_modules(&self) -> impl Iterator<Item = &ModuleShape> {
        self.modules.iter().filter(|module| self.subject.modules.binary_search(&module.name).is_ok())
    }

    /// The device on which the suspect is computed.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The frozen base of an adapter.
    pub fn base(&self) -> Option<&Model> {
        match &self.model {
            SuspectModel::Adapter { base, .. } => Some(base),
            SuspectModel::Whole(_) => None,
        }
    }

    /// The suspect's own weights, as one would hold those of a candidate.
    pub fn weights(&self) -> Weights {
        match &self.model {
            SuspectModel::Adapter { adapter, .. } => Weights::Adapter(adapter.clone()),
            SuspectModel::Whole(folder) => Weights::Checkpoint(folder.clone()),
        }
    }

    /// Scalars of the base, or of the whole model.
    pub fn parameters(&self) -> usize {
        self.subject.base_parameters as usize
    }

    /// A whole model like this suspect, to be trained or asked.
    ///
    /// # Errors
    /// [`EngineError::Model`] when the folder does not open as a model.
    pub fn load_whole(&self, folder: &CheckpointFolder) -> Result<Model> {
        let mut model = load_model(&folder.dir, &self.device)?;
        model.params_mut().set_precision(self.precision);
        Ok(model)
    }

    /// Weights over this suspect's base, or a whole model like it, in memory.
    ///
    /// # Errors
    /// [`EngineError::Model`] when a folder does not open as a model.
    pub fn open_weights<'a>(&'a self, weights: &'a Weights) -> Result<Opened<'a>> {
        let adapter = match weights {
            Weights::Checkpoint(folder) => {
                let model = Box::new(self.load_whole(folder)?);
                return Ok(Opened { model: Held::Own(model), adapter: None });
            }
            Weights::Adapter(adapter) => Some(adapter),
            Weights::Base => None,
        };
        let base = self.base().ok_or_else(|| EngineError::Data("a whole model has no base under it".into()))?;
        Ok(Opened { model: Held::Shared(base), adapter })
    }
}

/// A submission of which the model is opened and the rows are not read yet.
struct OpenedSubmission {
    model: SuspectModel,
    config: FamilyConfig,
    subject: Subject,
}

fn open_submitted(submitted: &Submitted, lab: &Lab) -> Result<OpenedSubmission> {
    match submitted {
        Submitted::Adapter { adapter_dir, base_dir } => open_adapter(adapter_dir, base_dir, lab),
        Submitted::Checkpoint { dir } => open_whole_model(dir),
    }
}

fn open_adapter(adapter_dir: &Path, base_dir: &Path, lab: &Lab) -> Result<OpenedSubmission> {
    let mut base = load_model(base_dir, &lab.device)?;
    base.freeze(lab.precision)?;
    let adapter = load_adapter(adapter_dir, base.config(), &lab.device)?;
    let subject = Subject {
        kind: SubjectKind::Adapter,
        adapter: folder_digests(adapter_dir)?,
        base: base_digests(base_dir)?,
        checkpoint: Vec::new(),
        storage: None,
        adapter_parameters: adapter.factors.values().map(|f| (f.a.elem_count() + f.b.elem_count()) as u64).sum(),
        base_parameters: base.params().count_scalars() as u64,
        modules: adapter.factors.keys().cloned().collect(),
        rows: Vec::new(),
        signature: None,
    };
    let config = base.config().clone();
    Ok(OpenedSubmission { model: SuspectModel::Adapter { base: Arc::new(base), adapter }, config, subject })
}

fn open_whole_model(dir: &Path) -> Result<OpenedSubmission> {
    let checkpoint = open_checkpoint(dir)?;
    let config = FamilyConfig::from_json(&checkpoint.config_json)?;
    check_tensors(&config, &checkpoint)?;
    let files = folder_digests(dir)?;
    let scalars = config.tensor_shapes().iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum();
    let folder =
        CheckpointFolder { dir: dir.to_owned(), digest: PieceKey::new("checkpoint", &files).as_str().to_owned() };
    let mut modules: Vec<String> = config.linear_modules().into_iter().map(|module| module.name).collect();
    modules.sort();
    let subject = Subject {
        kind: SubjectKind::Checkpoint,
        adapter: Vec::new(),
        base: Vec::new(),
        checkpoint: files,
        storage: (!checkpoint.is_plain()).then(|| checkpoint.storage().to_owned()),
        adapter_parameters: 0,
        base_parameters: scalars,
        modules,
        rows: Vec::new(),
        signature: None,
    };
    Ok(OpenedSubmission { model: SuspectModel::Whole(folder), config, subject })
}

/// The adapter with its element type set to float32, so that saving it loses nothing. For pieces, never for
/// artifacts.
pub(crate) fn stored_exactly(mut adapter: LoraAdapter) -> LoraAdapter {
    adapter.config.dtype = Dtype::F32;
    adapter
}

/// Digests of all files of a folder, sorted by name.
///
/// # Errors
/// [`EngineError::Io`].
pub fn folder_digests(folder: &Path) -> Result<Vec<FileDigest>> {
    let entries = std::fs::read_dir(folder).map_err(EngineError::io(folder))?;
    let mut names = entries
        .map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()).map_err(EngineError::io(folder)))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    names.into_iter().filter(|name| folder.join(name).is_file()).map(|name| file_digest(folder, name)).collect()
}

/// Digests of those files of a base that decide about results.
pub(crate) fn base_digests(folder: &Path) -> Result<Vec<FileDigest>> {
    let mut files = folder_digests(folder)?;
    let is_weights = |path: &str| path.contains(".safetensors") || path.to_ascii_lowercase().ends_with(".gguf");
    files.retain(|file| BASE_FILES.contains(&file.path.as_str()) || is_weights(&file.path));
    Ok(files)
}

/// Digest of a file that was handed in alone.
///
/// # Errors
/// [`EngineError::Io`].
pub(crate) fn single_digest(file: &Path) -> Result<FileDigest> {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    file_digest(file.parent().unwrap_or(Path::new("")), name)
}

fn file_digest(folder: &Path, path: String) -> Result<FileDigest> {
    let full = folder.join(&path);
    let mut hash = Sha256::new();
    let bytes =
        File::open(&full).and_then(|mut file| io::copy(&mut file, &mut hash)).map_err(EngineError::io(&full))?;
    Ok(FileDigest { path, bytes, sha256: hex(&hash.finalize()) })
}
