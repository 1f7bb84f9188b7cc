//! What large bodies cost: time and memory beside the body itself, of the worst requests and answers in every format.
//!
//! ```sh
//! cargo bench --bench bodies        # prints a Markdown table of bodies of 1, 8 and 32 MB
//! cargo bench --bench bodies -- 8   # of 8 MB only
//! ```
//!
//! Each row names the body that took longest and the one that took most memory, with the format that it was translated into. Times are
//! of one run each, from the bytes that came to the bytes that go out; what is refused counts, too.

#[path = "../support/bodies.rs"]
mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use peak_alloc::PeakAlloc;
use pointsman::answer::Answer;
use pointsman::wire::loss::{Lossy, losses};
use pointsman::wire::shape::Limits;
use pointsman::wire::{Asked, Call, Format, Malformed, PLAIN};

use support::{Body, FORMATS, answers, requests};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let sizes = match args.as_slice() {
        [] => vec![1, 8, 32],
        [size] => vec![size.parse().expect("a size in MB")],
        other => panic!("{other:?} is none of the ways to use this; see its source"),
    };
    println!("| | MB | longest | | most memory | |");
    println!("|---|---|---|---|---|---|");
    for size in sizes {
        for format in FORMATS {
            row(
                &format!("requests of {format:?}"),
                size,
                &requests(format, size << 20),
                |body, to| {
                    let _ = translate(format, to, body);
                },
            );
            row(
                &format!("answers of {format:?}"),
                size,
                &answers(format, size << 20),
                |body, to| {
                    let _ = answer(format, to, body);
                },
            );
        }
    }
}

/// Does the same with all bodies, for all formats on the other side, and prints the worst.
fn row(what: &str, size: usize, bodies: &[Body], work: impl Fn(&Bytes, Format)) {
    let mut longest = (Duration::ZERO, String::new());
    let mut most = (0.0, String::new());
    for Body { name, json } in bodies {
        let body = Bytes::copy_from_slice(json.as_bytes());
        for to in FORMATS {
            let (took, memory) = measured(|| work(&body, to));
            let name = format!("{name}, {to:?}");
            if took > longest.0 {
                longest = (took, name.clone());
            }
            let times = memory as f64 / body.len() as f64;
            if times > most.0 {
                most = (times, name);
            }
        }
    }
    let milliseconds = longest.0.as_secs_f64() * 1000.0;
    println!(
        "| {what} | {size} | {milliseconds:.1} ms | {} | {:.1} times | {} |",
        longest.1, most.0, most.1
    );
}

fn measured(work: impl FnOnce()) -> (Duration, usize) {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let began = Instant::now();
    work();
    (began.elapsed(), MEMORY.peak_usage() - before)
}

fn translate(client: Format, vendor: Format, body: &Bytes) -> Result<usize, Malformed> {
    client.count_items(body, &Limits::default())?;
    client.read(body.clone())?;
    client.check_items(body)?;
    let conversation = client.decode_request(body)?;
    drop(losses(&conversation, client, vendor, Lossy::Allow));
    let call = Call {
        client,
        model: "m",
        streaming: false,
        default_max_tokens: 1000,
        dialect: &PLAIN,
    };
    Ok(vendor.encode_request(&conversation, &call)?.body.len())
}

fn answer(vendor: Format, client: Format, body: &[u8]) -> Result<usize, Malformed> {
    let mut answer = Answer::default();
    vendor.decode_answer(body, &mut |event| answer.add(&event))?;
    let asked = Asked {
        id: "0123456789abcdef".into(),
        created: 1,
        model: "m".into(),
        body: Bytes::from_static(b"{}"),
    };
    Ok(client.encode_answer(&answer, &asked).len())
}
