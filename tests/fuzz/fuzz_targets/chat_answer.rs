#![no_main]

use pointsman_fuzz::{answer, wire::Format};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| answer(Format::OpenAiChat, bytes));
