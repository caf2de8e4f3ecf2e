//! Records that are too large for the database. Each is in a file of its own beside it, so that writing one delays no
//! other result.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::store::results::Error;

/// The folder of the files in a day's directory.
const FOLDER: &str = "large";

/// Writes a record. When this returns, the record survives a power loss. Blocks.
pub(crate) fn write(day: &Path, name: &str, record: &[u8]) -> Result<(), Error> {
    let folder = day.join(FOLDER);
    let written = || -> io::Result<()> {
        if !folder.exists() {
            fs::create_dir_all(&folder)?;
            File::open(day)?.sync_all()?;
        }
        // A concurrent reader gets the old record or the new one, whole.
        let temporary = folder.join(format!("{name}.new"));
        let mut file = File::create(&temporary)?;
        file.write_all(record)?;
        file.sync_all()?;
        fs::rename(&temporary, folder.join(name))?;
        File::open(&folder)?.sync_all()
    };
    // Every error of the system may pass.
    written().map_err(|error| Error {
        passing: true,
        ..Error::new(&folder, error)
    })
}

/// Reads a record.
pub(crate) fn read(day: &Path, name: &str) -> Result<Vec<u8>, Error> {
    let path = day.join(FOLDER).join(name);
    fs::read(&path).map_err(|error| Error::new(&path, error))
}
