#![no_main]

use pointsman_fuzz::{stream, wire::Format};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stream(Format::Messages, bytes));
