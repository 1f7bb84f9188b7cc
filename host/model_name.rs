//! Which names a model may have. In some vendors' paths the name is a segment, and the target's credential goes along: a name that
//! leaves its place would send it to another of the vendor's endpoints.

/// Whether a name may stand in a path. It is encoded there, slashes too, but `.` and `..` mean other places however they are encoded, and
/// some servers decode slashes first.
pub fn is_usable(name: &str) -> bool {
    let mut segments = name.split(['/', '\\']);
    !name.is_empty() && !name.contains(char::is_control) && segments.all(|segment| segment != "." && segment != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_where_it_is_put() {
        for name in [
            "gpt-5.4",
            "org/model:free",
            "anthropic.claude-v2:1",
            "arn:aws:bedrock:us-east-1::foundation-model/m",
            "...",
            ".hidden",
            "modèle",
        ] {
            assert!(is_usable(name), "{name:?}");
        }
        for name in [
            "", ".", "..", "a/../b", "../admin", "a/.", "..\\b", "a\nb", "a\0", "a\u{7f}", "a\u{85}b",
        ] {
            assert!(!is_usable(name), "{name:?}");
        }
    }
}
