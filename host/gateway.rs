//! From the request to the response: who is at the door, what they came for, and who answers it. What becomes of a request for a
//! model is [`crate::journey`]'s.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, Version, request};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::attempt::Held;
use crate::connection::Connections;
use crate::door::{self, Ask, Errand, Visit};
use crate::exchange::{Operation, Side};
use crate::journey::{Departure, Journey};
use crate::live::Live;
use crate::model_name;
use crate::models;
use crate::origin::{self, Host};
use crate::place::Place;
use crate::progress;
use crate::refusal::Refusal;
use crate::relay::{self, Behind, Body, Payload};
use crate::snapshot::{Client, Snapshot};
use crate::telemetry::Trail;
use crate::trace;
use crate::vendor::Api;
use crate::wire::shape::Limits;
use crate::wire::{Format, Inquiry, Malformed};

/// Answers requests. One for each worker, with connections of its own.
pub struct Gateway {
    live: Arc<Live>,
    connections: Arc<Connections>,
}

/// What the client gets when all went well.
#[expect(clippy::large_enum_variant, reason = "one at a time, and looked at at once")]
enum Reply {
    /// A target's answer.
    Answer(Held, Behind),
    /// Something the gateway knows itself.
    Own(Bytes, Box<Trail>),
}

impl Gateway {
    /// Answers with what is live.
    pub fn new(live: Arc<Live>, connections: Arc<Connections>) -> Self {
        Self { live, connections }
    }

    /// Answers one request, whatever happens. `place` is that among the requests in progress.
    pub async fn answer(&self, request: Request<Incoming>, place: Place) -> Response<Body> {
        let (head, body) = request.into_parts();
        let snapshot = self.live.snapshot();
        let reader = origin::reader(&head.headers, &snapshot.config.server.origins).cloned();
        let is_head = head.method == Method::HEAD;
        let is_http2 = head.version == Version::HTTP_2;
        let mut response = self.respond(head, body, snapshot, place).await;
        if is_head {
            relay::leave_body_out(&mut response);
        }
        if let Some(origin) = reader {
            origin::let_read(origin, response.headers_mut());
        }
        response.map(|payload| Body::new(payload, progress::current(), is_http2))
    }

    async fn respond(
        &self,
        head: request::Parts,
        mut body: Incoming,
        snapshot: Arc<Snapshot>,
        place: Place,
    ) -> Response<Payload> {
        let mut trail = Trail::new(&self.live.telemetry);
        trail.trace = self.live.telemetry.traces.begin(&head, trail.started);
        let Visit { format, errand } = door::visit(&head);
        let has_place = place.is_taken();
        trail.place = Some(place);
        let errand = match check_sender(&head, &snapshot) {
            _ if !has_place => Err(Refusal::Busy),
            Err(refusal) => Err(refusal),
            Ok(()) if is_allowed_preflight(&head, &snapshot) => return relay::preflight(&head.headers, trail),
            Ok(()) => errand,
        };
        let reply = match errand {
            Ok(errand) => self.serve(errand, snapshot, &head, &mut body, trail).await,
            Err(refusal) => Err((refusal, trail)),
        };
        match reply {
            Ok(Reply::Answer(held, behind)) => relay::answer(format, held, behind),
            Ok(Reply::Own(bytes, trail)) => relay::own(bytes, trail),
            Err((refusal, mut trail)) => {
                if let Some(place) = &mut trail.place {
                    place.leave();
                }
                let before = Instant::now();
                Box::pin(door::discard(&head, body)).await;
                trail.elsewhere += before.elapsed();
                relay::refuse(format, &refusal, trail)
            }
        }
    }

    async fn serve(
        &self,
        errand: Errand,
        snapshot: Arc<Snapshot>,
        head: &request::Parts,
        body: &mut Incoming,
        mut trail: Box<Trail>,
    ) -> Result<Reply, (Refusal, Box<Trail>)> {
        let (ask, client) = match enter(errand, &snapshot, head, &mut trail) {
            Ok(Entered::Ask(ask, client)) => (ask, client),
            Ok(Entered::Told(bytes)) => return Ok(Reply::Own(bytes, trail)),
            Err(refusal) => return Err((refusal, trail)),
        };
        let departure = match self.depart(ask, snapshot, client, head, body, &mut trail).await {
            Ok(departure) => departure,
            Err(refusal) => return Err((refusal, trail)),
        };
        let is_count = departure.side.operation == Operation::Count;
        let counted = is_count.then_some((departure.side.format, departure.inquiry.request.input_tokens));
        let mut journey = Journey::new(departure, trail);
        match (journey.run().await, counted) {
            (Ok(held), _) => Ok(Reply::Answer(held, journey.behind())),
            // No vendor of this format is there to count: the gateway's own estimate is better than nothing.
            (Err(Refusal::NoApi), Some((format, tokens))) => {
                journey
                    .trail
                    .warnings
                    .push("the number of tokens is the gateway's own estimate".to_owned());
                Ok(Reply::Own(models::counted(format, tokens), journey.trail))
            }
            (Err(refusal), _) => Err((refusal, journey.trail)),
        }
    }

