//! What is fuzzed: the decoders of every format, with nothing of the gateway behind them. Whatever the bytes are, nothing panics,
//! and what can be read can be written in every format and read there again.

use bytes::Bytes;
use peak_alloc::PeakAlloc;

/// The gateway's own files. Inside a module with a path, theirs are where they are for the gateway.
#[path = "../../../host"]
mod host {
    pub mod answer;
    pub mod chat;
    pub mod conversation;
    pub mod failure;
    pub mod wire;
}
pub use host::{answer, chat, conversation, failure, wire};

use answer::{Answer, Event};
use wire::loss::{Lossy, losses};
use wire::shape::Limits;
use wire::{Asked, Call, Format, Malformed, PLAIN, eventstream, sse};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const FORMATS: [Format; 5] = [
    Format::OpenAiChat,
    Format::Responses,
    Format::Messages,
    Format::Gemini,
    Format::Converse,
];

fn call(client: Format) -> Call<'static> {
    Call {
        client,
        model: "model-1",
        streaming: true,
        default_max_tokens: 1000,
        dialect: &PLAIN,
    }
}

fn asked() -> Asked {
    Asked {
        id: "0123456789abcdef".into(),
        created: 1_700_000_000,
        model: "model-1".into(),
        body: Bytes::from_static(br#"{"stream_options":{"include_usage":true}}"#),
    }
}

fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}

/// A client's request.
pub fn request(format: Format, body: &[u8]) {
    let _ = format.read(Bytes::copy_from_slice(body));
    let Ok(conversation) = format.decode_request(body) else {
        return;
    };
    for vendor in FORMATS {
        let _ = losses(&conversation, format, vendor, Lossy::Table);
        let Ok(encoded) = vendor.encode_request(&conversation, &call(format)) else {
            continue;
        };
        assert!(is_json(&encoded.body), "{format:?} to {vendor:?}: no JSON");
        let sent = vendor.decode_request(&encoded.body);
        // Some readers refuse a conversation in which nothing is said.
        assert!(
            sent.is_ok() || !is_said(&conversation),
            "{format:?} to {vendor:?}: {sent:?}"
        );
    }
}

fn is_said(conversation: &conversation::Conversation<'_>) -> bool {
    conversation.turns.iter().any(|turn| !turn.blocks.is_empty())
}

/// Bytes of a body that is made of a few.
const LARGE: usize = 1 << 20;
/// What a body may take of memory, for each of its bytes.
const FACTOR: usize = 4;

/// A client's request of a megabyte: of three pieces that `~` stands between, the one in the middle repeated as items of a list are. It
/// takes no more than four times its bytes of memory to read it and to write it in any format.
pub fn repeated(format: Format, bytes: &[u8]) {
    let mut pieces = bytes.splitn(3, |byte| *byte == b'~');
    let (Some(before), Some(one), Some(behind)) = (pieces.next(), pieces.next(), pieces.next()) else {
        return;
    };
    let count = (LARGE / (one.len() + 1)).max(1);
    let body = Bytes::from([before, &vec![one; count].join(&b','), behind].concat());
    MEMORY.reset_peak_usage();
    let taken = MEMORY.current_usage();
    if format.count_items(&body, &Limits::default()).is_ok() {
        let _ = format.read(body.clone());
    }
    let _ = translated_for_all(format, &body);
    let peak = MEMORY.peak_usage() - taken;
    assert!(
        peak <= FACTOR * body.len().max(LARGE),
        "{peak} bytes for {}",
        body.len()
    );
}

fn translated_for_all(format: Format, body: &[u8]) -> Result<(), Malformed> {
    format.count_items(body, &Limits::default())?;
    format.check_items(body)?;
    let conversation = format.decode_request(body)?;
    for vendor in FORMATS {
        let _ = losses(&conversation, format, vendor, Lossy::Table);
        let _ = vendor.encode_request(&conversation, &call(format));
    }
    Ok(())
}

/// A vendor's whole answer, or its error.
pub fn answer(format: Format, body: &[u8]) {
    let _ = format.answer(body);
    let _ = format.vendor_error(body);
    let _ = format.is_error_answer(body);
    let mut events = Vec::new();
    if format
        .decode_answer(body, &mut |event| events.push(event.into_owned()))
        .is_ok()
    {
        write_for_all(&events);
    }
}

