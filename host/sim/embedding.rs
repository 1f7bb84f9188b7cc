//! Embeddings of a simulated vendor: the same text always has the same vector, and texts that share words have vectors that are close.

use std::hash::{DefaultHasher, Hash, Hasher};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::refusal::Refusal;
use crate::chat::estimated_tokens;

/// Dimensions without a wish, those of OpenAI's smallest model.
const DIMENSIONS: usize = 1536;

/// The most dimensions that may be asked for: more than any vendor's model has.
const MAX_DIMENSIONS: usize = 8192;

/// Inputs of one request, as at OpenAI.
const MAX_INPUTS: usize = 2048;

/// Words of an input that count.
const MAX_WORDS: usize = 256;

/// A request for embeddings, as far as it is read.
pub(super) struct EmbeddingRequest {
    model: String,
    /// The hashes of the words of each input.
    inputs: Vec<Vec<u64>>,
    prompt_tokens: u32,
    dimensions: usize,
    is_base64: bool,
}

#[derive(Deserialize)]
struct Written<'a> {
    model: String,
    #[serde(borrow)]
    input: &'a RawValue,
    dimensions: Option<usize>,
    encoding_format: Option<String>,
}

impl EmbeddingRequest {
    pub(super) fn read(body: &[u8]) -> Result<Self, Refusal> {
        let written: Written<'_> = serde_json::from_slice(body).map_err(|error| Refusal::unreadable(&error))?;
        let dimensions = written.dimensions.unwrap_or(DIMENSIONS);
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            let message = format!("'dimensions' must be between 1 and {MAX_DIMENSIONS}.");
            return Err(Refusal::bad_parameter("dimensions", message));
        }
        let is_base64 = match written.encoding_format.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(_) => {
                let message = "Invalid value for 'encoding_format': supported values are 'float' and 'base64'.";
                return Err(Refusal::bad_parameter("encoding_format", message));
            }
        };
        Ok(Self {
            inputs: inputs(written.input.get())?,
            prompt_tokens: estimated_tokens(written.input.get().len()),
            model: written.model,
            dimensions,
            is_base64,
        })
    }

    /// The answer, as JSON.
    pub(super) fn answer(&self) -> Bytes {
        let embedding = |(index, words): (usize, &Vec<u64>)| {
            let vector = vector(words, self.dimensions);
            json!({"object": "embedding", "index": index, "embedding": self.encoded(&vector)})
        };
        let data: Vec<Value> = self.inputs.iter().enumerate().map(embedding).collect();
        let answer = json!({
            "object": "list",
            "data": data,
            "model": self.model,
            "usage": {"prompt_tokens": self.prompt_tokens, "total_tokens": self.prompt_tokens},
        });
        answer.to_string().into()
    }

    fn encoded(&self, vector: &[f32]) -> Value {
        if !self.is_base64 {
            return json!(vector);
        }
        let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
        json!(STANDARD.encode(bytes))
    }
}

/// A text, a list of texts, a list of tokens or a list of such lists.
fn inputs(input: &str) -> Result<Vec<Vec<u64>>, Refusal> {
    let wrong = |message: &'static str| Refusal::bad_parameter("input", message);
    let shape = || wrong("'input' must be a string, a list of strings, a list of tokens or a list of lists of tokens.");
    let inside = input.strip_prefix('[').map(str::trim_start);
    let inputs = match inside.and_then(|inside| inside.chars().next()) {
        Some(']') => Ok(Vec::new()),
        None => serde_json::from_str::<String>(input).map(|text| vec![words(&text)]),
        Some('"') => {
            serde_json::from_str::<Vec<String>>(input).map(|texts| texts.iter().map(|text| words(text)).collect())
        }
        Some('[') => serde_json::from_str::<Vec<Vec<u64>>>(input)
            .map(|lists| lists.iter().map(|tokens| hashes(tokens.iter())).collect()),
        Some(_) => serde_json::from_str::<Vec<u64>>(input).map(|tokens| vec![hashes(tokens.iter())]),
    };
    let inputs: Vec<Vec<u64>> = inputs.map_err(|_| shape())?;
    match inputs.len() {
        0 => Err(wrong("'input' must not be empty.")),
        1..=MAX_INPUTS => Ok(inputs),
        _ => Err(wrong("'input' must have at most 2048 items.")),
    }
}

