use std::io::{Read, Write};

use futures_util::FutureExt;
use hyper::client::conn::http1::{SendRequest, handshake};

use hyper::StatusCode;
use hyper::header::RETRY_AFTER;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::question::{ECHO_CHARS, LastUserMessage};
use super::speech::Pace;
use super::*;

/// Answers at once.
fn prompt(tokens: u32) -> Sim {
    Sim {
        latency: Duration::ZERO,
        first_token: Duration::ZERO,
        tokens_per_second: 1e6,
        tokens,
        errors: Vec::new(),
    }
}

fn failing(error: SimError) -> Sim {
    Sim {
        errors: vec![(error, 1.0)],
        ..prompt(20)
    }
}

fn serving(sim: Sim) -> SimServer {
    let server = SimServer::start().unwrap();
    server.set([("sim-a".to_owned(), sim)]);
    server
}

fn question(more: &str) -> String {
    format!(r#"{{"model":"m-1","messages":[{{"role":"user","content":"Hello there"}}]{more}}}"#)
}

fn request(method: &str, path: &str, body: &str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path).header("host", "sim");
    request
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .unwrap()
}

async fn connect(server: &SimServer) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let (send, connection) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    send
}

async fn ask(server: &SimServer, body: &str) -> hyper::Result<Response<Incoming>> {
    let request = request("POST", "/sim-a/chat/completions", body);
    connect(server).await.send_request(request).await
}

async fn answered(server: &SimServer, body: &str) -> (StatusCode, Value) {
    let response = ask(server, body).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

/// All bytes of a body up to its end, and whether that was a proper one.
async fn drained(mut body: Incoming) -> (String, bool) {
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => all.extend_from_slice(frame.data_ref().unwrap()),
            Err(_) => return (String::from_utf8(all).unwrap(), false),
        }
    }
    (String::from_utf8(all).unwrap(), true)
}

fn events(stream: &str) -> Vec<&str> {
    let events = stream.split_terminator("\n\n");
    events.map(|event| event.strip_prefix("data: ").unwrap()).collect()
}

async fn chunks(server: &SimServer, body: &str) -> Vec<Value> {
    let (stream, proper) = drained(ask(server, body).await.unwrap().into_body()).await;
    assert!(proper && stream.ends_with("\n\n"));
    let mut events = events(&stream);
    assert_eq!(events.pop(), Some("[DONE]"));
    events
        .into_iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect()
}

fn text_of(chunks: &[Value]) -> String {
    let deltas = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
    deltas.collect()
}

#[tokio::test]
async fn a_whole_answer_says_who_answers_what_and_counts_its_words() {
    let server = serving(prompt(64));
    let (status, answer) = answered(&server, &question("")).await;
    assert_eq!(status, 200);
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "m-1");
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["message"]["role"], &choice["finish_reason"]),
        (&"assistant".into(), &"stop".into())
    );
    let text = choice["message"]["content"].as_str().unwrap();
    assert!(
        text.starts_with("This is sim-a, a simulated vendor, answering “Hello there”. Every word is"),
        "{text}"
    );
    assert_eq!(text.split(' ').count(), 64);
    let count = |name: &str| answer["usage"][name].as_u64().unwrap();
    assert_eq!(count("completion_tokens"), 64);
    assert!(count("prompt_tokens") > 0);
    assert_eq!(count("total_tokens"), count("prompt_tokens") + 64);
}

#[tokio::test]
async fn a_stream_says_the_same_as_a_whole_answer() {
    let server = serving(prompt(500));
    let (_, whole) = answered(&server, &question("")).await;
    let chunks = chunks(&server, &question(r#","stream":true"#)).await;
    assert_eq!(whole["choices"][0]["message"]["content"], text_of(&chunks));
    let (first, last) = (&chunks[0], chunks.last().unwrap());
    assert_eq!(
        first["choices"][0]["delta"],
        json!({"role": "assistant", "content": "", "refusal": null})
    );
    assert_eq!(
        last["choices"][0],
        json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"})
    );
    assert_eq!(chunks.len(), 1 + 500 + 1);
    for chunk in &chunks {
        assert_eq!(chunk["id"], first["id"]);
        assert_eq!(
            (&chunk["object"], &chunk["model"]),
            (&"chat.completion.chunk".into(), &"m-1".into())
        );
        assert_eq!(chunk.get("usage"), None);
    }
}

#[tokio::test]
async fn a_stream_counts_its_tokens_when_asked() {
    let server = serving(prompt(12));
    let ask = question(r#","stream":true,"stream_options":{"include_usage":true}"#);
    let mut chunks = chunks(&server, &ask).await;
    let last = chunks.pop().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 12);
    assert!(chunks.iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)));
}

