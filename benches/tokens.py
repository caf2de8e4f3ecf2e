#!/usr/bin/env python3
"""Pacing by tokens, where a provider counts them at admission in a way of its own.

Each case is a provider in this process, which shares nothing with Forebay, and a `forebay run` against it on a real
nats-server. It counts prompts by the kind of their text, so that estimates are off, and either the larger of prompt and
`max_tokens` or their sum. Prints refusals, and the tokens of the accepted calls as a share of what an oracle sends that knows
each count. Fails below 96 % or with a refusal after the warm-up.

    CASE="sum" SECONDS=210 AT_ONCE=1 benches/tokens.py
"""
from __future__ import annotations

import asyncio
import collections
import json
import math
import os
import platform
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from lies import respond, run_in_turns
from pacing import most_tokens

ROOT = Path(__file__).resolve().parent.parent
FOREBAY = os.environ.get("FOREBAY", str(ROOT / "target/release/forebay"))
SECONDS = float(os.environ.get("SECONDS", "210"))
AT_ONCE = int(os.environ.get("AT_ONCE", "2"))
CHOSEN = os.environ.get("CASE", "")
LIMIT, PERIOD = 240_000, 60.0
WARM_UP = 60.0
LEAST_SHARE = 0.96

ENGLISH = "the limit of an account is what it may ask for in a minute and no more than that".split()
CODE = ["fn", "let", "mut", "self.returns", "=>", "{", "}", "();", "match", "x_1", "+=", "Vec::new()", "&now", "[0..8]"]
CHINESE = "请求 限制 每分钟 账户 令牌 等待 重试 模型 回答 问题 批量 任务".split()
TOOLS = ['{"type":"function"', '"parameters":{}', '"name":"get_weather"', '"required":["city"]', '"enum":["a","b"]}']
# The words of a kind of text, and its tokens in a byte.
KINDS = {"english": (ENGLISH, 1 / 4.4), "code": (CODE, 1 / 3.2), "chinese": (CHINESE, 1 / 4.2), "tools": (TOOLS, 1 / 3.6)}


@dataclass
class Case:
    """A way of counting at admission, and what the jobs and the answers state."""

    counting: str
    max_tokens: int | None
    states_limits: bool

    @property
    def name(self) -> str:
        most = f"max_tokens {self.max_tokens}" if self.max_tokens else "no max_tokens"
        return f"{self.counting}, {most}, {'headers' if self.states_limits else 'no headers'}"

    def count(self, body: dict) -> int:
        """Returns the tokens that a request counts for at its admission."""
        kind, text = body["messages"][0]["content"].split(" ", 1)
        prompt = math.ceil(len(text.encode()) * KINDS[kind][1]) + 8
        most = body.get("max_tokens", 0)
        return max(prompt, most) if self.counting == "larger" else prompt + most


@dataclass
class Provider:
    """An account with a limit on tokens in any trailing period."""

    case: Case
    window: collections.deque = field(default_factory=collections.deque)
    used: int = 0
    started: float | None = None
    # The time, the tokens and whether it was accepted, of each call.
    calls: list[tuple[float, int, bool]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
                length = next((int(line.split(":")[1]) for line in head if line.startswith("content-length:")), 0)
                data = await reader.readexactly(length)
                if head[0].startswith("post"):
                    await self.answer(writer, json.loads(data))
                else:
                    await respond(writer, 200, {}, {"object": "list", "data": []})
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, writer: asyncio.StreamWriter, body: dict) -> None:
        now = time.monotonic()
        self.started = self.started or now
        while self.window and self.window[0][0] <= now - PERIOD:
            self.used -= self.window.popleft()[1]
        tokens = self.case.count(body)
        accepted = self.used + tokens <= LIMIT
        self.calls.append((now - self.started, tokens, accepted))
        used = self.used
        if accepted:
            self.window.append((now, tokens))
            self.used += tokens
        headers = {}
        if self.case.states_limits:
            headers = {
                "x-ratelimit-limit-tokens": str(LIMIT),
                "x-ratelimit-remaining-tokens": str(LIMIT - self.used),
                "x-ratelimit-reset-tokens": f"{self.used / LIMIT * PERIOD:.3f}s",
            }
        if not accepted:
            wait = PERIOD - (now - self.window[0][0]) if self.window else 0.1
            message = f"Rate limit reached on tokens per min (TPM): Limit {LIMIT}, Used {used}, Requested {tokens}."
            headers["retry-after"] = str(math.ceil(wait))
            error = {"message": message, "type": "tokens", "code": "rate_limit_exceeded"}
            return await respond(writer, 429, headers, {"error": error})
        await asyncio.sleep(0.2)
        prompt = tokens if "max_tokens" not in body else self.case.count({**body, "max_tokens": 0})
        usage = {"prompt_tokens": prompt, "completion_tokens": 20, "total_tokens": prompt + 20}
        message = {"role": "assistant", "content": "ok"}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        answer = {"id": "x", "object": "chat.completion", "model": "m", "choices": choices, "usage": usage}
        return await respond(writer, 200, headers, answer)


