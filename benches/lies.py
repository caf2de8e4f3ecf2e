#!/usr/bin/env python3
"""Pacing where the provider lies or changes: refusals and the share of the true rate, case by case.

Each case is a provider of its own in this process, which shares nothing with Forebay, and a `forebay run` against it on a
real nats-server. The first 30 seconds do not count. A case that changes in the middle is judged two periods later. Fails
if a case has more refusals or a smaller share than it may.

    SECONDS=150 AT_ONCE=4 CASE="halved|calm" benches/lies.py
"""
from __future__ import annotations

import asyncio
import collections
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOREBAY = os.environ.get("FOREBAY", str(ROOT / "target/release/forebay"))
SECONDS = float(os.environ.get("SECONDS", "150"))
AT_ONCE = int(os.environ.get("AT_ONCE", "4"))
CHOSEN = os.environ.get("CASE", "")
# Seconds that do not count.
WARM_UP = 30.0
LATENCY = 0.05
ANSWER = {
    "id": "x", "object": "chat.completion", "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
}


class Limit:
    """A limit of `calls` per `period` seconds, counted in one of three ways."""

    def __init__(self, calls: float, period: float, counting: str = "sliding", offset: float = 0, counts_refused: bool = False):
        self.calls, self.period, self.counting = calls, period, counting
        self.offset, self.counts_refused = offset, counts_refused
        self.taken: collections.deque[float] = collections.deque()
        self.level, self.at = calls, time.monotonic()
        self.window = -1

    def resize(self, factor: float) -> None:
        self.calls *= factor
        self.level = min(self.level, self.calls)

    def remaining(self, now: float) -> float:
        if self.counting == "bucket":
            self.level = min(self.calls, self.level + (now - self.at) * self.calls / self.period)
            self.at = now
            return self.level
        if self.counting == "fixed":
            window = int((now + self.offset) / self.period)
            if window != self.window:
                self.window = window
                self.taken.clear()
        while self.taken and self.counting == "sliding" and self.taken[0] <= now - self.period:
            self.taken.popleft()
        return self.calls - len(self.taken)

    def take(self, now: float) -> None:
        self.level -= 1
        self.taken.append(now)

    def returns_in(self, now: float) -> float:
        if self.counting == "bucket":
            return max(0.0, (1 - self.level) * self.period / self.calls)
        if self.counting == "fixed":
            return self.period - (now + self.offset) % self.period
        # After the limit was lowered, more than one call has to leave the period.
        leaving = max(0, math.floor(len(self.taken) - self.calls))
        return max(0.0, self.taken[leaving] + self.period - now) if self.taken else 0.0


Headers = Callable[["Provider", float], dict[str, str]]


def silent(_: Provider, __: float) -> dict[str, str]:
    return {}


@dataclass
class Case:
    """A provider and what is configured for it. `changes` are factors of the limits, by second."""

    name: str
    limits: Callable[[], list[Limit]]
    # The most refusals in 1,000 calls, and the least share of the true rate.
    most_refusals: float
    least_share: float
    configured: str = ""
    headers: Headers = silent
    retry_after: str | None = "seconds"
    changes: dict[float, float] = field(default_factory=dict)
    # Calls of another client: so many at once, every so many seconds. It tries again until they are accepted.
    other_client: tuple[int, float] | None = None

    def counted_from(self) -> float:
        period = max(limit.period for limit in self.limits())
        return max([WARM_UP, *(second + 2 * period for second in self.changes)])


