//! Answers, whole and as streams.

use super::*;

/// A piece of an answer, as fragments of a stream.
#[derive(Debug, Clone)]
enum Told {
    Text(Vec<String>),
    Reasoning(Vec<String>, Option<String>),
    /// Calls whose arguments come interleaved.
    Calls(Vec<(String, String, String)>),
}

fn any_told() -> impl Strategy<Value = Vec<Told>> {
    let texts = || vec(any_text(), 1..4);
    let signature = option::of("[a-zA-Z0-9+/]{4,24}");
    let piece = prop_oneof![
        3 => texts().prop_map(Told::Text),
        1 => (texts(), signature).prop_map(|(texts, signature)| Told::Reasoning(texts, signature)),
        2 => vec((any_id(), any_name(), any_arguments()), 1..4).prop_map(Told::Calls),
    ];
    vec(piece, 1..5)
}

/// The fragments of a text, cut at a place.
fn fragments(text: &str) -> Vec<String> {
    let middle = (0..=text.len() / 2).rev().find(|at| text.is_char_boundary(*at));
    let (first, second) = text.split_at(middle.unwrap_or(0));
    vec![first.to_owned(), second.to_owned()]
}

fn calls_of(first: u32, calls: &[(String, String, String)], events: &mut Vec<Event<'static>>) {
    let indices = || (first..).zip(calls);
    for (index, (id, name, _)) in indices() {
        events.push(Event::ToolStart {
            index,
            id: format!("{id}_{index}").into(),
            name: name.clone().into(),
            signature: None,
        });
    }
    for part in 0..2 {
        for (index, (_, _, arguments)) in indices() {
            let fragment = fragments(arguments)[part].clone().into();
            events.push(Event::ToolArguments { index, fragment });
        }
    }
    events.extend(indices().map(|(index, _)| Event::ToolEnd { index }));
}

/// A valid stream.
pub(super) fn any_stream() -> impl Strategy<Value = Vec<Event<'static>>> {
    (any_told(), option::of(any_usage()), any::<bool>(), 0usize..3).prop_map(|(told, usage, late, reason)| {
        let mut events = vec![Event::Start {
            id: Some("answer-1".into()),
            model: Some("model-1".into()),
        }];
        let mut calls = 0;
        for piece in &told {
            match piece {
                Told::Text(texts) => {
                    events.extend(texts.iter().map(|text| Event::Text(text.clone().into())));
                    events.push(Event::BlockEnd);
                }
                Told::Reasoning(texts, signature) => {
                    events.extend(texts.iter().map(|text| Event::Reasoning(text.clone().into())));
                    events.extend(signature.iter().map(|proof| Event::Signature(proof.clone().into())));
                    events.push(Event::BlockEnd);
                }
                Told::Calls(made) => {
                    calls_of(calls, made, &mut events);
                    calls += made.len() as u32;
                }
            }
        }
        let (reason, raw) = match (calls, reason) {
            (_, 0) => (Reason::Length, "length"),
            (0, _) => (Reason::Stop, "stop"),
            (_, _) => (Reason::ToolCalls, "tool_calls"),
        };
        let finish = Event::Finish(Finish {
            reason,
            raw: raw.into(),
            stop_sequence: None,
        });
        let usage = usage.map(Event::Usage);
        let (early, late) = if late { (None, usage) } else { (usage, None) };
        events.extend(early);
        events.push(finish);
        events.extend(late);
        events.push(Event::End);
        events
    })
}

/// Counts of which the parts are parts.
fn any_usage() -> impl Strategy<Value = Usage> {
    // A vendor that counted nothing at all is one that does not count.
    let count = || 1u64..1_000_000;
    (count(), count(), count(), count(), count()).prop_map(|(fresh, cached, written, said, thought)| Usage {
        input_tokens: fresh + cached + written,
        cached_tokens: cached,
        cache_write_tokens: written,
        output_tokens: said + thought,
        reasoning_tokens: thought,
    })
}

