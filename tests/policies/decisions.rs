//! What a policy may do while it decides, and what becomes of one that does more.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use pointsman::config::{Grant, Isolation};
use pointsman::policy::{Action, DeadlineFrom, Decision, Input, Library, Nonsense, PolicyError, PolicyState, Prompt};

use crate::guests::guest;
use crate::support::{Yard, ask, reason, request, status, targets, wait_for};

/// A yard whose policy `hostile` does what a request tells it to do.
fn hostile() -> (Yard, Library) {
    let yard = Yard::new(&["hostile"]);
    yard.drop_in("hostile", guest("hostile"));
    let library = yard.open();
    (yard, library)
}

fn told(library: &Library, what: &str) -> Result<Decision, PolicyError> {
    ask(library, "hostile", &[("do", what)])
}

fn trap(library: &Library, what: &str) -> String {
    match told(library, what) {
        Err(PolicyError::Trap(why)) => why,
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn a_decision_is_the_policys_own() {
    let (_yard, library) = hostile();
    let Action::Route(picks) = ask(&library, "hostile", &[]).unwrap().action else {
        panic!()
    };
    assert_eq!(
        picks.iter().map(|pick| pick.target.as_str()).collect::<Vec<_>>(),
        targets().map(|target| target.name)
    );
    let version = library.versions().get("hostile").unwrap().label().to_owned();
    assert!(
        version.starts_with("hostile@") && version.len() == "hostile@".len() + 8,
        "{version}"
    );
}

#[test]
fn a_loop_ends_at_its_deadline() {
    let (_yard, library) = hostile();
    let start = Instant::now();
    assert_eq!(
        told(&library, "loop"),
        Err(PolicyError::Timeout {
            deadline: Duration::from_millis(100)
        })
    );
    assert!(
        (100..400).contains(&start.elapsed().as_millis()),
        "{:?}",
        start.elapsed()
    );
    assert!(told(&library, "").is_ok());
}

/// A policy that, where a request's model has more than five letters, which that of a probe has not, does `what` and ends. It has
/// 250 MiB of memory.
fn core_policy(what: &str) -> Vec<u8> {
    let module = format!(
        r#"(module
            (memory (export "memory") 4000)
            (global $top (mut i32) (i32.const 1024))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (global.set $top (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
                (global.get $top)
                (global.set $top (i32.add (global.get $top) (local.get 3))))
            (func (export "decide") (param i32) (result i32)
                (if (i32.gt_u (i32.load offset=12 (local.get 0)) (i32.const 5)) (then {what}))
                (i32.const 16)))"#,
    );
    [wat::parse_str(module).unwrap(), contract_of(guest("hostile"))].concat()
}

/// The custom section with the contract, of a plugin that has one.
fn contract_of(plugin: &[u8]) -> Vec<u8> {
    let number = |bytes: &[u8]| {
        let count = bytes.iter().take_while(|byte| **byte >= 0x80).count() + 1;
        let parts = bytes[..count].iter().rev();
        (parts.fold(0, |all, byte| all << 7 | usize::from(byte & 0x7f)), count)
    };
    let mut rest = &plugin[8..];
    loop {
        let (size, count) = number(&rest[1..]);
        let (section, behind) = rest.split_at(1 + count + size);
        let is_it = section[0] == 0 && section[1 + count + 1..].starts_with(b"component-type");
        if is_it {
            return section.to_vec();
        }
        rest = behind;
    }
}

/// Asks such a policy under a deadline to do it, and how long that took.
fn ask_core_policy(
    yard: &mut Yard,
    what: &str,
    deadline: Duration,
) -> (Library, Result<Decision, PolicyError>, Duration) {
    yard.rules("core").deadline = deadline;
    yard.rules("core").memory_bytes = 2 << 30;
    yard.drop_in("core", &core_policy(what));
    let library = yard.open();
    let version = library.versions().get("core").cloned();
    let version = version.unwrap_or_else(|| panic!("{:#?}", library.status()));
    let ask = |model| {
        let request = pointsman::policy::Request { model, ..request() };
        let input = Input {
            request,
            targets: &[],
            attempts: &[],
            prompt: None,
        };
        let start = Instant::now();
        (version.decide(&input), start.elapsed())
    };
    let (answer, took) = ask("a slow one");
    assert!(ask("fast").0.is_ok());
    (library, answer, took)
}

#[test]
fn a_decision_that_comes_late_counts_as_a_timeout_although_nothing_interrupted_it() {
    // A byte in each of 16,000 pages that the system has to provide, and nothing that looks at the clock.
    let stores = (0..16_000).map(|page| format!("(i32.store8 (i32.const {}) (i32.const 1))", 65_536 + page * 16_000));
    let slow: String = stores.collect();
    for isolation in [Isolation::Fresh, Isolation::Reuse] {
        let mut yard = Yard::new(&["core"]);
        yard.rules("core").isolation = isolation;
        let deadline = Duration::from_millis(2);
        let (library, answer, took) = ask_core_policy(&mut yard, &slow, deadline);
        println!("{isolation:?}: {took:?} under a deadline of {deadline:?}");
        assert!(took > deadline + Duration::from_millis(1), "16,000 pages take longer");
        assert_eq!(answer, Err(PolicyError::Timeout { deadline }));
        let status = status(&library, "core");
        assert_eq!((status.timeouts, status.traps), (1, 0));
    }
}

#[test]
fn filling_all_of_its_memory_does_not_hold_up_the_clock() {
    let fill = "(memory.fill (i32.const 65536) (i32.const 1) (i32.sub (i32.const 1073741824) (local.get 0)))";
    let mut yard = Yard::new(&["core"]);
    let deadline = Duration::from_millis(5);
    let grow = "(drop (memory.grow (i32.const 16384)))";
    let (library, answer, took) = ask_core_policy(&mut yard, &format!("{grow} {fill}"), deadline);
    println!("a gibibyte: {took:?} under a deadline of {deadline:?}");
    assert_eq!(answer, Err(PolicyError::Timeout { deadline }));
    assert_eq!(status(&library, "core").timeouts, 1);
    // In one step it takes 200 ms and more.
    assert!(took < Duration::from_millis(100), "{took:?}");
}

#[test]
fn memory_without_end_ends_at_its_limit() {
    let (_yard, library) = hostile();
    let why = trap(&library, "allocate");
    assert!(
        why.ends_with("it had asked for more than its 16 MiB of memory"),
        "{why}"
    );
    assert!(told(&library, "").is_ok());
}

#[test]
fn recursion_without_end_is_a_trap() {
    let (_yard, library) = hostile();
    trap(&library, "recurse");
    assert!(told(&library, "").is_ok());
}

#[test]
fn a_trap_and_a_panic_cost_one_decision() {
    let (_yard, library) = hostile();
    assert!(trap(&library, "trap").contains("unreachable"));
    assert!(!trap(&library, "panic").contains(char::is_control));
    assert!(told(&library, "").is_ok());
    let status = status(&library, "hostile");
    assert_eq!((status.decisions, status.traps, status.timeouts), (3, 2, 0));
    assert!(status.last_error.unwrap().error.contains("unreachable"));
}

#[test]
fn an_unknown_target_is_the_gateways_business() {
    let (_yard, library) = hostile();
    let Action::Route(picks) = told(&library, "unknown-target").unwrap().action else {
        panic!()
    };
    assert_eq!(picks[0].target, "nobody");
}

#[test]
fn nonsense_is_told_from_a_decision() {
    let (_yard, library) = hostile();
    let nonsense = |what: &str| match told(&library, what) {
        Err(PolicyError::Nonsense(nonsense)) => nonsense,
        other => panic!("{what}: {other:?}"),
    };
    assert_eq!(
        nonsense("many-picks"),
        Nonsense::TooManyPicks {
            picks: 10_000,
            limit: 32
        }
    );
    assert_eq!(nonsense("reject-200"), Nonsense::RejectionStatus(200));
    assert_eq!(nonsense("bad-patch"), Nonsense::Patch { pick: 0 });
    assert_eq!(status(&library, "hostile").nonsense, 3);
}

#[test]
fn a_patch_changes_the_prompt_by_grant_only() {
    let (mut yard, library) = hostile();
    let refused = told(&library, "patch-messages").unwrap_err().to_string();
    assert!(refused.contains("sets `messages`"), "{refused}");
    assert!(
        refused.contains("grants = [\"patch-prompt\"] under [policy.hostile]"),
        "{refused}"
    );
    yard.rules("hostile").grants.push(Grant::PatchPrompt);
    library.reconfigure(&yard.config);
    assert!(told(&library, "patch-messages").is_ok());
}

#[test]
fn an_answer_that_is_far_too_large_never_arrives() {
    let (_yard, library) = hostile();
    trap(&library, "long-answer");
}

#[test]
fn a_rejection_is_made_presentable() {
    let (_yard, library) = hostile();
    let Action::Reject(rejection) = told(&library, "reject-429").unwrap().action else {
        panic!()
    };
    assert_eq!((rejection.status, rejection.message.as_str()), (429, "slow  down"));
}

#[test]
fn a_flood_of_log_lines_is_dropped_and_counted() {
    let (_yard, library) = hostile();
    told(&library, "log-lines").unwrap();
    assert_eq!(status(&library, "hostile").dropped_log_lines, 984);
    told(&library, "log-megabyte").unwrap();
    assert_eq!(status(&library, "hostile").dropped_log_lines, 985);
}

#[test]
fn a_log_line_names_its_policy_and_cannot_forge_another() {
    let (_yard, library) = hostile();
    let log = tempfile::NamedTempFile::new().unwrap();
    let file = log.reopen().unwrap();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(Mutex::new(file))
        .with_ansi(false)
        .finish();
    tracing::subscriber::with_default(subscriber, || told(&library, "log-forged")).unwrap();
    let text = std::fs::read_to_string(log.path()).unwrap();
    let version = library.versions().get("hostile").unwrap().label().to_owned();
    assert_eq!(text.lines().count(), 1, "{text}");
    for what in [
        "INFO pointsman::policy:",
        "one\\ntwo \\u{1b}[2J",
        &version,
        "01JD4Z8QK7",
    ] {
        assert!(text.contains(what), "`{text}` has no `{what}`");
    }
}

#[test]
fn a_fresh_instance_remembers_nothing() {
    let (_yard, library) = hostile();
    assert_eq!(
        ["count"; 3].map(|what| reason(&library, "hostile", what)),
        ["1", "1", "1"]
    );
}

#[test]
fn a_reused_instance_is_recycled() {
    let mut yard = Yard::new(&["hostile"]);
    yard.rules("hostile").isolation = Isolation::Reuse;
    yard.rules("hostile").recycle_after = 4;
    yard.drop_in("hostile", guest("hostile"));
    let library = yard.open();
    // The two probe decisions were made on another instance, before this one served.
    let count = |_| reason(&library, "hostile", "count");
    assert_eq!([0; 6].map(count), ["1", "2", "3", "4", "1", "2"]);
    trap(&library, "trap");
    assert_eq!([0; 2].map(count), ["1", "2"], "a trap ends the instance");
    reason(&library, "hostile", "grow");
    assert_eq!([0; 2].map(count), ["1", "2"], "memory that grew ends the instance");
}

#[test]
fn nobody_waits_for_an_instance() {
    for isolation in [Isolation::Fresh, Isolation::Reuse] {
        let mut yard = Yard::new(&["hostile"]);
        yard.rules("hostile").isolation = isolation;
        yard.rules("hostile").max_instances = 1;
        yard.drop_in("hostile", guest("hostile"));
        let library = yard.open();
        thread::scope(|scope| {
            let looping = scope.spawn(|| told(&library, "loop"));
            thread::sleep(Duration::from_millis(30));
            assert_eq!(told(&library, ""), Err(PolicyError::Busy { limit: 1 }));
            assert!(matches!(looping.join().unwrap(), Err(PolicyError::Timeout { .. })));
        });
        assert!(told(&library, "").is_ok());
        assert_eq!(status(&library, "hostile").busy, 1);
    }
}

#[test]
fn settings_are_what_the_configuration_says() {
    let mut yard = Yard::new(&["hostile"]);
    yard.rules("hostile").settings.insert("greeting".into(), "hello".into());
    yard.drop_in("hostile", guest("hostile"));
    let library = yard.open();
    assert_eq!(reason(&library, "hostile", "read-setting"), "hello");
    yard.rules("hostile")
        .settings
        .insert("greeting".into(), "good day".into());
    library.reconfigure(&yard.config);
    assert_eq!(reason(&library, "hostile", "read-setting"), "good day");
    assert_eq!(
        status(&library, "hostile").decisions,
        2,
        "other settings are no other version"
    );
}

struct Secret;

impl Prompt for Secret {
    fn last_user_text(&self) -> String {
        "what is plan B?".into()
    }

    fn messages(&self) -> Vec<(String, String)> {
        vec![
            ("system".into(), "be brief".into()),
            ("user".into(), self.last_user_text()),
        ]
    }
}

#[test]
fn the_prompt_is_read_by_grant_only() {
    let mut yard = Yard::new(&["curious"]);
    yard.drop_in("curious", guest("curious"));
    let library = yard.open();
    let refused = status(&library, "curious");
    assert_eq!((refused.state, refused.version), (PolicyState::Refused, None));
    let problem = refused.problem.unwrap();
    assert!(problem.contains("pointsman:policy/prompt@0.1.0"), "{problem}");
    assert!(
        problem.contains("grants = [\"prompt\"] under [policy.curious]"),
        "{problem}"
    );

    yard.rules("curious").grants.push(Grant::Prompt);
    library.reconfigure(&yard.config);
    let targets = targets();
    let input = Input {
        request: request(),
        targets: &targets,
        attempts: &[],
        prompt: Some(Arc::new(Secret)),
    };
    let version = Arc::clone(library.versions().get("curious").unwrap());
    assert_eq!(version.decide(&input).unwrap().reason, "system,user: what is plan B?");

    yard.rules("curious").grants.clear();
    library.reconfigure(&yard.config);
    assert!(library.versions().get("curious").is_none());
    assert_eq!(status(&library, "curious").state, PolicyState::Refused);
}

#[test]
fn a_wasi_guest_finds_an_empty_system() {
    let yard = Yard::new(&["wasi"]);
    yard.drop_in("wasi", guest("wasi"));
    let library = yard.open();
    // On a request's task, where a host function that waited for the runtime would panic.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let said = runtime.block_on(async { ask(&library, "wasi", &[]).unwrap().reason });
    assert!(said.starts_with("1700000000.123000000 ("), "{said}");
    assert_eq!(
        ask(&library, "wasi", &[]).unwrap().reason,
        said,
        "the same request, the same decision"
    );

    let targets = targets();
    let version = Arc::clone(library.versions().get("wasi").unwrap());
    let input = |request| Input {
        request,
        targets: &targets,
        attempts: &[],
        prompt: None,
    };
    let other = pointsman::policy::Request { seed: 5, ..request() };
    assert_ne!(
        version.decide(&input(other)).unwrap().reason,
        said,
        "another seed, other dice"
    );
    let network = pointsman::policy::Request {
        model: "network",
        ..request()
    };
    assert!(matches!(version.decide(&input(network)), Err(PolicyError::Trap(_))));
}

#[test]
fn a_version_that_keeps_failing_gives_way_to_the_last_good_one() {
    let (yard, library) = hostile();
    let good = status(&library, "hostile").version;
    yard.drop_in("hostile", &with_section(guest("hostile"), "second"));
    let second = wait_until_live(&library, good);
    (0..5).for_each(|_| _ = trap(&library, "trap"));
    let aside = wait_for(&library, "hostile", PolicyState::SetAside, "keeps failing");
    assert_eq!(aside.version, good);
    assert_eq!(aside.traps, 0, "the one that serves has not failed");
    // It stays aside over a restart, and comes back with another content only.
    drop(library);
    let library = yard.open();
    let again = status(&library, "hostile");
    assert_eq!((again.state, again.version), (PolicyState::SetAside, good));
    yard.drop_in("hostile", &with_section(guest("hostile"), "third"));
    assert_ne!(wait_until_live(&library, good), second);

    // When every version fails, the policy is bypassed.
    for _ in 0..2 {
        let failing = status(&library, "hostile").version;
        (0..5).for_each(|_| _ = trap(&library, "trap"));
        let start = Instant::now();
        while status(&library, "hostile").version == failing {
            assert!(start.elapsed() < Duration::from_secs(10));
            thread::sleep(Duration::from_millis(1));
        }
    }
    assert!(library.versions().get("hostile").is_none());
    assert_eq!(status(&library, "hostile").state, PolicyState::SetAside);
}

/// A busy machine may make every decision late for a while; the policy is back when it is over.
#[test]
fn a_version_that_missed_its_deadlines_comes_back_by_itself() {
    let (_yard, library) = hostile();
    let good = status(&library, "hostile").version;
    for _ in 0..5 {
        assert!(matches!(told(&library, "loop"), Err(PolicyError::Timeout { .. })));
    }
    thread::sleep(Duration::from_millis(50));
    assert_eq!(
        status(&library, "hostile").version,
        good,
        "a few missed deadlines are no reason"
    );
    for _ in 0..11 {
        assert!(matches!(told(&library, "loop"), Err(PolicyError::Timeout { .. })));
    }
    let aside = wait_for(&library, "hostile", PolicyState::SetAside, "keeps failing");
    assert_eq!(aside.version, None, "there is nothing else to serve");
    assert!(aside.problem_details.unwrap().retry_at_ms.is_some());
    let back = wait_for(&library, "hostile", PolicyState::Live, "");
    assert_eq!(back.version, good);
    assert!(told(&library, "").is_ok());

    // It has little credit at first, and a longer pause before the next try.
    let at = std::time::Instant::now();
    for _ in 0..4 {
        assert!(matches!(told(&library, "loop"), Err(PolicyError::Timeout { .. })));
    }
    wait_for(&library, "hostile", PolicyState::SetAside, "keeps failing");
    wait_for(&library, "hostile", PolicyState::Live, "");
    assert!(at.elapsed() >= Duration::from_secs(2), "{:?}", at.elapsed());
}

/// The earlier version serves meanwhile, and the newer one comes back.
#[test]
fn a_version_that_missed_its_deadlines_is_replaced_only_until_it_is_well() {
    let (yard, library) = hostile();
    let first = status(&library, "hostile").version;
    yard.drop_in("hostile", &with_section(guest("hostile"), "second"));
    let second = wait_until_live(&library, first);
    (0..16).for_each(|_| _ = told(&library, "loop"));
    assert_eq!(wait_for(&library, "hostile", PolicyState::SetAside, "").version, first);
    assert_eq!(wait_until_live(&library, first), second);
}

/// What its probe measures gives a guest its deadline, unless an operator wrote one.
#[test]
fn a_slow_guest_gets_a_deadline_that_fits_it() {
    let mut yard = Yard::new(&["hostile"]);
    yard.config.policies.defaults.deadline = Duration::from_millis(5);
    yard.config.policies.defaults.deadline_written = false;
    yard.rules("hostile").settings.insert("do".into(), "work".into());
    yard.drop_in("hostile", guest("hostile"));
    let library = yard.open();
    let fitted = status(&library, "hostile");
    assert_eq!(
        (fitted.state, fitted.deadline_from),
        (PolicyState::Live, DeadlineFrom::Measured),
        "{fitted:#?}"
    );
    let took = fitted.probe_us.unwrap() / 1000.0;
    let at_least = (took * 10.0).min(100.0);
    assert!(
        took > 1.0 && fitted.deadline_ms as f64 >= at_least,
        "{took} ms, {} ms",
        fitted.deadline_ms
    );

    // One that is written holds, and the problem says what would do.
    yard.rules("hostile").deadline = Duration::from_millis(1);
    yard.rules("hostile").deadline_written = true;
    let library = {
        drop(library);
        yard.open()
    };
    let problem = status(&library, "hostile").problem.unwrap();
    let told = problem.starts_with("the probe decision took ")
        && problem.contains("deadline_ms allows 1 ms; write deadline_ms = ");
    assert!(told, "{problem}");
}

pub fn wait_until_live(library: &Library, before: Option<pointsman::policy::Hash>) -> Option<pointsman::policy::Hash> {
    let start = Instant::now();
    loop {
        let now = status(library, "hostile");
        if now.state == PolicyState::Live && now.version != before {
            return now.version;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{now:#?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The same plugin with another content.
pub fn with_section(plugin: &[u8], name: &str) -> Vec<u8> {
    let mut section = vec![0, name.len() as u8 + 1, name.len() as u8];
    section.extend(name.as_bytes());
    [plugin, &section].concat()
}
