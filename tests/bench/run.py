#!/usr/bin/env python3
"""Measure Pointsman beside nginx and print Markdown tables; README.md says how to read them.

    tests/bench/run.py                      everything, 5 rounds
    tests/bench/run.py --only gateway       one part; may be repeated
    tests/bench/run.py --without-pointsman the baselines alone
"""

import argparse
import contextlib
import functools
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from report import aim, column, differences, median, ratios, spread, table
from systems import ROOT, Bench, Broken, Direct, Nginx, Pointsman, TwoTargets
from systems import build_bench, build_policy, build_pointsman, find_nginx, run

MANY = 32  # connections
MIB = 1 / 1024  # from KiB


class Setting:
    """What all parts need: the options, the programs, the temporary folder; and the failures they met."""

    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.proxy_core, self.load_core = options.cores.split(",")
        self.bench = Bench(build_bench())
        self.nginx = find_nginx()
        self.failures = []
        if not options.without_pointsman:
            self.binary = options.pointsman or build_pointsman()
            self.wasm = options.policy or build_policy()

    def pointsman(self, **choices):
        """A list, empty where only the baselines are measured."""
        return [] if self.options.without_pointsman else [Pointsman(self.binary, self.wasm, **choices)]

    def before(self):
        """The binary of `--before`, as a system beside ours; a list, empty where there is none."""
        binary = self.options.before
        return [Pointsman(binary, self.wasm, name="before")] if binary else []

    def measure(self, system, vendor, proxy_cores, load_cores, connections, stream):
        """Start a system, load it, end it; one report."""
        options = self.options
        with system.start(self.folder, vendor, proxy_cores) as running:
            idle = self.idle_kib(running)
            report = self.bench.load(
                running,
                load_cores,
                connections=connections,
                stream=stream,
                warmup_ms=options.warmup_ms,
                duration_ms=options.duration_ms,
                policy=system.policy,
                messages=getattr(system, "messages", False),
            )
        self.require_answers(system, report)
        return report | {"idle_kib": idle}

    def require_answers(self, system, report):
        if report["failures"] or not report["requests"]:
            counts = f"{report['requests']} answers, {report['failures']} failures"
            self.failures.append(f"{system.name}: {counts}, the first: {report['first_failure']}")

    def idle_kib(self, running):
        if running.pid is None:
            return None
        time.sleep(0.5)
        return self.bench.usage(running.pid)["rss_kib"]

    def rounds(self, systems, workloads, proxy_cores, load_cores):
        """Reports by (connections, stream, system name), one for each round. The systems of a workload run one right
        after the other, and each round begins with another one."""
        results = {}
        for turn in range(self.options.rounds):
            shift = turn % len(systems)
            with self.bench.vendor(self.folder, load_cores) as vendor:
                for connections, stream in workloads:
                    for system in systems[shift:] + systems[:shift]:
                        report = self.measure(system, vendor, proxy_cores, load_cores, connections, stream)
                        results.setdefault((connections, stream, system.name), []).append(report)
            progress(f"round {turn + 1} of {self.options.rounds} done")
        return results


# --- Parts ------------------------------------------------------------------------------------------------------------


def gateway(setting):
    """Direct, nginx and Pointsman, one core for the proxy and one for the vendor and the load."""
    systems = [Direct(), Nginx(setting.nginx)]
    systems += setting.pointsman() + setting.before()
    systems += setting.pointsman(name="pointsman + request log", log_requests=True)
    workloads = [(connections, stream) for stream in (False, True) for connections in (MANY, 1)]
    results = setting.rounds(systems, workloads, setting.proxy_core, setting.load_core)
    names = [system.name for system in systems]
    for stream in (False, True):
        throughput_table(results, names, stream, "one core for the proxy")
        cpu = cpu_ratios(results, "pointsman", stream)
        aim(f"CPU per {kind(stream)} over nginx's", median(cpu), 1.3 if stream else 1.6, " times")
        if setting.before():
            cpu = cpu_ratios(results, "pointsman", stream, "before")
            aim(f"CPU per {kind(stream)} over what it was before", median(cpu), 1.03, " times")
    for stream in (False, True):
        latency_table(results, names, stream)
        if not stream:
            p50 = [column(of(results, 1, stream, name), "p50_us") for name in ("pointsman", "nginx")]
            aim("p50 over nginx's", median(differences(*p50)), 100, " µs")
    memory_table(results, names)
    reports = of(results, MANY, False, "pointsman") + of(results, MANY, True, "pointsman")
    peaks = column(reports, "peak_kib", MIB)
    aim("memory", max(peaks, default=None), 40, " MiB")