/// A vendor's stream: server-sent events, or for AWS lines of an event's name and, behind a space, its payload. A fuzzer would not
/// find the checksums of AWS's own framing; [`cut_eventstream`] is for that.
pub fn stream(format: Format, bytes: &[u8]) {
    let mut decoder = format.decoder();
    let mut passing = format.decoder();
    let mut events = Vec::new();
    let mut is_whole = true;
    let mut read = |event: &sse::Event<'_>| {
        let _ = format.frame(&mut *passing, event);
        // The relay ends with the first event that cannot be read.
        is_whole = is_whole
            && decoder
                .event(event, &mut |event| events.push(event.into_owned()))
                .is_ok();
    };
    if format == Format::Converse {
        for line in bytes.split(|byte| *byte == b'\n') {
            let space = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
            let (name, data) = line.split_at(space);
            let data = Some(data.into());
            read(&sse::Event { name, data });
        }
    } else {
        sse::events(bytes).for_each(|event| read(&event));
    }
    write_for_all(&events);
}

/// Writes what was read of an answer for every client, whole and as a stream, and reads it there.
fn write_for_all(events: &[Event<'_>]) {
    let mut answer = Answer::default();
    events.iter().for_each(|event| answer.add(event));
    for client in FORMATS {
        let body = client.encode_answer(&answer, &asked());
        assert!(is_json(&body), "{client:?}: no JSON");
        let read = client.decode_answer(&body, &mut |_| {});
        assert!(read.is_ok(), "{client:?}: {read:?}");
        let mut encoder = client.encoder(&asked());
        let mut out = Vec::new();
        let told = events
            .iter()
            .filter(|event| !matches!(event, Event::Error(_) | Event::End));
        told.for_each(|event| encoder.event(event, &mut out));
        encoder.event(&Event::End, &mut out);
        read_own(client, &out);
    }
}

/// Reads a stream that the format's own encoder wrote.
fn read_own(format: Format, bytes: &[u8]) {
    let mut decoder = format.decoder();
    let mut read = |event: &sse::Event<'_>| {
        let read = decoder.event(event, &mut |_| {});
        assert!(read.is_ok(), "{format:?}: {read:?}");
    };
    if format == Format::Converse {
        let mut rest = bytes;
        while let Some((event, more)) = eventstream::split_first(rest).expect("whole messages") {
            read(&event);
            rest = more;
        }
    } else {
        sse::events(bytes).for_each(|event| read(&event));
    }
}

/// Server-sent events in pieces as long as the first byte says are those of the whole.
pub fn cut_sse(bytes: &[u8]) {
    let Some((size, stream)) = bytes.split_first() else {
        return;
    };
    let mut splitter = sse::Splitter::default();
    let mut out = Vec::new();
    let mut data = Vec::new();
    for piece in stream.chunks(usize::from(*size).max(1)) {
        let whole = splitter.push(Bytes::copy_from_slice(piece));
        data.extend(data_of(&whole));
        out.extend_from_slice(&whole);
    }
    let rest = splitter.finish();
    data.extend(data_of(&rest));
    out.extend_from_slice(&rest);
    assert_eq!(out, stream);
    assert_eq!(data, data_of(stream));
}

fn data_of(bytes: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let data = |event: sse::Event<'_>| Some((event.name.to_vec(), event.data?.into_owned()));
    sse::events(bytes).filter_map(data).collect()
}

/// Messages of AWS's framing in pieces as long as the first byte says are those of the whole, also behind a message with the bytes
/// as its payload.
pub fn cut_eventstream(bytes: &[u8]) {
    let Some((size, stream)) = bytes.split_first() else {
        return;
    };
    cut_messages(usize::from(*size).max(1), stream);
    let mut framed = Vec::new();
    eventstream::message("metadata", stream.to_vec(), &mut framed);
    let (event, rest) = eventstream::split_first(&framed)
        .expect("a message")
        .expect("a message");
    assert_eq!(event.name, b"metadata");
    assert_eq!(event.data.as_deref(), Some(stream));
    assert!(rest.is_empty());
    framed.extend_from_slice(stream);
    cut_messages(usize::from(*size).max(1), &framed);
}

fn cut_messages(size: usize, stream: &[u8]) {
    let mut splitter = eventstream::Splitter::default();
    let mut out = Vec::new();
    for piece in stream.chunks(size) {
        let whole = splitter.push(Bytes::copy_from_slice(piece));
        out.extend_from_slice(&whole);
    }
    out.extend_from_slice(&splitter.finish());
    assert_eq!(out, stream);
    let mut rest = stream;
    while let Ok(Some((_, more))) = eventstream::split_first(rest) {
        assert!(more.len() < rest.len());
        rest = more;
    }
}
