//! What a body takes of memory beside itself: no more than [`FACTOR`] times its bytes, or [`LEAST`] where that is more, whatever it is and
//! into whatever format it is translated. A binary of its own, since the allocator that counts is the whole process's.

#[path = "support/bodies.rs"]
mod bodies;

use bytes::Bytes;
use peak_alloc::PeakAlloc;
use pointsman::answer::Answer;
use pointsman::wire::loss::{Lossy, losses};
use pointsman::wire::shape::Limits;
use pointsman::wire::{Asked, Call, Format, Malformed, PLAIN};

use bodies::{Body, FORMATS};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes of memory for a byte of a body.
const FACTOR: usize = 4;
/// Bytes of memory that any body may take.
const LEAST: usize = 4 << 20;
/// Sizes of bodies.
const SIZES: [usize; 2] = [64 << 10, 1 << 20];

/// Memory that is taken since this was made.
struct Meter {
    before: usize,
}

impl Meter {
    fn start() -> Self {
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        Self { before }
    }

    /// The most that was taken since the last reading, or is taken still.
    fn read(&self) -> usize {
        let peak = MEMORY.peak_usage() - self.before;
        MEMORY.reset_peak_usage();
        peak
    }
}

/// What was done with a body, and the most memory that it took.
struct Row {
    what: String,
    peak: usize,
    is_written: bool,
}

/// What was done with a body.
struct Rows<'b> {
    body: &'b str,
    rows: Vec<Row>,
}

impl Rows<'_> {
    fn add(&mut self, what: String, peak: usize, is_written: bool) {
        let what = format!("{what}: {}", self.body);
        self.rows.push(Row { what, peak, is_written });
    }
}

/// Reads a request as the gateway does, and writes it for every vendor.
fn translate(client: Format, body: &Bytes, rows: &mut Rows<'_>) -> Result<(), Malformed> {
    let meter = Meter::start();
    let read = client
        .count_items(body, &Limits::default())
        .and_then(|()| client.read(body.clone()));
    rows.add(format!("{client:?} read"), meter.read(), read.is_ok());
    let inquiry = read?;
    let passed = client.pass_through(&inquiry, "other", Some(r#"{"seed":7,"metadata":{"a":"b"}}"#));
    rows.add(format!("{client:?} passed through"), meter.read(), passed.is_ok());
    drop((inquiry, passed));
    let meter = Meter::start();
    client.check_items(body)?;
    let conversation = client.decode_request(body)?;
    rows.add(format!("{client:?} decoded"), meter.read(), true);
    for vendor in FORMATS {
        drop(losses(&conversation, client, vendor, Lossy::Allow));
        let call = Call {
            client,
            model: "m",
            streaming: false,
            default_max_tokens: 1000,
            dialect: &PLAIN,
        };
        let encoded = vendor.encode_request(&conversation, &call);
        rows.add(format!("{client:?} to {vendor:?}"), meter.read(), encoded.is_ok());
    }
    Ok(())
}

fn asked() -> Asked {
    Asked {
        id: "0123456789abcdef".into(),
        created: 1,
        model: "m".into(),
        body: Bytes::from_static(b"{}"),
    }
}

/// Reads a vendor's answer and writes it for every client.
fn answer(vendor: Format, body: &[u8], rows: &mut Rows<'_>) -> Result<(), Malformed> {
    let meter = Meter::start();
    let passed = vendor.answer(body);
    rows.add(
        format!("answer of {vendor:?} passed through"),
        meter.read(),
        passed.is_ok(),
    );
    drop(passed);
    let meter = Meter::start();
    let mut answer = Answer::default();
    let decoded = vendor.decode_answer(body, &mut |event| answer.add(&event));
    rows.add(format!("answer of {vendor:?} decoded"), meter.read(), decoded.is_ok());
    decoded?;
    for client in FORMATS {
        let written = client.encode_answer(&answer, &asked());
        rows.add(
            format!("answer of {vendor:?} for {client:?}"),
            meter.read(),
            !written.is_empty(),
        );
    }
    Ok(())
}

/// All that is done with bodies of a format and a size; those that took too much are told.
fn measure(format: Format, size: usize, over: &mut Vec<String>) {
    let (mut written, mut all) = (0, 0);
    let requests = bodies::requests(format, size).into_iter().map(|body| (true, body));
    let answers = bodies::answers(format, size).into_iter().map(|body| (false, body));
    for (is_request, Body { name, json }) in requests.chain(answers) {
        let body = Bytes::from(json);
        let mut rows = Rows {
            body: name,
            rows: Vec::with_capacity(16),
        };
        // Most of what is refused should be; what it took counts all the same.
        let _ = match is_request {
            true => translate(format, &body, &mut rows),
            false => answer(format, &body, &mut rows),
        };
        for row in rows.rows {
            all += 1;
            written += usize::from(row.is_written);
            if row.peak > LEAST.max(FACTOR * body.len()) {
                let times = row.peak as f64 / body.len() as f64;
                over.push(format!("{times:5.1} times {} bytes, {}", body.len(), row.what));
            }
        }
    }
    // Otherwise nothing was measured but refusals.
    assert!(written * 2 > all, "{format:?}: {written} of {all} were written");
}

#[test]
fn no_body_takes_more_than_four_times_its_bytes() {
    let mut over = Vec::new();
    for size in SIZES {
        FORMATS.iter().for_each(|format| measure(*format, size, &mut over));
    }
    assert!(over.is_empty(), "{}", over.join("\n"));
}
