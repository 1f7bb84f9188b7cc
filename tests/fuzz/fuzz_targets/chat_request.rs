#![no_main]

use switchyard_fuzz::{request, wire::Format};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| request(Format::OpenAiChat, bytes));
