//! What of the format's bodies is decoded.

use super::object::camel;
use crate::wire::shape::{Items, LIST, OBJECT, Outline, Shape};

/// A client's request, whole or in a request to count its tokens.
pub static REQUEST: Outline = spelled(Shape::Object(&[
    ("contents", CONTENTS),
    ("systemInstruction", CONTENT),
    ("tools", TOOLS),
    ("toolConfig", TOOL_CONFIG),
    ("generationConfig", GENERATION_CONFIG),
    ("labels", OBJECT),
    (
        "generateContentRequest",
        &Shape::Object(&[
            ("contents", CONTENTS),
            ("systemInstruction", CONTENT),
            ("tools", TOOLS),
            ("toolConfig", TOOL_CONFIG),
            ("generationConfig", GENERATION_CONFIG),
            ("labels", OBJECT),
        ]),
    ),
]));

/// A vendor's answer, a chunk or a list of them.
pub static ANSWER: Outline = spelled(Shape::ListOrOne(
    Items::Objects,
    &Shape::Object(&[
        (
            "candidates",
            &Shape::ListOrOne(Items::Objects, &Shape::Object(&[("content", CONTENT)])),
        ),
        ("promptFeedback", OBJECT),
        ("usageMetadata", OBJECT),
        ("error", OBJECT),
    ]),
));

/// A request for embeddings in the format of OpenAI, whose texts become a vendor's.
pub static TEXTS: Outline = Outline::of(Shape::Object(&[("input", &Shape::List(Items::Texts, &Shape::Any))]));

/// A vendor's embeddings.
pub static EMBEDDINGS: Outline = spelled(Shape::Object(&[(
    "embeddings",
    &Shape::ListOrOne(Items::Objects, OBJECT),
)]));

const fn spelled(shape: Shape) -> Outline {
    Outline { shape, spell: camel }
}

const CONTENTS: &Shape = &Shape::ListOrOne(Items::Objects, CONTENT);

const CONTENT: &Shape = &Shape::Object(&[("parts", &Shape::ListOrOne(Items::Objects, PART))]);

const PART: &Shape = &Shape::Object(&[
    (
        "functionCall",
        &Shape::Object(&[("partialArgs", &Shape::ListOrOne(Items::Objects, OBJECT))]),
    ),
    (
        "functionResponse",
        &Shape::Object(&[("parts", &Shape::ListOrOne(Items::Objects, MEDIA))]),
    ),
    ("inlineData", OBJECT),
    ("fileData", OBJECT),
]);

const MEDIA: &Shape = &Shape::Object(&[("inlineData", OBJECT), ("fileData", OBJECT)]);

const TOOLS: &Shape = &Shape::ListOrOne(
    Items::Objects,
    &Shape::Object(&[("functionDeclarations", &Shape::ListOrOne(Items::Objects, OBJECT))]),
);

const TOOL_CONFIG: &Shape = &Shape::Object(&[(
    "functionCallingConfig",
    &Shape::Object(&[("allowedFunctionNames", LIST)]),
)]);

const GENERATION_CONFIG: &Shape = &Shape::Object(&[
    ("stopSequences", LIST),
    ("responseModalities", LIST),
    ("thinkingConfig", OBJECT),
]);
