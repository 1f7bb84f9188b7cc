//! Proofs of reasoning that travel through clients of another format.
//!
//! A vendor signs what its model thought and wants the signature back with the next turn. Only that vendor can read it. So a signature
//! that is given to a client of another format is marked with the format it came from, and a marked one goes back to that format
//! alone. A signature without a mark is of the client's own format.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::Format;

/// What a marked signature begins with.
pub const MARK: &str = "pointsman.";

/// What a marked one begins with in base64, for formats that have it so.
pub const MARK_IN_BASE64: &str = "cG9pbnRzbWFuL";

/// A signature of a vendor's, for a client of another format.
pub fn marked(signature: &str, from: Format) -> String {
    format!("{MARK}{}.{signature}", from.letter())
}

/// A signature from a client's history, for a vendor that speaks `to`; `None` when it is not for this vendor. `client` is the
/// format that the client speaks.
pub fn for_vendor<'a>(signature: &Cow<'a, str>, client: Format, to: Format) -> Option<Cow<'a, str>> {
    let Some(rest) = signature.strip_prefix(MARK) else {
        return (client == to).then(|| signature.clone());
    };
    let mut letter = [0; 4];
    let own = rest
        .strip_prefix(&*to.letter().encode_utf8(&mut letter))?
        .strip_prefix('.')?
        .len();
    Some(match signature {
        Cow::Borrowed(signature) => Cow::Borrowed(&signature[signature.len() - own..]),
        Cow::Owned(signature) => Cow::Owned(signature[signature.len() - own..].to_owned()),
    })
}

/// Whether a body may hold marked signatures: if so it cannot pass through as it is.
pub fn may_be_in(body: &[u8]) -> bool {
    static MARKS: LazyLock<[Finder<'static>; 2]> =
        LazyLock::new(|| [MARK, MARK_IN_BASE64].map(|mark| Finder::new(mark.as_bytes())));
    MARKS.iter().any(|mark| mark.find(body).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_go_back_to_where_they_came_from_only() {
        let own = Cow::Borrowed("abc");
        assert_eq!(for_vendor(&own, Format::Messages, Format::Messages), Some(own.clone()));
        assert_eq!(for_vendor(&own, Format::Messages, Format::Gemini), None);
        let marked = Cow::Owned(marked("abc", Format::Gemini));
        assert_eq!(for_vendor(&marked, Format::Messages, Format::Gemini), Some(own));
        assert_eq!(for_vendor(&marked, Format::Messages, Format::Messages), None);
        assert!(may_be_in(marked.as_bytes()));
        assert!(may_be_in(br#"{"redactedContent":"cG9pbnRzbWFuLmcuYWJj"}"#));
    }
}
