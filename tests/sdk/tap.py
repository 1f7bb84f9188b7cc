"""A tap on the line between the gateway and a vendor: passes the bytes on, and remembers every request that the vendor was sent. Where a
request says so, it breaks the stream that answers it, as vendors and networks do."""

import json
import re
import select
import socket
import struct
import threading
import time
import zlib
from pathlib import Path

from vendor_side import api

REQUEST = json.loads((Path(__file__).parent / "fixtures" / "request.json").read_text())
# What a request says of the break: how, and whether it comes before content or in the middle.
BREAK = re.compile(rb"Broken by (\w+), (early|late)\.")
# Words of the answer: the break comes in place of the first event that has them.
PLACES = {b"early": b"This answer", b"late": b"(here)"}
# Seconds in which the gateway passes on what it has: otherwise nothing is broken for the client, and a reset takes it along.
BEFORE_THE_BREAK = 0.2
# What the second target of a route is asked for, whose streams are left alone.
HEALTHY = b"-model-2"


class Tap:
    """Listens on a port of its own for one vendor."""

    def __init__(self, port):
        self.vendor = ("127.0.0.1", port)
        self.requests = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            gateway, _ = self.listener.accept()
            line = Line(gateway, socket.create_connection(self.vendor), self.requests)
            threading.Thread(target=line.run, daemon=True).start()


class Line:
    """One connection of the gateway's, and the one to the vendor behind it."""

    def __init__(self, gateway, vendor, requests):
        self.gateway, self.vendor = gateway, vendor
        self.reader, self.answers = Requests(requests), Answers()

    def run(self):
        """Passes on what comes, and the end too; a reset is passed on as an end."""
        with self.gateway, self.vendor:
            try:
                while self.passed():
                    pass
            except OSError:
                pass

    def passed(self):
        """Passes one piece on; false when nothing more is to come."""
        source = select.select([self.gateway, self.vendor], [], [])[0][0]
        data = source.recv(65536)
        if source is self.gateway:
            self.reader.feed(data)
            self.answers.request = self.reader.last
            self.vendor.sendall(data)
            return data
        for piece in self.answers.feed(data):
            self.gateway.sendall(piece)
        if self.answers.broken:
            self.leave(self.answers.broken)
        return data and not self.answers.broken

    def leave(self, how):
        """What a break does to the connection, which is closed behind it."""
        if how == b"reset":
            self.gateway.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == b"stall":
            # Until the gateway has had enough.
            self.gateway.recv(1)


class Requests:
    """Cuts the bytes of one connection into requests: (path, body)."""

    def __init__(self, requests):
        self.requests, self.last, self.bytes = requests, None, b""

    def feed(self, data):
        self.bytes += data
        while b"\r\n\r\n" in self.bytes:
            head, rest = self.bytes.split(b"\r\n\r\n", 1)
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            if "transfer-encoding" in headers:
                raise NotImplementedError("the gateway states the length of what it sends")
            length = int(headers.get("content-length", 0))
            if len(rest) < length:
                return
            self.last = (first.split(" ")[1], rest[:length])
            self.requests.append(self.last)
            self.bytes = rest[length:]


class Answers:
    """The bytes of one connection's answers: as the vendor would send them, and broken where the request says so.

    aimock begins the text blocks of Bedrock's streams with an event that Bedrock does not send, and that boto3 cannot read. Each of
    its events is a chunk of its own, which is left out here."""

    EVENTS = re.compile(rb"content-type: text/event-stream", re.IGNORECASE)
    MESSAGES = re.compile(rb"content-type: application/vnd.amazon.eventstream", re.IGNORECASE)
    CHUNK = re.compile(rb"([0-9a-fA-F]+)\r\n")

    def __init__(self):
        # The last request, and how its answer broke off, once it has.
        self.request, self.broken = None, None
        self.bytes, self.is_stream = b"", False

    def feed(self, data):
        """What the gateway gets when these bytes have come, piece by piece."""
        if not self.is_stream and not self.MESSAGES.search(data) and not (self.wanted() and self.EVENTS.search(data)):
            yield data
            return
        self.bytes += data
        if not self.is_stream and b"\r\n\r\n" in self.bytes:
            head, self.bytes = self.bytes.split(b"\r\n\r\n", 1)
            self.is_stream = True
            yield head + b"\r\n\r\n"
        while self.is_stream and not self.broken and (size := self.CHUNK.match(self.bytes)):
            length = int(size[1], 16)
            end = size.end() + length + 2
            if len(self.bytes) < end:
                break
            chunk, self.bytes = self.bytes[:end], self.bytes[end:]
            self.is_stream = length > 0
            if b'"start":{}' not in chunk:
                yield self.passed(chunk)

    def passed(self, chunk):
        """What takes the place of a chunk: itself, unless it is the one at which the stream is to break."""
        wanted = self.wanted()
        words = PLACES[wanted[2]] if wanted else None
        if not wanted or words not in chunk:
            return chunk
        time.sleep(BEFORE_THE_BREAK)
        path, _ = self.request
        if wanted[1] == b"garbled":
            # The rest of the stream is fine.
            self.request = path, b""
            is_message = b":event-type" in chunk
            # A message whose checksum is wrong, or JSON that is none.
            return chunk.replace(words, words.swapcase() if is_message else words.replace(b"e", b'"'))
        self.broken = wanted[1]
        last = b"0\r\n\r\n"
        pieces = {b"close": chunk[: len(chunk) // 2], b"end": last, b"error": error(api(path)) + last}
        return pieces.get(self.broken, b"")

    def wanted(self):
        """How and where the answer to the last request is to break, if it is."""
        path, body = self.request
        return None if HEALTHY in path.encode() + body else BREAK.search(body)


def error(name):
    """A vendor's own error in the middle of a stream, and what the vendor sends behind it."""
    words = REQUEST["stream_error"]
    if name == "converse":
        kind = {":exception-type": "modelStreamErrorException", ":content-type": "application/json", ":message-type": "exception"}
        return framed(message(kind, json.dumps({"message": words, "originalStatusCode": 500})))
    plain = {"message": words, "type": "server_error", "param": None, "code": "server_error"}
    failed = {"id": "resp_1", "object": "response", "status": "failed", "error": plain, "output": []}
    events = {
        "chat": [("", {"error": plain}), ("", "[DONE]")],
        "responses": [
            ("error", {"type": "error", "sequence_number": 9, "error": plain}),
            ("response.failed", {"type": "response.failed", "sequence_number": 10, "response": failed}),
        ],
        "messages": [("error", {"type": "error", "error": {"type": "api_error", "message": words}})],
        "gemini": [("", {"error": {"code": 503, "message": words, "status": "UNAVAILABLE"}})],
    }
    lines = []
    for event, data in events[name]:
        lines += [f"event: {event}\n"] if event else []
        lines += [f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n"]
    return framed("".join(lines).encode())


def message(headers, payload):
    """A message of an AWS event stream; headers are text, type 7."""
    written = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for name, value in headers.items()
    )
    lengths = struct.pack(">II", 16 + len(written) + len(payload), len(written))
    whole = lengths + struct.pack(">I", zlib.crc32(lengths)) + written + payload.encode()
    return whole + struct.pack(">I", zlib.crc32(whole))


def framed(data):
    """A chunk of an HTTP body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