class Provider:
    """The provider of one case."""

    def __init__(self, case: Case):
        self.case, self.limits = case, case.limits()
        self.started: float | None = None
        self.calls: list[tuple[float, bool]] = []
        self.of_others: list[float] = []
        # The true rate in calls a second since each time.
        self.rates: list[tuple[float, float]] = [(0.0, self.rate())]

    def rate(self) -> float:
        return min(limit.calls / limit.period for limit in self.limits)

    def admit(self, now: float) -> bool:
        has_room = all(limit.remaining(now) >= 1 for limit in self.limits)
        for limit in self.limits:
            if has_room or limit.counts_refused:
                limit.take(now)
        return has_room

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.decode("latin-1").lower().split("\r\n")
                length = next((int(line.split(":")[1]) for line in lines if line.startswith("content-length:")), 0)
                await reader.readexactly(length)
                if lines[0].startswith("post"):
                    await self.answer(writer)
                else:
                    await respond(writer, 200, {}, {"object": "list", "data": []})
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, writer: asyncio.StreamWriter) -> None:
        now = time.monotonic()
        if self.started is None:
            self.started = now
            asyncio.create_task(self.change())
        accepted = self.admit(now)
        self.calls.append((now - self.started, accepted))
        headers = self.case.headers(self, now)
        if accepted:
            await asyncio.sleep(LATENCY)
            return await respond(writer, 200, headers, ANSWER)
        if self.case.retry_after == "seconds":
            wait = max(limit.returns_in(now) for limit in self.limits)
            headers["retry-after"] = str(max(1, round(wait + 0.5)))
        elif self.case.retry_after is not None:
            headers["retry-after"] = self.case.retry_after
        error = {"error": {"message": "Too many requests.", "type": "requests", "code": "rate_limit_exceeded"}}
        return await respond(writer, 429, headers, error)

    async def change(self) -> None:
        """Changes the limits, and makes the calls of the other client."""
        changes = sorted(self.case.changes.items())
        next_burst, wanted = 0.0, 0
        while True:
            await asyncio.sleep(0.02)
            elapsed = time.monotonic() - self.started
            while changes and changes[0][0] <= elapsed:
                _, factor = changes.pop(0)
                for limit in self.limits:
                    limit.resize(factor)
                self.rates.append((elapsed, self.rate()))
            if self.case.other_client and elapsed >= next_burst:
                burst, every = self.case.other_client
                wanted += burst
                next_burst += every
            while wanted and self.admit(time.monotonic()):
                self.of_others.append(elapsed)
                wanted -= 1

    def possible(self, since: float, until: float) -> float:
        """Returns the calls that the limits allow Forebay in a time."""
        ends = [start for start, _ in self.rates[1:]] + [until]
        allowed = sum(rate * max(0.0, min(end, until) - max(start, since)) for (start, rate), end in zip(self.rates, ends))
        return allowed - sum(since <= at < until for at in self.of_others)


async def respond(writer: asyncio.StreamWriter, status: int, headers: dict[str, str], body: dict) -> None:
    data = json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} X", "content-type: application/json", f"content-length: {len(data)}"]
    head += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + data)
    await writer.drain()


def told(limit: float, remaining: float, reset: float) -> dict[str, str]:
    return {
        "x-ratelimit-limit-requests": str(round(limit)),
        "x-ratelimit-remaining-requests": str(max(0, round(remaining))),
        "x-ratelimit-reset-requests": f"{max(0.001, reset):.3f}s",
    }


def true_headers(provider: Provider, now: float) -> dict[str, str]:
    limit = provider.limits[0]
    remaining = limit.remaining(now)
    return told(limit.calls, remaining, (limit.calls - remaining) * limit.period / limit.calls)


def scaled_headers(factor: float) -> Headers:
    """Headers of a limit that is `factor` of the true one."""

    def headers(provider: Provider, now: float) -> dict[str, str]:
        limit = provider.limits[0]
        used = limit.calls - limit.remaining(now)
        stated = limit.calls * factor
        return told(stated, stated - used, used * limit.period / stated)

    return headers


def bucket_of_a_second(provider: Provider, now: float) -> dict[str, str]:
    """A limit of a minute, and what is left of a bucket that holds a second's worth."""
    limit = provider.limits[0]
    return told(limit.calls * 60 / limit.period, limit.remaining(now), 0.05)


def stale_headers() -> Headers:
    """What was true up to ten seconds ago."""
    last: list = [-10.0, {}]

    def headers(provider: Provider, now: float) -> dict[str, str]:
        if now - last[0] >= 10:
            last[:] = [now, true_headers(provider, now)]
        return dict(last[1])

    return headers


def absent_after(seconds: float) -> Headers:
    def headers(provider: Provider, now: float) -> dict[str, str]:
        return true_headers(provider, now) if now - (provider.started or now) < seconds else {}

    return headers


