//! Random vendors and random policies: what holds whatever they do.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::time::{Instant, sleep, timeout};

use super::client::{Answer, ask};
use super::heard::Format;
use super::street::{Break, Call, Deed, Line, SAYS, TOKENS};
use super::yard::Yard;

const MAX_ATTEMPTS: usize = 4;
const HEDGE_SHARE: f64 = 0.05;
const RETRY_FLOOR: usize = 3;
const RETRY_SHARE: f64 = 0.2;
const MAX_WAITING: usize = 2;
const REQUEST: Duration = Duration::from_millis(1000);
const WHOLE: Duration = Duration::from_millis(1500);
/// The runtime's timers ring on whole milliseconds.
const TICK: Duration = Duration::from_millis(2);

/// What a policy may say, by header.
const HEADERS: [&str; 11] = [
    "x-picks",
    "x-when-failed",
    "x-when-started",
    "x-when-refused",
    "x-hedge-after-ms",
    "x-first-content-ms",
    "x-between-frames-ms",
    "x-connect-ms",
    "x-wait-ms",
    "x-whole-ms",
    "x-reject",
];

/// One request, and what it meets.
#[derive(Debug, Clone)]
struct Visit {
    /// Milliseconds after the story's beginning.
    comes: u64,
    client: Format,
    streaming: bool,
    /// Milliseconds after which the client has had enough.
    leaves: Option<u64>,
    deeds: [Deed; 3],
    headers: Vec<(&'static str, String)>,
}

/// What happens before the next one begins.
#[derive(Debug, Clone)]
struct Story {
    /// Milliseconds since the story before.
    pause: u64,
    lines: [Line; 3],
    visits: Vec<Visit>,
}

/// What vendors do ends on threes, what policies say on zeros: nothing that is compared happens in the same millisecond.
fn vendors_ms() -> impl Strategy<Value = u64> {
    (0u64..40).prop_map(|tens| tens * 10 + 3)
}

fn policys_ms() -> impl Strategy<Value = Option<String>> {
    prop::option::of((1u64..40).prop_map(|tens| (tens * 10).to_string()))
}

fn deed() -> impl Strategy<Value = Deed> {
    let breaks = prop::sample::select(vec![Break::Closes, Break::Stalls, Break::Garbage, Break::Error]);
    let status = prop::sample::select(vec![400, 401, 402, 404, 408, 413, 429, 429, 500, 503, 529]);
    let retry_after = prop::option::of((0u64..60).prop_map(|tens| tens * 10));
    prop_oneof![
        6 => (vendors_ms(), vendors_ms()).prop_map(|(first, between)| Deed::Well { first, between }),
        4 => (status, vendors_ms(), retry_after)
            .prop_map(|(status, after, retry_after)| Deed::Status { status, after, retry_after }),
        2 => (vendors_ms(), breaks).prop_map(|(first, then)| Deed::Half { first, then }),
        1 => vendors_ms().prop_map(|after| Deed::HangsUp { after }),
        1 => Just(Deed::Refuses),
        1 => Just(Deed::Silence),
        1 => Just(Deed::NoStream),
    ]
}

fn visit() -> impl Strategy<Value = Visit> {
    let names = prop::sample::select(&["a", "b", "c", "nobody"][..]);
    let picks = || prop::option::of(prop::collection::vec(names.clone(), 1..6).prop_map(|it| it.join(",")));
    let first_picks = prop::option::weighted(
        0.8,
        prop::collection::vec(names.clone(), 1..6).prop_map(|it| it.join(",")),
    );
    let reject = prop::option::weighted(0.03, Just("no".to_owned()));
    let deadlines = (
        policys_ms(),
        policys_ms(),
        policys_ms(),
        policys_ms(),
        policys_ms(),
        policys_ms(),
    );
    let leaves = prop::option::weighted(0.2, 0u64..1200);
    let said = (first_picks, picks(), picks(), picks(), deadlines, reject);
    let client = prop::sample::select(&Format::CLIENTS[..]);
    (0u64..300, client, any::<bool>(), leaves, [deed(), deed(), deed()], said).prop_map(
        |(comes, client, streaming, leaves, deeds, said)| {
            let (hedge, first, between, connect, wait, whole) = said.4;
            let values = [
                said.0, said.1, said.2, said.3, hedge, first, between, connect, wait, whole, said.5,
            ];
            let headers = HEADERS.into_iter().zip(values);
            Visit {
                comes,
                client,
                streaming,
                leaves,
                deeds,
                headers: headers.filter_map(|(name, value)| Some((name, value?))).collect(),
            }
        },
    )
}

fn story(visits: std::ops::Range<usize>) -> impl Strategy<Value = Story> {
    let line = || prop_oneof![8 => Just(Line::Open), 1 => Just(Line::Refused), 1 => Just(Line::Dead)];
    let visits = prop::collection::vec(visit(), visits);
    (0u64..900, [line(), line(), line()], visits).prop_map(|(pause, lines, visits)| Story { pause, lines, visits })
}

/// What a yard is like.
#[derive(Clone, Copy)]
struct Kind {
    has_breakers: bool,
    continuation: bool,
    /// Targets have limits of requests in progress, lines and several keys, and the route holds what begins.
    has_limits: bool,
}

/// Requests that the first vendor's target may have in progress, where it has a limit.
const LIMIT: u32 = 2;

fn open(kind: Kind) -> Yard {
    let Kind {
        has_breakers,
        continuation,
        has_limits,
    } = kind;
    let limit = format!("concurrency = {{ limit = {LIMIT}, queue = 1, queue_ms = 150 }}");
    let limits = [
        limit.as_str(),
        "api_keys = [{ env = \"KEY_0\" }, { env = \"KEY_1\" }]",
        "concurrency = { limit = 4, queue = 2, adaptive = true }",
    ];
    let shown: Vec<String> = HEADERS.iter().map(|name| format!("\"{name}\"")).collect();
    let ms = Duration::as_millis;
    Yard::open(
        &format!(
            "policies.headers = [{}]\nbreaker.enabled = {has_breakers}\nbreaker.open_ms = 400\nbreaker.max_open_ms = 800\n\
             breaker.rest_ms = 400\nattempts.retry_floor = {RETRY_FLOOR}\nattempts.retry_share = {RETRY_SHARE}\n\
             attempts.max_waiting = {MAX_WAITING}\ntimeouts = {{ connect_ms = 200, first_content_ms = 300, whole_content_ms = 300, \
             between_frames_ms = 300, whole_ms = {}, request_ms = {} }}",
            shown.join(", "),
            ms(&WHOLE),
            ms(&REQUEST),
        ),
        &format!(
            "continuation = {continuation}\nhedge_share = {HEDGE_SHARE}\nmax_attempts = {MAX_ATTEMPTS}\n{}",
            if has_limits {
                "hold = { tokens = 2, ms = 50 }"
            } else {
                ""
            }
        ),
        if has_limits { limits } else { [""; 3] },
    )
}

/// What came of a visit.
struct Lived {
    began: Instant,
    answer: Option<Answer>,
    ended: Instant,
}

async fn live_through(yard: &Yard, story: &Story, first: usize) -> Vec<Lived> {
    sleep(Duration::from_millis(story.pause)).await;
    yard.street
        .begin(first, story.visits.iter().map(|visit| visit.deeds), story.lines);
    let visit = |(number, visit): (usize, &Visit)| {
        let (worker, street, visit) = (yard.worker.clone(), yard.street.clone(), visit.clone());
        tokio::spawn(async move {
            sleep(Duration::from_millis(visit.comes)).await;
            street.look();
            let began = Instant::now();
            let leaves = visit.leaves.map(Duration::from_millis);
            let says = format!("visit {number}.");
            let answer = ask(&worker, visit.client, visit.streaming, &says, &visit.headers, leaves).await;
            let ended = Instant::now();
            Lived { began, answer, ended }
        })
    };
    let visits: Vec<_> = (first..).zip(&story.visits).map(visit).collect();
    let mut lived = Vec::new();
    for visit in visits {
        // Far longer than any deadline: whoever is not back by then never will be.
        let minute = timeout(Duration::from_secs(60), visit).await;
        lived.push(minute.expect("every request ends").expect("no panic"));
    }
    lived
}

/// What holds for one request.
fn check(visit: &Visit, lived: &Lived, calls: &[&Call], kind: Kind) -> Result<(), TestCaseError> {
    let repeated = calls.iter().filter(|call| call.is_repeated).count();
    prop_assert!(calls.len() - repeated <= MAX_ATTEMPTS, "{} calls", calls.len());
    for call in calls {
        prop_assert!(!call.was_resting, "{:?} was to rest: {:?}", call, calls);
        let is_full = kind.has_limits && call.vendor == 0 && call.in_flight > LIMIT;
        prop_assert!(!is_full, "{:?} was full", call);
        prop_assert!(call.at >= lived.began, "a call before the client came");
    }
    let Some(answer) = &lived.answer else { return Ok(()) };
    prop_assert!(
        answer.head_after <= REQUEST + TICK,
        "an answer after {:?}",
        answer.head_after
    );
    let longest = (REQUEST + WHOLE) * (MAX_ATTEMPTS as u32);
    prop_assert!(answer.whole_after <= longest, "an end after {:?}", answer.whole_after);
    let told = answer.headers["x-pointsman-attempts"]
        .to_str()
        .unwrap()
        .parse::<usize>()
        .unwrap();
    prop_assert!(told <= MAX_ATTEMPTS, "{} attempts", told);
    let text = String::from_utf8_lossy(&answer.bytes);
    if answer.status != 200 {
        visit.client.assert_error(&text);
    } else if visit.streaming {
        let heard = visit.client.hear(&answer.bytes);
        let is_whole = heard.is_all(&heard.says) && heard.ends == visit.client.end_markers();
        // Whoever goes on with an answer that broke off says all of it again.
        let is_known = heard.says.is_empty() || heard.says.replace("all ", "").replace("of it", "").is_empty();
        prop_assert!(heard.is_cut_off() || is_whole && is_known, "{:?}", heard);
    } else {
        let is_refusal = ["content_filter", "\"refusal\"", "\"SAFETY\""]
            .iter()
            .any(|word| text.contains(word));
        prop_assert!(text.contains(SAYS) || is_refusal, "{}", text);
    }
    Ok(())
}

/// What was counted of all stories.
#[derive(Default)]
struct Sums {
    most: Cell<usize>,
    counted: Cell<usize>,
    answered: Cell<usize>,
    left: Cell<usize>,
    repeats: RefCell<Vec<(usize, Instant)>>,
    firsts: RefCell<Vec<(usize, Instant)>>,
    /// When each visit ended, by its number.
    ends: RefCell<Vec<Instant>>,
}

impl Sums {
    fn add(&self, story: &Story, lived: &[Lived], calls: &[Call], first: usize) {
        for (number, (visit, lived)) in (first..).zip(story.visits.iter().zip(lived)) {
            self.ends.borrow_mut().push(lived.ended);
            let calls: Vec<_> = calls.iter().filter(|call| call.visit == number).collect();
            self.most.set(self.most.get().max(calls.len()));
            self.left.set(self.left.get() + usize::from(lived.answer.is_none()));
            let is_answered = |answer: &&Answer| answer.status == 200 && !visit.streaming;
            self.answered
                .set(self.answered.get() + lived.answer.iter().filter(is_answered).count());
            for vendor in 0..3 {
                let mut at = calls
                    .iter()
                    .filter(|call| call.vendor == vendor && !call.is_repeated)
                    .map(|call| (vendor, call.at));
                self.firsts.borrow_mut().extend(at.next());
                self.repeats.borrow_mut().extend(at);
            }
        }
    }

