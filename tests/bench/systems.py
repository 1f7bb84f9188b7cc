"""What is measured: the programs, how each is built or found, configured, started, pinned and ended.

Everything listens on loopback, writes into a temporary folder and ends with the `with` block that started it.
"""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time

BENCH = pathlib.Path(__file__).resolve().parent
ROOT = BENCH.parent.parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "pointsman-bench"

TARGETS = "abcdefgh"
START_LIMIT_S = 60


class Broken(Exception):
    """Something that a number would need does not work; the text says what to do."""


# --- Programs ---------------------------------------------------------------------------------------------------------


def run(command, **options):
    """Run `command` to its end and return what it printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, **options)
    if done.returncode != 0:
        raise Broken(f"`{' '.join(map(str, command))}` ended with {done.returncode}")
    return done.stdout


def build_bench():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", CACHE / "target"))
    environment = os.environ | {"CARGO_TARGET_DIR": str(target)}
    run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=BENCH, env=environment)
    return target / "release" / "pointsman-bench"


def build_pointsman():
    run(["cargo", "build", "--release", "--locked", "--quiet", "--bin", "pointsman"], cwd=ROOT)
    return root_target() / "release" / "pointsman"


def build_policy():
    """plan-b as it lies in the plugin folder, else freshly built."""
    ready = ROOT / "plugins" / "plan-b.wasm"
    if ready.exists():
        return ready
    wasm = "wasm32-unknown-unknown"
    run(["cargo", "build", "--profile", "guest", "--locked", "--quiet", "-p", "plan-b", "--target", wasm], cwd=ROOT)
    return root_target() / wasm / "guest" / "plan_b.wasm"


def root_target():
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


def find_nginx():
    """nginx from the system, else the binary out of Debian's package, unpacked without installing its service."""
    unpacked = CACHE / "nginx"
    for candidate in (shutil.which("nginx"), "/usr/sbin/nginx", unpacked / "usr/sbin/nginx"):
        if candidate and os.access(candidate, os.X_OK):
            return pathlib.Path(candidate)
    unpacked.mkdir(parents=True, exist_ok=True)
    try:
        if os.geteuid() == 0:
            run(["apt-get", "update", "-qq"])
        # As root, apt would hand the download to a user who cannot write here, and say so.
        run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", "nginx"], cwd=unpacked)
        package = max(unpacked.glob("nginx_*.deb"))
        run(["dpkg", "-x", package, unpacked])
        run([unpacked / "usr/sbin/nginx", "-V"], stderr=subprocess.DEVNULL)
    except (Broken, OSError, ValueError) as error:
        shutil.rmtree(unpacked)
        raise Broken(f"no nginx: {error}; install Debian's package `nginx` and run this again") from error
    return unpacked / "usr/sbin/nginx"


# --- Processes --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def process(command, cores, log, **options):
    """Run `command` pinned to `cores` ("0" or "0,1"), its output in the file `log`; end it with the block."""
    with open(log, "ab") as output:
        options = {"stdout": output, "stderr": output, "stdin": subprocess.DEVNULL} | options
        # taskset becomes the command, so the process id is the command's.
        child = subprocess.Popen(["taskset", "-c", cores, *map(str, command)], **options)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_until(ready, child, log):
    """Wait until `ready()`, and fail with the end of the log if the process ends first."""
    deadline = time.monotonic() + START_LIMIT_S
    while not ready():
        if child.poll() is not None or time.monotonic() > deadline:
            tail = pathlib.Path(log).read_text(errors="replace")[-2000:]
            raise Broken(f"{child.args} did not become ready (exit code {child.poll()}):\n{tail}")
        time.sleep(0.0002)


