//! What of the format's bodies is decoded.

use super::super::shape::{Items, LIST, OBJECT, Outline, Shape};

/// A client's request.
pub static REQUEST: Outline = Outline::of(Shape::Object(&[
    (
        "messages",
        &Shape::List(Items::Objects, &Shape::Object(&[("content", BLOCKS)])),
    ),
    ("system", BLOCKS),
    ("inferenceConfig", &Shape::Object(&[("stopSequences", LIST)])),
    (
        "toolConfig",
        &Shape::Object(&[("tools", &Shape::List(Items::Objects, TOOL)), ("toolChoice", NAMED)]),
    ),
    (
        "outputConfig",
        &Shape::Object(&[("textFormat", &Shape::Object(&[("structure", NAMED)]))]),
    ),
    ("requestMetadata", OBJECT),
    (
        "additionalModelRequestFields",
        &Shape::Object(&[("thinking", OBJECT), ("reasoning_config", OBJECT)]),
    ),
    ("additionalModelResponseFieldPaths", LIST),
    ("performanceConfig", OBJECT),
    ("serviceTier", OBJECT),
]));

/// A vendor's answer, whole or an event of a stream.
pub static ANSWER: Outline = Outline::of(Shape::Object(&[
    (
        "output",
        &Shape::Object(&[("message", &Shape::Object(&[("content", BLOCKS)]))]),
    ),
    ("additionalModelResponseFields", &Shape::Object(&[("delta", OBJECT)])),
    (
        "start",
        &Shape::Object(&[("toolUse", OBJECT), ("toolResult", OBJECT), ("image", OBJECT)]),
    ),
    (
        "delta",
        &Shape::Object(&[("toolUse", OBJECT), ("reasoningContent", OBJECT), ("toolResult", LIST)]),
    ),
]));

const BLOCKS: &Shape = &Shape::List(Items::Objects, BLOCK);

const BLOCK: &Shape = &Shape::Object(&[
    ("toolUse", OBJECT),
    (
        "toolResult",
        &Shape::Object(&[("content", &Shape::List(Items::Objects, MEDIA))]),
    ),
    ("reasoningContent", &Shape::Object(&[("reasoningText", OBJECT)])),
    ("citationsContent", CITED),
    ("image", HELD),
    ("audio", HELD),
    ("document", HELD),
]);

const MEDIA: &Shape = &Shape::Object(&[("image", HELD), ("document", HELD)]);

const HELD: &Shape = &Shape::Object(&[
    (
        "source",
        &Shape::Object(&[
            ("content", &Shape::List(Items::Objects, OBJECT)),
            ("s3Location", OBJECT),
        ]),
    ),
    ("citations", OBJECT),
]);

const CITED: &Shape = &Shape::Object(&[("content", &Shape::List(Items::Objects, OBJECT)), ("citations", LIST)]);

const TOOL: &Shape = &Shape::Object(&[("toolSpec", &Shape::Object(&[("inputSchema", OBJECT)]))]);

const NAMED: &Shape = &Shape::Object(&[("tool", OBJECT), ("jsonSchema", OBJECT)]);