    /// Reads what routing needs of a body, away from the worker's thread where that takes long.
    async fn read(&self, format: Format, body: Bytes, max_items: usize) -> Result<Inquiry, Malformed> {
        let bytes = body.len();
        let read = move || {
            format.count_items(&body, &Limits { items: max_items })?;
            format.read(body)
        };
        if bytes < format.large() {
            return read();
        }
        self.live.offload.run(bytes, read).await
    }

    /// Reads the body and finds the route.
    async fn depart<'a>(
        &'a self,
        ask: Ask,
        snapshot: Arc<Snapshot>,
        client: Arc<Client>,
        head: &'a request::Parts,
        body: &mut Incoming,
        trail: &mut Trail,
    ) -> Result<Departure<'a>, Refusal> {
        let server = &snapshot.config.server;
        let before = Instant::now();
        let holder = trail
            .place
            .as_ref()
            .map(|place| place.client().clone())
            .unwrap_or_default();
        let body = door::read(body, self.live.hold.empty(&holder), server).await;
        trail.elsewhere += before.elapsed();
        let body = body?;
        door::verify(head, &body, &client)?;

        let mut inquiry = self.read(ask.format, body, server.max_items).await?;
        // Where both the path and the body name a model, they name the same.
        if let Some(model) = ask.model.filter(|_| inquiry.model_spans.is_empty()) {
            inquiry.request.model = model;
            inquiry.request.streaming = ask.streaming;
        }
        inquiry.request.streaming &= ask.operation == Operation::Answer;
        trail.operation = trace::operation(ask.operation, ask.format);
        trail.model.clone_from(&inquiry.request.model);
        trail.streaming = inquiry.request.streaming;
        if !model_name::is_usable(&inquiry.request.model) {
            return Err(Refusal::NoModelName);
        }
        let Some(route) = snapshot.route(&inquiry.request.model).cloned() else {
            return Err(Refusal::UnknownModel(inquiry.request.model));
        };
        trail.route.clone_from(&route.rules.model);
        trail.tells_attempts = route.rules.attempts_detail;
        inquiry.request.session = door::session(head).or(inquiry.request.session);
        let side = Side {
            format: ask.format,
            operation: ask.operation,
            as_array: ask.as_array,
            created: seconds_since_1970(),
            headers: Api::forwardable(&head.headers),
        };
        Ok(Departure {
            live: &self.live,
            connections: &self.connections,
            snapshot,
            side,
            inquiry,
            client,
            route,
            head,
        })
    }
}

/// Whether a request may have come from where it did. Who shows a key is known by it; without keys, anybody who reaches the listener
/// may call, but for web pages of other origins and names that are not the gateway's.
fn check_sender(head: &request::Parts, snapshot: &Snapshot) -> Result<(), Refusal> {
    let server = &snapshot.config.server;
    let needs_key = !snapshot.config.keys.is_empty();
    let host = match Host::of(head) {
        Host::Named(host) => host,
        Host::Missing => "",
        Host::Invalid => return Err(Refusal::BadHost),
    };
    let checks_host = !server.hosts.is_empty() || !needs_key && snapshot.config.listen.ip().is_loopback();
    if checks_host && !host.is_empty() && !origin::host_allowed(host, &server.hosts) {
        return Err(Refusal::UnknownHost);
    }
    if !needs_key && !origin::sender_allowed(&head.headers, host, &server.origins) {
        return Err(Refusal::ForeignPage);
    }
    Ok(())
}

fn is_allowed_preflight(head: &request::Parts, snapshot: &Snapshot) -> bool {
    origin::is_preflight(head) && origin::reader(&head.headers, &snapshot.config.server.origins).is_some()
}

/// Who is there, and what is to be done.
fn enter(errand: Errand, snapshot: &Snapshot, head: &request::Parts, trail: &mut Trail) -> Result<Entered, Refusal> {
    let client = snapshot.client(|| door::key(head)).ok_or(Refusal::UnknownKey)?;
    trail.client.clone_from(&client.name);
    if let Some(place) = &mut trail.place {
        place.charge(client.share.as_ref())?;
    }
    Ok(match errand {
        Errand::Ask(ask) => Entered::Ask(ask, client),
        Errand::Models(format) => Entered::Told(models::list(snapshot, format)),
        Errand::Model(format, id) => match models::one(snapshot, format, &id) {
            Some(bytes) => Entered::Told(bytes),
            None => return Err(Refusal::UnknownModel(id)),
        },
    })
}

/// What came through the door.
enum Entered {
    /// Somebody wants something of a model.
    Ask(Ask, Arc<Client>),
    /// What the gateway knows itself.
    Told(Bytes),
}

fn seconds_since_1970() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
