//! Output: results on stdout, everything else on stderr. A closed pipe is not an error.

use std::io::Write;

/// Prints a line of results. Returns false if stdout is closed. Work beyond printing continues
/// then.
pub(super) fn line(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).is_ok()
}

/// Prints a value as a line of JSON.
pub(super) fn json(value: &impl serde::Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => {
            line(&text);
        }
        Err(problem) => error(&problem.to_string()),
    }
}

/// Prints a note on stderr.
pub(super) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints an error on stderr.
pub(super) fn error(text: &str) {
    note(&format!("error: {text}"));
}

/// Prints a table with aligned columns.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain([header[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..header.len()).map(width).collect();
    let print = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<_> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}", width = *width))
            .collect();
        line(padded.join("  ").trim_end());
    };
    print(&mut header.iter().copied());
    for row in rows {
        print(&mut row.iter().map(String::as_str));
    }
}
