//! Signatures of thoughts as Gemini's clients take them: base64, which its SDKs decode. What is no base64, a signature that is marked
//! as another vendor's, travels wrapped in it.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::wire::signature::{MARK, MARK_IN_BASE64};

/// What stands before reasoning that only its vendor can read.
const REDACTED: &str = "pointsman.redacted:";

/// SDKs give the bytes back in the other alphabet, and with or without padding.
const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a `thoughtSignature` from a client is.
#[derive(Debug, PartialEq, Eq)]
pub enum Proof<'a> {
    /// A signature, marked where it is another format's.
    Signature(Cow<'a, str>),
    /// Reasoning for its vendor's eyes only.
    Redacted(Cow<'a, str>),
}

/// Reads a `thoughtSignature` of a client's.
pub fn read(sent: Cow<'_, str>) -> Proof<'_> {
    match unwrapped(&sent) {
        None => Proof::Signature(sent),
        Some(text) => match text.strip_prefix(REDACTED) {
            Some(data) => Proof::Redacted(data.to_owned().into()),
            None => Proof::Signature(text.into()),
        },
    }
}

fn unwrapped(sent: &str) -> Option<String> {
    if !sent.starts_with(MARK_IN_BASE64) {
        return None;
    }
    let url_safe: String = sent
        .chars()
        .map(|letter| match letter {
            '+' => '-',
            '/' => '_',
            other => other,
        })
        .collect();
    let text = String::from_utf8(ENGINE.decode(url_safe).ok()?).ok()?;
    text.starts_with(MARK).then_some(text)
}

/// Writes a signature for a client.
pub fn write(signature: &str) -> Cow<'_, str> {
    if signature.starts_with(MARK) {
        return ENGINE.encode(signature).into();
    }
    signature.into()
}

/// Writes reasoning for its vendor's eyes only.
pub fn write_redacted(data: &str) -> String {
    ENGINE.encode(format!("{REDACTED}{data}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Format;
    use crate::wire::signature::{marked, may_be_in};

    #[test]
    fn foreign_signatures_travel_as_base64() {
        for signature in ["a", "ab", "abc", "ErUB+/=="] {
            let marked = marked(signature, Format::Messages);
            let sent = write(&marked).into_owned();
            assert!(sent.starts_with(MARK_IN_BASE64), "{sent}");
            assert!(may_be_in(sent.as_bytes()));
            assert_eq!(read(sent.clone().into()), Proof::Signature(marked.clone().into()));
            let other = sent.replace('-', "+").replace('_', "/");
            let bare = other.trim_end_matches('=');
            assert_eq!(read(bare.into()), Proof::Signature(marked.into()));
        }
    }

    #[test]
    fn own_signatures_stay_as_they_are() {
        assert_eq!(write("EpEgCo4gAb4+9vs="), "EpEgCo4gAb4+9vs=");
        assert_eq!(
            read("EpEgCo4gAb4+9vs=".into()),
            Proof::Signature("EpEgCo4gAb4+9vs=".into())
        );
        let odd = format!("{MARK_IN_BASE64}!");
        assert_eq!(read(odd.as_str().into()), Proof::Signature(odd.as_str().into()));
    }

    #[test]
    fn redacted_reasoning_comes_back_as_such() {
        let sent = write_redacted("pointsman.m.data");
        assert!(may_be_in(sent.as_bytes()));
        assert_eq!(read(sent.into()), Proof::Redacted("pointsman.m.data".into()));
    }
}
