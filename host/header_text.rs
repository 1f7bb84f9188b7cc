//! Text as a header can carry it: vendors and policies may say anything.

use http::HeaderValue;

/// Longest text of a policy's that goes into a header.
const LONGEST: usize = 200;

/// A text, or the beginning of a long one, with `?` for what no header can carry.
pub fn text(text: &str) -> HeaderValue {
    shown(text, LONGEST)
}

/// The same with a length of its own, in characters.
pub fn shown(text: &str, longest: usize) -> HeaderValue {
    if text.len() <= longest
        && let Ok(value) = HeaderValue::from_str(text)
    {
        return value;
    }
    let clean = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    let text: String = text.chars().take(longest).map(clean).collect();
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_header_can_carry_is_marked_and_what_is_long_is_cut() {
        assert_eq!(text("by size"), "by size");
        assert_eq!(text("größe\r\nx: y"), "gr??e??x: y");
        assert_eq!(shown(&"ä".repeat(300), 3), "???");
        assert_eq!(text(&"a".repeat(300)).len(), LONGEST);
    }
}
