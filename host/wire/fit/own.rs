//! The same rules for a request that passes through: a client of chat completions asks a vendor of chat completions that takes less than
//! OpenAI does. Only the messages at fault change, and nothing else of the client's bytes.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use super::call_ids::Ids;
use super::turns::BETWEEN;
use super::{CallIds, Rules};
use crate::wire::json::{value, with_members};

/// What is read of a request.
#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
}

/// What is read of a message.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    tool_calls: Option<Vec<Call<'a>>>,
    #[serde(borrow)]
    tool_call_id: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
}

/// The body of a chat completion as the vendor takes it. A body that this cannot read goes as it is: its vendor says what is wrong with it.
pub fn fit_chat(body: Bytes, rules: &Rules) -> Bytes {
    let says_nothing_of_messages =
        rules.call_ids == CallIds::AnyOfFormat && rules.user_after_result && !rules.turn_required;
    if says_nothing_of_messages {
        return body;
    }
    fitted(&body, rules).map_or(body, Bytes::from)
}

/// `None` where nothing has to change.
fn fitted(body: &[u8], rules: &Rules) -> Option<Vec<u8>> {
    let messages = serde_json::from_slice::<Request<'_>>(body).ok()?.messages?.get();
    let raw: Vec<&RawValue> = serde_json::from_str(messages).ok()?;
    let read: Vec<Message<'_>> = serde_json::from_str(messages).ok()?;
    let mut ids = Ids::new(rules.call_ids);
    let only_instructions = rules.turn_required && read.iter().all(|message| is_instruction(&message.role));
    let mut written: Vec<Cow<'_, str>> = Vec::with_capacity(raw.len());
    let mut has_changed = false;
    let mut before = "";
    for (at, (raw, message)) in raw.iter().zip(&read).enumerate() {
        if !rules.user_after_result && before == "tool" && !matches!(&*message.role, "tool" | "assistant") {
            written.push(format!(r#"{{"role":"assistant","content":"{BETWEEN}"}}"#).into());
            has_changed = true;
        }
        let renamed = renamed(raw, message, at, &mut ids);
        let spoken = only_instructions.then(|| with_role(raw, "user")).flatten();
        let changed = renamed.or(spoken);
        has_changed |= changed.is_some();
        written.push(changed.map_or(Cow::Borrowed(raw.get()), Cow::Owned));
        before = &message.role;
    }
    has_changed.then(|| spliced(body, messages, &written))
}

fn is_instruction(role: &str) -> bool {
    matches!(role, "system" | "developer")
}

/// The message with the ids that its calls have now, where they are others.
fn renamed(raw: &RawValue, message: &Message<'_>, at: usize, ids: &mut Ids) -> Option<String> {
    let calls = message.tool_calls.as_deref().unwrap_or_default();
    let new_id = |id: &Option<Cow<'_, str>>, ids: &mut Ids| {
        let mut new = id.clone()?;
        ids.call(&mut new, at);
        Some(new.into_owned())
    };
    let calls: Vec<Option<String>> = calls.iter().map(|call| new_id(&call.id, ids)).collect();
    let result = message.tool_call_id.clone().map(|mut id| {
        ids.result(&mut id);
        id.into_owned()
    });
    let olds = message.tool_calls.iter().flatten().map(|call| call.id.as_deref());
    let is_same = olds.eq(calls.iter().map(Option::as_deref)) && message.tool_call_id.as_deref() == result.as_deref();
    if is_same {
        return None;
    }
    let mut changed: Vec<(&str, Cow<'_, RawValue>)> = Vec::with_capacity(2);
    if !calls.is_empty() {
        changed.push(("tool_calls", Cow::Owned(with_ids(raw, &calls)?)));
    }
    if let Some(id) = result {
        changed.push(("tool_call_id", Cow::Owned(to_raw_value(&id).ok()?)));
    }
    with_members(raw, &changed)
}

/// The calls of a message with the ids that they have now.
fn with_ids(message: &RawValue, ids: &[Option<String>]) -> Option<Box<RawValue>> {
    #[derive(Deserialize)]
    struct Calls<'a> {
        #[serde(borrow)]
        tool_calls: Vec<&'a RawValue>,
    }
    let calls: Calls<'_> = value(message)?;
    let mut written = Vec::with_capacity(calls.tool_calls.len());
    for (call, id) in calls.tool_calls.into_iter().zip(ids) {
        written.push(match id {
            Some(id) => {
                RawValue::from_string(with_members(call, &[("id", Cow::Owned(to_raw_value(id).ok()?))])?).ok()?
            }
            None => call.to_owned(),
        });
    }
    to_raw_value(&written).ok()
}

fn with_role(raw: &RawValue, role: &str) -> Option<String> {
    with_members(raw, &[("role", Cow::Owned(to_raw_value(role).ok()?))])
}

/// The body with other messages; `messages` is a part of it.
fn spliced(body: &[u8], messages: &str, written: &[Cow<'_, str>]) -> Vec<u8> {
    let start = messages.as_ptr().addr() - body.as_ptr().addr();
    let end = start + messages.len();
    [&body[..start], b"[", written.join(",").as_bytes(), b"]", &body[end..]].concat()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::NO_RULES;
    use super::*;

    const MISTRAL: Rules = Rules {
        call_ids: CallIds::NineAlphanumerics,
        user_after_result: false,
        turn_required: true,
        ..NO_RULES
    };

    fn fit(body: &str) -> String {
        let fitted = fit_chat(Bytes::copy_from_slice(body.as_bytes()), &MISTRAL);
        String::from_utf8(fitted.to_vec()).unwrap()
    }

    #[test]
    fn what_is_at_fault_changes_and_nothing_else() {
        let body = concat!(
            r#"{"model" :"m","messages":[{"role":"user","content":"a"},"#,
            r#"{"role":"assistant","x":1.10,"tool_calls":[{"id":"call_0","type":"function","function":{"name":"f","arguments":"{}"}}]},"#,
            r#"{"role":"tool","tool_call_id":"call_0","content":"b"},{"role":"user", "content":"c"}], "temperature": 1e0}"#
        );
        let fitted = fit(body);
        let value: Value = serde_json::from_str(&fitted).unwrap();
        let messages = value["messages"].as_array().unwrap();
        let roles: Vec<_> = messages
            .iter()
            .map(|message| message["role"].as_str().unwrap())
            .collect();
        assert_eq!(roles, ["user", "assistant", "tool", "assistant", "user"]);
        let id = messages[1]["tool_calls"][0]["id"].as_str().unwrap();
        assert_eq!((id.len(), &messages[2]["tool_call_id"]), (9, &id.into()));
        assert!(
            fitted.starts_with(r#"{"model" :"m","messages":[{"role":"user","content":"a"},"#),
            "{fitted}"
        );
        assert!(
            fitted.contains(r#""x":1.10"#)
                && fitted.ends_with(r#"{"role":"user", "content":"c"}], "temperature": 1e0}"#),
            "{fitted}"
        );
        // What is fitted once stays as it is.
        assert_eq!(fit(&fitted), fitted);
    }

    #[test]
    fn what_is_not_at_fault_or_cannot_be_read_stays() {
        for body in [
            r#"{"messages":[{"role":"user","content":"a"}]}"#,
            r#"{"messages":[{"role":"tool","tool_call_id":"abcDEF123"},{"role":"assistant","content":"x"}]}"#,
            r#"{"messages":7}"#,
            r#"{"messages":[7]}"#,
            r#"{"model":"m"}"#,
            "no JSON",
        ] {
            assert_eq!(fit(body), body);
        }
    }

    #[test]
    fn instructions_alone_become_the_users_words() {
        let fitted = fit(r#"{"messages":[{"role":"system","content":"Say hello."}]}"#);
        assert_eq!(fitted, r#"{"messages":[{"role":"user","content":"Say hello."}]}"#);
    }
}
