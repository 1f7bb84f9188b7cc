#![no_main]

use pointsman_fuzz::{repeated, wire::Format};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| repeated(Format::Messages, bytes));
