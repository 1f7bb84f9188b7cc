use super::*;
use proptest::prelude::*;

fn written() -> Vec<u8> {
    let mut out = Vec::new();
    message("messageStart", br#"{"role":"assistant"}"#.to_vec(), &mut out);
    message("contentBlockStop", br#"{"contentBlockIndex":0}"#.to_vec(), &mut out);
    exception("throttlingException", br#"{"message":"slow"}"#.to_vec(), &mut out);
    out
}

fn read(mut bytes: &[u8]) -> Result<Vec<(String, String)>, Malformed> {
    let mut events = Vec::new();
    while let Some((event, rest)) = split_first(bytes)? {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        events.push((text(event.name), text(&event.data.unwrap())));
        bytes = rest;
    }
    Ok(events)
}

fn pair(name: &str, data: &str) -> (String, String) {
    (name.to_owned(), data.to_owned())
}

/// `messageStart` as AWS's own encoder writes it, byte for byte.
#[test]
fn writes_what_aws_writes() {
    let mut out = Vec::new();
    message("messageStart", b"{}".to_vec(), &mut out);
    let headers = [
        &b"\x0b:event-type\x07\x00\x0cmessageStart"[..],
        b"\x0d:content-type\x07\x00\x10application/json",
        b"\x0d:message-type\x07\x00\x05event",
    ]
    .concat();
    assert_eq!(out[..4], (12 + headers.len() as u32 + 2 + 4).to_be_bytes());
    assert_eq!(out[4..8], (headers.len() as u32).to_be_bytes());
    assert_eq!(out[12..12 + headers.len()], headers);
    assert_eq!(out[12 + headers.len()..out.len() - 4], b"{}"[..]);
}

#[test]
fn reads_what_it_writes() {
    let expected = [
        pair("messageStart", r#"{"role":"assistant"}"#),
        pair("contentBlockStop", r#"{"contentBlockIndex":0}"#),
        pair("exception:throttlingException", r#"{"message":"slow"}"#),
    ];
    assert_eq!(read(&written()).unwrap(), expected);
}

#[test]
fn errors_and_unknown_exceptions_say_their_type_in_their_data() {
    let text = |name: &'static str, value: &'static str| Header::new(name, HeaderValue::String(value.into()));
    let error = Message::new(Bytes::new())
        .add_header(text(":message-type", "error"))
        .add_header(text(":error-code", "InternalError"))
        .add_header(text(":error-message", "oh \"no\""));
    let odd = Message::new(&br#"{"message":"gone"}"#[..])
        .add_header(text(":message-type", "exception"))
        .add_header(text(":exception-type", "oddException"));
    let mut out = Vec::new();
    write_message_to(&error, &mut out).unwrap();
    write_message_to(&odd, &mut out).unwrap();
    let expected = [
        pair(EXCEPTION, r#"{"__type":"InternalError","message":"oh \"no\""}"#),
        pair(EXCEPTION, r#"{"__type":"oddException","message":"gone"}"#),
    ];
    assert_eq!(read(&out).unwrap(), expected);
}

#[test]
fn what_is_no_message_is_not_waited_for() {
    let huge = [
        &(64u32 << 20).to_be_bytes()[..],
        &0u32.to_be_bytes(),
        &crc32([4, 0, 0, 0, 0, 0, 0, 0]).to_be_bytes(),
    ]
    .concat();
    let short = [&8u32.to_be_bytes()[..], &[0; 8]].concat();
    let mut wrong_checksum = written();
    wrong_checksum[9] ^= 1;
    for bytes in [&b"{\"message\":\"not a stream\"}"[..], &huge, &short, &wrong_checksum] {
        let mut splitter = Splitter::default();
        let out = splitter.push(Bytes::copy_from_slice(bytes));
        assert_eq!(out, bytes);
        assert!(split_first(&out).is_err());
        assert_eq!(splitter.push(Bytes::from_static(b"x")), "x");
    }
}

#[test]
fn a_wrong_byte_anywhere_is_noticed() {
    let mut good = Vec::new();
    message("messageStop", br#"{"stopReason":"end_turn"}"#.to_vec(), &mut good);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x20;
        assert!(read(&bad).is_err(), "byte {at}");
    }
    assert!(split_first(&good[..good.len() - 1]).is_err());
    assert!(split_first(&good[..7]).is_err());
}

proptest! {
    /// However the network cuts a stream, the messages are the same and only whole ones come out.
    #[test]
    fn cuts_do_not_matter(cuts in proptest::collection::vec(0usize..400, 0..12)) {
        let stream = written();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
        cuts.sort_unstable();
        cuts.push(stream.len());
        let mut splitter = Splitter::default();
        let (mut from, mut events) = (0, Vec::new());
        for cut in cuts {
            let whole = splitter.push(Bytes::copy_from_slice(&stream[from..cut]));
            events.extend(read(&whole).unwrap());
            from = cut;
        }
        prop_assert_eq!(splitter.pending(), 0);
        prop_assert_eq!(splitter.finish(), "");
        prop_assert_eq!(events, read(&stream).unwrap());
    }

    #[test]
    fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), whole in any::<bool>(), headers in 0u32..40) {
        if whole && bytes.len() >= 16 {
            let total = bytes.len() as u32;
            bytes[..4].copy_from_slice(&total.to_be_bytes());
            bytes[4..8].copy_from_slice(&headers.to_be_bytes());
            let lengths = bytes[..8].try_into().unwrap();
            bytes[8..12].copy_from_slice(&crc32(lengths).to_be_bytes());
        }
        let mut splitter = Splitter::default();
        let whole = splitter.push(Bytes::copy_from_slice(&bytes));
        let _ = split_first(&whole);
        let _ = split_first(&bytes);
        let _ = splitter.finish();
    }
}
