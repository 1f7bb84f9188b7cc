//! What the codec does with traffic as it comes.

use proptest::prelude::*;

use super::super::pass::through as pass_through;
use super::*;

fn texts(body: &[u8]) -> Vec<(String, String)> {
    OpenAiChat
        .decode_request(body)
        .map(|conversation| crate::chat::texts(&conversation))
        .unwrap_or_default()
}
fn inquiry(body: &str) -> Inquiry {
    read(Bytes::copy_from_slice(body.as_bytes())).unwrap()
}

fn event(data: &str) -> Result<Frame, Malformed> {
    let bytes = format!("data: {data}\n\n");
    frame(&sse::events(bytes.as_bytes()).next().unwrap())
}

/// Unknown fields, odd spellings of numbers, keys that only look like `model`, and escapes.
const ODD: &str = r#" {"m":"model", "mod\u0065l" : "sm\u0061rt","temperature":1.0e+00,"seed":12345678901234567890123,
    "x":{"model":"inner"},"messages":[{"role":"user","content":"say \"model\":\"x\" \ud83d\ude00"}],"unknown":[1.50,-0]} "#;

#[test]
fn only_the_model_changes() {
    let asked = inquiry(ODD);
    assert_eq!(asked.request.model, "smart");
    let sent = pass_through(&asked, "gpt-5", None).unwrap();
    assert_eq!(sent, ODD.replace(r#""sm\u0061rt""#, r#""gpt-5""#));
    assert_eq!(
        pass_through(&asked, "smart", None).unwrap(),
        ODD,
        "the same name needs no change at all"
    );
}

#[test]
fn a_repeated_model_is_replaced_everywhere_and_the_last_one_counts() {
    let asked = inquiry(r#"{"model":"a","messages":[],"model":"b"}"#);
    assert_eq!(asked.request.model, "b");
    assert_eq!(
        pass_through(&asked, "c", None).unwrap(),
        r#"{"model":"c","messages":[],"model":"c"}"#
    );
}

#[test]
fn a_model_name_with_quotes_stays_json() {
    let asked = inquiry(r#"{"model":"a","messages":[]}"#);
    let sent = pass_through(&asked, "odd\"name", None).unwrap();
    assert_eq!(sent, r#"{"model":"odd\"name","messages":[]}"#);
}

#[test]
fn a_patch_is_laid_over_the_body_and_numbers_keep_their_spelling() {
    let asked = inquiry(r#"{"model":"a","messages":[],"temperature":1.50,"tools":[{}],"o":{"a":1,"b":2}}"#);
    let sent = pass_through(&asked, "b", Some(r#"{"tools":null,"max_tokens":5,"o":{"a":null}}"#)).unwrap();
    assert_eq!(
        sent,
        r#"{"model":"b","messages":[],"temperature":1.50,"o":{"b":2},"max_tokens":5}"#
    );
}

#[test]
fn a_patch_changes_neither_the_model_nor_whether_it_is_a_stream() {
    let asked = inquiry(r#"{"model":"a","messages":[]}"#);
    let sent = pass_through(&asked, "b", Some(r#"{"model":null,"stream":true,"n":1}"#)).unwrap();
    assert_eq!(sent, r#"{"model":"b","messages":[],"n":1}"#);
}

#[test]
fn reads_what_routing_needs() {
    let request = inquiry(
        r#"{"model":"m","stream":true,"max_tokens":9,"max_completion_tokens":7,"tools":[{"type":"function"}],
        "metadata":{"team":"red"},"prompt_cache_key":"s1","messages":[{"role":"system","content":"be brief"},
        {"role":"user","content":[{"type":"text","text":"what is this?"},{"type":"image_url","image_url":{"url":"u"}}]}]}"#,
    )
    .request;
    assert!(request.streaming && request.uses_tools && request.has_images);
    assert_eq!(request.max_output_tokens, Some(7));
    assert_eq!(request.metadata, [("team".to_owned(), "red".to_owned())]);
    assert_eq!(request.session.as_deref(), Some("s1"));
    assert_eq!(request.input_tokens, estimated_tokens(8 + 13 + 21));
}

#[test]
fn all_turns_of_a_conversation_have_one_hash() {
    let turn = |rest: &str| {
        let opening = r#"{"role":"system","content":"s"},{"role":"user","content":"first"}"#;
        inquiry(&format!(r#"{{"model":"m","messages":[{opening}{rest}]}}"#))
            .request
            .conversation
    };
    let first = turn("");
    assert_ne!(first, 0);
    assert_eq!(
        first,
        turn(r#",{"role":"assistant","content":"a"},{"role":"user","content":"second"}"#)
    );
    let other = inquiry(r#"{"model":"m","messages":[{"role":"user","content":"else"}]}"#)
        .request
        .conversation;
    assert_ne!(first, other);
}

#[test]
fn says_what_is_wrong_with_a_request() {
    let message = |body: &'static str| read(Bytes::from_static(body.as_bytes())).unwrap_err();
    assert_eq!(message("{}").param.as_deref(), Some("model"));
    assert_eq!(
        message(r#"{"model":7,"messages":[]}"#).message,
        "`model` must be a string"
    );
    assert_eq!(message(r#"{"model":"m"}"#).param.as_deref(), Some("messages"));
    assert!(message("hello").message.starts_with("the body is not the JSON"));
    assert!(
        read(Bytes::from_static(b"{\"model\":\"\xff\"}"))
            .unwrap_err()
            .message
            .contains("UTF-8")
    );
}

#[test]
fn knows_content_from_what_comes_before_it() {
    for before in [
        r#"{"choices":[{"delta":{"role":"assistant","content":"","refusal":null},"finish_reason":null}]}"#,
        r#"{"choices":[],"prompt_filter_results":[]}"#,
        r#"{"choices":[{"delta":{"content":null}}],"usage":null}"#,
    ] {
        assert!(!event(before).unwrap().content, "{before}");
    }
    for content in [
        r#"{"choices":[{"delta":{"content":"Hi"}}]}"#,
        r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#,
        r#"{"choices":[{"delta":{"content":[{"type":"thinking"}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#,
        r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
    ] {
        assert!(event(content).unwrap().commits(), "{content}");
    }
    let finish = event(r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#).unwrap();
    assert!(!finish.content, "an empty answer has none");
}

#[test]
fn knows_a_refusal_without_a_word() {
    let refusal =
        r#"{"choices":[{"index":0,"message":{"role":"assistant","content":null},"finish_reason":"content_filter"}]}"#;
    let whole = answer(refusal.as_bytes()).unwrap();
    assert!(whole.refused && !whole.content);
    let streamed = event(r#"{"choices":[{"delta":{},"finish_reason":"content_filter"}]}"#).unwrap();
    assert!(streamed.refused && !streamed.content);
    assert!(
        answer(br#"{"choices":[{"message":{"content":"Hi"}}]}"#)
            .unwrap()
            .content
    );
}

#[test]
fn sees_errors_ends_and_usage_in_a_stream() {
    assert!(event("[DONE]").unwrap().end);
    let error = event(r#"{"error":{"message":"no","type":"server_error","code":null}}"#)
        .unwrap()
        .error
        .unwrap();
    assert_eq!((error.code.as_str(), error.message.as_str()), ("server_error", "no"));
    let counted = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12,
        "prompt_tokens_details":{"cached_tokens":4}}}"#;
    let usage = Usage {
        input_tokens: 9,
        cached_tokens: 4,
        cache_write_tokens: 0,
        output_tokens: 3,
        reasoning_tokens: 0,
    };
    assert_eq!(event(&counted.replace('\n', "")).unwrap().usage, Some(usage));
    assert!(event("{\"choices\":[").is_err());
    assert_eq!(
        frame(&sse::events(b": ping\n\n").next().unwrap()).unwrap(),
        Frame::default()
    );
}

#[test]
fn an_answer_without_choices_is_none() {
    assert!(answer(b"<html>").is_err());
    assert!(answer(b"{}").is_err());
    assert!(answer(br#"{"error":"boom"}"#).unwrap().error.is_some());
    assert!(
        answer(br#"{"choices":[{"message":{"content":"x"}}],"error":null}"#)
            .unwrap()
            .error
            .is_none()
    );
}

#[test]
fn reads_errors_of_every_shape() {
    let read = |body: &str| {
        let error = vendor_error(body.as_bytes());
        (error.code, error.message)
    };
    let pair = |code: &str, message: &str| (code.to_owned(), message.to_owned());
    assert_eq!(
        read(r#"{"error":{"message":"m","type":"t","code":"c"}}"#),
        pair("c", "m")
    );
    assert_eq!(
        read(r#"{"error":{"message":"m","type":"BadRequestError","code":400}}"#),
        pair("BadRequestError", "m")
    );
    assert_eq!(
        read(r#"{"object":"error","message":"m","type":"invalid_model","code":"1500"}"#),
        pair("invalid_model", "m")
    );
    assert_eq!(read(r#"{"detail":"Invalid API Key"}"#), pair("", "Invalid API Key"));
    assert_eq!(read(r#"{"error":"gone"}"#), pair("", "gone"));
    assert_eq!(read("<html>oops"), pair("", "<html>oops"));
}

#[test]
fn gives_the_text_of_messages_to_those_who_may_read_it() {
    let body = br#"{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":[
        {"type":"text","text":"a"},{"type":"image_url"},{"type":"text","text":"b"}]},{"role":"assistant","content":null}]}"#;
    let expected = [("system", "s"), ("user", "a\nb"), ("assistant", "")];
    assert_eq!(
        texts(body),
        expected.map(|(role, text)| (role.to_owned(), text.to_owned()))
    );
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(Bytes::copy_from_slice(&bytes));
        let _ = answer(&bytes);
        let _ = vendor_error(&bytes);
        let _ = texts(&bytes);
    }

    /// Any JSON around it: what is sent differs from what came only in the model.
    #[test]
    fn any_body_passes_through(before in "[a-z]{1,8}", text in "\\PC{0,40}", number in any::<f64>()) {
        let text = serde_json::Value::from(text).to_string();
        let body = format!(r#"{{"{before}_":{text},"model":"a","messages":[{{"role":"user","content":{text}}}],"n":{number:?}}}"#);
        prop_assume!(number.is_finite());
        let sent = pass_through(&inquiry(&body), "bb", None).unwrap();
        prop_assert_eq!(sent, body.replacen(r#""model":"a""#, r#""model":"bb""#, 1));
    }
}
