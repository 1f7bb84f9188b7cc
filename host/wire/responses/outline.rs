//! What of the format's bodies is decoded.

use super::super::shape::{Items, LIST, OBJECT, Outline, Shape};

/// A client's request.
pub static REQUEST: Outline = Outline::of(Shape::Object(&[
    ("input", ITEMS),
    ("tools", OBJECTS),
    ("include", LIST),
    ("metadata", OBJECT),
    ("text", &Shape::Object(&[("format", OBJECT)])),
    ("reasoning", OBJECT),
    ("tool_choice", &Shape::Object(&[("tools", OBJECTS)])),
]));

/// A vendor's answer, whole or an event of a stream.
pub static ANSWER: Outline = Outline::of(Shape::Object(&[
    ("output", ITEMS),
    (
        "response",
        &Shape::Object(&[("output", ITEMS), ("incomplete_details", OBJECT)]),
    ),
    ("incomplete_details", OBJECT),
    ("item", ITEM),
    ("error", OBJECT),
]));

const ITEMS: &Shape = &Shape::List(Items::Objects, ITEM);

const ITEM: &Shape = &Shape::Object(&[("content", PARTS), ("output", PARTS), ("summary", OBJECTS)]);

const PARTS: &Shape = &Shape::List(
    Items::Objects,
    &Shape::Object(&[("input_audio", OBJECT), ("annotations", LIST)]),
);

const OBJECTS: &Shape = &Shape::List(Items::Objects, OBJECT);
