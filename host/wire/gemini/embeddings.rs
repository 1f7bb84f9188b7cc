//! Embeddings: a request in OpenAI's format for Gemini's `batchEmbedContents`, and its answer on the way back.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;

use super::object::Object;
use super::outline;
use crate::chat::{Usage, estimated_tokens};
use crate::wire::json::{Text, parse, value};
use crate::wire::shape::Limits;
use crate::wire::{Asked, Malformed};

/// Translates a client's request for a vendor, whose name for the model is `model`. Lists of tokens are refused: only the model that
/// they were made for can read them.
pub fn to_gemini(body: &[u8], model: &str) -> Result<Vec<u8>, Malformed> {
    Ok(encode_request(&decode(body)?, model))
}

/// Translates a vendor's answer for the client, and says the tokens where the vendor has counted them; in the answer they are
/// estimated otherwise.
pub fn from_gemini(body: &[u8], asked: &Asked) -> Result<(Vec<u8>, Option<Usage>), Malformed> {
    answer(body, &decode(&asked.body)?, &asked.model)
}

/// An embeddings request in OpenAI's format.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Embeddings<'a> {
    /// The texts, one or more.
    input: Vec<Cow<'a, str>>,
    /// How many numbers an embedding should have.
    dimensions: Option<u64>,
    /// Embeddings are wanted as base64 of their 32-bit floats, lowest byte first, not as lists of numbers.
    base64: bool,
}

fn decode(body: &[u8]) -> Result<Embeddings<'_>, Malformed> {
    outline::TEXTS.count(body, &Limits::default())?;
    let top: Object = parse(body)?;
    let base64 = match top.text("encodingFormat").as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => {
            let message = "`encoding_format` must be `float` or `base64`";
            return Err(Malformed::field("encoding_format", message));
        }
    };
    Ok(Embeddings {
        input: input(&top)?,
        dimensions: top.count("dimensions"),
        base64,
    })
}

fn input<'a>(top: &Object<'a>) -> Result<Vec<Cow<'a, str>>, Malformed> {
    let wrong = |message: &str| Malformed::field("input", message);
    let raw = top.get("input").ok_or_else(|| wrong("you must provide `input`"))?;
    if let Some(text) = top.text("input") {
        return Ok(vec![text]);
    }
    let texts = value::<Vec<Text>>(raw)
        .ok_or_else(|| wrong("`input` must be a string or a list of strings; this model takes no lists of tokens"))?;
    if texts.is_empty() {
        return Err(wrong("`input` must hold at least one string"));
    }
    Ok(texts.into_iter().map(|text| text.0).collect())
}

fn encode_request(asked: &Embeddings<'_>, model: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Batch<'a> {
        requests: Vec<One<'a>>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct One<'a> {
        model: &'a str,
        content: Content<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        output_dimensionality: Option<u64>,
    }
    #[derive(Serialize)]
    struct Content<'a> {
        parts: [Part<'a>; 1],
    }
    #[derive(Serialize)]
    struct Part<'a> {
        text: &'a str,
    }
    let model = match model.starts_with("models/") {
        true => model.to_owned(),
        false => format!("models/{model}"),
    };
    let requests = asked.input.iter().map(|text| One {
        model: &model,
        content: Content { parts: [Part { text }] },
        output_dimensionality: asked.dimensions,
    });
    let batch = Batch {
        requests: requests.collect(),
    };
    serde_json::to_vec(&batch).expect("strings and numbers serialise")
}

fn answer(body: &[u8], asked: &Embeddings<'_>, model: &str) -> Result<(Vec<u8>, Option<Usage>), Malformed> {
    #[derive(Serialize)]
    struct List<'a> {
        object: &'static str,
        data: Vec<Item<'a>>,
        model: &'a str,
        usage: Tokens,
    }
    #[derive(Serialize)]
    struct Item<'a> {
        object: &'static str,
        index: usize,
        embedding: Values<'a>,
    }
    #[derive(Serialize)]
    struct Tokens {
        prompt_tokens: u64,
        total_tokens: u64,
    }
    outline::EMBEDDINGS.count(body, &Limits::default())?;
    let top: Object = parse(body)?;
    let embeddings = top.list("embeddings");
    if embeddings.len() != asked.input.len() {
        return Err(Malformed::whole(
            "the answer has not one of `embeddings` for each input",
        ));
    }
    let mut data = Vec::with_capacity(embeddings.len());
    for (index, embedding) in embeddings.into_iter().enumerate() {
        let values = Object::of(embedding).and_then(|it| it.get("values"));
        let embedding = values
            .and_then(|raw| Values::of(raw, asked.base64))
            .ok_or_else(|| Malformed::whole("an embedding of the answer has no `values`"))?;
        data.push(Item {
            object: "embedding",
            index,
            embedding,
        });
    }
    let counted = top
        .object("usageMetadata")
        .and_then(|usage| usage.count("promptTokenCount"));
    let bytes = asked.input.iter().map(|text| text.len()).sum();
    let tokens = counted.unwrap_or_else(|| estimated_tokens(bytes).into());
    let list = List {
        object: "list",
        data,
        model,
        usage: Tokens {
            prompt_tokens: tokens,
            total_tokens: tokens,
        },
    };
    let usage = counted.map(|input_tokens| Usage {
        input_tokens,
        ..Usage::default()
    });
    let written = serde_json::to_vec(&list).map_err(|error| Malformed::whole(error.to_string()))?;
    Ok((written, usage))
}