def of(results, connections, stream, name):
    """The reports of a system; none where it was not measured."""
    return results.get((connections, stream, name), [])


def kind(stream):
    return "64-frame stream" if stream else "whole answer"


def cpu_ratios(results, name, stream, baseline="nginx"):
    cpu = [column(of(results, MANY, stream, it), "cpu_us_per_request") for it in (name, baseline)]
    return ratios(*cpu)


def throughput_table(results, names, stream, where):
    head = ["", "requests/s", "to nginx's", "CPU µs/request", "to nginx's", "cores busy", "p50 µs", "p99 µs"]
    baseline = column(results[MANY, stream, "nginx"], "requests_per_s")
    rows = []
    for name in names:
        reports = results[MANY, stream, name]
        requests = column(reports, "requests_per_s")
        rows.append([
            name,
            spread(requests),
            spread(ratios(requests, baseline), "{:.2f}"),
            spread(column(reports, "cpu_us_per_request"), "{:.1f}"),
            spread(cpu_ratios(results, name, stream), "{:.2f}"),
            spread(column(reports, "busy"), "{:.2f}"),
            spread(column(reports, "p50_us")),
            spread(column(reports, "p99_us")),
        ])
    table(f"{kind(stream).capitalize()}, {MANY} connections, {where}", head, rows)


def latency_table(results, names, stream):
    head = ["", "p50 µs", "added", "p99 µs", "added", "first byte p50 µs", "added", "first byte p99 µs", "added"]
    keys = ("p50_us", "p99_us", "first_byte_p50_us", "first_byte_p99_us")
    rows = []
    for name in names:
        row = [name]
        for key in keys:
            values, direct = column(results[1, stream, name], key), column(results[1, stream, "direct"], key)
            row += [spread(values), spread(differences(values, direct)) if name != "direct" else "–"]
        rows.append(row)
    table(f"{kind(stream).capitalize()}, 1 connection", head, rows)


def memory_table(results, names):
    head = ["", "idle", "whole answers, after", "peak", "streams, after", "peak"]
    mib = "{:.1f}"
    rows = []
    for name in names[1:]:
        whole, streams = results[MANY, False, name], results[MANY, True, name]
        row = [name, spread(column(whole + streams, "idle_kib", MIB), mib)]
        for reports in (whole, streams):
            row += [spread(column(reports, key, MIB), mib) for key in ("rss_kib", "peak_kib")]
        rows.append(row)
    table(f"Memory, MiB, {MANY} connections", head, rows)


def pair(setting):
    """Two gateways that differ by little: both run all the time, and short bursts of load go to one and the other in turn, so that
    what the machine does meanwhile hits both."""
    systems = setting.pointsman(name="this one") + setting.before()
    if len(systems) < 2:
        print("\nThe pair was skipped: it needs --before BINARY.")
        return
    head = ["", "CPU µs/request", "over the other's, bursts side by side", "middle half of the bursts"]
    for stream in (False, True):
        reports = bursts(setting, systems, stream)
        cpu = [column(reports[system.name], "cpu_us_per_request") for system in systems]
        over = ratios(*cpu)
        low, _, high = statistics.quantiles(over, n=4)
        rows = [
            ["this one", spread(cpu[0], "{:.1f}"), f"{median(over):.3f}", f"{low:.3f}–{high:.3f}"],
            ["before", spread(cpu[1], "{:.1f}"), "1.000", ""],
        ]
        table(f"{kind(stream).capitalize()}, {MANY} connections, {len(over)} pairs of bursts", head, rows)
        aim(f"CPU per {kind(stream)} over the other's", median(over), 1.03, " times")


def bursts(setting, systems, stream):
    """Reports by system name, ten times as many as rounds."""
    reports = {system.name: [] for system in systems}
    with contextlib.ExitStack() as stack:
        vendor = stack.enter_context(setting.bench.vendor(setting.folder, setting.load_core))
        running = []
        for system in systems:
            there = stack.enter_context(system.start(setting.folder, vendor, setting.proxy_core))
            running.append((system, there))
        for turn in range(10 * setting.options.rounds):
            for system, there in running if turn % 2 else reversed(running):
                report = setting.bench.load(
                    there,
                    setting.load_core,
                    connections=MANY,
                    stream=stream,
                    warmup_ms=100,
                    duration_ms=400,
                    policy=system.policy,
                )
                setting.require_answers(system, report)
                reports[system.name].append(report)
    progress(f"the pair's {kind(stream)}s done")
    return reports


