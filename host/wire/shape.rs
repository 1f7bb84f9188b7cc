//! The outline of a body: which of its values a decoder makes something of. It is looked at before anything is decoded, in one pass that
//! allocates nothing, so that a body whose items are of the wrong type, or of which there are too many, is refused at the first such
//! item: what a decoder takes of memory is a multiple of the items, not of the bytes.
//!
//! Syntax is not checked here. Bytes that are no JSON pass, for the decoder to refuse; it checks the syntax of the whole body before it
//! keeps anything of it.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::Malformed;

/// What a decoder looks at in one value.
#[derive(Debug)]
pub enum Shape {
    /// Nothing: it is kept as it came, or not at all.
    Any,
    /// The members of an object, at most [`MAX_MEMBERS`], those of the names given here in their turn. A value of another type is not
    /// looked at.
    Object(&'static [(&'static str, &'static Shape)]),
    /// The items of a list. A value of another type is not looked at.
    List(Items, &'static Shape),
    /// The same; an object in its place is a list of one.
    ListOrOne(Items, &'static Shape),
}

/// What the items of a list may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Items {
    /// Anything.
    Any,
    /// Objects only.
    Objects,
    /// Objects and strings.
    ObjectsOrTexts,
    /// Strings only.
    Texts,
}

/// An object of which all members are looked at.
pub const OBJECT: &Shape = &Shape::Object(&[]);
/// A list whose items are kept as they came.
pub const LIST: &Shape = &Shape::List(Items::Any, &Shape::Any);

/// The most members of an object that is decoded. Formats have a few dozen.
pub const MAX_MEMBERS: usize = 1024;

/// Items that every body may have: messages, parts of messages, tools, calls, results, stop texts.
pub const MIN_ITEMS: usize = 4096;
/// A body with more items must have so many bytes for each of them. What a decoder and an encoder keep of one item is less than twice
/// as much, so that the items together take no more than two times the body.
pub const BYTES_PER_ITEM: usize = 256;
/// Bytes of an item: a digit or a bracket, and a comma.
const SMALLEST_ITEM: usize = 2;
/// Bytes of the longest name that is compared; longer ones are nobody's.
const MAX_NAME: usize = 64;

/// What a body may consist of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Items of a body of any size; one with more must have [`BYTES_PER_ITEM`] for each.
    pub items: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { items: MIN_ITEMS }
    }
}

impl Limits {
    /// The most items of a body of so many bytes.
    pub fn items_of(&self, bytes: usize) -> usize {
        self.items.max(bytes / BYTES_PER_ITEM)
    }
}

/// The outline of a format's bodies.
pub struct Outline {
    /// The whole body.
    pub shape: Shape,
    /// How the names of members are spelled: some formats know more than one spelling.
    pub spell: fn(Cow<'_, str>) -> Cow<'_, str>,
}

impl Outline {
    /// An outline whose names are spelled in one way.
    pub const fn of(shape: Shape) -> Self {
        Self {
            shape,
            spell: as_written,
        }
    }

    /// Counts the items, whatever they are, and refuses the first that is too many.
    pub fn count(&'static self, body: &[u8], limits: &Limits) -> Result<(), Malformed> {
        let most = limits.items_of(body.len());
        // So few bytes cannot hold too many of anything.
        if body.len() < SMALLEST_ITEM * most.min(2 * MAX_MEMBERS) {
            return Ok(());
        }
        self.scan(body, most, false)
    }

    /// Refuses the first item that is of a wrong type.
    pub fn check(&'static self, body: &[u8]) -> Result<(), Malformed> {
        self.scan(body, usize::MAX, true)
    }