/// One embedding.
#[derive(Serialize)]
#[serde(untagged)]
enum Values<'a> {
    /// The numbers as the vendor wrote them.
    Numbers(&'a RawValue),
    Base64(String),
}

impl<'a> Values<'a> {
    fn of(raw: &'a RawValue, base64: bool) -> Option<Self> {
        let numbers: Vec<f32> = value(raw)?;
        Some(if base64 {
            let mut bytes = Vec::with_capacity(size_of::<f32>() * numbers.len());
            numbers
                .into_iter()
                .for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
            Values::Base64(STANDARD.encode(bytes))
        } else {
            Values::Numbers(raw)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sent(body: &str, model: &str) -> String {
        String::from_utf8(to_gemini(body.as_bytes(), model).unwrap()).unwrap()
    }

    fn told(body: &str, asked: &'static str) -> Result<(String, Option<Usage>), Malformed> {
        let asked = Asked {
            id: "req".into(),
            created: 1,
            model: "m".into(),
            body: asked.into(),
        };
        let (told, usage) = from_gemini(body.as_bytes(), &asked)?;
        Ok((String::from_utf8(told).unwrap(), usage))
    }

    #[test]
    fn asks_for_each_text() {
        let body = r#"{"model":"text-embedding-3-small","input":["hello","w\u00f6rld"],"dimensions":512}"#;
        assert_eq!(
            sent(body, "gemini-embedding-001"),
            r#"{"requests":[{"model":"models/gemini-embedding-001","content":{"parts":[{"text":"hello"}]},"outputDimensionality":512},{"model":"models/gemini-embedding-001","content":{"parts":[{"text":"wörld"}]},"outputDimensionality":512}]}"#
        );
        assert_eq!(
            sent(
                r#"{"model":"m","input":"hello","encoding_format":"base64"}"#,
                "models/g"
            ),
            r#"{"requests":[{"model":"models/g","content":{"parts":[{"text":"hello"}]}}]}"#
        );
    }

    #[test]
    fn refuses_tokens_and_says_what_is_missing() {
        let wrong = |body: &str| to_gemini(body.as_bytes(), "g").unwrap_err().param.unwrap().into_owned();
        assert_eq!(wrong(r#"{"model":"m"}"#), "input");
        for input in ["[1,2]", "[[1],[2]]", "[]", "5", "{}"] {
            assert_eq!(wrong(&format!(r#"{{"model":"m","input":{input}}}"#)), "input");
        }
        assert_eq!(
            wrong(r#"{"model":"m","input":"a","encoding_format":"x"}"#),
            "encoding_format"
        );
    }

    #[test]
    fn answers_in_both_encodings() {
        let body = r#"{"embeddings":[{"values":[1.0, -0.5]},{"values":[2e-1,0]}]}"#;
        let (floats, usage) = told(body, r#"{"model":"m","input":["hello","hi"]}"#).unwrap();
        assert_eq!(
            floats,
            r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1.0, -0.5]},{"object":"embedding","index":1,"embedding":[2e-1,0]}],"model":"m","usage":{"prompt_tokens":2,"total_tokens":2}}"#
        );
        assert_eq!(usage, None);
        let base64 = r#"{"model":"m","input":["hello","hi"],"encoding_format":"base64"}"#;
        let counted = body.replace("]}]}", r#"]}],"usageMetadata":{"promptTokenCount":7}}"#);
        let (packed, usage) = told(&counted, base64).unwrap();
        // Python: base64.b64encode(struct.pack("<2f", 1.0, -0.5))
        assert!(packed.contains(r#""embedding":"AACAPwAAAL8=""#), "{packed}");
        assert_eq!(usage.unwrap().input_tokens, 7);
        assert!(told(r#"{"embeddings":[{"values":[1.0]}]}"#, base64).is_err());
        assert!(told(r#"{"embeddings":[{},{}]}"#, base64).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let asked = decode(br#"{"model":"m","input":"a"}"#).unwrap();
            let _ = to_gemini(&bytes, "m");
            let _ = answer(&bytes, &asked, "m");
        }
    }
}
