//! How long each test takes. `make test` prints the slowest.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;

use tokio::time::Instant;

/// The environment variable that names a file, which gets a line for each test: its seconds and its name.
const SECONDS_FILE: &str = "TEST_SECONDS";

thread_local! {
    static STOPWATCH: Option<Stopwatch> = Stopwatch::of_this_thread();
}

/// Measures the test from here to its end, unless it is measured already.
///
/// Each test has a thread, which is named after it and ends with it.
pub(crate) fn measure_this_test() {
    STOPWATCH.with(|_| ());
}

struct Stopwatch {
    file: OsString,
    test: String,
    started: Instant,
}

impl Stopwatch {
    fn of_this_thread() -> Option<Self> {
        let file = std::env::var_os(SECONDS_FILE)?;
        let thread = std::thread::current();
        // Other threads have no path of modules for a name.
        let test = thread.name().filter(|name| name.contains("::"))?;
        Some(Self {
            file,
            test: test.to_owned(),
            started: Instant::now(),
        })
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        let seconds = self.started.elapsed().as_secs_f64();
        let line = format!("{seconds:.1} {}\n", self.test);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.file);
        // A list of the slowest is no reason for a test to fail.
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
