//! The chat completion that is sent, the answers the mock vendor gives, and the check that an answer came whole.

use memchr::memmem;
use serde::Deserialize;

/// Frames of a stream before `data: [DONE]`: the role, 62 pieces of content, the finish reason.
pub const FRAMES: usize = 64;

const DONE: &str = "data: [DONE]\n\n";

/// About 1 KiB, the size of a short conversation.
const REQUEST: &str = r#"{"model":"smart","messages":[{"role":"system","content":"You are the support assistant of an online shop for garden tools. Answer in the customer's language, in at most three short paragraphs. Never promise a refund or a delivery date that is not in the order data; hand over to a person when the customer asks for one."},{"role":"user","content":"Hello, I ordered the cordless hedge trimmer last Tuesday and the parcel has been in the sorting centre for four days."},{"role":"assistant","content":"I am sorry about the wait. Could you give me the order number, please? It starts with GT and is in the confirmation e-mail."},{"role":"user","content":"It is GT-204417. If it does not come before the weekend I would rather have the one with the longer blade, if that is in stock at all. What would the difference in price be?"}],"temperature":0.2,"top_p":0.95,"max_tokens":512,"presence_penalty":0,"frequency_penalty":0,"user":"customer-88213","metadata":{"shop":"garden-tools","channel":"web","ticket":"GT-204417"},"stream":STREAM}"#;

const WHOLE: &str = r#"{"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion","created":1741569952,"model":"mock","choices":[{"index":0,"message":{"role":"assistant","content":"Thank you. Order GT-204417 left the sorting centre this morning. The trimmer with the longer blade is in stock and costs 20 euros more.","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":214,"completion_tokens":31,"total_tokens":245,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0}},"service_tier":"default","system_fingerprint":"fp_44709d6fcb"}"#;

/// The request body.
pub fn request(streaming: bool) -> String {
    REQUEST.replace("STREAM", if streaming { "true" } else { "false" })
}

/// Whether a request body asks for a stream, with or without a space after the colon.
pub fn asks_for_stream(body: &[u8]) -> bool {
    memmem::find(body, br#""stream":true"#).is_some() || memmem::find(body, br#""stream": true"#).is_some()
}

/// The whole answer.
pub fn whole() -> &'static str {
    WHOLE
}

/// The events of a stream, `data: [DONE]` last.
pub fn frames() -> Vec<String> {
    let mut frames = vec![frame(r#"{"role":"assistant","content":"","refusal":null}"#, "null")];
    frames.extend((2..FRAMES).map(|n| frame(&format!(r#"{{"content":" word{n}"}}"#), "null")));
    frames.push(frame("{}", r#""stop""#));
    frames.push(DONE.to_owned());
    frames
}

fn frame(delta: &str, finish_reason: &str) -> String {
    format!(
        concat!(
            r#"data: {{"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion.chunk","#,
            r#""created":1741569952,"model":"mock","service_tier":"default","system_fingerprint":"fp_44709d6fcb","#,
            r#""choices":[{{"index":0,"delta":{},"logprobs":null,"finish_reason":{}}}]}}"#,
            "\n\n"
        ),
        delta, finish_reason
    )
}

/// Whether `body` is a complete whole answer: valid JSON to its last byte, with a choice and its usage.
pub fn is_whole(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Completion<'a> {
        #[serde(borrow)]
        choices: Vec<&'a serde_json::value::RawValue>,
        usage: Usage,
    }
    #[derive(Deserialize)]
    struct Usage {
        total_tokens: u64,
    }
    serde_json::from_slice::<Completion>(body).is_ok_and(|it| !it.choices.is_empty() && it.usage.total_tokens > 0)
}

/// Whether `body` is a complete stream: every frame, and the mark that ends it.
pub fn is_stream(body: &[u8]) -> bool {
    body.ends_with(DONE.as_bytes()) && memmem::find_iter(body, b"data: ").count() == FRAMES + 1
}

/// Whether `body` is a complete stream of Anthropic messages: every piece of content, and the event that ends it.
pub fn is_messages_stream(body: &[u8]) -> bool {
    body.ends_with(b"data: {\"type\":\"message_stop\"}\n\n")
        && memmem::find_iter(body, br#""text_delta""#).count() == FRAMES - 2
}

/// Whether `body` is a complete message.
pub fn is_message(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Message {
        stop_reason: String,
    }
    serde_json::from_slice::<Message>(body).is_ok_and(|message| message.stop_reason == "end_turn")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_vendor_gives_counts_as_complete() {
        assert!(is_whole(whole().as_bytes()));
        assert!(is_stream(frames().concat().as_bytes()));
    }

    #[test]
    fn an_answer_that_lacks_anything_does_not() {
        assert!(!is_whole(&whole().as_bytes()[..whole().len() - 1]));
        assert!(!is_whole(br#"{"error":{"message":"overloaded"}}"#));
        for missing in [0, 30, FRAMES] {
            let mut frames = frames();
            frames.remove(missing);
            assert!(!is_stream(frames.concat().as_bytes()), "without frame {missing}");
        }
    }

    #[test]
    fn sizes_are_those_the_readme_states() {
        assert_eq!(frames().len(), FRAMES + 1);
        assert!((1000..1100).contains(&request(true).len()), "{}", request(true).len());
        assert!((550..700).contains(&whole().len()), "{}", whole().len());
        assert!(asks_for_stream(request(true).as_bytes()) && !asks_for_stream(request(false).as_bytes()));
    }
}
