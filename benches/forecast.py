#!/usr/bin/env python3
"""The finish time that `forebay run --dry-run` tells beside the one that the same run then has, for several kinds of
limits; CASE= chooses one.

    benches/forecast.py
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from simulated import FOREBAY, print_machine, provider

CASES = os.environ.get("CASE", "").split()
WORDS = ("The forebay is the pool of water held just above the turbines: it takes in whatever arrives and lets through "
         "exactly what they can take. ").split()


def chats(count: int, words: int = 20, answer: int = 100) -> list[dict]:
    """Chats whose prompts have so many words and somewhat more, and whose answers have at most so many tokens."""
    def body(index: int) -> dict:
        text = " ".join(WORDS[(index + place) % len(WORDS)] for place in range(words + index % 7))
        return {"max_tokens": answer, "messages": [{"role": "user", "content": text}]}
    return [{"url": "/v1/chat/completions", "body": body(index)} for index in range(count)]


def embeddings(count: int) -> list[dict]:
    return [{"url": "/v1/embeddings", "body": {"input": f"text {index}"}} for index in range(count)]


#: name: jobs, the accounts' limits as they are configured and as they are enforced, the latency, the model.
GPT, EMBEDDING = "gpt-4o-mini", "text-embedding-3-small"
TABLE = {
    "requests": (chats(600), [("{ requests = 100, per = \"10s\" }", "limit=100/10s")], "50ms..500ms", GPT),
    "two accounts": (chats(600), [("{ requests = 100, per = \"10s\" }", "limit=100/10s"),
                                  ("{ requests = 40, per = \"10s\" }", "limit=40/10s")], "50ms..500ms", GPT),
    "tokens": (chats(600, words=200, answer=50), [("{ tokens = 30_000, per = \"10s\" }", "tokens=30000/10s")],
               "50ms..500ms", GPT),
    "two limits": (chats(300), [("{ requests = 20, per = \"1s\" }, { requests = 100, per = \"20s\" }",
                                 "limit=20/1s")], "50ms..500ms", GPT),
    "at once": (chats(240), [("{ concurrent = 8 }", "concurrent=8")], "2s", GPT),
    "merged": (embeddings(100_000), [("{ requests = 10, per = \"10s\" }", "limit=10/10s")], "200ms", EMBEDDING),
}


def measure(name: str) -> float:
    jobs, accounts, latency, model = TABLE[name]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        given = [f"name=a{index},key=sk-{index},{limits}" for index, (_, limits) in enumerate(accounts)]
        with provider(work, given, latency) as url:
            text = '[nats]\nlisten = "127.0.0.1:0"\n'
            for index, (limits, _) in enumerate(accounts):
                (work / f"{index}.key").write_text(f"sk-{index}")
                text += (f'[account.a{index}]\nprovider = "openai"\nbase_url = "{url}"\nkeys = [{{ file = "{index}.key" }}]\n'
                         f'limits = [{limits}]\n')
            targets = ", ".join(f'{{ account = "a{index}", model = "{model}" }}' for index in range(len(accounts)))
            (work / "forebay.toml").write_text(text + f"[pool.work]\ntargets = [{targets}]\n")
            lines = (json.dumps({"custom_id": f"r-{index}", **job}) for index, job in enumerate(jobs))
            (work / "in.jsonl").write_text("\n".join(lines) + "\n")
            command = [FOREBAY, "run", "in.jsonl", "--pool", "work", "--json"]
            told = subprocess.run([*command, "--dry-run"], cwd=work, check=True, stdout=subprocess.PIPE, text=True)
            told = json.loads(told.stdout)
            started = time.monotonic()
            ran = subprocess.run([*command, "--output", "out.jsonl"], cwd=work, check=True, stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, text=True)
            took = time.monotonic() - started
            ran = json.loads(ran.stdout)
    ratio = told["seconds"] / took
    used, cost = ran["usage"], told["cost"]
    print(f"{name}: {told['seconds']:.1f} s told, {took:.1f} s taken: {ratio - 1:+.1%}; tokens in {told['input_tokens']} "
          f"told, {used['input_tokens']} used; cost {cost['prompts']} and at most {cost['answers_at_most']} USD told, "
          f"{ran['cost']['amount']} USD in all", flush=True)
    return ratio


def main() -> int:
    print_machine()
    ratios = [measure(name) for name in TABLE if not CASES or name in CASES]
    off = max(abs(ratio - 1) for ratio in ratios)
    print(f"off by {off:.1%} at most")
    return 0 if off <= 0.05 else 1


if __name__ == "__main__":
    sys.exit(main())