def cases() -> list[Case]:
    ten = '{ requests = 10, per = "1s" }'
    ten_seconds = '{ requests = 100, per = "10s" }'
    minute = '{ requests = 600, per = "1m" }'
    sliding = lambda calls, period: lambda: [Limit(calls, period)]  # noqa: E731
    bucket = lambda calls, period: lambda: [Limit(calls, period, "bucket")]  # noqa: E731
    return [
        Case("calm, configured", sliding(10, 1), 3, 0.95, ten),
        Case("calm, true headers", bucket(600, 60), 3, 0.95, headers=true_headers),
        Case("headers: a minute's limit, a second's bucket", bucket(20, 1), 3, 0.95, headers=bucket_of_a_second, retry_after="0"),
        Case("headers too high by half", bucket(600, 60), 3, 0.95, headers=scaled_headers(1.5)),
        Case("headers too low by a third", bucket(600, 60), 3, 0.95, headers=scaled_headers(0.67)),
        Case("headers stale by ten seconds", bucket(600, 60), 3, 0.95, headers=stale_headers()),
        Case("headers absent after 20 s", bucket(600, 60), 3, 0.95, headers=absent_after(20)),
        Case("halved and doubled, a minute's limit", sliding(100, 10), 3, 0.9, ten_seconds, changes={40: 0.5, 90: 2}),
        Case("halved and doubled, a second's limit", sliding(20, 1), 3, 0.9, '{ requests = 20, per = "1s" }', changes={40: 0.5, 90: 2}),
        Case("another client takes 30 % in bursts", sliding(100, 10), 10, 0.85, ten_seconds, other_client=(15, 5)),
        Case("refused calls count", lambda: [Limit(8, 1, counts_refused=True)], 5, 0.9, ten),
        Case("a minute's limit by the second", sliding(10, 1), 5, 0.9, minute),
        Case("a minute's limit by ten seconds", lambda: [Limit(100, 10, "fixed")], 5, 0.9, minute),
        Case("fixed windows, clock off by 3.3 s", lambda: [Limit(50, 5, "fixed", 3.3)], 3, 0.95),
        Case("429 without a word", bucket(10, 1), 5, 0.9, retry_after=None),
        Case("Retry-After: 0 for ever, configured twice as high", sliding(10, 1), 3, 0.9, '{ requests = 20, per = "1s" }', retry_after="0"),
    ]


async def run(case: Case) -> tuple[bool, str]:
    """Runs a case. Returns whether it did what is required, and its line."""
    provider = Provider(case)
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    with tempfile.TemporaryDirectory() as home:
        limits = f"limits = [{case.configured}]\n" if case.configured else ""
        Path(home, "forebay.toml").write_text(
            f'[account.one]\nprovider = "openai"\nbase_url = "{url}"\nkeys = [{{ env = "KEY" }}]\n{limits}'
            '[pool.m]\ntargets = [{ account = "one", model = "m" }]\n'
        )
        jobs = round(provider.rate() * 2 * SECONDS * 1.5)
        with Path(home, "in.jsonl").open("w") as lines:
            for job in range(jobs):
                body = {"model": "m", "messages": [{"role": "user", "content": f"hello {job}"}], "max_tokens": 8}
                lines.write(json.dumps({"custom_id": str(job), "body": body}) + "\n")
        with Path(home, "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                FOREBAY, "run", "in.jsonl", "--output", "out.jsonl",
                cwd=home, env={**os.environ, "KEY": "sk-0123456789"}, stdout=log, stderr=log,
            )
            while provider.started is None and process.returncode is None:
                await asyncio.sleep(0.1)
            await asyncio.sleep(SECONDS)
            if process.returncode is None:
                process.terminate()
            await process.wait()
        if provider.started is None:
            return False, f"{case.name}: no call was made: {Path(home, 'log').read_text()[-300:]}"
    server.close()
    return judge(case, provider)


def judge(case: Case, provider: Provider) -> tuple[bool, str]:
    since, until = case.counted_from(), SECONDS
    # Between two changes each one's first two periods do not count.
    spans = [(WARM_UP, until)]
    period = max(limit.period for limit in case.limits())
    for second in sorted(case.changes):
        last, end = spans.pop()
        spans += [(last, second), (second + 2 * period, end)]
    in_span = lambda at: any(start <= at < end for start, end in spans)  # noqa: E731
    counted = [accepted for at, accepted in provider.calls if in_span(at)]
    refused = counted.count(False)
    per_thousand = 1000 * refused / max(1, len(counted))
    share = counted.count(True) / max(1.0, sum(provider.possible(start, end) for start, end in spans))
    is_right = per_thousand <= case.most_refusals and share >= case.least_share
    line = (
        f"{'right' if is_right else 'WRONG'}  {case.name:<52} {per_thousand:6.1f} refusals in 1,000 (at most {case.most_refusals:g})"
        f"  {share:6.1%} of the true rate (at least {case.least_share:.0%})  {len(counted)} calls"
    )
    return is_right and since < until, line


async def main() -> int:
    chosen = [case for case in cases() if any(part in case.name for part in CHOSEN.split("|"))]
    print(f"{platform.machine()}, {os.cpu_count()} cores; {SECONDS:g} s a case, {AT_ONCE} at once", flush=True)
    return await run_in_turns(chosen, run, AT_ONCE)


async def run_in_turns(cases: list, run: Callable, at_once: int) -> int:
    """Runs cases, so many at once, and prints their lines. Returns the exit code."""
    turns = asyncio.Semaphore(at_once)

    async def in_turn(case) -> bool:
        async with turns:
            is_right, line = await run(case)
        print(line, flush=True)
        return is_right

    results = await asyncio.gather(*map(in_turn, cases))
    print(f"{sum(results)} of {len(results)} cases are right")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
