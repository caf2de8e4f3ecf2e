#!/usr/bin/env python3
"""A million stored results and a million waiting jobs: how soon the first call is made after a start, and how much
memory Forebay takes while it drains.

    JOBS=1000000 SECONDS=600 benches/backlog.py
"""
from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOREBAY = os.environ.get("FOREBAY", str(ROOT / "target/release/forebay"))
JOBS = int(os.environ.get("JOBS", "1000000"))
SECONDS = float(os.environ.get("SECONDS", "600"))
BODY = {"messages": [{"role": "user", "content": "x" * 200}], "max_tokens": 1}


def serve(home: Path) -> subprocess.Popen:
    log = open(home / "forebay.log", "ab")
    return subprocess.Popen([FOREBAY, "serve"], cwd=home, stdout=log, stderr=log)


def queues(home: Path) -> dict | None:
    done = subprocess.run([FOREBAY, "--json", "queues"], cwd=home, capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def waiting(home: Path) -> int | None:
    found = queues(home)
    return found and sum(queue["jobs"] for queue in found["queues"])


def until(home: Path, reached) -> None:
    while (found := waiting(home)) is None or not reached(found):
        time.sleep(0.5)


def publish(home: Path, prefix: str) -> None:
    url = json.loads((home / "data/forebay.json").read_text())["url"]
    user, password, host, port = re.fullmatch(r"nats://(.*):(.*)@(.*):(\d+)", url).groups()
    with socket.create_connection((host, int(port))) as server:
        connect = {"verbose": False, "user": user, "pass": password}
        server.sendall(b"CONNECT " + json.dumps(connect).encode() + b"\r\nSUB _INBOX.backlog 1\r\n")
        for begin in range(0, JOBS, 1_000):
            block = bytearray()
            for index in range(begin, min(begin + 1_000, JOBS)):
                payload = json.dumps({"id": f"{prefix}{index}", "body": BODY}).encode()
                is_last = index % 1_000 == 999 or index == JOBS - 1
                reply = b"_INBOX.backlog " if is_last else b""
                block += b"PUB ai.jobs.m %s%d\r\n%s\r\n" % (reply, len(payload), payload)
            server.sendall(block)
            # A stream takes messages in their order, so that the last one's acknowledgement is that of all.
            answer = b""
            while b'"seq":' not in answer:
                answer += server.recv(65536)


def configure(home: Path, provider: str, limits: str) -> None:
    (home / "key").write_text("sk-a")
    (home / "forebay.toml").write_text(
        f'[nats]\nlisten = "127.0.0.1:0"\n[data]\ndir = "data"\n[streams]\njobs_max_bytes = "4GiB"\ncompletions_max_bytes = "2GiB"\n'
        f'[account.a]\nprovider = "openai"\nbase_url = "{provider}"\nkeys = [{{ file = "key" }}]\nlimits = [{limits}]\n'
        f'[pool.m]\ntargets = [{{ account = "a", model = "m" }}]\n')


def rss(pid: int) -> float:
    """Resident memory in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def server_pid(home: Path) -> int:
    return int((home / "data/nats/nats-server.pid").read_text())


def stop(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait()


def first_call(home: Path, record: Path) -> tuple[subprocess.Popen, float]:
    before = record.stat().st_size
    began = time.time()
    process = serve(home)
    while record.stat().st_size == before:
        time.sleep(0.005)
    return process, time.time() - began


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="forebay-backlog-") as folder:
        home = Path(folder)
        record = home / "record.jsonl"
        provider = subprocess.Popen(
            [FOREBAY, "simulate", "--listen", "127.0.0.1:0", "--latency", "1ms", "--record", str(record), "--account", "name=a,key=sk-a"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        url = provider.stdout.readline().split()[-1]
        try:
            configure(home, url, "{ concurrent = 256 }")
            process = serve(home)
            until(home, lambda found: True)
            began = time.time()
            publish(home, "stored-")
            until(home, lambda found: found == 0)
            print(f"{JOBS} jobs published, called, stored and completed in {time.time() - began:.0f} s", flush=True)
            stop(process)
            configure(home, url, "{ requests = 100, per = \"1s\" }, { concurrent = 256 }")
            process = serve(home)
            until(home, lambda found: True)
            subprocess.run([FOREBAY, "pause", "pool", "m"], cwd=home, check=True, capture_output=True)
            publish(home, "waits-")
            until(home, lambda found: found == JOBS)
            subprocess.run([FOREBAY, "resume", "pool", "m"], cwd=home, check=True, capture_output=True)
            stop(process)
            process, took = first_call(home, record)
            print(f"first call {took:.2f} s after the start, with {JOBS} stored results and {waiting(home)} waiting jobs", flush=True)
            forebay, nats, end = [], [], time.time() + SECONDS
            while time.time() < end:
                forebay.append(rss(process.pid))
                nats.append(rss(server_pid(home)))
                time.sleep(1)
            half = len(forebay) // 2
            print(f"memory over {SECONDS:.0f} s of draining at 100 calls/s: Forebay {forebay[0]:.0f} MiB at first, at most "
                  f"{max(forebay[:half]):.0f} in the first half and {max(forebay[half:]):.0f} in the second; nats-server at most "
                  f"{max(nats):.0f} MiB; {waiting(home)} jobs still wait", flush=True)
            stop(process)
        finally:
            provider.terminate()


if __name__ == "__main__":
    sys.exit(main())
