"""What the Python clients share: the cells that they run, what each expects, and how the outcome is told.

A client is a list of functions, one for each cell, named after its feature. Each gets a `Cell`, asks the gateway through its SDK and
compares. The outcome is a line of JSON on the standard output; the driver prints the matrix.
"""

import base64
import json
import os
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

FIXTURES = Path(__file__).parent.parent / "fixtures"
REQUEST = json.loads((FIXTURES / "request.json").read_text())
ANSWERS = json.loads((FIXTURES / "answers.json").read_text())["fixtures"]

GATEWAY = os.environ.get("SDK_TEST_GATEWAY", "")
KEY = os.environ.get("SDK_TEST_KEY", "")
# Each: {"name": …, "model": …, "scripted": whether its answers are those of the fixtures}.
VENDORS = json.loads(os.environ.get("SDK_TEST_VENDORS", "[]"))

IMAGE = REQUEST["image"]
IMAGE_BYTES = base64.b64decode(IMAGE)
SYSTEM = REQUEST["system"]
TOOLS = REQUEST["tools"]
SCHEMA = REQUEST["schema"]
# Longer than the context of the tiny model, whose tokens are bytes.
TOO_LONG = "too long " * 2000
# How tap.py breaks streams.
BREAKS = ["close", "reset", "end", "error", "garbled", "stall"]
# The cells of a stream that broke off after its content had begun; `cut` itself is aimock's own.
CUTS = ["cut", "cut_reset", "cut_end", "cut_error", "cut_garbled", "cut_stall"]
# What the gateway says of a stream that its vendor did not end.
BROKEN = "the vendor's answer broke off"


class Verdict(BaseModel):
    """`SCHEMA`, for SDKs that take a class."""

    city: Literal["Paris", "Rome"]
    sure: bool


class Wrong(Exception):
    """The answer is not the expected one."""


class Cell:
    """One feature with one vendor."""

    def __init__(self, client, vendor, feature, speaks=None):
        self.client, self.feature, self.speaks = client, feature, speaks
        self.vendor, self.model, self.scripted = vendor["name"], vendor["model"], vendor["scripted"]
        self.tag = f"({client} to {self.vendor})"
        # How the stream breaks, and where.
        self.broken, self.place = feature.removeprefix("cut_"), "late"
        if feature.startswith("cut_"):
            self.model += "-rescued" if feature == "cut_rescued" else "-cut"

    @property
    def prompt(self):
        """What is asked: the fixtures know it by the feature, the driver by the tag."""
        words = f"[{self.feature}] Do as the brackets say. {self.tag}"
        if self.feature.startswith("cut_"):
            return f"{words} Broken by {self.broken}, {self.place}."
        return f"{words} {TOO_LONG}" if self.feature == "error" and not self.scripted else words

    def is_equal(self, what, found, expected):
        if found != expected:
            raise Wrong(f"{what} is {found!r}, not {expected!r}")

    def is_true(self, what, condition):
        if not condition:
            raise Wrong(what)

    def is_text(self, text):
        """An answer of text alone: the fixture's, or whatever the tiny model says."""
        if self.scripted:
            self.is_equal("the text", text, answer(self.feature)["content"])
        else:
            self.is_true("there is no text", text)

    def is_stream(self, pieces):
        self.is_true(f"a stream of {len(pieces)} pieces", len(pieces) > 1)
        self.is_text("".join(pieces))

    def is_calls(self, calls):
        """The calls of a turn: (id, name, arguments), where the arguments are an object."""
        ids = [call_id for call_id, _, _ in calls]
        self.is_true(f"the ids are {ids}", all(ids) and len(set(ids)) == len(ids))
        if self.scripted:
            expected = [(call["id"], call["name"], call["arguments"]) for call in answer(self.feature)["toolCalls"]]
            return self.is_equal("the list of calls", calls, expected)
        self.is_true("there are no calls", calls)
        for _, name, arguments in calls:
            schema = next((tool["parameters"] for tool in TOOLS if tool["name"] == name), None)
            self.is_true(f"a call of {name!r}", schema)
            self.is_equal("the set of arguments", sorted(arguments), sorted(schema["required"]))
            for key, value in arguments.items():
                self.is_true(f"{key} is {value!r}", value in schema["properties"][key]["enum"])

    def result(self, name):
        """What a tool answers."""
        return REQUEST["results"][name]

    def is_final(self, text, calls=()):
        """What is said to the results of calls."""
        if self.scripted:
            self.is_equal("the final text", text, answer(self.feature, final=True)["content"])
        else:
            self.is_true("nothing is said to the results", text or calls)

    def is_verdict(self, verdict):
        """An answer of the schema, as an object."""
        if self.scripted:
            return self.is_equal("the object", verdict, json.loads(answer(self.feature)["content"]))
        self.is_equal("the set of keys", sorted(verdict), ["city", "sure"])
        self.is_true(f"the object is {verdict}", verdict["city"] in ("Paris", "Rome") and verdict["sure"] in (True, False))

    def is_usage(self, tokens_in, tokens_out, total=None, cached=0):
        """Tokens of prompt and answer; `cached` are those of the prompt that the SDK's format counts apart."""
        if self.scripted:
            usage = answer(self.feature)["usage"]
            self.is_equal("the usage", (tokens_in, tokens_out), (usage["input_tokens"], usage["output_tokens"]))
        self.is_true(f"the usage is {tokens_in} and {tokens_out}", tokens_in > 0 and tokens_out > 0)
        if total is not None:
            self.is_equal("the total", total, tokens_in + tokens_out + cached)

    def fails(self, action, kind, status=None, says=None):
        """The action fails with an exception of this class, status and message."""
        try:
            done = action()
        except kind as error:
            if status is not None:
                self.is_equal(f"the status of {error!r}", status_of(error), status)
            self.is_true(f"the message is {error}", says is None or says.lower() in str(error).lower())
            return error
        raise Wrong(f"no {kind.__name__}, but {str(done)[:300]}")

    @property
    def complaint(self):
        """What the vendor says in the cell `error`."""
        return answer("error")["error"]["message"] if self.scripted else "exceeds the available context size"

    @property
    def has_vendors_error(self):
        """Whether the vendor's own error ends the stream, and not one in its words: it passes through where the client speaks the
        vendor's format. OpenAI, to whom `responses` belongs, speaks `chat` as well."""
        return self.broken == "error" and self.speaks in (["chat", "responses"] if self.vendor == "responses" else [self.vendor])

    @property
    def broken_words(self):
        """What is said of a stream that broke off."""
        if self.broken == "error":
            return REQUEST["stream_error"]
        return "the vendor stopped answering" if self.broken == "stall" else BROKEN

    def breaks(self, pieces, kind, says=None):
        """A stream whose pieces come at first, and then an exception of this class and message; returns it."""
        seen = []
        try:
            for piece in pieces:
                seen.append(piece)
        except kind as error:
            text = "".join(seen)
            # Where the place of the break is known, all of the text before it must have come.
            before, place, _ = answer(self.feature)["content"].partition("(here)")
            is_there = text == before if place else text and before.startswith(text)
            self.is_true(f"{text!r} came before {error!r}", is_there)
            self.is_true(f"the message is {error}", (says or self.broken_words) in str(error))
            return error
        raise Wrong(f"a broken stream ended after {''.join(seen)!r} as if it were whole")

    def fails_early(self, action, kind):
        """Streams that break before content fail with an exception of this class and status, as if they had never begun."""
        self.place = "early"
        for self.broken in BREAKS:
            if self.broken == "stall":
                self.fails(action, kind, 504, "no target answered in time")
            else:
                self.fails(action, kind, 529 if self.speaks == "messages" else 503, "no target of this route could answer")


