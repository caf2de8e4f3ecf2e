#!/usr/bin/env python3
"""Pacing on real sockets and a real nats-server, case by case.

Each case starts a simulated provider that enforces its limits to the letter and a Forebay of its own,
runs a batch, and recounts the provider's record (recount.py). Periods are a SCALE-th of a minute, with
the limits scaled alike, except where limits are to be found out; CASE chooses cases by a part of their names. Asserts nothing about time.

    SCALE=6 CASE=named benches/pacing.py
"""
from __future__ import annotations

import collections
import concurrent.futures
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
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
    # What its answers tell of its limits; None if they are configured.
    unknown: str | None = None
    tokens: tuple[int, float] | None = None


@dataclass
class Case:
    """A case: what runs against what. `oracle` is the least time in seconds, if one is known."""

    name: str
    accounts: list[Account]
    jobs: int
    latency: str = "50ms"
    oracle: float | None = None
    # Seconds that do not count.
    warm_up: float = 0
    # Prompt lengths in tokens.
    prompts: tuple[int, int] | None = None


def per_minute(limit: int) -> tuple[int, float]:
    """A limit of a minute, scaled: the same rate over a shorter period."""
    return max(1, round(limit / SCALE)), 60 / SCALE


def cases() -> list[Case]:
    found = []
    for counting in ("sliding", "fixed", "bucket"):
        trio = [Account(f"q{index}", [per_minute(limit)], counting) for index, limit in enumerate((600, 600, 300))]
        work = round(25 * 300 / SCALE)
        found.append(Case(f"three accounts, 50 ms calls, {counting}", trio, work))
        found.append(Case(f"three accounts, calls log-normal around 3 s, {counting}", trio, work, "1s..9s"))
    found.append(Case("one account of 60 a minute", [Account("q", [per_minute(60)])], round(5 * 60 / SCALE)))
    limit, period = per_minute(600)
    for counting in ("sliding", "fixed", "bucket"):
        jobs = round(2000 / SCALE)
        bursts = (jobs - 1) // limit * period
        oracle = (jobs - limit) * period / limit if counting == "bucket" else bursts
        account = Account("q", [(limit, period)], counting, configured=counting)
        found.append(Case(f"named algorithm, {counting}", [account], jobs, oracle=oracle))
    # The day is twenty minutes long, so that its count is spent before it ends.
    both = [per_minute(15), (round(200 / SCALE), 20 * period)]
    jobs = round(260 / SCALE)
    found.append(Case("15 a minute and 200 a day, both", [Account("q", both)], jobs, oracle=greedy_time(both, jobs)))
    # A minute is part of what is learned, so these are not scaled.
    for headers, minutes in (("limits", 1), ("waits", 2), ("none", 2)):
        for counting in ("sliding", "fixed", "bucket"):
            account = Account("q", [(600, 60)], counting, unknown=headers)
            found.append(Case(f"limits unknown, headers={headers}, {counting}", [account], 600 * (minutes + 3), warm_up=60 * minutes))
    # The prompts are not scaled: each takes a larger part of its period than of a minute.
    account = Account("q", [], tokens=per_minute(200_000))
    found.append(Case("tokens: 200,000 a minute, prompts of 100 to 8,000", [account], round(1800 / SCALE), prompts=(100, 8_000)))
    many = [Account(f"q{index}", [per_minute(100)]) for index in range(40)]
    found.append(Case("40 accounts of 100 a minute, one pool", many, round(40 * 100 * 3 / SCALE)))
    return [case for case in found if CHOSEN in case.name]


def greedy_time(limits: list[tuple[int, float]], jobs: int) -> float:
    """Seconds from the first to the last of calls that all go as soon as every trailing window permits."""
    times: list[float] = []
    for job in range(jobs):
        freed = [times[job - limit] + period for limit, period in limits if job >= limit]
        times.append(max([times[-1] if times else 0.0, *freed]))
    return times[-1]


