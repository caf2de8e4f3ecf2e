#!/usr/bin/env python3
"""Who waits how long when many share an account: teams of equal weight, whatever their lanes, and the interactive lane.

Each case runs a simulated provider, a Forebay and `forebay results tail` on a nats-server of its own, and
reads the waits from the completions. Asserts nothing about time.

    benches/fairness.py
"""
from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOREBAY = os.environ.get("FOREBAY", str(ROOT / "target/release/forebay"))
BACKLOG = 100_000


class Broker:
    """A running Forebay, and what it has completed."""

    def __init__(self, work: Path, tail: subprocess.Popen) -> None:
        self.work, self.tail = work, tail

    def publish(self, team: str, lane: str, ids: list[str]) -> None:
        jobs = (json.dumps({"id": one, "body": {"messages": [{"role": "user", "content": one}]}}) for one in ids)
        subprocess.run([FOREBAY, "publish", "--pool", "m", "--team", team, "--lane", lane], cwd=self.work,
                       input="\n".join(jobs), text=True, check=True, stdout=subprocess.DEVNULL)

    def completions(self) -> Iterator[dict]:
        for line in self.tail.stdout:
            yield json.loads(line)


@contextlib.contextmanager
def broker(limit: str, per: str) -> Iterator[Broker]:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        work = Path(folder)

        def start(*arguments: str, errors: int = subprocess.DEVNULL) -> subprocess.Popen:
            process = subprocess.Popen([FOREBAY, *arguments], cwd=work, stdout=subprocess.PIPE, stderr=errors, text=True)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process

        provider = start("simulate", "--listen", "127.0.0.1:0", "--account", f"name=q,key=sk-q,limit={limit}/{per}")
        url = provider.stdout.readline().split()[-1]
        (work / "q.key").write_text("sk-q")
        (work / "forebay.toml").write_text(
            f'[nats]\nlisten = "127.0.0.1:0"\n[account.q]\nprovider = "openai"\nbase_url = "{url}"\n'
            f'keys = [{{ file = "q.key" }}]\nlimits = [{{ requests = {limit}, per = "{per}" }}]\n'
            '[pool.m]\ntargets = [{ account = "q", model = "m" }]\n')
        serving = start("serve", errors=subprocess.PIPE)
        next(line for line in serving.stderr if line.startswith("ready"))
        threading.Thread(target=serving.stderr.read, daemon=True).start()
        yield Broker(work, start("results", "tail", "--all"))


def started(completion: dict) -> float:
    text = completion["attempts"][-1]["started_at"].replace("Z", "+00:00")
    return datetime.datetime.fromisoformat(text[:26] + text[-6:] if "." in text else text).timestamp()


def teams() -> str:
    """One team with a backlog, then nine with 100 jobs each."""
    limit, per = 1_000, 10
    with broker(str(limit), f"{per}s") as running:
        running.publish("crowd", "normal", [f"crowd-{index}" for index in range(BACKLOG)])
        for team in range(9):
            running.publish(f"few-{team}", "normal", [f"{team}-{index}" for index in range(100)])
        first, last, left = None, 0.0, 900
        for completion in running.completions():
            if completion["team"] == "crowd":
                continue
            at = started(completion)
            first, last, left = min(first or at, at), max(last, at), left - 1
            if left == 0:
                break
    fair = 10 * 100 * per / limit
    return (f"| a team with {BACKLOG:,} jobs, nine with 100 each | the nine took {last - first:.1f} s, "
            f"{(last - first) / fair:.2f} of an even share |")


def urgent() -> str:
    """Interactive jobs, one by one, while bulk jobs wait."""
    limit, per = 100, 10
    waits = []
    with broker(str(limit), f"{per}s") as running:
        running.publish("crowd", "bulk", [f"bulk-{index}" for index in range(BACKLOG)])
        completions = running.completions()
        for index in range(100):
            running.publish("people", "interactive", [f"now-{index}"])
            waits.append(next(one["queued_ms"] for one in completions if one["team"] == "people"))
    waits.sort()
    interval = 1000 * per / limit
    return (f"| an interactive job among {BACKLOG:,} bulk jobs | median {statistics.median(waits):.0f} ms, "
            f"p99 {waits[98]:.0f} ms; a permit every {interval:.0f} ms |")


def lanes() -> str:
    """A team whose jobs are all interactive, beside one with normal jobs."""
    limit, per = 400, 10
    with broker(str(limit), f"{per}s") as running:
        running.publish("evil", "interactive", [f"urgent-{index}" for index in range(3_000)])
        running.publish("good", "normal", [f"usual-{index}" for index in range(1_000)])
        waiting = itertools.dropwhile(lambda completion: completion["team"] != "good", running.completions())
        called = [completion["team"] for completion in itertools.islice(waiting, 1_000)]
    good = called.count("good") / len(called)
    return f"| a team with 3,000 interactive jobs, one with 1,000 normal ones | the second has {good:.2f} of the calls |"


def main() -> None:
    processor = next((line.split(": ")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    print(f"{os.cpu_count()} cores, {processor}\n\n| case | waits |\n|---|---|", flush=True)
    for case in (teams, lanes, urgent):
        print(case(), flush=True)


if __name__ == "__main__":
    main()
