"""A tap on the line between the gateway and a vendor: passes the bytes on, and remembers every request that the vendor was sent."""

import re
import socket
import threading


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
            client, _ = self.listener.accept()
            vendor = socket.create_connection(self.vendor)
            reader = Requests(self.requests)
            threading.Thread(target=copy, args=(client, vendor, reader.feed), daemon=True).start()
            threading.Thread(target=copy, args=(vendor, client, Answers().feed), daemon=True).start()


class Requests:
    """Cuts the bytes of one connection into requests: (path, body)."""

    def __init__(self, requests):
        self.requests, self.bytes = requests, b""

    def feed(self, data):
        self.remember(data)
        return data

    def remember(self, data):
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
            self.requests.append((first.split(" ")[1], rest[:length]))
            self.bytes = rest[length:]


class Answers:
    """The bytes of one connection's answers as the vendor would send them: aimock begins the text blocks of Bedrock's streams with an
    event that Bedrock does not send, and that boto3 cannot read. Each of its events is a chunk of its own, which is left out here."""

    STREAM = re.compile(rb"content-type: application/vnd.amazon.eventstream", re.IGNORECASE)
    CHUNK = re.compile(rb"([0-9a-fA-F]+)\r\n")

    def __init__(self):
        self.bytes, self.is_stream = b"", False

    def feed(self, data):
        if not self.is_stream and not self.STREAM.search(data):
            return data
        self.bytes += data
        passed = b""
        if not self.is_stream and b"\r\n\r\n" in self.bytes:
            head, self.bytes = self.bytes.split(b"\r\n\r\n", 1)
            passed, self.is_stream = head + b"\r\n\r\n", True
        while self.is_stream and (size := self.CHUNK.match(self.bytes)):
            length = int(size[1], 16)
            end = size.end() + length + 2
            if len(self.bytes) < end:
                break
            chunk, self.bytes = self.bytes[:end], self.bytes[end:]
            passed += b"" if b'"start":{}' in chunk else chunk
            self.is_stream = length > 0
        return passed


def copy(source, sink, passed):
    """Passes on what comes, and the end too; a reset is passed on as an end."""
    try:
        while data := source.recv(65536):
            sink.sendall(passed(data))
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
