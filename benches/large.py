#!/usr/bin/env python3
"""Small jobs of one account beside large answers of another: how much later they are answered, and what memory
Forebay takes.

    ANSWERS=8 MIB=56 benches/large.py
"""
from __future__ import annotations

import http.server
import json
import os
import re
import signal
import socket
import socketserver
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOREBAY = os.environ.get("FOREBAY", str(ROOT / "target/release/forebay"))
ANSWERS = int(os.environ.get("ANSWERS", "8"))
MIB = int(os.environ.get("MIB", "56"))
SMALL = 200
PAUSE = 0.05


class Provider(http.server.BaseHTTPRequestHandler):
    """Answers every call with the same large vectors; one that asks for little, with little."""

    protocol_version = "HTTP/1.1"
    # Head and body leave together.
    wbufsize = -1
    large = b""

    def do_POST(self) -> None:
        request = self.rfile.read(int(self.headers["content-length"]))
        answer = self.large if b"large" in request else b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5]}]}'
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_) -> None:
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


class Nats:
    """As much of a NATS client as is needed here: publishes, and an inbox whose messages it times."""

    def __init__(self, url: str) -> None:
        user, password, host, port = re.fullmatch(r"nats://(.*):(.*)@(.*):(\d+)", url).groups()
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connect = {"verbose": False, "user": user, "pass": password, "headers": True}
        self.socket.sendall(b"CONNECT " + json.dumps(connect).encode() + b"\r\nSUB _INBOX.bench 1\r\n")
        self.came: dict[str, float] = {}
        self.statuses: set[str] = set()
        threading.Thread(target=self.read, daemon=True).start()

    def publish(self, pool: str, job: dict) -> None:
        payload = json.dumps({**job, "reply_to": "_INBOX.bench", "url": "/v1/embeddings"}).encode()
        self.socket.sendall(b"PUB ai.jobs.%s %d\r\n%s\r\n" % (pool.encode(), len(payload), payload))

    def read(self) -> None:
        lines = self.socket.makefile("rb")
        while line := lines.readline():
            if line.startswith(b"PING"):
                self.socket.sendall(b"PONG\r\n")
            if line.startswith((b"MSG", b"HMSG")):
                parts = line.split()
                message = lines.read(int(parts[-1]) + 2)
                head = int(parts[-2]) if line.startswith(b"HMSG") else 0
                completion = json.loads(message[head:])
                self.came[completion["id"]] = time.time()
                self.statuses.add(completion["status"])

    def wait(self, ids: list[str]) -> None:
        while not all(name in self.came for name in ids):
            time.sleep(0.01)


def small_jobs(nats: Nats, prefix: str) -> str:
    sent = {}
    for index in range(SMALL):
        name = f"{prefix}-{index}"
        sent[name] = time.time()
        nats.publish("small", {"id": name, "body": {"input": "x"}})
        time.sleep(PAUSE)
    nats.wait(list(sent))
    took = sorted((nats.came[name] - at) * 1000 for name, at in sent.items())
    return f"median {statistics.median(took):.0f} ms, p99 {took[int(len(took) * 0.99)]:.0f}, longest {took[-1]:.0f}"


def main() -> None:
    vector = [round(0.0001 * number, 4) for number in range(4096)]
    one = json.dumps({"object": "embedding", "index": 0, "embedding": vector})
    Provider.large = ('{"object":"list","data":[' + ",".join([one] * (MIB * 2**20 // len(one))) + "]}").encode()
    providers = [Server(("127.0.0.1", 0), Provider) for _ in range(2)]
    for provider in providers:
        threading.Thread(target=provider.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="forebay-large-") as folder:
        home = Path(folder)
        (home / "key").write_text("sk-a")
        config = '[nats]\nlisten = "127.0.0.1:0"\n[data]\ndir = "data"\n'
        for pool, provider in zip(("large", "small"), providers):
            config += (
                f'[account.{pool}]\nprovider = "openai"\nbase_url = "http://127.0.0.1:{provider.server_port}/v1"\n'
                f'keys = [{{ file = "key" }}]\nlimits = [{{ concurrent = 64 }}]\n'
                f'[pool.{pool}]\ntargets = [{{ account = "{pool}", model = "{pool}" }}]\n')
        (home / "forebay.toml").write_text(config)
        process = subprocess.Popen([FOREBAY, "serve"], cwd=home, stderr=open(home / "log", "wb"))
        while not (home / "data/forebay.json").exists():
            time.sleep(0.1)
        nats = Nats(json.loads((home / "data/forebay.json").read_text())["url"])
        processor = next((line.split(": ")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
        print(f"{os.cpu_count()} cores, {processor}; {SMALL} small jobs, {PAUSE * 1000:.0f} ms apart")
        print(f"alone: {small_jobs(nats, 'alone')}", flush=True)
        began = time.time()
        for index in range(ANSWERS):
            nats.publish("large", {"id": f"large-{index}", "body": {"input": "large"}})
        beside = small_jobs(nats, "beside")
        nats.wait([f"large-{index}" for index in range(ANSWERS)])
        ended = max(nats.came[f"large-{index}"] for index in range(ANSWERS)) - began
        print(f"beside {ANSWERS} answers of {len(Provider.large) / 2**20:.0f} MiB, which took {ended:.1f} s: {beside}")
        peak = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]) / 1024
        print(f"Forebay took {peak:.0f} MiB at most; all completions: {', '.join(nats.statuses)}")
        process.send_signal(signal.SIGTERM)
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
