//! The state that every handler shares: settings, database, store. Cheap to clone; built once by
//! `antigen serve` and by each test.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use crate::artifacts::ArtifactStore;
use crate::config::Config;
use crate::db::{Db, UploadId};
use crate::intake::IntakeLimits;

/// The application's state.
#[derive(Debug, Clone)]
pub struct App {
    /// Every setting.
    pub config: Arc<Config>,
    /// All rows.
    pub db: Db,
    /// All bytes.
    pub store: ArtifactStore,
    /// Files of uploads that a request of this process is writing right now.
    receiving: Arc<Mutex<HashSet<(UploadId, String)>>>,
}

impl App {
    /// Puts the parts together. Opens nothing and starts nothing.
    pub fn new(config: Config, db: Db, store: ArtifactStore) -> Self {
        App { config: Arc::new(config), db, store, receiving: Arc::default() }
    }

    /// Limits of what an upload may unpack to.
    pub fn intake_limits(&self) -> IntakeLimits {
        let limits = &self.config.limits;
        IntakeLimits {
            max_total_bytes: limits.unpacked_bytes,
            max_files: usize::try_from(limits.unpacked_files).unwrap_or(usize::MAX),
            max_header_bytes: limits.header_bytes,
            max_tensors: usize::try_from(limits.header_tensors).unwrap_or(usize::MAX),
            ..IntakeLimits::default()
        }
    }

    /// Reserves one file of an upload for one request; `None` while another request writes it.
    pub fn reserve_file(&self, upload: UploadId, name: &str) -> Option<Reservation> {
        let key = (upload, name.to_owned());
        let mut receiving = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        let free = receiving.insert(key.clone());
        free.then(|| Reservation { key, receiving: self.receiving.clone() })
    }

    /// True while a request is writing a file of this upload.
    pub fn is_receiving(&self, upload: UploadId) -> bool {
        let receiving = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        receiving.iter().any(|(busy, _)| *busy == upload)
    }
}

/// The right to write one file of an upload; ends when dropped.
#[derive(Debug)]
pub struct Reservation {
    key: (UploadId, String),
    receiving: Arc<Mutex<HashSet<(UploadId, String)>>>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}
