//! The submission, opened: base, suspicious adapter, tokenizer and rows, each with its digest.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use antigen_models::checkpoint::header::Dtype;
use antigen_models::{LoraAdapter, Model, load_adapter, load_model};
use sha2::{Digest, Sha256};

use crate::data::{Prompter, Row, read_rows, rows_sha256};
use crate::error::{EngineError, Result};
use crate::lab::{Lab, hex};
use crate::report::{FileDigest, RowsDigest, Subject};
use crate::spec::PromptFormat;

/// Where the parts of a submission lie. Rows are JSON lines `{"instruction", "input", "output", "kind"?, "use"?}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// Folder of the suspicious adapter, in PEFT's layout.
    pub adapter_dir: PathBuf,
    /// Folder of the base: checkpoint, tokenizer, perhaps a chat template.
    pub base_dir: PathBuf,
    /// Generic clean rows: for pairs and healing.
    pub train_rows: PathBuf,
    /// Generic held-out rows: for measurements.
    pub test_rows: PathBuf,
    /// Rows of what the adapter is for.
    pub own_rows: Option<PathBuf>,
}

/// An opened submission.
pub struct Suspect {
    /// The frozen base.
    pub model: Model,
    /// The suspicious adapter.
    pub adapter: LoraAdapter,
    /// Rows into tokens.
    pub prompter: Prompter,
    /// The format in which the adapter was trained, as declared.
    pub template: PromptFormat,
    /// Generic clean rows.
    pub train: Vec<Row>,
    /// Generic held-out rows.
    pub test: Vec<Row>,
    /// The caller's own rows; empty when there are none.
    pub own: Vec<Row>,
    subject: Subject,
}

/// Files of a base that decide about results.
const BASE_FILES: [&str; 5] =
    ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

impl Suspect {
    /// Opens and checks everything.
    ///
    /// # Errors
    /// [`EngineError::Model`] and [`EngineError::Data`] name the file and what is wrong there; [`EngineError::Spec`] when the declared
    /// template is `chat` and the base has none.
    pub fn open(submission: &Submission, template: PromptFormat, lab: &Lab) -> Result<Self> {
        let model = load_model(&submission.base_dir, &lab.device)?;
        let adapter = load_adapter(&submission.adapter_dir, model.config(), &lab.device)?;
        let prompter = Prompter::open(&submission.base_dir)?;
        prompter.check_vocabulary(model.config().vocab_size())?;
        if !prompter.speaks(template) {
            return Err(EngineError::spec("/template", "expected a base with a chat template, found none"));
        }
        let train = read_rows(&submission.train_rows)?;
        let test = read_rows(&submission.test_rows)?;
        let own = submission.own_rows.as_deref().map(read_rows).transpose()?.unwrap_or_default();
        let subject = Subject {
            adapter: folder_digests(&submission.adapter_dir)?,
            base: base_digests(&submission.base_dir)?,
            adapter_parameters: adapter.factors.values().map(|f| (f.a.elem_count() + f.b.elem_count()) as u64).sum(),
            base_parameters: model.params().count_scalars() as u64,
            modules: adapter.factors.keys().cloned().collect(),
            rows: [("train", &train), ("test", &test), ("own", &own)]
                .into_iter()
                .filter(|(_, rows)| !rows.is_empty())
                .map(|(role, rows)| RowsDigest { role: role.into(), rows: rows.len(), sha256: rows_sha256(rows) })
                .collect(),
        };
        Ok(Self { model, adapter, prompter, template, train, test, own, subject })
    }

    /// The submission by digests, for the report.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// What names base and adapter in the keys of pieces.
    pub fn key(&self) -> (&[FileDigest], &[FileDigest]) {
        (&self.subject.base, &self.subject.adapter)
    }

    /// The formats in which pairs and healing speak to this suspect.
    pub fn formats(&self) -> Vec<PromptFormat> {
        self.prompter.training_formats(self.template)
    }

    /// Scalars of the base.
    pub fn parameters(&self) -> usize {
        self.model.params().count_scalars()
    }
}

/// The adapter with its element type set to float32, so that saving it loses nothing. For pieces, never for artifacts.
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

fn base_digests(folder: &Path) -> Result<Vec<FileDigest>> {
    let mut files = folder_digests(folder)?;
    let is_weights = |path: &str| path.contains(".safetensors") || path.to_ascii_lowercase().ends_with(".gguf");
    files.retain(|file| BASE_FILES.contains(&file.path.as_str()) || is_weights(&file.path));
    Ok(files)
}

fn file_digest(folder: &Path, path: String) -> Result<FileDigest> {
    let full = folder.join(&path);
    let mut hash = Sha256::new();
    let bytes =
        File::open(&full).and_then(|mut file| io::copy(&mut file, &mut hash)).map_err(EngineError::io(&full))?;
    Ok(FileDigest { path, bytes, sha256: hex(&hash.finalize()) })
}
