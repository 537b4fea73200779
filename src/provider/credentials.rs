//! Credential files: tokens, passwords and client keys lie in one directory of the server, and SQL knows them by name only.

use super::{
    ProviderError,
    root_key::{MAX_NAME, Stamp, reason},
};
use rustix::{
    fs::{Mode, OFlags},
    process::geteuid,
};
use std::{
    fs::{File, TryLockError},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Most bytes of a credential file. Certificate bundles are the longest.
pub const MAX_CREDENTIAL: u64 = 1 << 20;

/// The directory of credential files (`kms_wrap.credential_directory`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialDirectory(pub PathBuf);

/// A credential in memory.
pub struct Credential {
    /// The contents.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Changes when the file does.
    pub stamp: Stamp,
}

impl Credential {
    /// The contents as text without the line end that editors leave.
    ///
    /// # Errors
    /// [`ProviderError::Denied`] when it is not UTF-8, empty, or has control characters, which no token or password may.
    pub fn text(&self, name: &str) -> Result<Zeroizing<String>, ProviderError> {
        let text = std::str::from_utf8(&self.bytes).ok().map(|text| text.trim_end_matches(['\r', '\n']));
        match text {
            Some(text) if !text.is_empty() && !text.chars().any(char::is_control) => Ok(Zeroizing::new(text.to_owned())),
            _ => Err(ProviderError::Denied(format!("Credential file \"{name}\" is empty or holds more than one line of text."))),
        }
    }
}

/// Whether a name may be a credential file's: it cannot leave the directory.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    !name.is_empty() && name.len() <= MAX_NAME && !name.starts_with('.') && name.chars().all(fits)
}

impl CredentialDirectory {
    /// Reads a secret: a regular file of the server's user, mode 0600 or 0400, not empty.
    ///
    /// # Errors
    /// [`ProviderError::Denied`] naming the file and what is wrong with it.
    pub fn secret(&self, name: &str) -> Result<Credential, ProviderError> {
        self.read(name, 0o7177, "it must be 0600 or 0400")
    }

    /// Reads what is not secret (certificates): others may read it, but only the server's user may write it.
    ///
    /// # Errors
    /// [`ProviderError::Denied`] naming the file and what is wrong with it.
    pub fn public(&self, name: &str) -> Result<Credential, ProviderError> {
        self.read(name, 0o7133, "it must not be writable by others")
    }

    /// The stamp of a file as it is now; `None` when there is none.
    #[must_use]
    pub fn stamp(&self, name: &str) -> Option<Stamp> {
        is_name(name).then(|| std::fs::symlink_metadata(self.0.join(name)).ok()).flatten().map(|m| Stamp::of(&m))
    }

    /// Locks a credential file for as long as the answer is kept, so that one process at a time acts on what it says; `None` while another
    /// has it. The stamp is that of the locked file: a file that has taken its name since has another one.
    ///
    /// # Errors
    /// [`ProviderError::Denied`] naming the file and what is wrong with it.
    pub fn try_lock(&self, name: &str) -> Result<Option<(File, Stamp)>, ProviderError> {
        let path = self.0.join(name);
        let denied = |why: &str| ProviderError::Denied(format!("Credential file \"{}\" {why}.", path.display()));
        if !is_name(name) {
            return Err(ProviderError::Denied("The configuration has no usable name of a credential file.".to_owned()));
        }
        let file = open(&path).map_err(|why| denied(&why))?;
        let stamp = Stamp::of(&file.metadata().map_err(|_| denied("could not be examined"))?);
        match file.try_lock() {
            Ok(()) => Ok(Some((file, stamp))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(denied(&format!("could not be locked: {}", reason(&e)))),
        }
    }

    fn read(&self, name: &str, forbidden: u32, limit: &str) -> Result<Credential, ProviderError> {
        let path = self.0.join(name);
        let denied = |why: &str| ProviderError::Denied(format!("Credential file \"{}\" {why}.", path.display()));
        if !is_name(name) {
            return Err(ProviderError::Denied("The configuration has no usable name of a credential file.".to_owned()));
        }
        let mut file = open(&path).map_err(|why| denied(&why))?;
        let meta = file.metadata().map_err(|_| denied("could not be examined"))?;
        if !meta.is_file() {
            return Err(denied("is not a regular file"));
        }
        if meta.uid() != geteuid().as_raw() {
            return Err(denied("belongs to another user than the server's"));
        }
        if meta.mode() & forbidden != 0 {
            return Err(denied(&format!("has mode {:04o}; {limit}", meta.mode() & 0o7777)));
        }
        if meta.len() > MAX_CREDENTIAL {
            return Err(denied("is longer than 1 MiB"));
        }
        // Of its full length at once: a buffer that grows leaves copies behind.
        let len = usize::try_from(meta.len()).map_err(|_| denied("is longer than 1 MiB"))?;
        let mut bytes = Zeroizing::new(vec![0; len]);
        file.read_exact(&mut bytes).map_err(|e| denied(&format!("could not be read: {}", reason(&e))))?;
        if bytes.is_empty() {
            return Err(denied("is empty"));
        }
        Ok(Credential { bytes, stamp: Stamp::of(&meta) })
    }
}

/// Opens a file without following a link and without waiting on a pipe.
fn open(path: &Path) -> Result<File, String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => Ok(File::from(fd)),
        Err(rustix::io::Errno::LOOP) => Err("is a symbolic link".to_owned()),
        Err(rustix::io::Errno::NOENT) => Err("is missing".to_owned()),
        Err(e) => Err(format!("could not be opened: {e}")),
    }
}
