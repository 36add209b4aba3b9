"""What every measurement here stands on: an upstream, a gateway with clients, and CPU time from the kernel."""

import glob
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEPPER = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
PORTS = {"upstream": 18700, "nginx": 18701, "octroi": 18702, "admin": 18703}


def pinned(core, command, **options):
    return subprocess.Popen(["taskset", "-c", str(core), *map(str, command)], **options)


def nginx_config(folder, kind):
    common = f"daemon off; pid {folder}/{kind}.pid; error_log {folder}/{kind}.err; worker_processes 1;\n"
    events = "events { worker_connections 8192; }\n"
    if kind == "upstream":
        server = (
            f"server {{ listen 127.0.0.1:{PORTS['upstream']} reuseport; keepalive_requests 100000000; "
            f"location / {{ return 200 '{'x' * 1024}'; }} }}"
        )
    else:
        server = (
            f"upstream up {{ server 127.0.0.1:{PORTS['upstream']}; keepalive 128; keepalive_requests 100000000; }}\n"
            f"server {{ listen 127.0.0.1:{PORTS['nginx']} reuseport; keepalive_requests 100000000; location / {{ "
            "proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ''; } }"
        )
    path = folder / f"{kind}.conf"
    temps = "".join(
        f"{name}_temp_path {folder}/{kind}-{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    path.write_text(f"{common}{events}http {{ access_log off; {temps}\n{server}\n}}\n")
    return path


def start_octroi(folder, binary, keys, access_log=False, settings="", store=None, ports=PORTS):
    """`settings` are further lines of TOML, sections of their own; `store` is a URL, SQLite if none."""
    (folder / "octroi.toml").write_text(
        f"""
[server]
listen = ["127.0.0.1:{ports['octroi']}"]
workers = 1
[admin]
listen = "127.0.0.1:{ports['admin']}"
[telemetry]
access_log = {str(access_log).lower()}
[limits.default]
rate = "1000000/s"
burst = 1000000
[[upstreams]]
name = "up"
endpoints = ["http://127.0.0.1:{PORTS['upstream']}"]
keep_alive_connections = 128
[[routes]]
name = "all"
path = "/"
upstream = "up"
[[routes]]
name = "open"
path = "/open"
upstream = "up"
auth = "none"
{settings}
"""
    )
    environment = {"PATH": os.environ["PATH"], "API_KEY_PEPPER": PEPPER, "RUST_LOG": "warn"}
    if store:
        environment["DATABASE_URL"] = store

    def octroi(*arguments):
        command = [binary, "--config", folder / "octroi.toml", "--output", "json", *arguments]
        return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout

    octroi("migrate", "up")
    raw = []
    for client in range(min(10, keys)):
        octroi("client", "create", f"client-{client}")
    for key in range(keys):
        raw.append(json.loads(octroi("key", "create", f"client-{key % min(10, keys)}"))["key"])
    log = open(folder / "octroi.log", "w")
    process = pinned(0, [binary, "--config", folder / "octroi.toml", "serve"], env=environment, stderr=log)
    return process, raw


def processes(pid):
    found, queue = [], [pid]
    while queue:
        current = queue.pop()
        found.append(current)
        for path in glob.glob(f"/proc/{current}/task/*/children"):
            queue += [int(child) for child in pathlib.Path(path).read_text().split()]
    return found


def cpu_nanoseconds(pid):
    total = 0
    for process in processes(pid):
        for path in glob.glob(f"/proc/{process}/task/*/schedstat"):
            try:
                total += int(pathlib.Path(path).read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                pass  # a thread that ended between the two reads
    return total


def wrk_script(folder, keys):
    quoted = ",".join(f'"{key}"' for key in keys)
    path = folder / "keys.lua"
    path.write_text(
        f"local keys = {{{quoted}}}\nlocal next_key = 0\nlocal requests = {{}}\n"
        "function init(arguments)\n  for index, key in ipairs(keys) do\n"
        '    requests[index] = wrk.format("GET", "/", {["X-API-Key"] = key})\n  end\nend\n'
        "function request()\n  next_key = next_key % #requests + 1\n  return requests[next_key]\nend\n"
    )
    return path


def slice_of(pid, url, script, seconds, connections):
    before = cpu_nanoseconds(pid)
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    command += ["-s", str(script)] if script else []
    output = subprocess.run([*command, url], check=True, stdout=subprocess.PIPE, text=True).stdout
    used = cpu_nanoseconds(pid) - before
    requests = int(re.search(r"(\d+) requests in", output).group(1))
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    if refused:
        sys.exit(f"{url}: {refused.group(1)} of {requests} requests were refused; the figure would mean nothing")
    return used / requests
