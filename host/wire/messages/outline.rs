//! What of the format's bodies is decoded.

use crate::wire::shape::{Items, LIST, OBJECT, Outline, Shape};

/// A client's request.
pub static REQUEST: Outline = Outline::of(Shape::Object(&[
    (
        "messages",
        &Shape::List(Items::Objects, &Shape::Object(&[("content", BLOCKS)])),
    ),
    ("system", BLOCKS),
    ("tools", &Shape::List(Items::Objects, TOOL)),
    ("stop_sequences", LIST),
    ("metadata", OBJECT),
    ("output_config", OBJECT),
    ("tool_choice", OBJECT),
    ("thinking", OBJECT),
]));

/// A vendor's answer, whole or an event of a stream.
pub static ANSWER: Outline = Outline::of(Shape::Object(&[
    ("content", BLOCKS),
    ("message", &Shape::Object(&[("content", BLOCKS)])),
    ("content_block", BLOCK),
    ("delta", OBJECT),
    ("error", OBJECT),
]));

const BLOCKS: &Shape = &Shape::List(Items::Objects, BLOCK);

const BLOCK: &Shape = &Shape::Object(&[
    ("content", &Shape::List(Items::Objects, INNER)),
    ("source", SOURCE),
    ("citations", LIST),
]);

/// A block in the result of a tool, or in a document.
const INNER: &Shape = &Shape::Object(&[("source", SOURCE)]);

const SOURCE: &Shape = &Shape::Object(&[("content", &Shape::List(Items::Objects, OBJECT))]);

const TOOL: &Shape = &Shape::Object(&[("allowed_callers", LIST)]);
