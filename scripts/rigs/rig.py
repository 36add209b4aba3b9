"""What the rigs stand on: a folder, a certificate, throw-away servers, and their end.

The rigs (scripts/h2spec, scripts/websocket-suite, scripts/slow-callers, scripts/real-callers) show
how Octroi behaves towards tools and callers that CI does not have. Everything a rig starts listens
on loopback, is ended by its process id, and leaves nothing behind.
"""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEPPER = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
HOST = "127.0.0.1"


def need(tool, remedy):
    """The path of a program that has to be here."""
    return shutil.which(tool) or sys.exit(f"{tool} is missing: {remedy}")


def free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def wait_for(port, process=None, seconds=20):
    """Until somebody listens; a process that ended first is an error."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with {process.returncode}")
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nobody listens on {port}")


class Rig:
    """A folder and the processes that run in it, until the `with` ends."""

    def __init__(self, name):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"octroi-{name}-"))
        os.chmod(self.folder, 0o755)  # nginx serves as another user when it is started as root
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if kind is None or kind is KeyboardInterrupt:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            print(f"kept for a look: {self.folder}", file=sys.stderr)

    def run(self, command, log="log", **options):
        """Starts a process that lives as long as the rig; what it says goes into a file."""
        with open(self.folder / log, "ab") as output:
            process = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options
            )
        self.processes.append(process)
        return process

    def certificate(self):
        """A certificate for localhost that is its own authority: (certificate, key)."""
        certificate, key = self.folder / "cert.pem", self.folder / "key.pem"
        if not certificate.exists():
            command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
            command += ["-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost"]
            command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        return certificate, key

    def nginx(self, name, http, connections=512):
        """nginx with its defaults (so many connections a worker) but for what `http` says."""
        temporary = "".join(
            f"{part}_temp_path {self.folder}/{name}-{part};"
            for part in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        path = self.folder / f"{name}.conf"
        path.write_text(
            f"daemon off; pid {self.folder}/{name}.pid; error_log {self.folder}/{name}.err; "
            f"worker_processes 1;\nevents {{ worker_connections {connections}; }}\nhttp {{ access_log off; {temporary}\n{http}\n}}\n"
        )
        return self.run([need("nginx", "apt-get install nginx-light"), "-c", path], f"{name}.log")

    def octroi(self, binary, upstreams, routes, tls=True, server=""):
        """Octroi on a plain port and, with TLS, on another; `server`: more of that section."""
        return Octroi(self, pathlib.Path(binary).resolve(), upstreams, routes, tls, server)


class Octroi:
    """A throw-away gateway on SQLite: `plain` and `tls` are its ports, `key` opens its routes."""

    def __init__(self, rig, binary, upstreams, routes, tls, server):
        if not binary.exists():
            sys.exit(f"{binary} is missing: cargo build, or name another with --octroi")
        self.rig, self.binary = rig, binary
        self.plain, self.tls, self.admin = free_port(), free_port(), free_port()
        self.config = rig.folder / "octroi.toml"
        self.config.write_text(
            f"""
[server]
listen = ["{HOST}:{self.plain}"]
{server}
{self.listener() if tls else ""}
[admin]
listen = "{HOST}:{self.admin}"
[telemetry]
access_log = false
[limits.default]
rate = "1000000/s"
burst = 1000000
{upstreams}
{routes}
"""
        )
        self.call("migrate", "up")
        self.call("client", "create", "rig")
        self.key = json.loads(self.call("key", "create", "rig"))["key"]
        self.process = rig.run(
            [self.binary, "--config", self.config, "serve"], "octroi.log", env=self.environment(), cwd=rig.folder
        )
        try:
            wait_for(self.plain, self.process)
            if tls:
                wait_for(self.tls, self.process)
        except RuntimeError as error:
            sys.exit(f"{error}\n{(rig.folder / 'octroi.log').read_text()}")

    def listener(self):
        certificate, key = self.rig.certificate()
        return (
            f'[[server.listeners]]\naddress = "{HOST}:{self.tls}"\nprotocol = "https"\n'
            f'[[server.tls.certificates]]\ncertificate = "{certificate}"\nkey = "{key}"\n'
        )

    def environment(self):
        return {"PATH": os.environ["PATH"], "API_KEY_PEPPER": PEPPER, "RUST_LOG": os.environ.get("RUST_LOG", "warn")}

    def call(self, *arguments):
        """Runs a command of the program and returns its JSON."""
        command = [self.binary, "--config", self.config, "--output", "json", *arguments]
        run = subprocess.run(command, env=self.environment(), cwd=self.rig.folder, capture_output=True)
        if run.returncode != 0:
            sys.exit(f"octroi {' '.join(arguments)}: {run.stderr.decode()}")
        return run.stdout

    def usage(self):
        """Requests by outcome, once everything is in the store."""
        report = json.loads(self.call("usage", "--by", "route,outcome"))
        return {f"{item['route']} {item['outcome']}": item["requests"] for item in report["items"]}
