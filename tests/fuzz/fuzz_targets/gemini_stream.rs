#![no_main]

use switchyard_fuzz::{stream, wire::Format};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stream(Format::Gemini, bytes));
