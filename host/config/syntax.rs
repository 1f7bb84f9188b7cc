//! What is not TOML, in words for the operator.

use toml::de::Error;

use super::document::Document;
use super::spelling::excerpt;

/// Reports what is not TOML: of several errors on one line or on lines without a gap the first, for the others follow
/// from it.
pub(super) fn report(document: &Document<'_>, text: &str, errors: &[Error]) {
    let located = |error: &Error| {
        let span = error.span().unwrap_or_default();
        (document.line(span.start), span)
    };
    let mut errors: Vec<_> = errors.iter().map(|error| (located(error), error.message())).collect();
    errors.sort_by_key(|((line, _), _)| *line);
    let mut last_line = None;
    for ((line, span), message) in errors {
        let follows = last_line.is_some_and(|last| line <= last + 1);
        last_line = Some(line);
        let (fault, expected) = message.split_once(", expected ").unwrap_or((message, ""));
        let (found, instead) = match text.get(span).filter(|_| fault == "duplicate key") {
            Some(key) => (
                format!("`{}` for the second time", excerpt(key)),
                "write it once".to_owned(),
            ),
            None => (format!("not TOML: {fault}"), remedy(fault, expected)),
        };
        document.broken(line, (!follows).then_some((found, instead)));
    }
}

/// What to write instead of what is not TOML. The TOML crate knows what it expected next, which helps with brackets but
/// not with values.
fn remedy(fault: &str, expected: &str) -> String {
    const VALUES: [&str; 6] = [
        "must be quoted",
        "invalid value",
        "boolean",
        "float",
        "integer",
        "number",
    ];
    match fault {
        "missing escaped value" => "write every backslash twice, or the text in single quotes".to_owned(),
        _ if fault.ends_with("string") => "end the text with the quote it began with".to_owned(),
        _ if VALUES.iter().any(|end| fault.ends_with(end)) => {
            "write a text in quotes, a number, true or false".to_owned()
        }
        _ if expected.is_empty() => "see https://toml.io".to_owned(),
        _ => format!("write {expected}"),
    }
}
