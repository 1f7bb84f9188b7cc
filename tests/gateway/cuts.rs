//! Answers that break off at every single byte, of every vendor's format towards every client's: the client has all of the answer or is
//! told that it has not. One gateway serves all of it.

use std::thread;

use super::client::Connection;
use super::heard::Format;
use super::recorded::CALL;
use super::running::Gateway;
use super::script::Script;
use super::setup::Setup;
use super::vendor::{Received, Vendor};

const SAYS: &str = "Hello, wörld";

/// How a vendor breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The connection's end is the answer's.
    Close,
    /// The connection ends inside a chunk.
    Shut,
    /// The connection is reset.
    Reset,
}

/// What one request is to meet.
#[derive(Debug, Clone, Copy)]
struct Cut {
    vendor: Format,
    client: Format,
    streaming: bool,
    calls: bool,
    at: usize,
    end: End,
}

impl Cut {
    /// What the user says, for the vendor to read.
    fn told(&self) -> String {
        format!("cut {} {} {:?} .", self.at, self.calls, self.end)
    }

    /// The script that a request tells.
    fn script(vendor: Format, request: &Received) -> Script {
        let body = String::from_utf8_lossy(&request.body);
        let words: Vec<&str> = body[body.find("cut ").expect("an order")..].split(' ').collect();
        let end = [End::Close, End::Shut, End::Reset]
            .into_iter()
            .find(|end| format!("{end:?}") == words[3]);
        let is_stream = body.contains("\"stream\":true") || request.head.line.contains("stream");
        let cut = Cut {
            vendor,
            client: vendor,
            streaming: is_stream,
            calls: words[2] == "true",
            at: words[1].parse().unwrap(),
            end: end.unwrap(),
        };
        cut.breaks_off()
    }

    fn recorded(&self) -> Vec<Vec<u8>> {
        match (self.streaming, self.calls) {
            (false, _) => vec![self.vendor.whole(SAYS).into_bytes()],
            (true, false) => self.vendor.frames(SAYS),
            (true, true) => self.vendor.frames_with_call(SAYS),
        }
    }

    fn breaks_off(&self) -> Script {
        let all = self.recorded().concat();
        let kept = all[..self.at].to_vec();
        let kind = if self.streaming {
            self.vendor.stream_type()
        } else {
            "application/json"
        };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n");
        let begun = Script::Steps(vec![]).send(&head);
        match self.end {
            End::Close => begun.send("connection: close\r\n\r\n").bytes(kept).close(),
            End::Shut => begun.chunk(all.len(), kept).close(),
            // What was sent is there before the reset, which would take it away.
            End::Reset => begun.chunk(all.len(), kept).pause(1).reset(),
        }
    }

    /// Where the event begins that finishes the answer.
    fn finish(&self) -> usize {
        let mark = match self.vendor {
            _ if !self.streaming => return self.recorded().concat().len(),
            Format::Chat => "\"finish_reason\":\"",
            Format::Messages => "event: message_delta",
            Format::Gemini | Format::GeminiArray => "\"finishReason\"",
            Format::Converse => "messageStop",
            Format::Responses => "event: response.completed",
        };
        let frames = self.recorded();
        let finishes = |frame: &Vec<u8>| String::from_utf8_lossy(frame).contains(mark);
        let place = frames.iter().position(finishes).expect("a finish");
        frames[..place].concat().len()
    }

    fn says(&self) -> String {
        if self.calls {
            format!("{SAYS}{CALL}")
        } else {
            SAYS.to_owned()
        }
    }

    fn check(&self, client: &mut Connection) {
        let model = format!("{:?}", self.vendor);
        let line = self.client.line(&model, self.streaming);
        client.request(
            &line,
            &[],
            self.client.body(&model, self.streaming, &self.told()).as_bytes(),
        );
        let answer = client.answer();
        let text = || String::from_utf8_lossy(&answer.body);
        let (length, says) = (self.recorded().concat().len(), self.says());
        if answer.status != 200 {
            self.client.assert_error(&text());
            let is_cut = self.at < length || self.end != End::Close;
            assert!(is_cut, "{self:?}: all of it came, and the client got {}", text());
        } else if self.streaming {
            let heard = self.client.hear(&answer.body);
            assert!(says.starts_with(&heard.says), "{self:?}: {heard:?}");
            let is_all = heard.is_all(&says) && heard.ends == self.client.end_markers();
            let may_be_all = self.at > self.finish();
            assert!(
                heard.is_cut_off() || may_be_all && is_all,
                "{self:?}: {heard:?} of {}",
                text()
            );
            assert!(self.at < length || is_all, "{self:?}: {heard:?} of {}", text());
        } else {
            assert_eq!(self.client.said(&text()).as_deref(), Some(SAYS), "{self:?}: {}", text());
            assert_eq!(self.at, length, "{self:?}: {}", text());
        }
    }
}

/// A gateway with a route to each vendor's format, named as that.
fn gateway() -> (Vec<Vendor>, Gateway) {
    let names = ["Chat", "Messages", "Gemini", "Converse", "Responses"];
    let vendors: Vec<Vendor> = Format::VENDORS
        .into_iter()
        .zip(names)
        .map(|(format, name)| Vendor::start(name, [Script::of(move |request| Cut::script(format, request))]))
        .collect();
    let mut setup = Setup::new(&vendors);
    for (format, name) in Format::VENDORS.into_iter().zip(names) {
        let route = format!("[[route]]\nmodel = \"{name}\"\ntargets = [\"{name}\"]\nlossy = \"allow\"\n");
        setup = setup.speaks(name, format).after(&route);
    }
    let gateway = setup
        .toml("breaker.enabled = false\nlog.requests = false")
        .workers(2)
        .start();
    (vendors, gateway)
}

/// Every cut of every pair of formats, each pair in a thread of its own.
fn check_all(streaming: bool, calls: &[bool], ends: &[End]) {
    let (_vendors, gateway) = gateway();
    let gateway = &gateway;
    thread::scope(|scope| {
        for vendor in Format::VENDORS {
            let asks = |client: &Format| vendor.is_spoken_to(*client) && (streaming || *client != Format::GeminiArray);
            for client in Format::CLIENTS.into_iter().filter(asks) {
                scope.spawn(move || {
                    let mut connection = gateway.connect();
                    for (calls, end) in calls
                        .iter()
                        .flat_map(|calls| ends.iter().map(move |end| (*calls, *end)))
                    {
                        let cut = |at| Cut {
                            vendor,
                            client,
                            streaming,
                            calls,
                            at,
                            end,
                        };
                        let length = cut(0).recorded().concat().len();
                        (0..=length).for_each(|at| cut(at).check(&mut connection));
                    }
                });
            }
        }
    });
}

#[test]
fn a_stream_that_is_closed_at_any_byte_is_whole_or_told_to_be_cut() {
    check_all(true, &[false, true], &[End::Close]);
}

#[test]
fn a_stream_that_is_reset_at_any_byte_is_whole_or_told_to_be_cut() {
    check_all(true, &[true], &[End::Reset]);
}

#[test]
fn a_stream_that_ends_inside_a_chunk_at_any_byte_is_whole_or_told_to_be_cut() {
    check_all(true, &[false], &[End::Shut]);
}

#[test]
fn a_whole_answer_that_is_cut_at_any_byte_is_none() {
    check_all(false, &[false], &[End::Close, End::Shut, End::Reset]);
}
