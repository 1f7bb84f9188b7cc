//! Names of fields that nothing is made of, each once.

use std::borrow::Cow;
use std::collections::HashSet;

/// The most names that are kept. Each is looked at again when it is said what is lost, and a client that sends more has been told enough.
pub const MAX_OTHERS: usize = 256;

/// See the module. They are in the order in which they came.
#[derive(Debug, Default)]
pub struct Others<'a> {
    names: Vec<Cow<'a, str>>,
    known: HashSet<Cow<'a, str>>,
}

impl<'a> Others<'a> {
    /// Adds a name, unless it is there or there are enough.
    pub fn add(&mut self, name: Cow<'a, str>) {
        if self.names.len() < MAX_OTHERS && self.known.insert(name.clone()) {
            self.names.push(name);
        }
    }

    /// The names.
    pub fn into_names(self) -> Vec<Cow<'a, str>> {
        self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_kept_once_and_not_too_many() {
        let mut others = Others::default();
        for at in 0..1000 {
            others.add(format!("a{}", at / 2).into());
        }
        let names = others.into_names();
        assert_eq!(names.len(), MAX_OTHERS);
        assert_eq!(names[..2], ["a0", "a1"]);
    }
}
