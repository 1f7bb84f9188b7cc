//! Bodies that a vendor, or something in front of it, sends compressed although it was asked not to: they are decoded before anybody
//! reads them. What they grow to counts against the limits of whoever reads them, for it comes in pieces.

use std::cell::RefCell;
use std::io::{self, BufRead, Read};
use std::task::{Context, Poll, ready};

use brotli_decompressor::Decompressor;
use bytes::{Buf, Bytes};
use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, HeaderValue, header};

/// Why a body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection broke, or what came over it is not HTTP.
    #[error(transparent)]
    Wire(#[from] hyper::Error),
    /// Its content-encoding is not known, or its bytes do not have it.
    #[error("{0}")]
    Encoding(String),
}

/// Decodes one body.
pub struct ContentDecoder {
    coding: Coding,
    /// Bytes that were decoded without a pause.
    at_once: usize,
}

enum Coding {
    Gzip(Box<MultiGzDecoder<Input>>),
    Zlib(Box<ZlibDecoder<Input>>),
    Deflate(Box<DeflateDecoder<Input>>),
    Brotli(Box<Decompressor<Input>>),
    /// `deflate`, of which the first byte has not come: some servers send it without the zlib header that it should have.
    EitherDeflate(Input),
    /// The decoder has come to the end.
    Ended,
    /// It cannot be decoded: why.
    Unknown(String),
}

/// What a decoder has to say.
#[derive(Debug, PartialEq)]
enum Decoded {
    Bytes(Bytes),
    /// It needs more input.
    Hungry,
    End,
}

/// What has come and is not decoded yet.
#[derive(Default)]
struct Input {
    bytes: Bytes,
    /// Nothing will follow.
    is_last: bool,
}

/// Input that a decoder gets at once. Deflate makes at most 1,032 bytes of one, so that what it makes of this always fits into half of
/// the room: what does not fit would stay inside the decoder until more input comes.
const PIECE: usize = 32;
/// Room for what is decoded at once.
const ROOM: usize = 96 * 1024;
/// Bytes that are decoded before other work has its turn.
const TURN: usize = 256 * 1024;
/// Bytes of brotli's own input buffer.
const BROTLI_INPUT: usize = 4096;

thread_local! {
    /// Where bytes are decoded to, before they are copied into as much memory as they need.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; ROOM]);
}

impl ContentDecoder {
    /// What decodes the body of an answer with these headers; `None` where it is not encoded. The headers that are true only of the
    /// encoded body are taken out.
    pub fn take(headers: &mut HeaderMap) -> Option<Self> {
        if !headers.contains_key(header::CONTENT_ENCODING) {
            return None;
        }
        let coding = Coding::of(headers.get_all(header::CONTENT_ENCODING).iter());
        headers.remove(header::CONTENT_ENCODING);
        let coding = coding?;
        headers.remove(header::CONTENT_LENGTH);
        Some(Self { coding, at_once: 0 })
    }

