//! Root key files of the `local` provider: 32 random bytes, readable by the server's user only, outside everything that a base backup copies.

use crate::core::{entropy::Entropy, kdf, secret::Secret};
use rustix::{
    fs::{Mode, OFlags},
    process::geteuid,
};
use std::{
    fs::{DirBuilder, File, Metadata},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

const LABEL_FINGERPRINT: &[u8] = b"kms_wrap/v1/root-fingerprint\0";
const LABEL_STAMP: &[u8] = b"kms_wrap/v1/file-stamp\0";

/// Bytes of a root key file.
pub const ROOT_KEY_LEN: usize = 32;

/// Most characters of a root key's name.
pub const MAX_NAME: usize = 64;

/// Where root keys lie, and which directories they must not lie in.
#[derive(Debug, Clone)]
pub struct KeyDirectory {
    /// The directory of the key files.
    pub path: PathBuf,
    /// What `pg_basebackup` copies: data directory and tablespaces.
    pub copied_by_backups: Vec<PathBuf>,
}

/// Why a root key is not there to be used. The texts name files and fingerprints, never contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootKeyError {
    /// The name is empty, too long or has characters other than `A-Z a-z 0-9 _ . -`.
    BadName,
    /// There is a file of that name already.
    Exists(PathBuf),
    /// There is no such file or it cannot be read.
    Missing(String),
    /// It is there, but not to be trusted: rights, owner, length, kind of file, directory, contents.
    Unfit(String),
}

/// A root key in memory.
pub struct RootKey {
    /// The key.
    pub key: Secret<ROOT_KEY_LEN>,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
}

/// The first 16 bytes of SHA-256 over label and key: names a root key in configuration, errors and backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    fn of(key: &Secret<ROOT_KEY_LEN>) -> Self {
        let hash = kdf::sha256(&[LABEL_FINGERPRINT, key.expose()]);
        Self(hash.first_chunk().copied().unwrap_or_default())
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Reads 32 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        hex::decode(text).ok()?.try_into().ok().map(Self)
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What tells whether a key file is still the one that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    dev: u64,
    ino: u64,
    mode: u32,
    uid: u32,
    ctime: (i64, i64),
}

impl Stamp {
    pub(super) fn of(m: &Metadata) -> Self {
        Self { dev: m.dev(), ino: m.ino(), mode: m.mode(), uid: m.uid(), ctime: (m.ctime(), m.ctime_nsec()) }
    }

    /// SHA-256 of it: what other processes can remember of a file without its name or contents.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let (seconds, nanoseconds) = self.ctime;
        kdf::sha256(&[
            LABEL_STAMP,
            &self.dev.to_be_bytes(),
            &self.ino.to_be_bytes(),
            &self.mode.to_be_bytes(),
            &self.uid.to_be_bytes(),
            &seconds.to_be_bytes(),
            &nanoseconds.to_be_bytes(),
        ])
    }
}

