//! What of the format's bodies is decoded.

use super::super::shape::{Items, LIST, OBJECT, Outline, Shape};

/// A client's request.
pub static REQUEST: Outline = Outline::of(Shape::Object(&[
    ("messages", &Shape::List(Items::Objects, MESSAGE)),
    ("tools", &Shape::List(Items::Objects, TOOL)),
    ("functions", &Shape::List(Items::Objects, OBJECT)),
    ("stop", LIST),
    ("metadata", OBJECT),
    ("modalities", LIST),
    ("response_format", &Shape::Object(&[("json_schema", OBJECT)])),
    ("tool_choice", &Shape::Object(&[("allowed_tools", ALLOWED)])),
    ("function_call", OBJECT),
]));

/// A vendor's answer, whole or a chunk of a stream.
pub static ANSWER: Outline = Outline::of(Shape::Object(&[
    ("choices", &Shape::List(Items::Any, CHOICE)),
    ("error", OBJECT),
]));

const CHOICE: &Shape = &Shape::Object(&[("message", MESSAGE), ("delta", MESSAGE)]);

const MESSAGE: &Shape = &Shape::Object(&[
    ("content", &Shape::List(Items::ObjectsOrTexts, PART)),
    ("tool_calls", &Shape::List(Items::Objects, CALL)),
    ("function_call", OBJECT),
    ("audio", OBJECT),
]);

const PART: &Shape = &Shape::Object(&[
    ("image_url", OBJECT),
    ("input_audio", OBJECT),
    ("file", OBJECT),
    ("thinking", &Shape::List(Items::Objects, OBJECT)),
]);

const CALL: &Shape = &Shape::Object(&[
    ("function", OBJECT),
    ("custom", OBJECT),
    ("extra_content", &Shape::Object(&[("google", OBJECT)])),
]);

const TOOL: &Shape = &Shape::Object(&[("function", OBJECT)]);

const ALLOWED: &Shape = &Shape::Object(&[("tools", &Shape::List(Items::Objects, TOOL))]);
