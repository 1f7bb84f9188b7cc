//! What each format says about the order, the numbers and the names in a whole stream, and its SDKs rely on.

use serde_json::Value;

use super::heard::{DONE, Event, Format};

/// The parts of an answer that a stream tells one after the other: which is open, and how many have been.
#[derive(Default)]
struct Blocks {
    open: Option<u64>,
    count: u64,
}

impl Blocks {
    #[track_caller]
    fn begin(&mut self, index: &Value, event: &Event) {
        assert_eq!(
            (self.open, index.as_u64()),
            (None, Some(self.count)),
            "{event:?} is not the next"
        );
        self.open = Some(self.count);
        self.count += 1;
    }

    #[track_caller]
    fn go_on(&self, index: &Value, event: &Event) {
        assert!(
            self.open.is_some() && index.as_u64() == self.open,
            "{event:?}, but {:?} is open",
            self.open
        );
    }

    #[track_caller]
    fn end(&mut self, index: &Value, event: &Event) {
        self.go_on(index, event);
        self.open = None;
    }
}

impl Format {
    /// That a whole stream without an error is in order.
    #[track_caller]
    pub fn assert_orderly(self, stream: &[u8]) {
        let events = self.events(stream);
        match self {
            Format::Chat => chat(&events),
            Format::Messages => messages(&events),
            Format::Gemini | Format::GeminiArray => gemini(&events),
            Format::Converse => converse(&events),
            Format::Responses => responses(&events),
        }
    }
}

/// Fields that say the same in all events.
#[track_caller]
fn assert_constant(events: &[Event], fields: &[&str]) {
    for field in fields {
        let first = &events[0].json[field];
        assert!(!first.is_null(), "{field} in {:?}", events[0]);
        for event in events.iter().filter(|event| event.name != DONE) {
            assert_eq!(event.json[field], *first, "{field} in {event:?}");
        }
    }
}

#[track_caller]
fn chat(events: &[Event]) {
    assert_constant(events, &["id", "object", "created", "model"]);
    let mut has_finished = false;
    for (place, event) in events.iter().enumerate() {
        let choices = event.json["choices"].as_array();
        let Some(choice) = choices.and_then(|choices| choices.first()) else {
            assert!(has_finished, "{event:?} before the finish");
            continue;
        };
        assert_eq!(choice["index"], 0, "{event:?}");
        assert!(!has_finished, "{event:?} behind the finish");
        assert_eq!(choice["delta"]["role"].is_string(), place == 0, "{event:?}");
        has_finished = choice["finish_reason"].is_string();
    }
    assert_eq!(events.last().unwrap().name, DONE);
}

#[track_caller]
fn messages(events: &[Event]) {
    let mut blocks = Blocks::default();
    let mut has_finished = false;
    for (place, event) in events.iter().enumerate() {
        let index = &event.json["index"];
        assert_eq!(event.name == "message_start", place == 0, "{event:?}");
        assert_eq!(event.name == "message_stop", place + 1 == events.len(), "{event:?}");
        match &*event.name {
            "content_block_start" => blocks.begin(index, event),
            "content_block_delta" => blocks.go_on(index, event),
            "content_block_stop" => blocks.end(index, event),
            "message_delta" => {
                assert!(
                    blocks.open.is_none() && !has_finished,
                    "{event:?}, but {:?} is open",
                    blocks.open
                );
                has_finished = true;
                continue;
            }
            "message_start" | "message_stop" | "ping" => continue,
            _ => panic!("an unknown {event:?}"),
        }
        assert!(!has_finished, "{event:?} behind the finish");
    }
    assert!(has_finished);
}

#[track_caller]
fn gemini(events: &[Event]) {
    assert_constant(events, &["responseId", "modelVersion"]);
    let mut has_finished = false;
    for event in events {
        assert!(!has_finished, "{event:?} behind the finish");
        let candidate = &event.json["candidates"][0];
        assert_eq!(candidate["index"].as_u64().unwrap_or(0), 0, "{event:?}");
        has_finished = candidate["finishReason"].is_string();
    }
    assert!(has_finished);
}

#[track_caller]
fn converse(events: &[Event]) {
    let mut blocks = Blocks::default();
    let mut has_finished = false;
    for (place, event) in events.iter().enumerate() {
        let index = &event.json["contentBlockIndex"];
        assert_eq!(event.name == "messageStart", place == 0, "{event:?}");
        assert_eq!(event.name == "metadata", place + 1 == events.len(), "{event:?}");
        assert!(!has_finished || event.name == "metadata", "{event:?} behind the finish");
        match &*event.name {
            "contentBlockStart" => blocks.begin(index, event),
            // A text has no start.
            "contentBlockDelta" if blocks.open.is_none() => blocks.begin(index, event),
            "contentBlockDelta" => blocks.go_on(index, event),
            "contentBlockStop" => blocks.end(index, event),
            "messageStop" => {
                assert_eq!(blocks.open, None, "{event:?}");
                has_finished = true;
            }
            "messageStart" | "metadata" => {}
            _ => panic!("an unknown {event:?}"),
        }
    }
    assert!(has_finished);
}

#[track_caller]
fn responses(events: &[Event]) {
    let (mut items, mut parts) = (Blocks::default(), Blocks::default());
    let mut id = Value::Null;
    let (mut text, mut texts) = (String::new(), String::new());
    for (place, event) in events.iter().enumerate() {
        let json = &event.json;
        assert_eq!(json["sequence_number"], place, "{event:?}");
        assert_eq!(event.name == "response.created", place == 0, "{event:?}");
        assert_eq!(
            event.name == "response.completed",
            place + 1 == events.len(),
            "{event:?}"
        );
        if event.name.starts_with("response.output_text") || event.name.starts_with("response.content_part") {
            items.go_on(&json["output_index"], event);
            assert_eq!(json["item_id"], id, "{event:?}");
        }
        let index = &json["content_index"];
        match &*event.name {
            "response.output_item.added" => {
                items.begin(&json["output_index"], event);
                id = json["item"]["id"].clone();
                parts = Blocks::default();
            }
            "response.content_part.added" => {
                parts.begin(index, event);
                text.clear();
            }
            "response.output_text.delta" => {
                parts.go_on(index, event);
                text += json["delta"].as_str().unwrap();
            }
            "response.output_text.done" => {
                parts.go_on(index, event);
                assert_eq!(json["text"], *text, "{event:?}");
            }
            "response.content_part.done" => {
                parts.end(index, event);
                assert_eq!(json["part"]["text"], *text, "{event:?}");
                texts += &text;
            }
            "response.output_item.done" => {
                items.end(&json["output_index"], event);
                assert_eq!((&json["item"]["id"], parts.open), (&id, None), "{event:?}");
            }
            "response.completed" => {
                let output = json["response"]["output"].as_array().unwrap();
                assert_eq!((items.open, output.len() as u64), (None, items.count), "{event:?}");
                let parts = output
                    .iter()
                    .flat_map(|item| item["content"].as_array().into_iter().flatten());
                let said: String = parts.filter_map(|part| part["text"].as_str()).collect();
                assert_eq!(said, texts, "{event:?}");
                assert_eq!(json["response"]["id"], events[0].json["response"]["id"], "{event:?}");
            }
            "response.created" | "response.in_progress" => {}
            _ => panic!("an unknown {event:?}"),
        }
    }
}