    fn scan(&'static self, body: &[u8], most: usize, is_strict: bool) -> Result<(), Malformed> {
        let mut scan = Scan {
            bytes: body,
            at: 0,
            items: 0,
            most,
            is_strict,
            spell: self.spell,
            path: Vec::new(),
        };
        match scan.value(&self.shape) {
            Ok(()) | Err(Stop::NotJson) => Ok(()),
            Err(Stop::Wrong(malformed)) => Err(malformed),
        }
    }
}

fn as_written(name: Cow<'_, str>) -> Cow<'_, str> {
    name
}

/// Why a scan ends early.
enum Stop {
    /// The bytes are no JSON.
    NotJson,
    /// This is wrong.
    Wrong(Malformed),
}

/// A step from a value into one in it.
enum Step {
    Member(&'static str),
    Item(usize),
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    items: usize,
    most: usize,
    is_strict: bool,
    spell: fn(Cow<'_, str>) -> Cow<'_, str>,
    path: Vec<Step>,
}

impl<'a> Scan<'a> {
    fn value(&mut self, shape: &'static Shape) -> Result<(), Stop> {
        match (shape, self.next()?) {
            (Shape::Object(known), b'{') => self.object(known),
            (Shape::List(items, inner) | Shape::ListOrOne(items, inner), b'[') => self.list(*items, inner),
            (Shape::ListOrOne(_, inner), b'{') => self.value(inner),
            _ => self.skip(),
        }
    }

    fn object(&mut self, known: &'static [(&'static str, &'static Shape)]) -> Result<(), Stop> {
        self.at += 1;
        let mut members = 0;
        if self.next()? == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            members += 1;
            if members > MAX_MEMBERS {
                return Err(self.wrong(&format!("has more than {MAX_MEMBERS} members")));
            }
            let name = self.name()?;
            if self.next()? != b':' {
                return Err(Stop::NotJson);
            }
            self.at += 1;
            match self.known(name, known) {
                Some((name, shape)) => {
                    self.path.push(Step::Member(name));
                    self.value(shape)?;
                    self.path.pop();
                }
                None => {
                    self.next()?;
                    self.skip()?;
                }
            }
            if self.is_last(b'}')? {
                return Ok(());
            }
            self.next()?;
        }
    }

    fn list(&mut self, items: Items, inner: &'static Shape) -> Result<(), Stop> {
        self.at += 1;
        if self.next()? == b']' {
            self.at += 1;
            return Ok(());
        }
        for place in 0.. {
            self.items += 1;
            if self.items > self.most {
                return Err(self.too_many());
            }
            self.path.push(Step::Item(place));
            self.admit(items)?;
            self.value(inner)?;
            self.path.pop();
            if self.is_last(b']')? {
                break;
            }
        }
        Ok(())
    }

    /// Refuses an item of another type than a list may hold.
    fn admit(&mut self, items: Items) -> Result<(), Stop> {
        let first = self.next()?;
        if !self.is_strict {
            return Ok(());
        }
        match (items, first) {
            (Items::Any, _) | (Items::Objects | Items::ObjectsOrTexts, b'{') => Ok(()),
            (Items::Texts | Items::ObjectsOrTexts, b'"') => Ok(()),
            (Items::Objects, _) => Err(self.wrong("must be an object")),
            (Items::ObjectsOrTexts, _) => Err(self.wrong("must be an object or a string")),
            (Items::Texts, _) => Err(self.wrong("must be a string")),
        }
    }

    /// Whether nothing follows in an object or a list: a comma or its end is passed over.
    fn is_last(&mut self, end: u8) -> Result<bool, Stop> {
        let next = self.next()?;
        self.at += 1;
        match next {
            b',' => Ok(false),
            next if next == end => Ok(true),
            _ => Err(Stop::NotJson),
        }
    }

    /// The next byte that is no white space, which is where the scan stands then.
    fn next(&mut self) -> Result<u8, Stop> {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                Some(byte) => return Ok(*byte),
                None => return Err(Stop::NotJson),
            }
        }
    }

    /// The name of a member, as it is written between its quotes.
    fn name(&mut self) -> Result<&'a [u8], Stop> {
        if self.next()? != b'"' {
            return Err(Stop::NotJson);
        }
        let from = self.at + 1;
        self.string()?;
        Ok(&self.bytes[from..self.at - 1])
    }

