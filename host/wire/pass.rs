//! Passing a request through: the client's own bytes, with another model.

use bytes::Bytes;

use super::json::not_json;
use super::{Inquiry, Malformed};

/// The client's bytes with another model, and a merge patch laid over them where there is one.
pub fn through(inquiry: &Inquiry, model: &str, patch: Option<&str>) -> Result<Bytes, Malformed> {
    let body = with_model(inquiry, model);
    let Some(patch) = patch else { return Ok(body) };
    let mut value = serde_json::from_slice(&body).map_err(|error| not_json(&error))?;
    let mut patch: serde_json::Value = serde_json::from_str(patch).map_err(|error| not_json(&error))?;
    if let Some(patch) = patch.as_object_mut() {
        patch.retain(|key, _| !NOT_FOR_PATCHES.contains(&key.as_str()));
    }
    merge(&mut value, patch);
    serde_json::to_vec(&value)
        .map(Bytes::from)
        .map_err(|error| not_json(&error))
}

/// The same for vendors that have the model and whether it is a stream in the path, and want `anthropic_version` in the body.
pub fn without_model(inquiry: &Inquiry, version: &str, patch: Option<&str>) -> Result<Bytes, Malformed> {
    let body = through(inquiry, &inquiry.request.model, patch)?;
    let mut value: serde_json::Value = serde_json::from_slice(&body).map_err(|error| not_json(&error))?;
    if let Some(fields) = value.as_object_mut() {
        fields.shift_remove("model");
        fields.shift_remove("stream");
        fields.insert("anthropic_version".into(), version.into());
    }
    serde_json::to_vec(&value)
        .map(Bytes::from)
        .map_err(|error| not_json(&error))
}

/// Fields that a patch leaves alone: a pick names its model, and the client reads a stream only where it asked for one.
const NOT_FOR_PATCHES: [&str; 2] = ["model", "stream"];

fn with_model(inquiry: &Inquiry, model: &str) -> Bytes {
    if inquiry.request.model == model {
        return inquiry.body.clone();
    }
    let body = &inquiry.body;
    let name = serde_json::Value::from(model).to_string();
    let mut out = Vec::with_capacity(body.len() + name.len() * inquiry.model_spans.len());
    let mut from = 0;
    for span in &inquiry.model_spans {
        out.extend_from_slice(&body[from..span.start]);
        out.extend_from_slice(name.as_bytes());
        from = span.end;
    }
    out.extend_from_slice(&body[from..]);
    out.into()
}

/// JSON Merge Patch, RFC 7396.
fn merge(target: &mut serde_json::Value, patch: serde_json::Value) {
    let serde_json::Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = serde_json::Value::Object(Default::default());
    }
    let serde_json::Value::Object(object) = target else {
        unreachable!("made an object above")
    };
    for (key, value) in patch {
        if value.is_null() {
            object.shift_remove(&key);
        } else {
            merge(object.entry(key).or_insert(serde_json::Value::Null), value);
        }
    }
}
