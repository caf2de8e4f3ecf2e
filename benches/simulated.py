"""A simulated provider and what a benchmark says of its machine."""
from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOREBAY = os.environ.get("FOREBAY", str(ROOT / "target/release/forebay"))


def print_machine() -> None:
    processor = next((line.split(": ")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    print(f"{os.cpu_count()} cores, {processor}", flush=True)


@contextlib.contextmanager
def provider(work: Path, accounts: list[str], latency: str) -> Iterator[str]:
    """Runs a provider in `work` that keeps record.jsonl; yields its address in OpenAI's form."""
    given = [part for account in accounts for part in ("--account", account)]
    process = subprocess.Popen(
        [FOREBAY, "simulate", "--json", "--listen", "127.0.0.1:0", "--latency", latency, "--record", "record.jsonl", *given],
        cwd=work, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield json.loads(process.stdout.readline())["listening"]
    finally:
        process.terminate()
        process.wait()
