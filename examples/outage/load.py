"""The clients: an even stream of requests over connections that are kept, each answer read to its end and judged."""

import asyncio
import json
import time
from dataclasses import dataclass

# Nothing that the gateway may take here lasts longer: its deadlines end a request's attempts before.
PATIENCE = 10.0

# One client in so many wants a stream.
STREAMS = 4


@dataclass
class Answer:
    """What became of one request. Times are seconds of `time.monotonic`; `second` is that in which it was due."""

    second: int
    sent: float
    ended: float
    target: str = ""
    policy: str = ""
    attempts: int = 0
    problem: str = ""


class Exchange(asyncio.Protocol):
    """One kept connection: a request at a time, and what came back for it."""

    def __init__(self):
        self.answer = None
        self.data = bytearray()

    def connection_made(self, transport):
        self.transport = transport

    def ask(self, request):
        self.data.clear()
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answer

    def data_received(self, data):
        self.data += data
        if self.answer and not self.answer.done() and (whole := parse(self.data)):
            self.answer.set_result(whole)

    def connection_lost(self, error):
        if self.answer and not self.answer.done():
            self.answer.set_exception(ConnectionError(f"the connection broke: {error or 'closed'}"))


def parse(data):
    """Status, headers and body of an answer, or None while some of it is missing."""
    head, found, body = bytes(data).partition(b"\r\n\r\n")
    if not found:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
    if headers.get("transfer-encoding") == "chunked":
        body = unchunk(body)
    elif len(body) < int(headers.get("content-length", 0)):
        return None
    return None if body is None else (int(first.split()[1]), headers, body)


def unchunk(data):
    """The body that was sent in chunks, or None while some are missing."""
    if not data.endswith(b"0\r\n\r\n"):
        return None
    body = b""
    while True:
        size, found, rest = data.partition(b"\r\n")
        length = int(size, 16) if found else -1
        if length < 0 or len(rest) < length + 2:
            return None
        if length == 0:
            return body
        body, data = body + rest[:length], rest[length + 2 :]


def problem(stream, status, body):
    """Why an answer counts as a failure; nothing if it is whole."""
    if status != 200:
        return f"{status}: {body[:200].decode(errors='replace')}"
    if stream:
        return "" if b"data: [DONE]" in body and b'"finish_reason":"stop"' in body else "the stream has no end"
    try:
        return "" if json.loads(body)["choices"][0]["finish_reason"] == "stop" else "the answer is not complete"
    except (ValueError, LookupError):
        return "the answer is none"


class Load:
    """Requests at a fixed pace, whether or not the ones before were answered; `done` gets each answer."""

    def __init__(self, host, port, rate, done):
        self.host, self.port, self.rate, self.done = host, port, rate, done
        self.idle = []
        self.open = set()
        self.requests = [self.request(stream) for stream in (False, True)]

    def request(self, stream):
        body = {"model": "smart", "stream": stream, "messages": [{"role": "user", "content": "Are you there?"}]}
        body = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {self.host}:{self.port}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode() + body

    async def run(self, start, seconds):
        """Sends from `start` on for so long, and returns when all is answered."""
        for number in range(round(seconds * self.rate)):
            wait = start + number / self.rate - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self.one(number // self.rate, number % STREAMS == STREAMS - 1))
            self.open.add(task)
            task.add_done_callback(self.open.discard)
        await asyncio.gather(*self.open)

    async def one(self, second, stream):
        sent = time.monotonic()
        answer = Answer(second, sent, sent)
        try:
            exchange = await self.connection()
            answer.sent = time.monotonic()
            status, headers, body = await asyncio.wait_for(exchange.ask(self.requests[stream]), PATIENCE)
            answer.target = headers.get("x-pointsman-target", "")
            answer.policy = headers.get("x-pointsman-policy", "")
            answer.attempts = int(headers.get("x-pointsman-attempts", 0))
            answer.problem = problem(stream, status, body)
            self.idle.append(exchange)
        except asyncio.TimeoutError:
            answer.problem = f"no answer within {PATIENCE:.0f} s"
        except OSError as error:
            answer.problem = str(error)
        answer.ended = time.monotonic()
        self.done(answer)

    async def connection(self):
        while self.idle:
            exchange = self.idle.pop()
            if not exchange.transport.is_closing():
                return exchange
        loop = asyncio.get_running_loop()
        _, exchange = await loop.create_connection(Exchange, self.host, self.port)
        return exchange
