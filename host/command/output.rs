//! What commands print. A reader that has gone away or a full disk must not end a gateway, so what cannot be printed is dropped.

use std::fmt::Display;
use std::io::{self, Write};

/// Prints a line to standard output.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// Prints a line to standard error.
pub fn complain(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
