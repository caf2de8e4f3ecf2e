//! Waits for room on the disk of the data directory.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use tracing::{info, warn};

/// The bytes that a start needs: the store of results makes a file of this size for a day.
const NEEDED: usize = 8 << 20;
/// The file that shows whether there is room.
const PROBE_FILE: &str = "room";
/// The interval of looks at a full disk.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Returns true if an error means that the disk, or what its user may have of it, is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// Waits until a file of [`NEEDED`] bytes can be written in `dir`.
///
/// # Errors
/// Returns an error when it cannot be written for another reason.
pub async fn wait_for_room(dir: &Path) -> io::Result<()> {
    let mut is_reported = false;
    loop {
        match tokio::task::block_in_place(|| probe(dir)) {
            Ok(()) => {
                if is_reported {
                    info!("there is room on the disk again");
                }
                return Ok(());
            }
            Err(error) if !is_full(&error) => return Err(error),
            Err(error) if !is_reported => {
                is_reported = true;
                warn!(dir = %dir.display(), %error, "the disk is full; waiting for {NEEDED} bytes of room");
            }
            Err(_) => {}
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn probe(dir: &Path) -> io::Result<()> {
    let path = dir.join(PROBE_FILE);
    let written = fs::write(&path, vec![0; NEEDED]);
    let removed = fs::remove_file(&path);
    written.and(removed)
}
