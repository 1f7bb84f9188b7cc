//! The policy's settings, as the operator wrote them.

use crate::{Level, log};
use std::ops::RangeBounds;
use std::str::FromStr;

/// The settings of this policy: `[policy.NAME] settings = { … }` in the configuration.
///
/// A setting that cannot be read is logged as an error, and its default holds: a typing mistake must not stop requests.
#[derive(Clone, Debug)]
pub struct Settings(Source);

#[derive(Clone, Debug)]
enum Source {
    Gateway,
    Pairs(Vec<(String, String)>),
}

impl Settings {
    /// The settings that the gateway holds.
    #[doc(hidden)]
    pub fn of_gateway() -> Self {
        Self(Source::Gateway)
    }

    /// The value as it was written; `None` when it was not.
    pub fn text(&self, name: &str) -> Option<String> {
        match &self.0 {
            Source::Gateway => crate::bindings::setting(name),
            Source::Pairs(pairs) => crate::request::lookup(pairs, name).map(str::to_owned),
        }
    }

    /// A number within the range; otherwise the default.
    pub fn number<N: FromStr + PartialOrd>(&self, name: &str, range: impl RangeBounds<N>, default: N) -> N {
        self.read(name, "not a number in its range", |text| {
            text.parse().ok().filter(|number| range.contains(number))
        })
        .unwrap_or(default)
    }

    /// `true` or `false`; otherwise the default.
    pub fn flag(&self, name: &str, default: bool) -> bool {
        self.read(name, "neither true nor false", |text| text.parse().ok())
            .unwrap_or(default)
    }

    /// The elements of a list, written as a list or as text with commas. Empty elements are left out; there are none
    /// when the setting was not written.
    pub fn list(&self, name: &str) -> Vec<String> {
        let text = self.text(name).unwrap_or_default();
        text.split(',')
            .map(str::trim)
            .filter(|element| !element.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// What `parse` makes of a setting; an error in the log, and `None`, when it makes nothing of it.
    pub fn read<T>(&self, name: &str, complaint: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.text(name)?;
        let value = parse(text.trim());
        if value.is_none() {
            let message = [
                "setting ",
                name,
                " = \"",
                &text,
                "\" is ",
                complaint,
                "; its default holds",
            ]
            .concat();
            log(Level::Error, &message);
        }
        value
    }
}

/// Settings for a test.
impl<const N: usize> From<[(&str, &str); N]> for Settings {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(Source::Pairs(
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_was_written() {
        let settings = Settings::from([("n", " 7 "), ("share", "2.5"), ("on", "true"), ("order", "a, b,,c")]);
        assert_eq!(settings.text("on").as_deref(), Some("true"));
        assert_eq!(settings.number("n", 1..=10, 3), 7);
        assert_eq!(settings.number("share", 0.0..=100.0, 5.0), 2.5);
        assert!(settings.flag("on", false));
        assert_eq!(settings.list("order"), ["a", "b", "c"]);
    }

    #[test]
    fn the_default_holds_where_nothing_or_nonsense_was_written() {
        let settings = Settings::from([("n", "seven"), ("share", "NaN"), ("big", "11"), ("on", "yes")]);
        assert_eq!(settings.number("n", 1..=10, 3), 3);
        assert_eq!(settings.number("share", 0.0..=100.0, 5.0), 5.0);
        assert_eq!(settings.number("big", 1..=10, 3), 3);
        assert_eq!(settings.number("absent", 1..=10, 3), 3);
        assert!(settings.flag("on", true));
        assert!(settings.list("absent").is_empty());
    }
}
