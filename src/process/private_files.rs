//! Files that only their owner may read: answers, journals and credentials.
//!
//! The process creates every file with a mode for its owner alone, whatever its umask was. So do the libraries that write in
//! the data directory, and the managed NATS server. Files that a user asks for, such as a batch's output, get the mode that the
//! user's umask gives.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::Mode;
use rustix::process::umask;

/// The mode bits of the owner.
const OWNER: u32 = 0o700;
/// The mode of a new file before the umask.
const NEW_FILE: u32 = 0o666;

/// The umask that the user set.
static USERS_UMASK: OnceLock<u32> = OnceLock::new();

/// Gives files that this process creates from now on to their owner alone.
pub(crate) fn begin() {
    USERS_UMASK.get_or_init(|| umask(Mode::RWXG | Mode::RWXO).bits());
}

/// Gives a new file the mode that the user's umask gives.
///
/// # Errors
/// Returns an error when the mode cannot be changed.
pub(crate) fn give_users_mode(file: &File) -> io::Result<()> {
    match USERS_UMASK.get() {
        Some(mask) => file.set_permissions(Permissions::from_mode(NEW_FILE & !mask)),
        None => Ok(()),
    }
}

/// Takes a directory, and everything in it, from group and others. A directory that is private already is not searched.
///
/// # Errors
/// Returns an error when the directory cannot be read or its mode cannot be changed.
pub(crate) fn make_private(dir: &Path) -> io::Result<()> {
    if is_private(dir)? {
        return Ok(());
    }
    // Its contents first: if this ends in between, the next start does it again.
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let kind = fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() {
            make_private(&path)?;
        } else if kind.is_file() && !is_private(&path)? {
            take_from_others(&path)?;
        }
    }
    take_from_others(dir)
}

fn mode_of(path: &Path) -> io::Result<u32> {
    Ok(fs::symlink_metadata(path)?.permissions().mode())
}

fn is_private(path: &Path) -> io::Result<bool> {
    Ok(mode_of(path)? & 0o077 == 0)
}

fn take_from_others(path: &Path) -> io::Result<()> {
    let mode = mode_of(path)? & OWNER;
    fs::set_permissions(path, Permissions::from_mode(mode))
}