/// What an answer says, in order; neighbours of one kind are one.
fn said(answer: &Answer) -> Vec<(&'static str, String)> {
    let mut all: Vec<(&'static str, String)> = Vec::new();
    for piece in &answer.blocks {
        let (kind, text) = match piece {
            Piece::Text(text) => ("text", text.clone()),
            Piece::Reasoning { text, .. } => ("reasoning", text.clone()),
            Piece::ToolCall(call) => {
                let arguments: Value = serde_json::from_str(&call.arguments).expect("arguments are JSON");
                ("call", format!("{} {} {arguments}", call.id, call.name))
            }
            other => panic!("nobody said {other:?}"),
        };
        match all.last_mut() {
            Some((last, before)) if *last == kind && kind != "call" => before.push_str(&text),
            _ if text.is_empty() => {}
            _ => all.push((kind, text)),
        }
    }
    all
}

/// What an answer says of each kind, for formats that have a field for each.
fn said_by_kind(answer: &Answer) -> Vec<(&'static str, String)> {
    let mut all = said(answer);
    all.sort_by_key(|(kind, _)| *kind);
    let mut joined: Vec<(&'static str, String)> = Vec::new();
    for (kind, text) in all {
        match joined.last_mut() {
            Some((last, before)) if *last == kind && kind != "call" => before.push_str(&text),
            _ => joined.push((kind, text)),
        }
    }
    joined
}

/// The proofs of an answer's reasoning.
fn proofs(answer: &Answer) -> Vec<&str> {
    let proofs = answer.blocks.iter().filter_map(|piece| match piece {
        Piece::Reasoning { signature, .. } => signature.as_deref(),
        _ => None,
    });
    proofs.collect()
}

/// The counts that a format has a field for.
fn counted(format: Format, usage: Option<Usage>) -> Option<Usage> {
    let usage = usage?;
    Some(match format {
        Format::Gemini => Usage {
            cache_write_tokens: 0,
            ..usage
        },
        Format::Converse => Usage {
            reasoning_tokens: 0,
            ..usage
        },
        _ => usage,
    })
}

fn same_answer(format: Format, read: &Answer, told: &Answer, is_whole: bool) -> Result<(), TestCaseError> {
    if format == Format::OpenAiChat {
        prop_assert_eq!(
            said_by_kind(read),
            said_by_kind(told),
            "{:?}, whole: {}",
            format,
            is_whole
        );
    } else {
        prop_assert_eq!(said(read), said(told), "{:?}, whole: {}", format, is_whole);
    }
    if format == Format::Messages || format == Format::Converse {
        prop_assert_eq!(proofs(read), proofs(told), "{:?}, whole: {}", format, is_whole);
    }
    let reason = |answer: &Answer| answer.finish.as_ref().map(|finish| finish.reason);
    prop_assert_eq!(reason(read), reason(told), "{:?}, whole: {}", format, is_whole);
    if told.usage.is_some() {
        prop_assert_eq!(
            read.usage,
            counted(format, told.usage),
            "{:?}, whole: {}",
            format,
            is_whole
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// A stream that was written and read says what it said, and so does the whole answer that it adds up to.
    #[test]
    fn streams_and_whole_answers_say_what_was_told(events in any_stream()) {
        let told = fold(&events);
        for format in FORMATS {
            let stream = read_stream(format, &write_stream(format, &events));
            let ends = stream.iter().filter(|event| **event == Event::End).count();
            let has_end = !matches!(format, Format::Gemini | Format::Converse);
            prop_assert_eq!(ends, usize::from(has_end), "{:?}", format);
            let streamed = fold(&stream);
            same_answer(format, &streamed, &told, false)?;
            let whole = fold(&read_answer(format, &format.encode_answer(&told, &asked())));
            same_answer(format, &whole, &told, true)?;
            same_answer(format, &streamed, &whole, true)?;
        }
    }

    /// What a vendor of any format told reaches a client of any other.
    #[test]
    fn every_format_can_be_read_as_every_other(events in any_stream()) {
        let told = fold(&events);
        for vendor in FORMATS {
            let mut from_vendor = read_stream(vendor, &write_stream(vendor, &events));
            // Who reads the stream says that it has ended, where the format does not.
            if !from_vendor.contains(&Event::End) {
                from_vendor.push(Event::End);
            }
            for client in FORMATS {
                let read = fold(&read_stream(client, &write_stream(client, &from_vendor)));
                let kinds = (said_by_kind(&read), said_by_kind(&told));
                prop_assert_eq!(kinds.0, kinds.1, "{:?} to {:?}", vendor, client);
                if told.usage.is_some() {
                    prop_assert_eq!(read.usage, counted(client, counted(vendor, told.usage)), "{:?} to {:?}", vendor, client);
                }
            }
        }
    }

    /// However the network cuts a stream, its events are the same.
    #[test]
    fn cuts_do_not_matter(events in any_stream()) {
        for format in FORMATS {
            let bytes = write_stream(format, &events);
            let whole = read_stream(format, &bytes);
            for piece in [1, 7] {
                let joined = cut(format, &bytes, piece);
                prop_assert_eq!(&joined, &whole, "{:?} in pieces of {}", format, piece);
            }
        }
    }
}

/// The events of a stream that comes in pieces.
fn cut(format: Format, bytes: &[u8], piece: usize) -> Vec<Event<'static>> {
    let mut events = Vec::new();
    let mut decoder = format.decoder();
    let mut sink = |event: Event<'_>| events.push(event.into_owned());
    let (mut texts, mut messages) = (sse::Splitter::default(), eventstream::Splitter::default());
    for piece in bytes.chunks(piece) {
        let piece = Bytes::copy_from_slice(piece);
        if format == Format::Converse {
            let whole = messages.push(piece);
            let mut rest = &whole[..];
            while let Some((event, more)) = eventstream::split_first(rest).expect("whole messages") {
                decoder.event(&event, &mut sink).expect("events of our own");
                rest = more;
            }
        } else {
            for event in sse::events(&texts.push(piece)) {
                decoder.event(&event, &mut sink).expect("events of our own");
            }
        }
    }
    assert_eq!(messages.pending(), 0);
    let rest = texts.finish();
    assert!(
        rest.is_empty() || &rest[..] == b"\n",
        "the rest of a CRLF at most: {rest:?}"
    );
    events
}