fn words(text: &str) -> Vec<u64> {
    let words = text.split(|char: char| !char.is_alphanumeric());
    hashes(words.filter(|word| !word.is_empty()).map(str::to_lowercase))
}

fn hashes<T: Hash>(words: impl Iterator<Item = T>) -> Vec<u64> {
    let hash = |word: T| {
        let mut hasher = DefaultHasher::new();
        word.hash(&mut hasher);
        hasher.finish()
    };
    words.take(MAX_WORDS).map(hash).collect()
}

/// The sum of the words' own directions, of length 1.
fn vector(words: &[u64], dimensions: usize) -> Vec<f32> {
    let mut sum = vec![0.0_f32; dimensions];
    // A text without words has a direction, too.
    let words = if words.is_empty() { &[0] } else { words };
    for word in words {
        let mut dice = fastrand::Rng::with_seed(*word);
        sum.iter_mut().for_each(|number| *number += dice.f32() - 0.5);
    }
    let length = sum.iter().map(|number| number * number).sum::<f32>().sqrt();
    sum.iter_mut().for_each(|number| *number /= length);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embeddings(request: &Value) -> Vec<Vec<f64>> {
        let request = EmbeddingRequest::read(request.to_string().as_bytes()).unwrap();
        let answer: Value = serde_json::from_slice(&request.answer()).unwrap();
        let numbers = |data: &Value| {
            let numbers = data["embedding"].as_array().unwrap();
            numbers.iter().map(|number| number.as_f64().unwrap()).collect()
        };
        answer["data"].as_array().unwrap().iter().map(numbers).collect()
    }

    fn similarity(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn texts_that_share_words_are_close() {
        let texts =
            json!({"model": "m", "input": ["the cat sat", "The cat sat!", "the cat ran", "entirely different"]});
        let all = embeddings(&texts);
        assert_eq!(all[0].len(), DIMENSIONS);
        let near = |other: usize| similarity(&all[0], &all[other]);
        assert!((near(0) - 1.0).abs() < 1e-3 && (near(1) - 1.0).abs() < 1e-3);
        assert!(near(2) > 0.5 && near(3) < 0.2, "{} {}", near(2), near(3));
    }

    #[test]
    fn every_form_of_input_is_taken() {
        let cases = [
            (json!("one"), 1),
            (json!(["one", "two"]), 2),
            (json!([1, 2, 3]), 1),
            (json!([[1], [2, 3]]), 2),
        ];
        for (input, count) in cases {
            let request = json!({"model": "m", "input": input, "dimensions": 3});
            let all = embeddings(&request);
            assert_eq!((all.len(), all[0].len()), (count, 3), "{input}");
        }
    }

    #[test]
    fn base64_holds_the_same_numbers() {
        let request = |format: &str| json!({"model": "m", "input": "hi", "dimensions": 4, "encoding_format": format});
        let floats = embeddings(&request("float")).remove(0);
        let asked = EmbeddingRequest::read(request("base64").to_string().as_bytes()).unwrap();
        let answer: Value = serde_json::from_slice(&asked.answer()).unwrap();
        let bytes = STANDARD
            .decode(answer["data"][0]["embedding"].as_str().unwrap())
            .unwrap();
        let decoded = bytes
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        let pairs = floats.iter().zip(decoded);
        assert!(
            pairs
                .into_iter()
                .all(|(float, decoded)| (float - f64::from(decoded)).abs() < 1e-6)
        );
        assert_eq!(bytes.len(), 16);
    }

    #[test]
    fn wrong_requests_name_the_parameter() {
        let cases = [
            (json!({"model": "m", "input": []}), "input"),
            (json!({"model": "m", "input": {}}), "input"),
            (json!({"model": "m", "input": ["a", 1]}), "input"),
            (json!({"model": "m", "input": vec!["a"; 2049]}), "input"),
            (json!({"model": "m", "input": "a", "dimensions": 0}), "dimensions"),
            (
                json!({"model": "m", "input": "a", "encoding_format": "hex"}),
                "encoding_format",
            ),
        ];
        for (request, param) in cases {
            let refusal = EmbeddingRequest::read(request.to_string().as_bytes()).err().unwrap();
            assert_eq!((refusal.status, refusal.param), (400, Some(param)));
        }
    }
}
