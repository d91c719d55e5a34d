//! The workplace of one job: device, seed, scratch folder, progress and the stop signal.
//!
//! Every step takes a [`Lab`]. Randomness comes from named streams of one seed ([`Lab::rng`]); finished work
//! is kept as *pieces*, folders named by the digest of their kind and inputs ([`Lab::piece`]), so that a run
//! started again repeats nothing.

mod digest;
mod long_rows;
mod progress;
mod random;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use antigen_models::device::share_one_heap;
use antigen_models::kernels::{Precision, uses_matrix_unit};
use candle_core::Device;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

pub use digest::{hex, sha256_hex};
pub use long_rows::LongRows;
pub use progress::{Lines, ProgressSink, Silent};
pub use random::{normal, rng};

use crate::error::{EngineError, Result};
use crate::stage::Stage;

/// The workplace of one job.
pub struct Lab {
    /// The device on which tensors live.
    pub device: Device,
    /// The one seed; every random stream derives from it.
    pub seed: u64,
    /// Folder for pieces; survives interruptions, belongs to this job alone.
    pub scratch: PathBuf,
    /// Bytes that training may use beside the models that are loaded already; `None` is no limit.
    pub memory_budget: Option<u64>,
    /// The precision of the operands in products with the weights of models.
    pub precision: Precision,
    /// True when the processor's matrix unit computes large products, and so rounds sums its own way; `None`
    /// on a GPU.
    pub matrix_unit: Option<bool>,
    stage: AtomicU8,
    progress: Arc<dyn ProgressSink>,
    cancel: Arc<AtomicBool>,
    /// The part of its stage that this lab works on, and the number of equal parts.
    part: (u64, u64),
    /// True where the stages entered are steps of the present one.
    within: bool,
    /// Rows that were too long, as noted so far.
    long_rows: Arc<Mutex<Vec<LongRows>>>,
}

/// Names a piece: SHA-256 over its kind and everything that determines its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PieceKey(String);

impl PieceKey {
    /// The key of a piece of `kind` made from `inputs` (serialised as JSON: give digests for files, not
    /// paths).
    pub fn new(kind: &str, inputs: &impl Serialize) -> Self {
        let inputs = serde_json::to_vec(inputs).expect("specs and digests always serialise");
        let mut hash = Sha256::new();
        hash.update(concat!("antigen/", env!("CARGO_PKG_VERSION"), "/piece\0"));
        hash.update(kind.as_bytes());
        hash.update([0]);
        hash.update(inputs);
        Self(format!("{kind}-{}", &hex(&hash.finalize())[..32]))
    }

    /// Folder name of the piece.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Lab {
    /// A workplace; `cancel` may be set from any thread at any time.
    pub fn new(
        device: Device,
        seed: u64,
        scratch: impl Into<PathBuf>,
        progress: Arc<dyn ProgressSink>,
        cancel: Arc<AtomicBool>,
    ) -> Self {
        share_one_heap();
        let stage = AtomicU8::new(Stage::Inspect as u8);
        Self {
            matrix_unit: device.is_cpu().then(uses_matrix_unit),
            device,
            seed,
            scratch: scratch.into(),
            memory_budget: None,
            precision: Precision::default(),
            stage,
            progress,
            cancel,
            part: (0, 1),
            within: false,
            long_rows: Arc::default(),
        }
    }

    /// A workplace on the CPU that reports to nobody and is never cancelled.
    pub fn silent(seed: u64, scratch: impl Into<PathBuf>) -> Self {
        Self::new(Device::Cpu, seed, scratch, Arc::new(Silent), Arc::default())
    }

