"""A tap on the line between the gateway and a vendor: passes all bytes on, and remembers every request that the vendor was sent."""

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
            threading.Thread(target=copy, args=(vendor, client, lambda _: None), daemon=True).start()


class Requests:
    """Cuts the bytes of one connection into requests: (path, body)."""

    def __init__(self, requests):
        self.requests, self.bytes = requests, b""

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
            self.requests.append((first.split(" ")[1], rest[:length]))
            self.bytes = rest[length:]


def copy(source, sink, see):
    """Passes on what comes, and the end too; a reset is passed on as an end."""
    try:
        while data := source.recv(65536):
            see(data)
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
