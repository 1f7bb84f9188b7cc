//! What a decision costs: `plan-b` with eight targets, arguments built and answer judged, beside the same code called natively.
//!
//! ```sh
//! cargo bench --bench decision                            # prints a Markdown table
//! cargo bench --bench decision -- --plugin my-policy.wasm # the same for another plugin
//! cargo bench --bench decision -- --syscalls              # shows with strace that a fresh decision makes no system call
//! cargo bench --bench decision -- --profile fresh 100     # only decides for a while, for a profiler
//! ```
//!
//! On a machine that does other things, the best run says more than the median of the runs.

#[path = "../support/policies.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod support;

use std::fs;
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pointsman::READY_MADE;
use pointsman::config::Isolation;
use pointsman::policy::{Action, Input, Library, Version};

use support::{Yard, request, targets};

const RUNS: usize = 21;
const DECISIONS: usize = 20_000;
/// A run of a slow plugin ends earlier.
const RUN: Duration = Duration::from_secs(1);
const MANY: usize = 100;

/// Written before and after the decisions that strace looks at.
const BEGIN: &str = "decisions begin\n";
const END: &str = "decisions end\n";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => print_table(plan_b(), &[1, MANY]),
        ["--plugin", path] => print_table(&fs::read(path).expect("the plugin can be read"), &[1]),
        ["--syscalls"] => count_syscalls(),
        ["--traced"] => traced(),
        ["--profile", "fresh", count] => profile(Isolation::Fresh, count.parse().expect("a number of policies")),
        ["--profile", "reused", count] => profile(Isolation::Reuse, count.parse().expect("a number of policies")),
        other => eprintln!("{other:?} is none of the ways to use this; see its source"),
    }
}

fn plan_b() -> &'static [u8] {
    READY_MADE
        .iter()
        .find(|(name, _)| *name == "plan-b")
        .expect("plan-b is ready-made")
        .1
}

/// Times of decisions, in microseconds.
#[derive(Clone, Copy)]
struct Times {
    p50: f64,
    p99: f64,
}

fn print_table(plugin: &[u8], counts: &[usize]) {
    println!("| 8 targets | policies loaded | p50 µs | p99 µs | best p50 µs |\n|---|---|---|---|---|");
    if plugin == plan_b() {
        let native = native();
        row("native", 1, &mut measure(|_| native()));
    }
    for (isolation, name) in [(Isolation::Fresh, "fresh"), (Isolation::Reuse, "reused")] {
        for &count in counts {
            let (_yard, library) = library(plugin, count, isolation);
            let versions = versions(&library);
            row(name, count, &mut measure(|n| _ = decide(&versions[n % count])));
        }
    }
}

/// Medians of all runs, and the best one.
fn row(name: &str, policies: usize, runs: &mut [Times]) {
    let mut median = |of: fn(&Times) -> f64| {
        runs.sort_by(|a, b| of(a).total_cmp(&of(b)));
        of(&runs[runs.len() / 2])
    };
    let (p99, p50) = (median(|times| times.p99), median(|times| times.p50));
    println!("| {name} | {policies} | {p50:.2} | {p99:.2} | {:.2} |", runs[0].p50);
}

/// Several runs, after one that warms up.
fn measure(mut decision: impl FnMut(usize)) -> Vec<Times> {
    (0..=RUNS).map(|_| run(&mut decision)).skip(1).collect()
}

fn run(decision: &mut impl FnMut(usize)) -> Times {
    let begin = Instant::now();
    let mut times: Vec<Duration> = (0..DECISIONS)
        .take_while(|_| begin.elapsed() < RUN)
        .map(|n| {
            let start = Instant::now();
            decision(n);
            start.elapsed()
        })
        .collect();
    times.sort();
    let at = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1e6;
    Times {
        p50: at(0.50),
        p99: at(0.99),
    }
}

/// A library of so many policies that are all the same plugin, but for a section that makes each a content of its own.
fn library(plugin: &[u8], count: usize, isolation: Isolation) -> (Yard, Library) {
    let names: Vec<String> = (0..count).map(|n| format!("policy-{n}")).collect();
    let mut yard = Yard::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for name in &names {
        let rules = yard.rules(name);
        rules.isolation = isolation;
        rules.recycle_after = 10_000;
        // For interpreters.
        rules.memory_bytes = 256 << 20;
        rules.settings.insert("order".into(), "claude,gpt".into());
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
fn decide(version: &Version) -> Action {
    let targets = targets();
    let input = Input {
        request: request(),
        targets: &targets,
        attempts: &[],
        prompt: None,
    };
    black_box(version.decide(black_box(&input)))
        .expect("the policy decides")
        .action
}

/// The same code as a function of this program, its arguments built once.
fn native() -> impl Fn() {
    use pointsman_policy::{Health, Request, Settings, Target};
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

fn profile(isolation: Isolation, count: usize) {
    let (_yard, library) = library(plan_b(), count, isolation);
    let versions = versions(&library);
    (0..500_000).for_each(|n| _ = decide(&versions[n % count]));
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
    let (_yard, library) = library(plan_b(), MANY, Isolation::Fresh);
    let versions = versions(&library);
    let round = |count| (0..count).for_each(|n| _ = decide(&versions[n % MANY]));
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