    /// The device as reports name it: `cpu` or `cuda`.
    pub fn device_name(&self) -> &'static str {
        if self.device.is_cuda() { "cuda" } else { "cpu" }
    }

    /// Begins a stage.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] when somebody asked to stop.
    pub fn enter(&self, stage: Stage) -> Result<()> {
        self.check_cancel()?;
        tracing::debug!(?stage, self.within, "enter");
        if self.within {
            return Ok(());
        }
        self.stage.store(stage as u8, Ordering::Relaxed);
        self.progress.enter(stage);
        Ok(())
    }

    /// The stage entered last.
    pub fn stage(&self) -> Stage {
        Stage::ALL[usize::from(self.stage.load(Ordering::Relaxed))]
    }

    /// Reports progress within the stage.
    pub fn advance(&self, done: u64, total: u64) {
        let (part, parts) = self.part;
        self.progress.advance(part * total + done, parts * total);
    }

    /// The same workplace for one of several parts of the stage that follow each other: its reports are the
    /// share of that part.
    pub fn part(&self, part: usize, parts: usize) -> Self {
        Self {
            device: self.device.clone(),
            seed: self.seed,
            scratch: self.scratch.clone(),
            memory_budget: self.memory_budget,
            precision: self.precision,
            matrix_unit: self.matrix_unit,
            stage: AtomicU8::new(self.stage() as u8),
            progress: Arc::clone(&self.progress),
            cancel: Arc::clone(&self.cancel),
            part: (part as u64, parts as u64),
            within: self.within,
            long_rows: Arc::clone(&self.long_rows),
        }
    }

    /// The same workplace for work that is a part of the present stage: stages entered there are not
    /// reported, and neither are rows that were too long.
    pub fn within(&self) -> Self {
        Self { within: true, part: self.part, long_rows: Arc::default(), ..self.part(0, 1) }
    }

    /// The same workplace with the random streams of another seed.
    pub fn with_seed(&self, seed: u64) -> Self {
        Self { seed, part: self.part, ..self.part(0, 1) }
    }

    /// Refuses to go on once somebody asked to stop.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] when somebody asked to stop.
    pub fn check_cancel(&self) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) { Err(EngineError::Cancelled) } else { Ok(()) }
    }

    /// Notes rows that were too long for the model; nothing where all had room.
    pub fn note_long_rows(&self, rows: &LongRows) {
        if rows.any() {
            self.long_rows.lock().unwrap_or_else(PoisonError::into_inner).push(rows.clone());
        }
    }

    /// Takes the notes of rows that were too long, in the order in which they were made.
    pub fn take_long_rows(&self) -> Vec<LongRows> {
        std::mem::take(&mut *self.long_rows.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The random stream of this name: the same seed and name give the same numbers on every machine.
    pub fn rng(&self, stream: &str) -> ChaCha8Rng {
        rng(self.seed, stream)
    }

    /// The finished folder of a piece, made now if it is not there yet.
    ///
    /// The lab's precision, matrix unit and device help to determine the bytes of a piece, so each of them
    /// has folders of its own: a job continued on another machine does not mix their roundings. `make` writes
    /// into a temporary folder, which is renamed once it is complete: an interrupted piece never looks
    /// finished.
    ///
    /// # Errors
    /// Those of `make`, and [`EngineError::Io`].
    pub fn piece(&self, key: &PieceKey, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let name = self.piece_name(key);
        let done = self.scratch.join(&name);
        if done.is_dir() {
            tracing::debug!(piece = name, "reused");
            return Ok(done);
        }
        let partial = self.scratch.join(format!("{name}.partial"));
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(EngineError::io(&partial))?;
        }
        fs::create_dir_all(&partial).map_err(EngineError::io(&partial))?;
        make(&partial)?;
        sync_files(&partial)?;
        fs::rename(&partial, &done).map_err(EngineError::io(&done))?;
        Ok(done)
    }

    fn piece_name(&self, key: &PieceKey) -> String {
        let precision = if self.precision == Precision::Bfloat16 { "-bfloat16" } else { "" };
        let unit = match self.matrix_unit {
            None => "-gpu",
            Some(true) => "-matrix-unit",
            Some(false) => "",
        };
        format!("{}{precision}{unit}", key.as_str())
    }

    /// The value of a piece that holds a single value, made now if it is not there yet, or if an earlier
    /// release kept it in another file.
    ///
    /// # Errors
    /// As [`Lab::piece`].
    pub fn value<T: Serialize + DeserializeOwned>(
        &self,
        key: &PieceKey,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let done = self.scratch.join(self.piece_name(key));
        if done.is_dir() && !done.join(VALUE).exists() {
            fs::remove_dir_all(&done).map_err(EngineError::io(&done))?;
        }
        let folder = self.piece(key, |folder| {
            let file = folder.join(VALUE);
            fs::write(&file, serde_json::to_vec(&make()?).expect("values always serialise"))
                .map_err(EngineError::io(&file))
        })?;
        let file = folder.join(VALUE);
        let bytes = fs::read(&file).map_err(EngineError::io(&file))?;
        serde_json::from_slice(&bytes).map_err(|error| EngineError::io(&file)(error.into()))
    }
}