def runtime(setting):
    """Thread-per-core against the multi-threaded runtime; vendor and load share both cores with the proxy."""
    systems = [Nginx(setting.nginx, workers=2)]
    systems += setting.pointsman(name="per-core", workers=2, runtime="per-core")
    systems += setting.pointsman(name="shared", workers=2, runtime="shared")
    both = setting.options.cores
    results = setting.rounds(systems, [(MANY, False), (MANY, True)], both, both)
    for stream in (False, True):
        throughput_table(results, [system.name for system in systems], stream, "2 workers on both cores")


def translation(setting):
    """The same gateway with clients of the vendor's format, whose answers pass through, and of another."""
    systems = [Nginx(setting.nginx)]
    systems += setting.pointsman(name="passed through")
    systems += setting.pointsman(name="translated", messages=True)
    results = setting.rounds(systems, [(MANY, False), (MANY, True)], setting.proxy_core, setting.load_core)
    for stream in (False, True):
        throughput_table(results, [system.name for system in systems], stream, "one core for the proxy")
        cpu = [column(of(results, MANY, stream, it), "cpu_us_per_request") for it in ("translated", "passed through")]
        if stream:
            aim("CPU per translated stream over a passed-through one", median(ratios(*cpu)), 2, " times")


RATE = 2000


def outage(setting):
    """One of two targets stops answering, or goes away, under 2,000 requests a second."""
    rows = []
    for how, number in (("hangs", signal.SIGSTOP), ("is gone", signal.SIGKILL)):
        with setting.bench.vendor_to_stop(setting.folder, setting.load_core) as (child, sick):
            with setting.bench.vendor(setting.folder, setting.load_core) as well:
                system = TwoTargets(setting.binary, setting.wasm, sick)
                with system.start(setting.folder, well, setting.proxy_core) as running:
                    load = functools.partial(
                        setting.bench.load, running, setting.load_core, connections=MANY * 4, stream=False, policy=None, rate=RATE
                    )
                    before = load(warmup_ms=500, duration_ms=3000)
                    threading.Timer(1.0, child.send_signal, [number]).start()
                    during = load(warmup_ms=0, duration_ms=6000)
                    # The breaker is open, but for a probe now and then.
                    after = load(warmup_ms=500, duration_ms=3000)
                    if number == signal.SIGSTOP:
                        child.send_signal(signal.SIGCONT)
        for when, report in (("before", before), ("the outage begins", during), ("after the breaker opened", after)):
            setting.require_answers(system, report)
            times = [f"{report[key] / 1000:.2f}" for key in ("p50_us", "p99_us", "max_us")]
            rows.append([f"{how}: {when}", str(report["requests"]), str(report["failures"]), *times])
        aim(f"longest request when it {how}, over the longest before", (during["max_us"] - before["max_us"]) / 1000, TwoTargets.deadline_ms, " ms")
        aim(f"p99 added after the breaker opened when it {how}", (after["p99_us"] - before["p99_us"]) / 1000, 1, " ms")
    table(f"One of two targets is out, {RATE} requests/s, deadline {TwoTargets.deadline_ms} ms", ["", "requests", "failed", "p50 ms", "p99 ms", "max ms"], rows)


def start(setting):
    """Start to ready with the policy already compiled, and the size of the binary."""
    for system in setting.pointsman():
        took = []
        with setting.bench.vendor(setting.folder, setting.load_core) as vendor:
            for _ in range(setting.options.starts + 1):
                with system.start(setting.folder, vendor, setting.proxy_core) as running:
                    took.append(running.ready_ms)
                    # Ready has to mean that the policy decides.
                    report = setting.bench.load(
                        running, setting.load_core,
                        connections=1, stream=False, warmup_ms=0, duration_ms=50, policy=system.policy,
                    )  # fmt: skip
                    setting.require_answers(system, report)
        cold, warm = took[0], took[1:]
        head = ["", "ms, or MiB"]
        size = os.path.getsize(setting.binary) / 2**20
        table("Start to ready, one core", head, [
            ["policies compiled before", spread(warm, "{:.1f}")],
            ["first start, compiling plan-b", f"{cold:.1f}"],
            ["size of the binary", f"{size:.1f}"],
        ])  # fmt: skip
        aim("start to ready", median(warm), 100, " ms")


