"""What happened: answers by second, the moments in between, and how both are told."""

import asyncio
import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import Optional

from gateway import HERE
from load import STREAMS

BAR = 30
SHADES = "█▒░"


@dataclass
class Moment:
    """Something that was done to the vendor or to the gateway, `at` seconds after the start."""

    at: float
    words: str
    # In the picture.
    label: str
    # The version of the policy that decided before, where another one is to decide from now on.
    before: str = ""
    # Seconds until the first request that another version decided.
    decided: Optional[float] = None


def vendors():
    """How long each simulated vendor takes for an answer, in seconds, in the order of the configuration."""
    text = (HERE / "pointsman.toml").read_text()
    return {name: whole_time(sim) for name, sim in re.findall(r'name = "(\w+)"[^\[]*?\nsim = \{(.*)\}', text)}


def whole_time(sim):
    number = {key: int(value) for key, value in re.findall(r"(\w+) = (\d+)", sim)}
    first = (number["latency_ms"] + number["first_token_ms"]) / 1000
    return first + (number["tokens"] - 1) / number["tokens_per_second"]


class Row:
    """Answers of a second, summed up. Added is what a client waited beyond the time that its vendor takes, in milliseconds."""

    def __init__(self, answers, own):
        self.targets = Counter(answer.target for answer in answers)
        self.count = len(answers)
        self.failed = sum(bool(answer.problem) for answer in answers)
        self.passed = sum(not answer.policy and not answer.problem for answer in answers)
        self.repaired = sum(answer.attempts > 1 and not answer.problem for answer in answers)
        added = [answer.ended - answer.sent - own[answer.target] for answer in answers if answer.target in own]
        self.p50, self.p99 = (1000 * quantile(sorted(added), share) for share in (0.5, 0.99))


def quantile(values, share):
    return values[min(int(share * len(values)), len(values) - 1)] if values else 0.0


class Story:
    """Requests are counted in the second in which they were sent."""

    def __init__(self, seconds, rate, start):
        self.seconds, self.rate, self.start = seconds, rate, start
        self.own = vendors()
        self.answers = [[] for _ in range(seconds)]
        self.said = []
        self.moments = []
        self.version = ""
        self.failed = 0

    def take(self, answer):
        self.answers[answer.second].append(answer)
        if answer.problem:
            self.failed += 1
            self.say(answer.sent, f"FAILED: {answer.problem}")
        else:
            self.note_version(answer)

    def note_version(self, answer):
        """Tells the first request that another version decided since it was asked for."""
        # Without one the policy ran out of time, and the built-in chain decided.
        if not answer.policy:
            return
        self.version = answer.policy
        moment = self.moments[-1] if self.moments else None
        if not moment or moment.before in ("", answer.policy) or moment.decided is not None:
            return
        moment.decided = answer.sent - self.start - moment.at
        self.say(answer.sent, f"{answer.policy} decides, {1000 * moment.decided:.0f} ms later")

    def mark(self, words, label, swaps=False):
        now = time.monotonic()
        self.moments.append(Moment(now - self.start, words, label, self.version if swaps else ""))
        self.say(now, words)

    def say(self, at, words):
        self.said.append((at - self.start, words))

    def swapped(self):
        return all(moment.decided is not None for moment in self.moments if moment.before)

    async def tell(self):
        """A line for each second, when all that was asked in it is answered, among what was said by then."""
        key = "  ".join(f"{shade} {name}" for shade, name in zip(SHADES, self.own))
        names = " ".join(f"{name:>7}" for name in self.own)
        print(f"{self.rate} requests a second, {key}\n\n  second {'':{BAR}} {names}  repaired failed   added p50     p99")
        for second in range(self.seconds):
            while len(self.answers[second]) < self.rate:
                await asyncio.sleep(0.05)
            for at, words in sorted(said for said in self.said if said[0] < second + 1):
                print(f"{at:6.2f} s  ── {words}")
            self.said = [said for said in self.said if said[0] >= second + 1]
            print(self.line(second), flush=True)

    def line(self, second):
        row = self.row(second)
        numbers = " ".join(f"{row.targets[name] or '·':>7}" for name in self.own)
        repaired = row.repaired or "·"
        waits = f"{row.p50:>8.1f} ms {row.p99:>6.1f}"
        return f"  {second:>4}   {self.bar(row.targets)} {numbers} {repaired:>9} {row.failed:>6} {waits}"

    def bar(self, targets):
        bar, upper = "", 0
        for shade, name in zip(SHADES, self.own):
            upper += targets[name]
            bar += shade * (round(upper * BAR / self.rate) - len(bar))
        return f"{bar:{BAR}}"

    def row(self, second):
        return Row(self.answers[second], self.own)

    def everything(self):
        return Row([answer for second in self.answers for answer in second], self.own)

    def sum_up(self):
        row = self.everything()
        fates = f"{row.failed} failed, {row.repaired} were repaired by another vendor"
        print(f"\n{row.count:,} requests, one in {STREAMS} of them a stream: {fates}.")
        if row.passed:
            print(f"{row.passed} were decided by the built-in chain: this machine was too busy for the policy to keep its deadline.")
        for moment in self.moments:
            if moment.decided is not None:
                print(f"{moment.at:.2f} s, {moment.words}: the next version decided {1000 * moment.decided:.0f} ms later.")