def configuration(case: Case, url: str) -> str:
    text = '[nats]\nlisten = "127.0.0.1:0"\n'
    for account in case.accounts:
        text += f'[account.{account.name}]\nprovider = "openai"\nbase_url = "{url}"\n'
        text += f'keys = [{{ file = "{account.name}.key" }}]\n'
        if account.configured:
            text += f'algorithm = "{account.configured}"\n'
        if account.unknown:
            continue
        limits = ", ".join(f'{{ requests = {limit}, per = "{period * 1000:.0f}ms" }}' for limit, period in account.limits)
        if account.tokens:
            limits = f"{{ tokens = {account.tokens[0]}, per = \"{account.tokens[1] * 1000:.0f}ms\" }}"
        text += f"limits = [{limits}]\n"
    targets = ", ".join(f'{{ account = "{account.name}", model = "m" }}' for account in case.accounts)
    return text + f"[pool.m]\ntargets = [{targets}]\n"


def run(case: Case) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        arguments = []
        for account in case.accounts:
            (work / f"{account.name}.key").write_text(f"sk-{account.name}")
            tokens = f",tokens={account.tokens[0]}/{account.tokens[1] * 1000:.0f}ms" if account.tokens else ""
            limits = tokens + "".join(f",limit={limit}/{period * 1000:.0f}ms" for limit, period in account.limits)
            arguments += ["--account", f"name={account.name},key=sk-{account.name}{limits},algorithm={account.counting},headers={account.unknown or 'limits'}"]
        provider = subprocess.Popen(
            [FOREBAY, "simulate", "--listen", "127.0.0.1:0", "--latency", case.latency, "--record", "record.jsonl", *arguments],
            cwd=work, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            url = provider.stdout.readline().split()[-1]
            (work / "forebay.toml").write_text(configuration(case, url))
            with open(work / "in.jsonl", "w", encoding="utf-8") as lines:
                for index in range(case.jobs):
                    body = {"model": "m", "messages": [{"role": "user", "content": prompt(case, index)}]}
                    if case.prompts:
                        body["max_tokens"] = 500
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


WORDS = "the limit of an account is what it may ask for in a minute and no more than that".split()


def prompt(case: Case, index: int) -> str:
    if not case.prompts:
        return str(index)
    choice = random.Random(index)
    least, most = case.prompts
    length = 4 * math.exp(choice.uniform(math.log(least), math.log(most)))
    words = [str(index)]
    while sum(map(len, words)) + len(words) < length:
        words += choice.choices(WORDS, k=10)
    return " ".join(words)


def most_tokens(tokens: list[int], limit: int, period: float, until: float) -> int:
    """Tokens of the calls in this order that a trailing window permits within so many seconds."""
    now, window, used, sent = 0.0, collections.deque(), 0, 0
    for share in tokens:
        while used + share > limit:
            now, returned = window[0][0] + period, window.popleft()[1]
            used -= returned
        if now > until:
            break
        window.append((now, share))
        used += share
        sent += share
    return sent


def summary(case: Case, record: list[dict]) -> str:
    refusals = sum(call["status"] == 429 for call in record)
    shares, exceeded = [], 0
    for account in case.accounts:
        of_account = [call for call in record if call["account"] == account.name]
        begin = min((call["at"] for call in of_account), default=0) + case.warm_up
        times = sorted(call["at"] for call in of_account if call["status"] == 200 and call["at"] >= begin)
        if account.tokens:
            # Calls go when a window lets them, so that time comes in periods; and in the last one jobs run out.
            of_account.sort(key=lambda call: call["at"])
            until = times[-1] - times[0] - account.tokens[1]
            sent = sum(call["tokens"] for call in of_account if call["at"] - times[0] <= until)
            shares.append(sent / most_tokens([call["tokens"] for call in of_account], *account.tokens, until))
            continue
        tightest = min(limit / period for limit, period in account.limits)
        if len(times) > 1 and times[-1] > times[0]:
            shares.append((len(times) - 1) / (times[-1] - times[0]) / tightest)
        if account.counting == "sliding" and not account.unknown:
            exceeded += sum(highest_in_any_period(times, period) > limit for limit, period in account.limits)
    times = sorted(call["at"] for call in record)
    took = times[-1] - times[0]
    if case.oracle is not None:
        reached = f"{took:7.2f} s, oracle {case.oracle:.2f} s, {took / case.oracle - 1:+.1%}"
    else:
        of = "an oracle's rate" if case.prompts else "the allowed rate"
        reached = f"{min(shares):.2%} .. {max(shares):.2%} of {of}"
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