#[tokio::test]
async fn no_answer_is_longer_than_the_client_wants() {
    let server = serving(prompt(64));
    for limit in [r#","max_tokens":5"#, r#","max_completion_tokens":5,"max_tokens":9"#] {
        let (_, whole) = answered(&server, &question(limit)).await;
        assert_eq!(whole["choices"][0]["finish_reason"], "length");
        assert_eq!(whole["usage"]["completion_tokens"], 5);
        let chunks = chunks(&server, &question(&format!(r#","stream":true{limit}"#))).await;
        assert_eq!(
            text_of(&chunks),
            whole["choices"][0]["message"]["content"].as_str().unwrap()
        );
        assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "length");
    }
    let (_, whole) = answered(&server, &question(r#","max_tokens":64"#)).await;
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn each_status_has_the_words_of_openai() {
    let server = serving(prompt(1));
    let expected = [
        (400, "invalid_request_error", None),
        (401, "invalid_request_error", Some("invalid_api_key")),
        (402, "insufficient_quota", Some("insufficient_quota")),
        (429, "requests", Some("rate_limit_exceeded")),
        (500, "server_error", Some("server_error")),
        (503, "service_unavailable_error", Some("server_is_overloaded")),
        (504, "timeout", Some("timeout")),
        (599, "server_error", Some("server_error")),
    ];
    for (status, kind, code) in expected {
        server.set([("sim-a".to_owned(), failing(SimError::Status(status)))]);
        let response = ask(&server, &question("")).await.unwrap();
        assert_eq!(response.status(), status);
        let wait = response.headers().get(RETRY_AFTER);
        assert_eq!(wait.map(HeaderValue::as_bytes), (status == 429).then_some(&b"1"[..]));
        let body: Value = serde_json::from_str(&drained(response.into_body()).await.0).unwrap();
        let error = &body["error"];
        assert_eq!(
            (&error["type"], &error["code"], &error["param"]),
            (&kind.into(), &code.into(), &Value::Null)
        );
        assert!(error["message"].as_str().unwrap().contains("simulated vendor"));
    }
}

/// A connection with a request on its way.
fn asked(server: &SimServer) -> std::net::TcpStream {
    let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
    let body = question("");
    let head = "POST /sim-a/chat/completions HTTP/1.1\r\nhost: sim\r\ncontent-length";
    write!(stream, "{head}: {}\r\n\r\n{body}", body.len()).unwrap();
    stream
}

#[test]
fn a_reset_is_one() {
    let server = serving(failing(SimError::Reset));
    let read = asked(&server).read(&mut [0; 16]);
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_cut_stream_has_content_and_no_end() {
    let server = serving(failing(SimError::Cut));
    let response = ask(&server, &question(r#","stream":true"#)).await.unwrap();
    assert_eq!(response.status(), 200);
    let (stream, proper) = drained(response.into_body()).await;
    assert!(!proper && !stream.contains("[DONE]"));
    let chunks: Vec<Value> = events(&stream)
        .into_iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect();
    assert_eq!(text_of(&chunks).split(' ').count(), 10);
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk["choices"][0]["finish_reason"].is_null())
    );
}

#[tokio::test]
async fn a_cut_whole_answer_is_shorter_than_it_promised() {
    let server = serving(failing(SimError::Cut));
    let response = ask(&server, &question("")).await.unwrap();
    let promised: usize = response.headers()[CONTENT_LENGTH].to_str().unwrap().parse().unwrap();
    let (text, proper) = drained(response.into_body()).await;
    assert!(!proper);
    assert_eq!(text.len(), promised / 2);
    assert!(text.starts_with(r#"{"id":"chatcmpl-"#));
}

/// With one connection at a time, the second request is answered only when the first one's work has ended.
#[tokio::test]
async fn a_hang_ends_when_the_client_goes() {
    let server = SimServer::start_with(1).unwrap();
    server.set([
        ("sim-a".to_owned(), failing(SimError::Hang)),
        ("sim-b".to_owned(), prompt(1)),
    ]);
    let first = asked(&server);
    let mut second = connect(&server).await;
    let answer = second.send_request(request("POST", "/sim-b/chat/completions", &question("")));
    let mut answer = Box::pin(answer);
    assert!(answer.as_mut().now_or_never().is_none());
    drop(first);
    assert_eq!(answer.await.unwrap().status(), 200);
}

#[test]
fn dropping_the_server_ends_what_hangs() {
    let server = serving(failing(SimError::Hang));
    let mut hanging = asked(&server);
    drop(server);
    // The system resets a connection that was not accepted yet.
    assert!(matches!(hanging.read(&mut [0; 16]), Ok(0) | Err(_)));
}

#[test]
fn errors_have_their_shares() {
    let mix = [
        (SimError::Status(429), 0.1),
        (SimError::Reset, 0.3),
        (SimError::Cut, 0.2),
    ];
    assert_eq!(draw(&mix, 0.0), Some(SimError::Status(429)));
    assert_eq!(draw(&mix, 0.1), Some(SimError::Reset));
    assert_eq!(draw(&mix, 0.999), None);
    assert_eq!(
        draw(&[(SimError::Hang, 1.0)], 1.0_f64.next_down()),
        Some(SimError::Hang)
    );
    assert_eq!(draw(&[(SimError::Hang, 0.0)], 0.0), None);
    let mut dice = fastrand::Rng::with_seed(7);
    let drawn: Vec<_> = (0..10_000).map(|_| draw(&mix, dice.f64())).collect();
    let share = |kind| drawn.iter().filter(|error| **error == kind).count();
    assert!((800..1200).contains(&share(Some(SimError::Status(429)))));
    assert!((2700..3300).contains(&share(Some(SimError::Reset))));
    assert!((3600..4400).contains(&share(None)));
}

#[tokio::test]
async fn what_is_set_holds_for_the_next_request_of_an_open_connection() {
    let server = serving(failing(SimError::Status(503)));
    let mut send = connect(&server).await;
    let mut statuses = Vec::new();
    for next in [vec![("sim-b", prompt(1))], vec![("sim-a", prompt(1))], vec![]] {
        let response = send
            .send_request(request("POST", "/sim-a/chat/completions", &question("")))
            .await
            .unwrap();
        statuses.push(response.status().as_u16());
        drained(response.into_body()).await;
        send.ready().await.unwrap();
        server.set(next.into_iter().map(|(name, sim)| (name.to_owned(), sim)));
    }
    assert_eq!(statuses, [503, 404, 200]);
}

#[tokio::test]
async fn names_may_have_slashes_and_other_paths_are_nobodys() {
    let server = serving(prompt(1));
    server.set([("eu/gpt:1".to_owned(), prompt(1))]);
    let cases = [
        ("POST", "/eu/gpt:1/chat/completions", 200),
        ("GET", "/eu/gpt:1/chat/completions", 404),
        ("POST", "/eu/gpt:1/completions", 404),
        ("POST", "/sim-a/chat/completions", 404),
        ("POST", "/chat/completions", 404),
    ];
    for (method, path, status) in cases {
        let request = request(method, path, &question(""));
        let response = connect(&server).await.send_request(request).await.unwrap();
        assert_eq!(response.status(), status, "{method} {path}");
    }
}

#[tokio::test]
async fn bad_requests_are_told_so() {
    let server = serving(prompt(1));
    let cases = [
        ("{", Value::Null),
        ("", Value::Null),
        ("[]", Value::Null),
        (r#"{"messages":[]}"#, Value::Null),
        (r#"{"model":"m"}"#, Value::Null),
        (r#"{"model":"m","messages":"hi"}"#, "messages".into()),
        (r#"{"model":"m","messages":[],"max_tokens":0}"#, "max_tokens".into()),
    ];
    for (body, param) in cases {
        let (status, answer) = answered(&server, body).await;
        assert_eq!(status, 400, "{body}");
        assert_eq!(answer["error"]["type"], "invalid_request_error");
        assert_eq!(answer["error"]["param"], param);
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let body = |bytes| Full::new(Bytes::from(vec![b' '; bytes]));
    assert_eq!(read(body(MAX_REQUEST_BYTES)).await.unwrap().len(), MAX_REQUEST_BYTES);
    assert_eq!(read(body(MAX_REQUEST_BYTES + 1)).await.unwrap_err().status, 413);
}

#[test]
fn the_echo_is_the_beginning_of_the_users_last_words() {
    let long = format!(r#"[{{"role":"user","content":"{}"}}]"#, "ä".repeat(ECHO_CHARS + 1));
    let cases = [
        (
            r#"[{"role":"user","content":"old"},{"role":"user","content":"new"},{"role":"tool","content":"x"}]"#,
            Some("new"),
        ),
        (
            r#"[{"role":"user","content":[{"type":"image_url"},{"type":"text","text":"a \"b\""}]}]"#,
            Some("a \"b\""),
        ),
        (r#"[{"role":"user","content":null}]"#, None),
        (r#"[{"role":"user","content":"  "}]"#, None),
        (r#"[7]"#, None),
        (&long, Some(&format!("{}…", "ä".repeat(ECHO_CHARS)))),
    ];
    for (messages, expected) in cases {
        assert_eq!(
            LastUserMessage::read(messages).echo().as_deref(),
            expected,
            "{messages}"
        );
    }
}

#[test]
fn tokens_are_due_when_their_time_has_come() {
    let first = Instant::now() + Duration::from_secs(1);
    let pace = Pace { first, per_second: 4.0 };
    assert_eq!(pace.due(8), first + Duration::from_secs(2));
    let due = |millis| pace.tokens_due(first + Duration::from_millis(millis));
    assert_eq!([0, 249, 250, 2000].map(due), [1, 1, 2, 9]);
    assert_eq!(pace.tokens_due(first - Duration::from_millis(1)), 0);
    let fast = Pace { first, per_second: 1e6 };
    assert_eq!(fast.tokens_due(first + Duration::from_secs(1_000_000)), u32::MAX);
}

const WEATHER: &str = r#"{"type":"function","function":{"name":"get_weather","parameters":{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer","minimum":2}},"required":["city"]}}}"#;

fn with_tools(said: &str, more: &str) -> String {
    let clock = r#"{"type":"function","function":{"name":"get_time"}}"#;
    let messages = format!(r#"[{{"role":"user","content":"{said}"}}]"#);
    format!(r#"{{"model":"m-1","messages":{messages},"tools":[{WEATHER},{clock}]{more}}}"#)
}

#[tokio::test]
async fn tools_are_called_where_the_choice_says_so() {
    let server = serving(prompt(3));
    let named = r#","tool_choice":{"type":"function","function":{"name":"get_time"}}"#;
    let allowed = r#","tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"required","tools":[{"type":"function","function":{"name":"get_time"}}]}}"#;
    let cases = [
        ("Hello", "", None),
        ("Hello", r#","tool_choice":"auto""#, None),
        ("Hello", r#","tool_choice":"required""#, Some("get_weather")),
        ("Hello", named, Some("get_time")),
        ("Hello", allowed, Some("get_time")),
        ("Please call get_time", "", Some("get_time")),
        ("Please call get_time", r#","tool_choice":"none""#, None),
    ];
    for (said, choice, expected) in cases {
        let (status, answer) = answered(&server, &with_tools(said, choice)).await;
        assert_eq!(status, 200, "{answer}");
        let choice = &answer["choices"][0];
        let call = &choice["message"]["tool_calls"][0];
        assert_eq!(call["function"]["name"].as_str(), expected, "{said} {answer}");
        let reason = if expected.is_some() { "tool_calls" } else { "stop" };
        assert_eq!(choice["finish_reason"], reason);
        assert_eq!(choice["message"]["content"].is_null(), expected.is_some());
    }
}

#[tokio::test]
async fn a_call_has_arguments_of_the_tools_schema_whole_and_streamed() {
    let server = serving(prompt(3));
    let ask = with_tools("Hello", r#","tool_choice":"required""#);
    let (_, whole) = answered(&server, &ask).await;
    let arguments = whole["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"].as_str();
    assert_eq!(arguments, Some(r#"{"city":"sample city","days":2}"#));
    let chunks = chunks(
        &server,
        &with_tools("Hello", r#","stream":true,"tool_choice":"required""#),
    )
    .await;
    let calls = || {
        chunks
            .iter()
            .map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0])
    };
    let streamed: String = calls()
        .filter_map(|call| call["function"]["arguments"].as_str())
        .collect();
    assert_eq!(Some(&*streamed), arguments);
    assert_eq!(calls().filter(|call| call["id"].is_string()).count(), 1);
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn a_tool_that_has_answered_is_not_called_again() {
    let server = serving(prompt(3));
    let ask = format!(
        r#"{{"model":"m","tools":[{WEATHER}],"messages":[{{"role":"user","content":"call get_weather"}},
        {{"role":"assistant","tool_calls":[{{"id":"a","type":"function","function":{{"name":"get_weather","arguments":"{{}}"}}}}]}},
        {{"role":"tool","tool_call_id":"a","content":"rain"}}]}}"#
    );
    let (_, answer) = answered(&server, &ask).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
}

#[tokio::test]
async fn documents_have_the_schema_that_was_asked_for() {
    let server = serving(prompt(3));
    let schema =
        r#"{"type":"object","properties":{"tags":{"type":"array","items":{"enum":["x","y"]}}},"required":["tags"]}"#;
    let format =
        format!(r#","response_format":{{"type":"json_schema","json_schema":{{"name":"n","schema":{schema}}}}}"#);
    let (_, answer) = answered(&server, &question(&format)).await;
    assert_eq!(answer["choices"][0]["message"]["content"], r#"{"tags":["x"]}"#);
    let chunks = chunks(&server, &question(&format!(r#","stream":true{format}"#))).await;
    assert_eq!(text_of(&chunks), r#"{"tags":["x"]}"#);
    let (_, answer) = answered(&server, &question(r#","response_format":{"type":"json_object"}"#)).await;
    assert_eq!(
        answer["choices"][0]["message"]["content"],
        r#"{"answer":"Hello there"}"#
    );
    // A document that does not fit is cut, and says so.
    let (_, answer) = answered(&server, &question(&format!(r#","max_tokens":1{format}"#))).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "{\"ta");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn several_choices_are_several_answers() {
    let server = serving(prompt(5));
    let (_, answer) = answered(&server, &question(r#","n":3"#)).await;
    let indices: Vec<_> = answer["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| &choice["index"])
        .collect();
    assert_eq!(indices, [&json!(0), &json!(1), &json!(2)]);
    assert_eq!(answer["usage"]["completion_tokens"], 15);
    let chunks = chunks(&server, &question(r#","stream":true,"n":2"#)).await;
    let of = |index: u64| {
        let own = chunks.iter().filter(|chunk| chunk["choices"][0]["index"] == index);
        own.cloned().collect::<Vec<_>>()
    };
    assert_eq!(text_of(&of(0)), text_of(&of(1)));
    assert_eq!(of(1).last().unwrap()["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn what_openai_refuses_is_refused() {
    let server = serving(prompt(1));
    let unknown = r#","tool_choice":{"type":"function","function":{"name":"nosuch"}}"#;
    let cases = [
        (question(r#","tool_choice":"required""#), "tool_choice"),
        (with_tools("Hello", unknown), "tool_choice"),
        (with_tools("Hello", r#","tool_choice":"always""#), "tool_choice"),
        (question(r#","n":0"#), "n"),
        (question(r#","n":129"#), "n"),
        (
            question(r#","response_format":{"type":"json_schema"}"#),
            "response_format",
        ),
        (question(r#","response_format":{"type":"xml"}"#), "response_format"),
    ];
    for (body, param) in cases {
        let (status, answer) = answered(&server, &body).await;
        assert_eq!(
            (status.as_u16(), &answer["error"]["param"]),
            (400, &param.into()),
            "{body}"
        );
    }
}
