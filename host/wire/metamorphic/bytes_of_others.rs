//! Bytes that nobody who speaks a format would send: whatever they are, nothing panics, and what can be read can be written.

use super::super::loss::{Lossy, losses};
use super::*;

/// A change of valid bytes.
#[derive(Debug, Clone)]
enum Mutation {
    /// A byte becomes another.
    Byte(prop::sample::Index, u8),
    /// The bytes end here.
    Cut(prop::sample::Index),
    /// A member of an object, or an element of a list, is not there.
    Drop(prop::sample::Index),
    /// A value is of another type.
    Replace(prop::sample::Index, Value),
}

fn any_mutation() -> impl Strategy<Value = Mutation> {
    let place = any::<prop::sample::Index>;
    let values = vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(1e300),
        json!(u64::MAX),
        json!(""),
        json!("x"),
        json!([]),
        json!([[], null, 1, "x", {}]),
        json!({}),
        json!({"type": "text"}),
    ];
    prop_oneof![
        1 => (place(), any::<u8>()).prop_map(|(at, byte)| Mutation::Byte(at, byte)),
        1 => place().prop_map(Mutation::Cut),
        3 => place().prop_map(Mutation::Drop),
        4 => (place(), select(values)).prop_map(|(at, value)| Mutation::Replace(at, value)),
    ]
}

/// JSON, or bytes that are none, with a change.
fn mutated(bytes: &[u8], mutations: &[Mutation]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for mutation in mutations {
        match mutation {
            Mutation::Byte(at, byte) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Mutation::Cut(at) if !bytes.is_empty() => bytes.truncate(at.index(bytes.len())),
            Mutation::Byte(..) | Mutation::Cut(_) => {}
            Mutation::Drop(at) => change(&mut bytes, at, None),
            Mutation::Replace(at, value) => change(&mut bytes, at, Some(value)),
        }
    }
    bytes
}

/// Replaces a value somewhere in JSON, or drops it.
fn change(bytes: &mut Vec<u8>, at: &prop::sample::Index, new: Option<&Value>) {
    let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    let mut left = at.index(count(&value));
    walk(&mut value, &mut left, new);
    *bytes = value.to_string().into_bytes();
}

/// Values inside a value, itself included.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(members) => members.values().map(count).sum(),
        _ => 0,
    }
}

/// Changes the value that is `left` steps away; `false` once that has been done.
fn walk(value: &mut Value, left: &mut usize, new: Option<&Value>) -> bool {
    if *left == 0 {
        if let Some(new) = new {
            *value = new.clone();
        }
        return false;
    }
    *left -= 1;
    match value {
        Value::Array(list) => {
            if new.is_none() && *left < list.len() && left.is_multiple_of(2) {
                list.remove(*left);
                return false;
            }
            list.iter_mut().all(|inner| walk(inner, left, new))
        }
        Value::Object(members) => {
            if let (None, Some(key)) = (new, members.keys().nth(*left).cloned()) {
                members.remove(&key);
                return false;
            }
            members.values_mut().all(|inner| walk(inner, left, new))
        }
        _ => true,
    }
}

/// Reads a client's request, and writes what could be read for every vendor.
fn read_request(format: Format, body: &[u8]) {
    let _ = format.read(Bytes::copy_from_slice(body));
    let Ok(conversation) = format.decode_request(body) else {
        return;
    };
    for vendor in FORMATS {
        for lossy in [Lossy::Table, Lossy::Allow, Lossy::Refuse] {
            let _ = losses(&conversation, format, vendor, lossy);
        }
        if let Ok(encoded) = vendor.encode_request(&conversation, &call(format)) {
            let sent = vendor.decode_request(&encoded.body);
            assert!(
                serde_json::from_slice::<Value>(&encoded.body).is_ok(),
                "{format:?} to {vendor:?}: no JSON"
            );
            // Who says nothing at all is refused by some vendors, and by our own reader.
            assert!(
                sent.is_ok() || conversation.turns.is_empty(),
                "{format:?} to {vendor:?}: {sent:?}"
            );
        }
    }
}