    /// The next decoded bytes of a body whose encoded bytes `poll` gives.
    pub fn poll_decoded(
        &mut self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<Option<Result<Bytes, hyper::Error>>>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.at_once >= TURN {
            self.at_once = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            match self.coding.next() {
                Ok(Decoded::Bytes(bytes)) => {
                    self.at_once += bytes.len();
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Ok(Decoded::Hungry | Decoded::End) => {}
                Err(why) => return Poll::Ready(Some(Err(BodyError::Encoding(why)))),
            }
            let came = poll(cx);
            if came.is_pending() {
                self.at_once = 0;
            }
            match ready!(came) {
                Some(Ok(bytes)) => {
                    if let Err(why) = self.coding.push(bytes) {
                        return Poll::Ready(Some(Err(BodyError::Encoding(why))));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None if self.coding.is_at_end() => return Poll::Ready(None),
                None => self.coding.finish(),
            }
        }
    }
}

impl Coding {
    /// `None`: the body is as it is.
    fn of<'a>(values: impl Iterator<Item = &'a HeaderValue>) -> Option<Self> {
        let names: Vec<String> = values
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
            .filter(|name| !name.is_empty() && name != "identity")
            .collect();
        let input = Input::default();
        Some(match names.as_slice() {
            [] => return None,
            [name] if name == "gzip" || name == "x-gzip" => Coding::Gzip(Box::new(MultiGzDecoder::new(input))),
            [name] if name == "deflate" => Coding::EitherDeflate(input),
            [name] if name == "br" => Coding::Brotli(Box::new(Decompressor::new(input, BROTLI_INPUT))),
            names => Coding::Unknown(format!(
                "content-encoding {} is not supported",
                shown(&names.join(", "))
            )),
        })
    }

    fn input(&mut self) -> Option<&mut Input> {
        match self {
            Coding::Gzip(decoder) => Some(decoder.get_mut()),
            Coding::Zlib(decoder) => Some(decoder.get_mut()),
            Coding::Deflate(decoder) => Some(decoder.get_mut()),
            Coding::Brotli(decoder) => Some(decoder.get_mut()),
            Coding::EitherDeflate(input) => Some(input),
            Coding::Ended | Coding::Unknown(_) => None,
        }
    }

    /// Takes encoded bytes, of which the ones before must have been decoded.
    fn push(&mut self, bytes: Bytes) -> Result<(), String> {
        if let Coding::EitherDeflate(input) = self
            && let Some(first) = bytes.first()
        {
            let input = std::mem::take(input);
            // A zlib header says 8, its method, in the low half of its first byte (RFC 1950, 2.2). Deflate's own first byte with that
            // would be a stored block, whose other bits are 0 as every encoder writes them.
            *self = if first & 0x0f == 8 {
                Coding::Zlib(Box::new(ZlibDecoder::new(input)))
            } else {
                Coding::Deflate(Box::new(DeflateDecoder::new(input)))
            };
        }
        match self.input() {
            Some(input) => input.bytes = bytes,
            None if bytes.is_empty() => {}
            None => return Err("the body goes on behind the end of its content-encoding".to_owned()),
        }
        Ok(())
    }

    fn finish(&mut self) {
        match self {
            Coding::EitherDeflate(_) => *self = Coding::Ended,
            coding => {
                if let Some(input) = coding.input() {
                    input.is_last = true;
                }
            }
        }
    }

    fn is_at_end(&self) -> bool {
        matches!(self, Coding::Ended)
    }

    /// As much as can be decoded now, up to a limit.
    fn next(&mut self) -> Result<Decoded, String> {
        if let Coding::Unknown(why) = self {
            return Err(why.clone());
        }
        let decoded = SCRATCH.with_borrow_mut(|room| {
            let mut used = 0;
            // Half of the room is always left for what a piece may become.
            while used < room.len() / 2 {
                match self.read(&mut room[used..]) {
                    Ok(0) => {
                        *self = Coding::Ended;
                        break;
                    }
                    Ok(read) => used += read,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // The format says whether anything is missing: some servers leave the checksum out.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        *self = Coding::Ended;
                        break;
                    }
                    Err(error) => return Err(format!("the body is not what its content-encoding says: {error}")),
                }
            }
            Ok(Bytes::copy_from_slice(&room[..used]))
        })?;
        Ok(match (decoded.is_empty(), self.is_at_end()) {
            (false, _) => Decoded::Bytes(decoded),
            (true, true) => Decoded::End,
            (true, false) => Decoded::Hungry,
        })
    }

    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Coding::Gzip(decoder) => decoder.read(room),
            Coding::Zlib(decoder) => decoder.read(room),
            Coding::Deflate(decoder) => decoder.read(room),
            Coding::Brotli(decoder) => decoder.read(room),
            Coding::EitherDeflate(_) | Coding::Unknown(_) => Err(io::ErrorKind::WouldBlock.into()),
            Coding::Ended => Ok(0),
        }
    }
}

/// A name from a header, as it may stand in a log.
fn shown(names: &str) -> String {
    const LONGEST: usize = 40;
    names.chars().filter(char::is_ascii_graphic).take(LONGEST).collect()
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.bytes.is_empty() && !self.is_last {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(&self.bytes[..self.bytes.len().min(PIECE)])
    }

    fn consume(&mut self, amount: usize) {
        self.bytes.advance(amount);
    }
}

impl Read for Input {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.bytes.is_empty() && !self.is_last {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = self.bytes.len().min(room.len());
        room[..taken].copy_from_slice(&self.bytes[..taken]);
        self.bytes.advance(taken);
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use std::io::Write;

    fn decoder(name: &str) -> ContentDecoder {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_ENCODING,
            HeaderValue::from_bytes(name.as_bytes()).unwrap(),
        );
        headers.insert(header::CONTENT_LENGTH, "7".parse().unwrap());
        let decoder = ContentDecoder::take(&mut headers).expect("an encoding");
        assert!(headers.is_empty(), "{headers:?}");
        decoder
    }

