#![no_main]

use pointsman_fuzz::{request, wire::Format};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| request(Format::Converse, bytes));