/// Writes what was read of an answer for every client, whole and as a stream.
fn write_for_all(events: &[Event<'_>]) {
    let answer = fold(events);
    for client in FORMATS {
        let body = client.encode_answer(&answer, &asked());
        assert!(serde_json::from_slice::<Value>(&body).is_ok(), "{client:?}: no JSON");
        let mut encoder = client.encoder(&asked());
        let mut out = Vec::new();
        let told = events
            .iter()
            .filter(|event| !matches!(event, Event::Error(_) | Event::End));
        told.for_each(|event| encoder.event(event, &mut out));
        encoder.event(&Event::End, &mut out);
        read_stream(client, &out);
    }
}

/// Reads a vendor's whole answer or error.
fn read_any_answer(format: Format, body: &[u8]) {
    let mut events = Vec::new();
    let _ = format.decode_answer(body, &mut |event| events.push(event.into_owned()));
    let _ = format.answer(body);
    let _ = format.vendor_error(body);
    let _ = format.is_error_answer(body);
    write_for_all(&events);
}

/// Reads a vendor's stream as far as it can be read.
fn read_any_stream(format: Format, bytes: &[u8]) {
    let mut decoder = format.decoder();
    let mut passing = format.decoder();
    let mut events = Vec::new();
    let mut read = |event: &sse::Event<'_>| {
        let _ = format.frame(&mut *passing, event);
        decoder
            .event(event, &mut |event| events.push(event.into_owned()))
            .is_ok()
    };
    let mut rest = bytes;
    if format == Format::Converse {
        while let Ok(Some((event, more))) = eventstream::split_first(rest) {
            read(&event);
            rest = more;
        }
    } else {
        sse::events(rest).for_each(|event| {
            read(&event);
        });
    }
    write_for_all(&events);
}

/// The same stream with the data of one event changed.
fn with_changed_event(format: Format, bytes: &[u8], which: &prop::sample::Index, mutations: &[Mutation]) -> Vec<u8> {
    let mut frames = Vec::new();
    let mut rest = bytes;
    while let Some((event, more)) = first_event(format, rest) {
        frames.push((event.name.to_vec(), event.data.map(Cow::into_owned)));
        rest = more;
    }
    let changed = which.index(frames.len());
    let mut out = Vec::new();
    for (place, (name, data)) in frames.into_iter().enumerate() {
        let data = data.unwrap_or_default();
        let data = if place == changed {
            mutated(&data, mutations)
        } else {
            data
        };
        write_event(format, &name, data, &mut out);
    }
    out
}

fn first_event(format: Format, bytes: &[u8]) -> Option<(sse::Event<'_>, &[u8])> {
    match format {
        Format::Converse => eventstream::split_first(bytes).expect("whole messages"),
        _ => sse::split_first(bytes),
    }
}

fn write_event(format: Format, name: &[u8], data: Vec<u8>, out: &mut Vec<u8>) {
    const NAMES: [&str; 6] = [
        "messageStart",
        "contentBlockStart",
        "contentBlockDelta",
        "contentBlockStop",
        "messageStop",
        "metadata",
    ];
    if format == Format::Converse {
        let known = NAMES.into_iter().find(|known| known.as_bytes() == name);
        return eventstream::message(known.expect("names of our own"), data, out);
    }
    if !name.is_empty() {
        out.extend_from_slice(&[b"event: ", name, b"\n"].concat());
    }
    out.extend_from_slice(&[b"data: ", &data[..], b"\n\n"].concat());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn changed_requests_do_not_panic(conversation in any_conversation(), mutations in vec(any_mutation(), 1..4)) {
        for format in FORMATS {
            let encoded = format.encode_request(&conversation, &call(format)).expect("arguments are objects");
            read_request(format, &mutated(&encoded.body, &mutations));
        }
    }

    #[test]
    fn changed_answers_do_not_panic(events in answers::any_stream(), mutations in vec(any_mutation(), 1..4)) {
        for format in FORMATS {
            let body = format.encode_answer(&fold(&events), &asked());
            read_any_answer(format, &mutated(&body, &mutations));
        }
    }

    #[test]
    fn changed_streams_do_not_panic(events in answers::any_stream(), which in any::<prop::sample::Index>(), mutations in vec(any_mutation(), 1..4)) {
        for format in FORMATS {
            let stream = write_stream(format, &events);
            read_any_stream(format, &with_changed_event(format, &stream, &which, &mutations));
            let bytes: Vec<Mutation> = mutations.iter().filter(|it| matches!(it, Mutation::Byte(..) | Mutation::Cut(_))).cloned().collect();
            read_any_stream(format, &mutated(&stream, &bytes));
        }
    }

    #[test]
    fn any_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..300), json in any_json()) {
        let json = json.to_string().into_bytes();
        for format in FORMATS {
            for bytes in [&bytes, &json] {
                read_request(format, bytes);
                read_any_answer(format, bytes);
                read_any_stream(format, bytes);
                let mut out = Vec::new();
                write_event(format, b"messageStart", bytes.clone(), &mut out);
                read_any_stream(format, &out);
            }
        }
    }
}