def accepts(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers_200(port, path):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n".encode())
            return connection.recv(64).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- Systems ----------------------------------------------------------------------------------------------------------


class Running:
    """A system that takes requests at `port`; `pid` is None where there is no process in between."""

    def __init__(self, port, pid=None, ready_ms=None, folder=None):
        self.port, self.pid, self.ready_ms, self.folder = port, pid, ready_ms, folder


class Direct:
    """The client talks to the vendor."""

    name = "direct"
    policy = None

    @contextlib.contextmanager
    def start(self, folder, vendor, cores):
        yield Running(vendor)


class Nginx:
    """A plain reverse proxy with kept-alive connections to the vendor."""

    policy = None

    def __init__(self, binary, workers=1):
        self.binary, self.workers = binary, workers
        self.name = "nginx"

    @contextlib.contextmanager
    def start(self, folder, vendor, cores):
        folder = new_folder(folder, "nginx")
        port, log = free_port(), folder / "log"
        (folder / "nginx.conf").write_text(self.configuration(folder, port, vendor))
        command = [self.binary, "-p", folder, "-c", folder / "nginx.conf", "-e", "stderr", "-g", "daemon off;"]
        with process(command, cores, log) as child:
            wait_until(lambda: accepts(port), child, log)
            yield Running(port, child.pid)

    def configuration(self, folder, port, vendor):
        # One worker needs no second socket; several share connections evenly only with one each.
        reuseport = " reuseport" if self.workers > 1 else ""
        temporary = "\n".join(
            f"    {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return f"""
worker_processes {self.workers};
pid {folder}/pid;
error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    tcp_nodelay on;
    # A closed connection in the middle of a run would be measured too.
    keepalive_requests 1000000000;
{temporary}
    upstream vendor {{
        server 127.0.0.1:{vendor};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port}{reuseport};
        location / {{
            proxy_pass http://vendor;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


class Pointsman:
    """The gateway with plan-b and eight targets, all of them the same mock vendor."""

    policy = "plan-b"

    def __init__(self, binary, wasm, name="pointsman", workers=1, runtime="per-core", log_requests=False, messages=False):
        self.binary, self.wasm, self.name = binary, wasm, name
        self.workers, self.runtime, self.log_requests = workers, runtime, log_requests
        self.messages = messages
        self.state = None

    @contextlib.contextmanager
    def start(self, folder, vendor, cores):
        # The first start of a run compiles the policy; the next ones find it in `state`.
        self.state = self.state or new_folder(folder, "state")
        folder = new_folder(folder, self.name)
        (folder / "plugins").mkdir()
        (folder / "staging").mkdir()
        shutil.copyfile(self.wasm, folder / "plugins" / "plan-b.wasm")
        port, admin, log = free_port(), free_port(), folder / "log"
        (folder / "pointsman.toml").write_text(self.configuration(folder, port, admin, vendor))
        began = time.monotonic()
        with process([self.binary, "serve", "--config", folder / "pointsman.toml"], cores, log) as child:
            wait_until(lambda: answers_200(admin, "/readyz"), child, log)
            yield Running(port, child.pid, (time.monotonic() - began) * 1000, folder)

    def configuration(self, folder, port, admin, vendor):
        targets = "".join(
            f"""
[[target]]
name = "{name}"
vendor = "openai-compatible"
base_url = "http://127.0.0.1:{vendor}/v1"
model = "mock"
"""
            for name in TARGETS
        )
        return f"""
listen = "127.0.0.1:{port}"
admin = "127.0.0.1:{admin}"
state = "{self.state}"

[server]
workers = {self.workers}
runtime = "{self.runtime}"

[log]
requests = {json.dumps(self.log_requests)}

[policies]
directory = "{folder}/plugins"
{targets}
[[route]]
model = "smart"
targets = {json.dumps(list(TARGETS))}
policies = ["plan-b"]
"""


class TwoTargets(Pointsman):
    """The gateway with the built-in chain and two targets, the first of which will be out."""

    policy = None
    deadline_ms = 500

    def __init__(self, binary, wasm, sick):
        super().__init__(binary, wasm, name="two targets")
        self.sick = sick

    def configuration(self, folder, port, admin, vendor):
        targets = "".join(
            f"""
[[target]]
name = "{name}"
vendor = "openai-compatible"
base_url = "http://127.0.0.1:{at}/v1"
model = "mock"
"""
            for name, at in (("sick", self.sick), ("well", vendor))
        )
        return f"""
listen = "127.0.0.1:{port}"
admin = "127.0.0.1:{admin}"
state = "{self.state}"
server.workers = 1
log.requests = false
timeouts.first_content_ms = {self.deadline_ms}
timeouts.whole_content_ms = {self.deadline_ms}
breaker.window_ms = 2000
{targets}
[[route]]
model = "smart"
targets = ["sick", "well"]
"""


def new_folder(parent, name):
    """A new folder, numbered, so that every start has its own files."""
    number = sum(1 for _ in parent.iterdir())
    folder = parent / f"{number:04}-{name.replace(' ', '-')}"
    folder.mkdir()
    # nginx's worker is another user where the master is root.
    folder.chmod(0o755)
    return folder


# --- The bench's own program ------------------------------------------------------------------------------------------


class Bench:
    """The vendor, the load, the swap check: subcommands of the program built from `src/`."""

    def __init__(self, binary):
        self.binary = binary

    @contextlib.contextmanager
    def vendor(self, folder, cores, frame_gap_us=0):
        """Run the mock vendor and give its port."""
        command = [self.binary, "vendor", "--frame-gap-us", frame_gap_us]
        with process(command, cores, folder / "vendor.log", stdout=subprocess.PIPE, text=True) as child:
            address = child.stdout.readline().strip()
            if not address:
                raise Broken(f"the mock vendor did not start: {(folder / 'vendor.log').read_text()}")
            yield int(address.rsplit(":", 1)[1])

    @contextlib.contextmanager
    def vendor_to_stop(self, folder, cores):
        """Run a mock vendor of its own, and give its process and its port."""
        command = [self.binary, "vendor"]
        with process(command, cores, folder / "vendor-to-stop.log", stdout=subprocess.PIPE, text=True) as child:
            yield child, int(child.stdout.readline().strip().rsplit(":", 1)[1])

    def load(self, running, cores, *, connections, stream, warmup_ms, duration_ms, policy, messages=False, rate=None):
        arguments = ["--connections", connections, "--warmup-ms", warmup_ms, "--duration-ms", duration_ms]
        arguments += ["--stream"] if stream else []
        arguments += ["--messages"] if messages else []
        arguments += ["--rate", rate] if rate else []
        arguments += ["--policy", policy] if policy else []
        arguments += ["--watch", running.pid] if running.pid else []
        return self.report(cores, "load", "--address", f"127.0.0.1:{running.port}", *arguments)

    def swap(self, running, cores, *, swaps, distinct, requests, rate):
        installed = running.folder / "plugins" / "plan-b.wasm"
        arguments = ["--installed", installed, "--staging", running.folder / "staging", "--pid", running.pid]
        arguments += ["--swaps", swaps, "--distinct", distinct, "--requests", requests, "--rate", rate]
        return self.report(cores, "swap", "--address", f"127.0.0.1:{running.port}", *arguments)

    def usage(self, pid):
        return self.report("0", "process", "--pid", pid)

    def report(self, cores, *arguments):
        return json.loads(run(["taskset", "-c", cores, str(self.binary), *map(str, arguments)]))