def swap(setting):
    """Replace the policy under load: two files in turn, then every time one never seen before."""
    options, both = setting.options, setting.options.cores
    reports = {}
    for distinct, what in ((2, "two files in turn"), (options.swaps + 1, "every file new")):
        for system in setting.pointsman(workers=2):
            # Streams last across several swaps.
            with setting.bench.vendor(setting.folder, both, frame_gap_us=5000) as vendor:
                with system.start(setting.folder, vendor, both) as running:
                    report = setting.bench.swap(
                        running, both,
                        swaps=options.swaps, distinct=distinct, requests=options.requests, rate=options.rate,
                    )  # fmt: skip
            progress(f"swaps, {what}, done")
            reports[what] = report
            if report["failures"] or report["violations"]:
                setting.failures.append(f"swap, {what}: {report}")
    if not reports:
        return
    head = ["", "swaps", "requests", "failed", "by a version not live", "only one version allowed"]
    head += ["rename to first, p50 ms", "p99", "max", "MiB before", "after 10 %", "50 %", "100 %"]
    table("Swap under load, both cores", head, [swap_row(what, report) for what, report in reports.items()])
    aim("rename to the first request decided, p99", max(it["live_p99_ms"] for it in reports.values()), 150, " ms")
    aim("memory after the last swap over after a tenth of them", max(map(growth, reports.values())), 2, " MiB")


def growth(report):
    """The first tenth fills caches; what comes after it has to stay."""
    return (report["rss_kib"][-1] - report["rss_kib"][1]) * MIB


def swap_row(what, report):
    rss = [kib * MIB for kib in report["rss_kib"]]
    counts = ("swaps", "requests", "failures", "violations", "decisive")
    times = ("live_p50_ms", "live_p99_ms", "live_max_ms")
    memory = (rss[0], rss[1], rss[len(rss) // 2], rss[-1])
    return (
        [what]
        + [f"{report[key]:,}" for key in counts]
        + [f"{report[key]:.1f}" for key in times]
        + [f"{mib:.1f}" for mib in memory]
    )


PARTS = {
    "gateway": gateway,
    "pair": pair,
    "runtime": runtime,
    "translation": translation,
    "outage": outage,
    "start": start,
    "swap": swap,
}


# --- The run ----------------------------------------------------------------------------------------------------------


def progress(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def machine(setting):
    """One line that says what the numbers were taken on, and how quiet it was."""
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next(line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name"))
    nginx = subprocess.run([setting.nginx, "-v"], stderr=subprocess.PIPE, text=True).stderr.strip().split("/")[-1]
    rustc = run(["rustc", "--version"], cwd=ROOT).split()[1]
    commit = run(["git", "describe", "--always", "--dirty"], cwd=ROOT).strip()
    return (
        f"{os.cpu_count()} × {cpu}, Linux {platform.release()}, nginx {nginx}, Rust {rustc}, commit {commit}, "
        f"{time.strftime('%Y-%m-%d')}; {busy_share():.0%} of the machine busy before the start"
    )


def busy_share(seconds=2):
    """The share of all cores that others take."""

    def ticks():
        fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    total, idle = ticks()
    time.sleep(seconds)
    total_after, idle_after = ticks()
    return 1 - (idle_after - idle) / max(total_after - total, 1)


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=PARTS, help="only this part; may be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--duration-ms", type=int, default=4000, help="counted time of each run")
    parser.add_argument("--warmup-ms", type=int, default=1000)
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=200_000, help="at least so many while swapping")
    parser.add_argument("--rate", type=int, default=2000, help="requests a second while swapping")
    parser.add_argument("--cores", default="0,1", help="the proxy's core, and the vendor's and the load's")
    parser.add_argument("--pointsman", type=pathlib.Path, help="this binary instead of building one")
    parser.add_argument("--before", type=pathlib.Path, help="another binary, measured beside it (parts: gateway, pair)")
    parser.add_argument("--policy", type=pathlib.Path, help="this .wasm as plan-b instead of building it")
    parser.add_argument("--without-pointsman", action="store_true", help="only the baselines")
    parser.add_argument("--limit-s", type=int, default=7200, help="end everything after this time")
    return parser.parse_args()


def end_cleanly(number, _frame):
    """Leave by an exception, so that every `with` ends what it started."""
    sys.exit(f"ended by {signal.Signals(number).name}")


def main():
    chosen = options()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, end_cleanly)
    signal.alarm(chosen.limit_s)
    with tempfile.TemporaryDirectory(prefix="pointsman-bench-") as folder:
        os.chmod(folder, 0o755)
        setting = Setting(chosen, pathlib.Path(folder))
        # This script polls and reads; it must not disturb the proxy.
        os.sched_setaffinity(0, {int(setting.load_core)})
        print(machine(setting))
        for part in chosen.only or PARTS:
            PARTS[part](setting)
    for failure in setting.failures:
        print(f"\nFAILED: {failure}")
    return 1 if setting.failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Broken as broken:
        sys.exit(f"run.py: {broken}")
