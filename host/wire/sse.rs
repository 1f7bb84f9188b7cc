//! Server-sent events: cutting a byte stream into whole events, whatever the line ends and wherever the network cut it.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr2};

/// Cuts a stream into events. Bytes go in as they arrive and come out unchanged, each event with the blank line that ends it.
#[derive(Debug, Default)]
pub struct Splitter {
    /// What has arrived of the event that is not complete yet.
    partial: BytesMut,
}

/// A blank line may arrive in pieces: its last bytes that may already be there.
const BLANK_LINE_OVERLAP: usize = 3;

impl Splitter {
    /// Takes the next bytes and returns all events that are complete now, as they came, in one piece; empty when there is none.
    pub fn push(&mut self, bytes: Bytes) -> Bytes {
        if self.partial.is_empty() {
            let whole = last_boundary(&bytes, 0);
            self.partial.extend_from_slice(&bytes[whole..]);
            return bytes.slice(..whole);
        }
        let from = self.partial.len().saturating_sub(BLANK_LINE_OVERLAP);
        self.partial.extend_from_slice(&bytes);
        let whole = last_boundary(&self.partial, from);
        self.partial.split_to(whole).freeze()
    }

    /// Bytes of the event that is not complete yet.
    pub fn pending(&self) -> usize {
        self.partial.len()
    }

    /// What is left when the stream has ended: an event whose blank line never came.
    pub fn finish(&mut self) -> Bytes {
        self.partial.split().freeze()
    }
}

/// The position behind the last blank line that ends after `from`; 0 when there is none.
fn last_boundary(bytes: &[u8], from: usize) -> usize {
    let mut boundary = 0;
    let mut at = from;
    while let Some(end) = next_boundary(bytes, at) {
        boundary = end;
        at = end;
    }
    boundary
}

/// The position behind the first blank line at or after `from`: two line ends in a row, each LF, CR or CRLF.
fn next_boundary(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(found) = memchr2(b'\n', b'\r', &bytes[at..]) {
        let line_end = after_line_end(bytes, at + found);
        match bytes.get(line_end) {
            // Where the LF of a CRLF has not arrived yet, it becomes an empty line of the next event, which means nothing.
            Some(b'\n' | b'\r') => return Some(after_line_end(bytes, line_end)),
            Some(_) => at = line_end,
            None => return None,
        }
    }
    None
}

fn after_line_end(bytes: &[u8], at: usize) -> usize {
    if bytes[at] == b'\r' && bytes.get(at + 1) == Some(&b'\n') {
        at + 2
    } else {
        at + 1
    }
}

/// Whether some bytes begin with a line of an event, behind a byte order mark and blank lines; `None`: they are too few to tell.
pub fn begins(bytes: &[u8]) -> Option<bool> {
    /// Bytes that are looked at: the beginning of a stream has no more blank lines than this.
    const LONGEST: usize = 1024;
    const FIELDS: [&[u8]; 5] = [b"data:", b"event:", b"id:", b"retry:", b":"];
    const MARK: &[u8] = b"\xef\xbb\xbf";
    let line = bytes.strip_prefix(MARK).unwrap_or(bytes);
    let blank = line.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let line = &line[blank..];
    if FIELDS.iter().any(|field| line.starts_with(field)) {
        return Some(true);
    }
    let may_become = FIELDS.iter().any(|field| field.starts_with(line)) || MARK.starts_with(bytes);
    (!may_become || bytes.len() > LONGEST).then_some(false)
}

/// The first of some whole events, and the bytes behind it.
pub fn split_first(bytes: &[u8]) -> Option<(Event<'_>, &[u8])> {
    if bytes.is_empty() {
        return None;
    }
    let end = next_boundary(bytes, 0).unwrap_or(bytes.len());
    let (event, rest) = bytes.split_at(end);
    Some((Event::parse(event), rest))
}

/// The events of some whole events, one by one.
pub fn events(mut bytes: &[u8]) -> impl Iterator<Item = Event<'_>> {
    std::iter::from_fn(move || {
        let (event, rest) = split_first(bytes)?;
        bytes = rest;
        Some(event)
    })
}

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its `event:` field; empty when there is none.
    pub name: &'a [u8],
    /// Its `data:` fields, joined by line feeds; `None` for comments and empty events.
    pub data: Option<Cow<'a, [u8]>>,
}

impl<'a> Event<'a> {
    fn parse(bytes: &'a [u8]) -> Self {
        let mut event = Event::default();
        // The LF of a CRLF that ended the event before may have come late, and stands first.
        let is_line_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
        let start = bytes.iter().position(|byte| !is_line_end(byte)).unwrap_or(bytes.len());
        let bytes = &bytes[start..];
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        for line in lines(bytes) {
            let (field, value) = match memchr(b':', line) {
                Some(colon) => (
                    &line[..colon],
                    line[colon + 1..].strip_prefix(b" ").unwrap_or(&line[colon + 1..]),
                ),
                None => (line, &line[line.len()..]),
            };
            match field {
                b"event" => event.name = value,
                b"data" => event.add_data(value),
                _ => {}
            }
        }
        event
    }