def prompt(index: int) -> str:
    choice = random.Random(index)
    kind = choice.choice(list(KINDS))
    words, rate = KINDS[kind]
    length = math.exp(choice.uniform(math.log(100), math.log(6_000))) / rate
    text = [str(index)]
    while sum(len(word.encode()) + 1 for word in text) < length:
        text += choice.choices(words, k=10)
    return f"{kind} {' '.join(text)}"


async def run(case: Case, prompts: list[str]) -> tuple[bool, str]:
    provider = Provider(case)
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    with tempfile.TemporaryDirectory() as home:
        Path(home, "forebay.toml").write_text(
            f'[account.one]\nprovider = "openai"\nbase_url = "{url}"\nkeys = [{{ env = "KEY" }}]\n'
            f'limits = [{{ tokens = {LIMIT}, per = "1m" }}]\n'
            '[pool.m]\ntargets = [{ account = "one", model = "m" }]\n'
        )
        with Path(home, "in.jsonl").open("w") as lines:
            for job, text in enumerate(prompts):
                body = {"model": "m", "messages": [{"role": "user", "content": text}]}
                if case.max_tokens:
                    body["max_tokens"] = case.max_tokens
                lines.write(json.dumps({"custom_id": str(job), "body": body}) + "\n")
        with Path(home, "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                FOREBAY, "run", "in.jsonl", "--output", "out.jsonl",
                cwd=home, env={**os.environ, "KEY": "sk-0123456789"}, stdout=log, stderr=log,
            )
            try:
                await asyncio.wait_for(process.wait(), SECONDS)
            except TimeoutError:
                process.terminate()
                await process.wait()
        if provider.started is None:
            return False, f"{case.name}: no call was made: {Path(home, 'log').read_text()[-300:]}"
    server.close()
    return judge(case, provider)


def judge(case: Case, provider: Provider) -> tuple[bool, str]:
    calls = [(at, tokens) for at, tokens, accepted in provider.calls if accepted and at >= WARM_UP]
    refused = sum(not accepted for at, _, accepted in provider.calls if at >= WARM_UP)
    # In the last period jobs may run out.
    until = calls[-1][0] - calls[0][0] - PERIOD
    sent = sum(tokens for at, tokens in calls if at - calls[0][0] <= until)
    share = sent / most_tokens([tokens for _, tokens in calls], LIMIT, PERIOD, until)
    is_right = refused == 0 and share >= LEAST_SHARE
    early = sum(not accepted for at, _, accepted in provider.calls if at < WARM_UP)
    return is_right, (
        f"{'right' if is_right else 'WRONG'}  {case.name:<44} {refused:3} refusals ({early} in the first {WARM_UP:g} s)"
        f"  {share:6.1%} of an oracle's tokens (at least {LEAST_SHARE:.0%})  {len(provider.calls)} calls"
    )


async def main() -> int:
    every = [
        Case(counting, most, states)
        for counting in ("larger", "sum")
        for most in (500, None)
        for states in (False, True)
    ]
    chosen = [case for case in every if any(part in case.name for part in CHOSEN.split("|"))]
    print(f"{platform.machine()}, {os.cpu_count()} cores; {SECONDS:g} s a case", flush=True)
    if SECONDS < WARM_UP + 2 * PERIOD:
        print(f"SECONDS must be {WARM_UP + 2 * PERIOD:g} at least: a warm-up and two periods", file=sys.stderr)
        return 2
    # Made before any provider runs: a provider that is kept busy reads calls long after they were sent.
    prompts = [prompt(job) for job in range(round(SECONDS * LIMIT / PERIOD / 800))]
    return await run_in_turns(chosen, lambda case: run(case, prompts), AT_ONCE)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