/// The file of a piece that holds a single value.
const VALUE: &str = "value.json";

/// A budget of `bytes` for [`Lab::memory_budget`]; 0 is four fifths of the memory that the machine has
/// available now, and no limit where the system does not tell.
pub fn memory_budget(bytes: u64) -> Option<u64> {
    if bytes > 0 {
        return Some(bytes);
    }
    let status = fs::read_to_string("/proc/meminfo").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024 / 5 * 4)
}

/// Writes a file that appears complete or not at all.
///
/// # Errors
/// The disk refuses.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = fs::File::create(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(partial, path)
}

// A rename may reach the disk before the data does; a power cut would then leave a "finished" empty piece.
fn sync_files(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(EngineError::io(folder))? {
        let path = entry.map_err(EngineError::io(folder))?.path();
        if path.is_dir() {
            sync_files(&path)?;
        } else {
            fs::File::open(&path).and_then(|file| file.sync_all()).map_err(EngineError::io(&path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::Rng;

    use super::*;

    #[test]
    fn a_stream_depends_on_seed_and_name_alone() {
        let draw = |seed, name| rng(seed, name).random::<u64>();
        assert_eq!(draw(7, "heal"), draw(7, "heal"));
        assert_ne!(draw(7, "heal"), draw(8, "heal"));
        assert_ne!(draw(7, "heal"), draw(7, "pairs"));
    }

    #[test]
    fn a_finished_piece_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let lab = Lab::silent(1, folder.path());
        let key = PieceKey::new("sum", &[1, 2]);
        for expected in ["first", "first"] {
            let path = lab.piece(&key, |p| fs::write(p.join("x"), "first").map_err(EngineError::io(p))).unwrap();
            assert_eq!(fs::read_to_string(path.join("x")).unwrap(), expected);
        }
        assert_ne!(key, PieceKey::new("sum", &[1, 3]));
    }

    #[test]
    fn a_piece_computed_otherwise_is_another_piece() {
        let folder = tempfile::tempdir().unwrap();
        let mut lab = Lab::silent(1, folder.path());
        let key = PieceKey::new("sum", &0);
        let mut pieces = BTreeSet::new();
        for precision in [Precision::Float32, Precision::Bfloat16] {
            for matrix_unit in [None, Some(false), Some(true)] {
                (lab.precision, lab.matrix_unit) = (precision, matrix_unit);
                pieces.insert(lab.piece(&key, |_| Ok(())).unwrap());
            }
        }
        assert_eq!(pieces.len(), 6);
    }

    #[test]
    fn an_interrupted_piece_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let lab = Lab::silent(1, folder.path());
        let key = PieceKey::new("sum", &0);
        let broken = lab.piece(&key, |p| {
            fs::write(p.join("half"), "1").unwrap();
            Err(EngineError::Cancelled)
        });
        assert!(matches!(broken, Err(EngineError::Cancelled)));
        let path = lab.piece(&key, |p| fs::write(p.join("whole"), "2").map_err(EngineError::io(p))).unwrap();
        assert!(path.join("whole").exists() && !path.join("half").exists());
    }

    #[test]
    fn a_value_is_made_once_and_again_where_its_folder_holds_something_else() {
        let folder = tempfile::tempdir().unwrap();
        let lab = Lab::silent(1, folder.path());
        let key = PieceKey::new("value", &1);
        let earlier = folder.path().join(lab.piece_name(&key));
        fs::create_dir_all(&earlier).unwrap();
        fs::write(earlier.join("answers.json"), "[]").unwrap();
        assert_eq!(lab.value(&key, || Ok(vec![1, 2])).unwrap(), [1, 2]);
        assert_eq!(lab.value(&key, || Ok(vec![3])).unwrap(), [1, 2]);
    }

    #[test]
    fn stages_are_listed_in_their_order() {
        assert!(Stage::ALL.iter().enumerate().all(|(i, stage)| *stage as usize == i));
    }

    #[test]
    fn a_cancelled_lab_enters_no_stage() {
        let cancel = Arc::new(AtomicBool::new(true));
        let lab = Lab::new(Device::Cpu, 1, "unused", Arc::new(Silent), cancel);
        assert!(matches!(lab.enter(Stage::Pairs), Err(EngineError::Cancelled)));
    }
}
