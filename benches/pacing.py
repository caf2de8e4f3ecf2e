#!/usr/bin/env python3
"""Pacing on real sockets and a real nats-server, case by case.

Each case starts a simulated provider that enforces its limits to the letter and a Forebay of its own,
runs a batch, and recounts the provider's record (recount.py). Periods are a SCALE-th of a minute, with
the limits scaled alike; CASE chooses cases by a part of their names. Asserts nothing about time.

    SCALE=6 CASE=named benches/pacing.py
"""
from __future__ import annotations

import concurrent.futures
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from recount import highest_in_any_period

ROOT = Path(__file__).resolve().parent.parent
FOREBAY = os.environ.get("FOREBAY", str(ROOT / "target/release/forebay"))
SCALE = float(os.environ.get("SCALE", "6"))
CHOSEN = os.environ.get("CASE", "")


@dataclass
class Account:
    """An account: calls per period, as the provider enforces them and as they are configured."""

    name: str
    limits: list[tuple[int, float]]
    counting: str = "sliding"
    configured: str | None = None


@dataclass
class Case:
    """A case: what runs against what. `oracle` is the least time in seconds, if one is known."""

    name: str
    accounts: list[Account]
    jobs: int
    latency: str = "50ms"
    oracle: float | None = None
    results: list[str] = field(default_factory=list)


def per_minute(limit: int) -> tuple[int, float]:
    """A limit of a minute, scaled: the same rate over a shorter period."""
    return max(1, round(limit / SCALE)), 60 / SCALE


def cases() -> list[Case]:
    found = []
    for counting in ("sliding", "fixed", "bucket"):
        trio = [Account(f"q{index}", [per_minute(limit)], counting) for index, limit in enumerate((600, 600, 300))]
        work = round(25 * 300 / SCALE)
        found.append(Case(f"three accounts, 50 ms calls, {counting}", trio, work))
        found.append(Case(f"three accounts, 1 to 8 s calls, {counting}", trio, work, "1s..8s"))
    found.append(Case("one account of 60 a minute", [Account("q", [per_minute(60)])], round(5 * 60 / SCALE)))
    limit, period = per_minute(600)
    for counting in ("sliding", "fixed", "bucket"):
        jobs = round(2000 / SCALE)
        bursts = (jobs - 1) // limit * period
        oracle = (jobs - limit) * period / limit if counting == "bucket" else bursts
        account = Account("q", [(limit, period)], counting, configured=counting)
        found.append(Case(f"named algorithm, {counting}", [account], jobs, oracle=oracle))
    short, day = per_minute(15), (200, 60 / SCALE * 20)
    both = Account("q", [(max(2, short[0]), short[1]), day])
    found.append(Case("15 a minute and 200 a day, both", [both], 30))
    many = [Account(f"q{index}", [per_minute(100)]) for index in range(40)]
    found.append(Case("40 accounts of 100 a minute, one pool", many, round(40 * 100 * 3 / SCALE)))
    return [case for case in found if CHOSEN in case.name]


def configuration(case: Case, url: str) -> str:
    text = '[nats]\nlisten = "127.0.0.1:0"\n'
    for account in case.accounts:
        text += f'[quota.{account.name}]\nprovider = "openai"\nbase_url = "{url}"\n'
        text += f'keys = [{{ file = "{account.name}.key" }}]\n'
        if account.configured:
            text += f'algorithm = "{account.configured}"\n'
        limits = ", ".join(f'{{ requests = {limit}, per = "{period * 1000:.0f}ms" }}' for limit, period in account.limits)
        text += f"limits = [{limits}]\n"
    targets = ", ".join(f'{{ quota = "{account.name}", model = "m" }}' for account in case.accounts)
    return text + f"[pool.m]\ntargets = [{targets}]\n"


def run(case: Case) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        arguments = []
        for account in case.accounts:
            (work / f"{account.name}.key").write_text(f"sk-{account.name}")
            limits = "".join(f",limit={limit}/{period * 1000:.0f}ms" for limit, period in account.limits)
            arguments += ["--account", f"name={account.name},key=sk-{account.name}{limits},algorithm={account.counting}"]
        provider = subprocess.Popen(
            [FOREBAY, "simulate", "--listen", "127.0.0.1:0", "--latency", case.latency, "--record", "record.jsonl", *arguments],
            cwd=work, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            url = provider.stdout.readline().split()[-1]
            (work / "forebay.toml").write_text(configuration(case, url))
            with open(work / "in.jsonl", "w", encoding="utf-8") as lines:
                for index in range(case.jobs):
                    body = {"model": "m", "messages": [{"role": "user", "content": str(index)}]}
                    lines.write(json.dumps({"custom_id": str(index), "body": body}) + "\n")
            done = subprocess.run([FOREBAY, "run", "in.jsonl", "--output", "out.jsonl"], cwd=work,
                                  capture_output=True, text=True, check=False)
            if done.returncode != 0:
                return [f"{case.name}: exit {done.returncode}: {done.stderr.strip()[-300:]}"]
        finally:
            provider.terminate()
            provider.wait()
        record = [json.loads(line) for line in (work / "record.jsonl").read_text().splitlines()]
    return [summary(case, record)]


def summary(case: Case, record: list[dict]) -> str:
    refusals = sum(call["status"] == 429 for call in record)
    shares, exceeded = [], 0
    for account in case.accounts:
        times = sorted(call["at"] for call in record if call["account"] == account.name)
        tightest = min(limit / period for limit, period in account.limits)
        if len(times) > 1 and times[-1] > times[0]:
            shares.append((len(times) - 1) / (times[-1] - times[0]) / tightest)
        if account.counting == "sliding":
            exceeded += sum(highest_in_any_period(times, period) > limit for limit, period in account.limits)
    times = sorted(call["at"] for call in record)
    took = times[-1] - times[0]
    if case.oracle is not None:
        reached = f"{took:7.2f} s, oracle {case.oracle:.2f} s, {took / case.oracle - 1:+.1%}"
    else:
        reached = f"{min(shares):.2%} .. {max(shares):.2%} of the allowed rate"
    return f"| {case.name} | {len(record)} | {refusals} | {exceeded} | {reached} |"


def main() -> int:
    processor = next((line.split(": ")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    print(f"{os.cpu_count()} cores, {processor}; periods of {60 / SCALE:g} s\n")
    print("| case | calls | refusals | windows exceeded | reached |\n|---|---|---|---|---|", flush=True)
    # Cases are bound by their limits, not by the processor: a few do not disturb each other.
    with concurrent.futures.ThreadPoolExecutor(max_workers=3) as pool:
        for lines in pool.map(run, cases()):
            print("\n".join(lines), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