    /// Decodes pieces as they come: what each became, and the end.
    fn decode<'a>(name: &str, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Vec<u8>>, String> {
        let mut decoder = decoder(name);
        let mut all = Vec::new();
        let mut take = |coding: &mut Coding| -> Result<(), String> {
            let mut out = Vec::new();
            while let Decoded::Bytes(bytes) = coding.next()? {
                out.extend_from_slice(&bytes);
            }
            all.push(out);
            Ok(())
        };
        for piece in pieces {
            decoder.coding.push(Bytes::copy_from_slice(piece))?;
            take(&mut decoder.coding)?;
        }
        decoder.coding.finish();
        take(&mut decoder.coding)?;
        assert!(decoder.coding.is_at_end());
        Ok(all)
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    /// `hello, brotli` as the reference encoder writes it without compression.
    const BROTLI: &[u8] = b"\x0b\x06\x80hello, brotli\x03";

    #[test]
    fn every_encoding_is_decoded_however_it_is_cut() {
        let plain = b"data: {\"text\": \"hello, hello, hello\"}\n\n".repeat(500);
        for (name, encoded) in [
            ("gzip", gzip(&plain)),
            ("X-GZIP", gzip(&plain)),
            ("identity, gzip", gzip(&plain)),
            ("deflate", zlib(&plain)),
            ("deflate", deflate(&plain)),
        ] {
            for size in [1, 7, 64, encoded.len()] {
                let decoded = decode(name, encoded.chunks(size)).unwrap().concat();
                assert!(decoded == plain, "{name} in pieces of {size}");
            }
        }
        for size in [1, 3, BROTLI.len()] {
            assert_eq!(decode("br", BROTLI.chunks(size)).unwrap().concat(), b"hello, brotli");
        }
    }

    #[test]
    fn what_was_flushed_is_there_before_more_comes() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::best());
        let mut decoder = decoder("gzip");
        // One that takes a few hundred bytes, of which nothing may stay in the decoder, and one that is short.
        for event in [vec![b'a'; 300_000], b"data: two\n\n".to_vec()] {
            encoder.write_all(&event).unwrap();
            encoder.flush().unwrap();
            decoder.coding.push(std::mem::take(encoder.get_mut()).into()).unwrap();
            let mut came = 0;
            while let Decoded::Bytes(bytes) = decoder.coding.next().unwrap() {
                assert!(bytes.len() <= ROOM);
                came += bytes.len();
            }
            assert_eq!(came, event.len());
        }
    }

    #[test]
    fn parts_of_one_body_are_one_text() {
        let encoded = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(decode("gzip", [encoded.as_slice()]).unwrap().concat(), b"one two");
    }

    #[test]
    fn a_body_without_its_checksum_is_read() {
        let encoded = gzip(b"whole");
        let cut = &encoded[..encoded.len() - 8];
        assert_eq!(decode("gzip", [cut]).unwrap().concat(), b"whole");
    }

    #[test]
    fn what_cannot_be_decoded_is_said() {
        for name in ["zstd", "gzip, br", "\"}; gr\u{f6}\u{df}e"] {
            let error = decode(name, [b"anything".as_slice()]).unwrap_err();
            assert!(error.is_ascii(), "{error}");
        }
        let error = decoder("zstd").coding.next().unwrap_err();
        assert_eq!(error, "content-encoding zstd is not supported");
        let error = decode("gzip", [b"{\"plain\": \"text\"}".as_slice()]).unwrap_err();
        assert!(error.contains("content-encoding"), "{error}");
    }

    proptest::proptest! {
        /// A vendor's bytes may be anything, however they are cut: each piece of what comes out is bounded, and it ends.
        #[test]
        fn any_bytes_are_decoded_in_bounded_pieces_or_refused(
            name in proptest::sample::select(vec!["gzip", "deflate", "br"]),
            magic in proptest::bool::ANY,
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2000),
            size in 1..500_usize,
        ) {
            let body = if magic { [&gzip(b"")[..10], &bytes].concat() } else { bytes };
            let mut coding = decoder(name).coding;
            let mut pieces = body.chunks(size);
            'body: loop {
                for _ in 0..100 {
                    match coding.next() {
                        Ok(Decoded::Bytes(bytes)) => assert!(bytes.len() <= ROOM),
                        Ok(Decoded::Hungry | Decoded::End) => break,
                        Err(_) => break 'body,
                    }
                }
                if coding.is_at_end() {
                    break;
                }
                match pieces.next() {
                    Some(piece) => if coding.push(Bytes::copy_from_slice(piece)).is_err() { break },
                    None => coding.finish(),
                }
            }
        }
    }

    #[test]
    fn an_empty_body_is_empty_in_any_encoding() {
        for name in ["gzip", "deflate"] {
            assert_eq!(decode(name, []).unwrap().concat(), b"");
        }
    }

    #[test]
    fn identity_is_no_encoding() {
        for name in ["identity", "", " Identity "] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_ENCODING, name.parse().unwrap());
            assert!(ContentDecoder::take(&mut headers).is_none());
        }
    }
}
