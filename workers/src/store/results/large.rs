//! Records that are too large for the database, each in a file of its own beside it: whoever writes one holds up
//! nobody else's results.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::store::results::Error;

/// Where they are, in a day's directory.
const FOLDER: &str = "large";

/// Writes a record; when this returns, it survives a power loss. Blocks.
pub(crate) fn write(day: &Path, name: &str, record: &[u8]) -> Result<(), Error> {
    let folder = day.join(FOLDER);
    let written = || -> io::Result<()> {
        if !folder.exists() {
            fs::create_dir_all(&folder)?;
            File::open(day)?.sync_all()?;
        }
        // Whoever reads it meanwhile has the one before it or this one, whole.
        let anew = folder.join(format!("{name}.new"));
        let mut file = File::create(&anew)?;
        file.write_all(record)?;
        file.sync_all()?;
        fs::rename(&anew, folder.join(name))?;
        File::open(&folder)?.sync_all()
    };
    // Whatever the system says may pass.
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