    /// Nobody is called for a client that has gone, or has been answered.
    fn check_ends(&self, calls: &[Call]) {
        let ends = self.ends.borrow();
        for call in calls {
            assert!(call.at <= ends[call.visit], "{call:?} after the end of its visit");
        }
        self.counted.set(calls.iter().filter(|call| call.counted).count());
    }

    /// A request's second attempt at a target and those after it are retries: in no ten seconds there are more of them than the budget
    /// allows.
    fn check_budgets(&self, unheard: Vec<(usize, Instant)>) {
        let repeats = self.repeats.borrow();
        let all = [self.firsts.borrow().clone(), repeats.clone(), unheard].concat();
        for (vendor, at) in repeats.iter() {
            let within = |(other, when): &&(usize, Instant)| {
                other == vendor && when <= at && *at - *when < Duration::from_secs(10)
            };
            let (retries, calls) = (repeats.iter().filter(within).count(), all.iter().filter(within).count());
            let most = RETRY_FLOOR as f64 + RETRY_SHARE * calls as f64;
            assert!(retries as f64 <= most, "{retries} retries among {calls} calls in 10 s");
        }
    }
}

async fn settle(yard: &Yard) {
    sleep(Duration::from_secs(5)).await;
    assert_eq!(yard.in_flight(), 0, "every attempt ends");
    assert_eq!(
        yard.metric("pointsman_requests_in_progress"),
        0.0,
        "every request is told"
    );
}

fn run(visits: std::ops::Range<usize>, cases: u32) {
    for (has_breakers, continuation, has_limits) in [
        (false, true, false),
        (true, true, false),
        (true, false, false),
        (false, true, true),
        (true, false, true),
    ] {
        let kind = Kind {
            has_breakers,
            continuation,
            has_limits,
        };
        let builder = &mut tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        let yard = runtime.block_on(async { open(kind) });
        let config = Config {
            cases,
            failure_persistence: None,
            max_shrink_iters: 0,
            ..Config::default()
        };
        let sums = Sums::default();
        let result = TestRunner::new(config).run(&story(visits.clone()), |story| {
            let first = sums.ends.borrow().len();
            let lived = runtime.block_on(live_through(&yard, &story, first));
            let calls = yard.street.calls_since(first);
            sums.add(&story, &lived, &calls, first);
            for (number, (visit, lived)) in (first..).zip(story.visits.iter().zip(&lived)) {
                let calls: Vec<_> = calls.iter().filter(|call| call.visit == number).collect();
                check(visit, lived, &calls, kind)?;
            }
            Ok(())
        });
        assert!(result.is_ok(), "{}", result.unwrap_err());
        runtime.block_on(settle(&yard));
        sums.check_ends(&yard.street.calls_since(0));
        sums.check_budgets(yard.street.unheard());
        let waiting = yard.street.most_waiting();
        assert!(waiting <= MAX_WAITING, "{waiting} waited at once");
        let (hedges, requests) = (
            yard.metric("pointsman_hedges_total"),
            yard.metric("pointsman_requests_total"),
        );
        assert!(
            hedges <= requests * HEDGE_SHARE + 1.0,
            "{hedges} hedges of {requests} requests"
        );
        let price = (TOKENS.0 + TOKENS.1) as f64 / 1e6;
        let answers = yard.metric("pointsman_cost_usd_total") / price;
        let (least, most) = (sums.answered.get() as f64, sums.counted.get() as f64);
        assert!(
            least - 0.5 <= answers && answers <= most + 0.5,
            "paid for {answers} answers, not {least} to {most}"
        );
        // That these stories are worth telling.
        assert!(sums.most.get() >= MAX_ATTEMPTS, "some requests need all attempts");
        assert!(hedges > 0.0 && sums.left.get() > 0 && !sums.repeats.borrow().is_empty());
        // Where one comes after the other, nobody is there to see it wait.
        assert!(visits.len() == 1 || waiting > 0, "some wait");
    }
}

#[test]
fn one_request_after_the_other_keeps_all_limits() {
    run(1..2, 2000);
}

#[test]
fn requests_side_by_side_keep_all_limits() {
    run(2..6, 800);
}
