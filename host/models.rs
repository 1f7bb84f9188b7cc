//! What the gateway answers itself: the names of the routes as a list of models, and counts of tokens, in the words of each format.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::snapshot::Snapshot;
use crate::wire::Format;

/// All models that have a name; patterns are none.
pub fn list(snapshot: &Snapshot, format: Format) -> Bytes {
    let names = snapshot.routes.iter().map(|route| route.rules.model.as_str());
    let models: Vec<Value> = names
        .filter(|name| !name.contains('*'))
        .map(|name| model(format, name))
        .collect();
    let id = |model: Option<&Value>| model.and_then(|model| model.get("id")).cloned().unwrap_or(Value::Null);
    let list = match format {
        Format::Messages => json!({
            "first_id": id(models.first()),
            "last_id": id(models.last()),
            "has_more": false,
            "data": models,
        }),
        Format::Gemini => json!({ "models": models }),
        _ => json!({ "object": "list", "data": models }),
    };
    list.to_string().into()
}

/// One model, if a route serves it.
pub fn one(snapshot: &Snapshot, format: Format, id: &str) -> Option<Bytes> {
    snapshot.route(id).map(|_| model(format, id).to_string().into())
}

/// A number of tokens.
pub fn counted(format: Format, tokens: u32) -> Bytes {
    let answer = match format {
        Format::Gemini => json!({ "totalTokens": tokens }),
        _ => json!({ "input_tokens": tokens }),
    };
    answer.to_string().into()
}

fn model(format: Format, id: &str) -> Value {
    match format {
        Format::Messages => json!({
            "type": "model",
            "id": id,
            "display_name": id,
            "created_at": "1970-01-01T00:00:00Z",
        }),
        Format::Gemini => json!({
            "name": format!("models/{id}"),
            "displayName": id,
            "supportedGenerationMethods": ["generateContent", "countTokens"],
        }),
        _ => json!({ "id": id, "object": "model", "created": 0, "owned_by": "pointsman" }),
    }
}