impl KeyDirectory {
    /// The file of a root key.
    ///
    /// # Errors
    /// [`RootKeyError::BadName`]: a name cannot leave the directory.
    pub fn file(&self, name: &str) -> Result<PathBuf, RootKeyError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > MAX_NAME || name.starts_with('.') || !name.chars().all(fits) {
            return Err(RootKeyError::BadName);
        }
        Ok(self.path.join(name))
    }

    /// Makes a new root key. Written to a temporary file, synced, then linked to its name: it is there whole or not at all, and never replaces one.
    ///
    /// # Errors
    /// [`RootKeyError`].
    pub fn create(&self, name: &str, entropy: &mut impl Entropy) -> Result<Fingerprint, RootKeyError> {
        let file = self.file(name)?;
        self.make_directory()?;
        let mut key = Secret::zero();
        entropy.fill(key.expose_mut()).map_err(|e| RootKeyError::Missing(format!("No root key could be made: {e}.")))?;
        let failed = |e: &std::io::Error| {
            RootKeyError::Missing(format!("Root key file \"{}\" could not be written: {}.", file.display(), reason(e)))
        };
        let mut suffix = [0; 8];
        entropy.fill(&mut suffix).map_err(|e| RootKeyError::Missing(format!("No root key could be made: {e}.")))?;
        let temporary = self.path.join(format!(".{name}.{}", hex::encode(suffix)));
        let linked = write_new(&temporary, key.expose()).map(|()| std::fs::hard_link(&temporary, &file));
        // The temporary name has done its work, or must not stay.
        let removed = std::fs::remove_file(&temporary);
        match linked.map_err(|e| failed(&e))? {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(RootKeyError::Exists(file)),
            done => done.and(removed).and_then(|()| sync_directory(&self.path)).map_err(|e| failed(&e))?,
        }
        Ok(Fingerprint::of(&key))
    }

    /// Reads a root key after checking directory, kind of file, owner, mode and length.
    ///
    /// # Errors
    /// [`RootKeyError`].
    pub fn load(&self, name: &str) -> Result<(RootKey, Stamp), RootKeyError> {
        let path = self.file(name)?;
        self.check_directory().map_err(|e| match e {
            RootKeyError::Missing(text) => RootKeyError::Missing(format!("Root key file \"{}\" is missing. {text}", path.display())),
            other => other,
        })?;
        let unfit = |why: &str| RootKeyError::Unfit(format!("Root key file \"{}\" {why}.", path.display()));
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mut file = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(rustix::io::Errno::LOOP) => return Err(unfit("is a symbolic link")),
            Err(rustix::io::Errno::NOENT) => {
                return Err(RootKeyError::Missing(format!("Root key file \"{}\" is missing.", path.display())));
            }
            Err(e) => return Err(RootKeyError::Missing(format!("Root key file \"{}\" could not be opened: {e}.", path.display()))),
        };
        let meta = file.metadata().map_err(|_| unfit("could not be examined"))?;
        if !meta.is_file() {
            return Err(unfit("is not a regular file"));
        }
        if meta.uid() != geteuid().as_raw() {
            return Err(unfit("belongs to another user than the server's"));
        }
        if meta.mode() & 0o7177 != 0 {
            return Err(unfit(&format!("has mode {:04o}; it must be 0600 or 0400", meta.mode() & 0o7777)));
        }
        let mut key = Secret::zero();
        let mut rest = [0; 1];
        let whole = meta.len() == 32 && file.read_exact(key.expose_mut()).is_ok() && matches!(file.read(&mut rest), Ok(0));
        if !whole {
            return Err(unfit(&format!("has {} bytes; a root key has {ROOT_KEY_LEN}", meta.len())));
        }
        let fingerprint = Fingerprint::of(&key);
        Ok((RootKey { key, fingerprint }, Stamp::of(&meta)))
    }

    /// The stamp of a key file as it is now; `None` when there is none.
    #[must_use]
    pub fn stamp(&self, name: &str) -> Option<Stamp> {
        std::fs::symlink_metadata(self.file(name).ok()?).ok().map(|m| Stamp::of(&m))
    }

    /// Names of the files that could be root keys, sorted; empty when there is no directory.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.entries(|name| self.file(name).is_ok())
    }

    /// Names of temporary files that [`Self::create`] could not remove: each may hold a root key.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        self.entries(|name| name.starts_with('.'))
    }

    fn entries(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.path) else { return Vec::new() };
        let mut names: Vec<_> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).filter(|n| wanted(n)).collect();
        names.sort();
        names
    }

    /// Whether the directory exists, belongs to the server's user alone and lies outside what base backups copy.
    ///
    /// # Errors
    /// [`RootKeyError`].
    pub fn check_directory(&self) -> Result<(), RootKeyError> {
        let shown = self.path.display();
        let meta = std::fs::metadata(&self.path)
            .map_err(|e| RootKeyError::Missing(format!("Key directory \"{shown}\" cannot be used: {}.", reason(&e))))?;
        let unfit = |why: String| RootKeyError::Unfit(format!("Key directory \"{shown}\" {why}."));
        if !meta.is_dir() {
            return Err(unfit("is not a directory".to_owned()));
        }
        if meta.uid() != geteuid().as_raw() {
            return Err(unfit("belongs to another user than the server's".to_owned()));
        }
        if meta.mode() & 0o077 != 0 {
            return Err(unfit(format!("has mode {:04o}; it must be 0700", meta.mode() & 0o7777)));
        }
        self.check_outside(&self.path)
    }

    fn check_outside(&self, path: &Path) -> Result<(), RootKeyError> {
        let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let inside = self.copied_by_backups.iter().filter_map(|d| std::fs::canonicalize(d).ok()).any(|d| real.starts_with(d));
        if inside {
            return Err(RootKeyError::Unfit(format!(
                "Key directory \"{}\" lies inside the data directory or a tablespace, which base backups copy.",
                self.path.display()
            )));
        }
        Ok(())
    }

    fn make_directory(&self) -> Result<(), RootKeyError> {
        if !self.path.is_absolute() {
            return Err(RootKeyError::Unfit(format!("Key directory \"{}\" is not an absolute path.", self.path.display())));
        }
        // Before making it: a refused place must not be left with a directory in it.
        self.check_outside(self.path.parent().unwrap_or(&self.path))?;
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Ok(()) => sync_directory(self.path.parent().unwrap_or(&self.path)).map_err(|e| {
                RootKeyError::Missing(format!("Key directory \"{}\" could not be synced: {}.", self.path.display(), reason(&e)))
            })?,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => {
                return Err(RootKeyError::Missing(format!("Key directory \"{}\" could not be made: {}.", self.path.display(), reason(&e))));
            }
        }
        self.check_directory()
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// An I/O error in the words of PostgreSQL's own messages.
pub(super) fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "it does not exist".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        kind => kind.to_string(),
    }
}