def answer(feature, final=False):
    """The fixture's answer to a feature, or to its tool results."""
    said = "[cut_" if feature.startswith("cut_") else f"[{feature}]"
    for fixture in ANSWERS:
        match = fixture["match"]
        if match.get("userMessage") == said and final == ("toolCallId" in match):
            return fixture["response"]
    raise KeyError(feature)


def status_of(error):
    """The HTTP status, wherever the SDK keeps it."""
    for name in ("status_code", "code"):
        if isinstance(getattr(error, name, None), int):
            return getattr(error, name)
    return error.response["ResponseMetadata"]["HTTPStatusCode"]


def run(client, speaks, features):
    """Runs all cells of a client that speaks a vendor's format, and tells each outcome."""
    actions = {feature.__name__: feature for feature in features}
    cut, early, stream = actions.pop("cut"), actions.pop("cut_early"), actions["stream"]
    for vendor in VENDORS:
        for feature, action in actions.items():
            tell(outcome_of(Cell(client, vendor, feature, speaks), action))
    cuts = {**dict.fromkeys(CUTS, cut), "cut_early": early, "cut_rescued": lambda cell: is_rescued(cell, stream)}
    # A real server is cut off by nobody.
    cells = [(Cell(client, vendor, feature, speaks), cuts[feature]) for vendor in VENDORS if vendor["scripted"] for feature in cuts]
    # They wait more than they work.
    with ThreadPoolExecutor(16) as pool:
        for outcome in pool.map(lambda cell: outcome_of(*cell), cells):
            tell(outcome)


def is_rescued(cell, stream):
    """The first target's stream breaks before content, and the client gets the whole one of the second."""
    cell.place = "early"
    for cell.broken in BREAKS:
        stream(cell)


def run_once(client, features):
    """Runs what does not depend on a chat vendor."""
    for feature in features:
        tell(outcome_of(Cell(client, {"name": "-", "model": "", "scripted": True}, feature.__name__), feature))


def outcome_of(cell, action):
    outcome = {"client": cell.client, "vendor": cell.vendor, "feature": cell.feature, "tag": cell.tag}
    try:
        action(cell)
        outcome["outcome"] = "pass"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in place if "/sdk/clients/" in frame.filename] or place
        outcome |= {
            "outcome": "fail",
            "detail": f"{type(error).__name__}: {error}"[:1500] + (f" (broken by {cell.broken})" if "cut_" in cell.feature else ""),
            "where": f"{Path(own[-1].filename).name}:{own[-1].lineno}",
        }
        if "SDK_TEST_TRACE" in os.environ:
            traceback.print_exc(file=sys.stderr)
    return outcome


def tell(outcome):
    print(json.dumps(outcome), flush=True)