    fn add_data(&mut self, value: &'a [u8]) {
        match &mut self.data {
            None => self.data = Some(Cow::Borrowed(value)),
            Some(data) => {
                let data = data.to_mut();
                data.push(b'\n');
                data.extend_from_slice(value);
            }
        }
    }
}

fn lines(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let end = memchr2(b'\n', b'\r', bytes).unwrap_or(bytes.len());
        let line = &bytes[..end];
        bytes = if end == bytes.len() {
            &[]
        } else {
            &bytes[after_line_end(bytes, end)..]
        };
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data(bytes: &[u8]) -> Vec<String> {
        events(bytes)
            .filter_map(|event| Some(String::from_utf8(event.data?.into_owned()).unwrap()))
            .collect()
    }

    #[test]
    fn a_stream_is_known_by_its_first_line() {
        for stream in [
            "data: {}",
            ": ping\n",
            "event: x",
            "id:1",
            "retry: 5",
            "\r\n\ndata:",
            "\u{feff}data: 1",
        ] {
            let bytes = stream.as_bytes();
            assert_eq!(begins(bytes), Some(true), "{stream:?}");
            let known = (0..=bytes.len()).filter_map(|cut| begins(&bytes[..cut]));
            assert!(
                known.into_iter().all(|is_stream| is_stream),
                "however {stream:?} is cut"
            );
        }
        for other in ["{\"error\": 1}", "<html>", "dat{", "hello", "[DONE]", " data: 1"] {
            assert_eq!(begins(other.as_bytes()), Some(false), "{other:?}");
        }
        assert_eq!(begins(b""), None);
        assert_eq!(begins(&[b'\n'; 2000]), Some(false));
    }

    #[test]
    fn understands_every_line_end_comments_and_missing_spaces() {
        assert_eq!(
            data(b"data: a\n\ndata:b\r\n\r\n: ping\n\ndata: c\r\rdata: d\ndata: e\n\n"),
            ["a", "b", "c", "d\ne"]
        );
        assert_eq!(data(b"\xef\xbb\xbfdata: bom\n\n"), ["bom"]);
    }

    #[test]
    fn names_events() {
        let named: Vec<_> = events(b"event: error\ndata: {}\n\n").collect();
        assert_eq!(
            named,
            [Event {
                name: b"error",
                data: Some(Cow::Borrowed(b"{}"))
            }]
        );
    }

    #[test]
    fn gives_out_whole_events_only() {
        let mut splitter = Splitter::default();
        assert_eq!(splitter.push(Bytes::from_static(b"data: a\n\ndata: b")), "data: a\n\n");
        assert_eq!(splitter.pending(), 7);
        assert_eq!(splitter.push(Bytes::from_static(b"\n")), "");
        assert_eq!(
            splitter.push(Bytes::from_static(b"\ndata: c\n\n")),
            "data: b\n\ndata: c\n\n"
        );
        assert_eq!(splitter.push(Bytes::from_static(b"data: d")), "");
        assert_eq!(splitter.finish(), "data: d");
        assert_eq!(splitter.pending(), 0);
    }

    /// Found by the fuzzer.
    #[test]
    fn a_late_line_feed_does_not_hide_a_byte_order_mark() {
        let stream = b"data: a\r\n\r\n\xef\xbb\xbfdata: b\n\n";
        let mut splitter = Splitter::default();
        let first = splitter.push(Bytes::from_static(&stream[..10]));
        let second = splitter.push(Bytes::from_static(&stream[10..]));
        assert_eq!([data(&first), data(&second)].concat(), ["a", "b"]);
        assert_eq!(data(stream), ["a", "b"]);
    }

    fn any_stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(&b"data: {\"a\":1}"[..]),
            Just(&b"\n"[..]),
            Just(&b"\r\n"[..]),
            Just(&b"\r"[..]),
            Just(&b"\n\n"[..]),
            Just(&b"\r\n\r\n"[..]),
            Just(&b": ping"[..]),
            Just(&b"event: x"[..]),
            Just("data: é😀".as_bytes()),
            Just(&b"\xef\xbb\xbf"[..]),
        ];
        proptest::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        /// However the network cuts a stream, nothing is lost, nothing is reordered, and the events are the same.
        #[test]
        fn cuts_do_not_matter(stream in any_stream(), cuts in proptest::collection::vec(0usize..200, 0..12)) {
            let mut splitter = Splitter::default();
            let mut out = Vec::new();
            let mut pieces = Vec::new();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.sort_unstable();
            cuts.push(stream.len());
            let mut from = 0;
            for cut in cuts {
                let whole = splitter.push(Bytes::copy_from_slice(&stream[from..cut]));
                pieces.extend(data(&whole));
                out.extend_from_slice(&whole);
                from = cut;
            }
            let rest = splitter.finish();
            pieces.extend(data(&rest));
            out.extend_from_slice(&rest);
            prop_assert_eq!(&out, &stream);
            prop_assert_eq!(pieces, data(&stream));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = events(&bytes).count();
        }
    }
}
