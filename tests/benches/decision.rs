//! What a decision costs: `plan-b` with eight targets, arguments built and answer judged, beside the same code called natively.
//!
//! ```sh
//! cargo bench --bench decision                  # prints a Markdown table
//! cargo bench --bench decision -- --syscalls    # proves with strace that a fresh decision makes no system call
//! ```

#[path = "../support/policies.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod support;

use std::fs;
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use switchyard::READY_MADE;
use switchyard::config::{Isolation, PolicyRules};
use switchyard::policy::{Action, Input, Library, Version};

use support::{Yard, request, targets};

const RUNS: usize = 9;
const DECISIONS: usize = 20_000;
const MANY: usize = 100;

/// Written before and after the decisions that strace looks at.
const BEGIN: &str = "decisions begin\n";
const END: &str = "decisions end\n";

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let has = |what: &str| args.iter().any(|arg| arg == what);
    if let Some(at) = args.iter().position(|arg| arg == "--profile") {
        profile(&args[at + 1..]);
    } else if has("--traced") {
        traced();
    } else if has("--syscalls") {
        count_syscalls();
    } else {
        print_table();
    }
}

/// Median and 99th percentile of one run, in microseconds.
#[derive(Clone, Copy)]
struct Times {
    p50: f64,
    p99: f64,
}

fn print_table() {
    println!("| plan-b, 8 targets | policies loaded | p50 µs | p99 µs |\n|---|---|---|---|");
    let native = native();
    row("native", 1, measure(|_| native()));
    for (isolation, name) in [(Isolation::Fresh, "fresh"), (Isolation::Reuse, "reused")] {
        for count in [1, MANY] {
            let (_yard, library) = library(count, isolation);
            let versions = versions(&library);
            row(name, count, measure(|n| decide(&versions[n % count])));
        }
    }
}

fn row(name: &str, policies: usize, Times { p50, p99 }: Times) {
    println!("| {name} | {policies} | {p50:.2} | {p99:.2} |");
}

/// Medians over several runs, after one that warms up.
fn measure(mut decision: impl FnMut(usize)) -> Times {
    let mut runs: Vec<Times> = (0..=RUNS).map(|_| run(&mut decision)).skip(1).collect();
    let mut median = |of: fn(&Times) -> f64| {
        runs.sort_by(|a, b| of(a).total_cmp(&of(b)));
        of(&runs[RUNS / 2])
    };
    Times {
        p50: median(|times| times.p50),
        p99: median(|times| times.p99),
    }
}

fn run(decision: &mut impl FnMut(usize)) -> Times {
    let mut times: Vec<Duration> = (0..DECISIONS)
        .map(|n| {
            let start = Instant::now();
            decision(n);
            start.elapsed()
        })
        .collect();
    times.sort();
    let at = |share: f64| times[(DECISIONS as f64 * share) as usize].as_secs_f64() * 1e6;
    Times {
        p50: at(0.50),
        p99: at(0.99),
    }
}

fn library(count: usize, isolation: Isolation) -> (Yard, Library) {
    let plugin = READY_MADE
        .iter()
        .find(|(name, _)| *name == "plan-b")
        .expect("plan-b is ready-made")
        .1;
    let names: Vec<String> = (0..count).map(|n| format!("plan-b-{n}")).collect();
    let mut yard = Yard::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for name in &names {
        let PolicyRules {
            isolation: chosen,
            settings,
            recycle_after,
            ..
        } = yard.rules(name);
        *chosen = isolation;
        *recycle_after = 10_000;
        settings.insert("order".into(), "claude,gpt".into());
        // A section of its own makes it a policy of its own.
        let section = [&[0, name.len() as u8 + 1, name.len() as u8], name.as_bytes()].concat();
        yard.drop_in(name, &[plugin, &section].concat());
    }
    let library = yard.open();
    assert_eq!(library.versions().iter().count(), count, "{:#?}", library.status());
    (yard, library)
}

fn versions(library: &Library) -> Vec<Arc<Version>> {
    library
        .versions()
        .iter()
        .map(|(_, version)| Arc::clone(version))
        .collect()
}