    fn known(
        &self,
        name: &[u8],
        known: &'static [(&'static str, &'static Shape)],
    ) -> Option<(&'static str, &'static Shape)> {
        // An escape takes six bytes for one.
        if known.is_empty() || name.len() > 6 * MAX_NAME {
            return None;
        }
        let text = std::str::from_utf8(name).ok()?;
        let text: Cow<'_, str> = match text.contains('\\') {
            true => serde_json::from_str::<String>(&format!("\"{text}\"")).ok()?.into(),
            false => text.into(),
        };
        let text = (self.spell)(text);
        known.iter().find(|(known, _)| *known == text).copied()
    }

    /// Passes over a string, at whose first quote the scan stands.
    fn string(&mut self) -> Result<(), Stop> {
        self.at += 1;
        loop {
            let rest = self.bytes.get(self.at..).ok_or(Stop::NotJson)?;
            let found = memchr::memchr2(b'"', b'\\', rest).ok_or(Stop::NotJson)?;
            self.at += found + 1;
            if rest[found] == b'"' {
                return Ok(());
            }
            self.at += 1;
        }
    }

    /// Passes over a value, at whose first byte the scan stands.
    fn skip(&mut self) -> Result<(), Stop> {
        match self.next()? {
            b'"' => self.string(),
            b'{' | b'[' => self.skip_nested(),
            _ => {
                let rest = &self.bytes[self.at..];
                let ends = |byte: &u8| matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
                let length = rest.iter().position(ends).unwrap_or(rest.len());
                self.at += length;
                if length == 0 { Err(Stop::NotJson) } else { Ok(()) }
            }
        }
    }

    fn skip_nested(&mut self) -> Result<(), Stop> {
        let mut depth = 0usize;
        loop {
            match self.bytes.get(self.at).ok_or(Stop::NotJson)? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Ok(());
            }
        }
    }

    fn too_many(&self) -> Stop {
        let message = format!(
            "the body has more than {} messages, parts, tools and other items; a longer one may have one for every {BYTES_PER_ITEM} bytes",
            self.most
        );
        Stop::Wrong(Malformed {
            param: self.field(),
            message,
        })
    }

    fn wrong(&self, what: &str) -> Stop {
        let mut place = String::new();
        for step in &self.path {
            let _ = match step {
                Step::Member(name) if place.is_empty() => write!(place, "{name}"),
                Step::Member(name) => write!(place, ".{name}"),
                Step::Item(at) => write!(place, "[{at}]"),
            };
        }
        let message = match place.is_empty() {
            true => format!("the body {what}"),
            false => format!("`{place}` {what}"),
        };
        Stop::Wrong(Malformed {
            param: self.field(),
            message,
        })
    }

    /// The field at the top that the scan is in.
    fn field(&self) -> Option<Cow<'static, str>> {
        self.path.iter().find_map(|step| match step {
            Step::Member(name) => Some(Cow::Borrowed(*name)),
            Step::Item(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    static OUTLINE: Outline = Outline::of(Shape::Object(&[
        ("tools", &Shape::ListOrOne(Items::Objects, OBJECT)),
        ("messages", &Shape::List(Items::Objects, MESSAGE)),
    ]));
    const MESSAGE: &Shape = &Shape::Object(&[("content", &Shape::List(Items::ObjectsOrTexts, OBJECT))]);

    fn refused(body: &str) -> Option<(Option<String>, String)> {
        let refused = OUTLINE.check(body.as_bytes()).err()?;
        Some((refused.param.map(Cow::into_owned), refused.message))
    }

    #[test]
    fn the_first_item_of_a_wrong_type_is_named() {
        let body = r#" { "x" : [1] , "messages" : [ {"content":"a"}, { "content" : [ "b", {"c":[1]}, 7 ] } ] } "#;
        let (param, message) = refused(body).unwrap();
        assert_eq!(param.as_deref(), Some("messages"));
        assert_eq!(message, "`messages[1].content[2]` must be an object or a string");
        assert_eq!(
            refused(r#"{"messages":[[]]}"#).unwrap().1,
            "`messages[0]` must be an object"
        );
        assert_eq!(refused(r#"{"tools":{"a":1},"messages":7}"#), None);
        assert_eq!(refused(r#"{"tools":[1]}"#).unwrap().1, "`tools[0]` must be an object");
    }

    #[test]
    fn nothing_behind_the_first_wrong_item_is_looked_at() {
        let rest = "\u{0}".repeat(10);
        assert!(refused(&format!(r#"{{"messages":[1{rest}"#)).is_some());
    }

    #[test]
    fn names_are_found_however_they_are_escaped() {
        assert!(refused(r#"{"m\u0065ssages":[1]}"#).is_some());
        assert!(refused(r#"{"m\u0065ssage":[1]}"#).is_none());
        assert!(refused(r#"{"\"":1,"messages":[1]}"#).is_some());
    }

    #[test]
    fn items_are_counted_wherever_they_stand() {
        let many = |count: usize| {
            let parts = vec!["{}"; count - 1].join(",");
            format!(r#"{{"other":[1,2,3],"messages":[{{"content":[{parts}]}}]}}"#)
        };
        let limits = Limits { items: 5000 };
        assert_eq!(OUTLINE.count(many(5000).as_bytes(), &limits), Ok(()));
        let refused = OUTLINE.count(many(5001).as_bytes(), &limits).unwrap_err();
        assert!(refused.message.contains("more than 5000"), "{}", refused.message);
    }

    #[test]
    fn a_large_body_may_have_more_items() {
        let text = "x".repeat(256);
        let parts = vec![format!(r#"{{"text":"{text}"}}"#); 3 * MIN_ITEMS].join(",");
        let body = format!(r#"{{"messages":[{{"content":[{parts}]}}]}}"#);
        assert_eq!(OUTLINE.count(body.as_bytes(), &Limits::default()), Ok(()));
    }

    #[test]
    fn an_object_has_so_many_members_and_no_more() {
        let with = |count: usize| {
            let members: Vec<_> = (0..count).map(|at| format!("\"{at}\":0")).collect();
            format!(
                r#"{{"tools":[{{{}}}],"other":{{{}}}}}"#,
                members.join(","),
                members.join(",")
            )
        };
        assert_eq!(refused(&with(MAX_MEMBERS)), None);
        let (_, message) = refused(&with(MAX_MEMBERS + 1)).unwrap();
        assert_eq!(message, "`tools[0]` has more than 1024 members");
    }

    proptest! {
        #[test]
        fn bytes_that_are_no_json_pass(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = OUTLINE.check(&bytes);
        }

        #[test]
        fn json_that_was_cut_or_changed_does_not_panic(at in 0usize..80, byte in any::<u8>()) {
            let mut body = br#"{"messages":[{"content":["\"a",{"b":[1,{"c":"}"}]}],"x":-1e5},{}],"tools":{"a":[]}}"#.to_vec();
            let at = at.min(body.len() - 1);
            let _ = OUTLINE.check(&body[..at]);
            body[at] = byte;
            let _ = OUTLINE.check(&body);
        }
    }
}