/// One decision, from what the gateway knows to an answer it can act on.
fn decide(version: &Version) {
    let targets = targets();
    let input = Input {
        request: request(),
        targets: &targets,
        attempts: &[],
        prompt: None,
    };
    let decision = black_box(version.decide(black_box(&input))).expect("plan-b decides");
    assert!(matches!(decision.action, Action::Route(picks) if picks.len() == targets.len()));
}

/// The same code as a function of this program, its arguments built once.
fn native() -> impl Fn() {
    use switchyard_policy::{Health, Request, Settings, Target};
    let owned = |attributes: &[(&str, &str)]| {
        attributes
            .iter()
            .map(|(a, b)| ((*a).into(), (*b).into()))
            .collect::<Vec<_>>()
    };
    let targets: Vec<Target> = targets()
        .iter()
        .map(|target| Target {
            vendor: target.vendor.into(),
            model: target.model.into(),
            context_window: target.context_window,
            attributes: owned(target.attributes),
            health: Health {
                headroom: 0.8,
                ..Health::default()
            },
            ..Target::named(target.name)
        })
        .collect();
    let request = Request {
        model: "smart".into(),
        input_tokens: 1800,
        attributes: owned(request().attributes),
        ..Request::default()
    };
    let settings = Settings::from([("order", "claude,gpt")]);
    move || {
        let decision = plan_b::decide(black_box(&request), black_box(&targets), &[], &settings);
        assert_eq!(black_box(decision).targets().len(), targets.len());
    }
}

/// Does nothing but decide for a few seconds, for a profiler: `--profile fresh 100`.
fn profile(args: &[String]) {
    let isolation = if args.first().is_some_and(|arg| arg == "reused") {
        Isolation::Reuse
    } else {
        Isolation::Fresh
    };
    let count = args.get(1).and_then(|count| count.parse().ok()).unwrap_or(1);
    let (_yard, library) = library(count, isolation);
    let versions = versions(&library);
    (0..500_000).for_each(|n| decide(&versions[n % count]));
}

/// Runs this program under strace and counts what the deciding thread asks of the kernel.
fn count_syscalls() {
    let trace = std::env::temp_dir().join(format!("decision-{}.strace", std::process::id()));
    let this = std::env::current_exe().expect("this program has a path");
    let traced = Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(&trace)
        .arg(this)
        .arg("--traced")
        .status();
    match traced {
        Ok(status) if status.success() => {}
        Ok(status) => return println!("skipped: strace ended with {status}"),
        Err(error) => return println!("skipped: strace cannot be started: {error}"),
    }
    let text = fs::read_to_string(&trace).expect("strace wrote its trace");
    let _ = fs::remove_file(&trace);
    let lines: Vec<&str> = text.lines().collect();
    let position = |mark: &str| {
        lines
            .iter()
            .position(|line| line.contains(mark.trim_end()))
            .expect("the marks are in the trace")
    };
    let (begin, end) = (position(BEGIN), position(END));
    let thread = lines[begin].split(' ').next().unwrap_or_default();
    let calls: Vec<&&str> = lines[begin + 1..end]
        .iter()
        .filter(|line| line.starts_with(thread))
        .collect();
    println!(
        "{DECISIONS} fresh decisions of {MANY} policies made {} system calls",
        calls.len()
    );
    calls.iter().take(20).for_each(|call| println!("    {call}"));
}

fn traced() {
    let (_yard, library) = library(MANY, Isolation::Fresh);
    let versions = versions(&library);
    let round = |count| (0..count).for_each(|n| decide(&versions[n % MANY]));
    round(MANY * 10);
    let faults = page_faults();
    eprint!("{BEGIN}");
    round(DECISIONS);
    eprint!("{END}");
    println!(
        "{DECISIONS} fresh decisions of {MANY} policies faulted {} pages",
        page_faults() - faults
    );
}

/// Minor page faults of this thread so far: the tenth field of its `stat`.
fn page_faults() -> u64 {
    let stat = fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    after_name
        .split_whitespace()
        .nth(7)
        .and_then(|field| field.parse().ok())
        .unwrap_or_default()
}
