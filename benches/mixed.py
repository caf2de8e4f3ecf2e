#!/usr/bin/env python3
"""One pool over an OpenAI, an Anthropic and a Gemini account with different limits: JOBS= (1,000) jobs, each answered
once by its own answer; recounts the provider's record.

    benches/mixed.py
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from simulated import FOREBAY, ROOT, print_machine, provider

JOBS = int(os.environ.get("JOBS", "1000"))
#: provider, path of its address, model, calls in ten seconds, and its own limits on tokens: as the simulated account
#: enforces them, and as they are configured.
ACCOUNTS = [
    ("openai", "/v1", "gpt-4o-mini", 120, "tokens=200000/10s", "{ tokens = 200_000, per = \"10s\" }"),
    ("anthropic", "", "claude-haiku-4-5", 60, "input_tokens=50000/10s,output_tokens=80000/10s",
     "{ input_tokens = 50_000, per = \"10s\" }, { output_tokens = 80_000, per = \"10s\" }"),
    ("gemini", "/v1beta", "gemini-2.5-flash", 20, "tokens=100000/10s", "{ tokens = 100_000, per = \"10s\" }"),
]


def question(index: int) -> str:
    return f"question {index}"


def configure(work: Path, url: str) -> None:
    text = '[nats]\nlisten = "127.0.0.1:0"\n'
    for name, path, _, calls, _, tokens in ACCOUNTS:
        (work / f"{name}.key").write_text(f"sk-{name}")
        text += (f'[account.{name}]\nprovider = "{name}"\nbase_url = "{url}{path}"\nkeys = [{{ file = "{name}.key" }}]\n'
                 f'limits = [{{ requests = {calls}, per = "10s" }}, {tokens}]\n')
    targets = ", ".join(f'{{ account = "{name}", model = "{model}" }}' for name, _, model, *_ in ACCOUNTS)
    (work / "forebay.toml").write_text(text + f"[pool.chat]\ntargets = [{targets}]\n")


def check(work: Path) -> None:
    asked = [json.loads(line) for line in (work / "in.jsonl").open()]
    answers = [json.loads(line) for line in (work / "out.jsonl").open()]
    assert [one["custom_id"] for one in answers] == [one["custom_id"] for one in asked], "not each once, in order"
    for index, answer in enumerate(answers):
        body = answer["response"]["body"]
        assert body["object"] == "chat.completion", answer
        assert body["choices"][0]["message"]["content"] == f"You said: {question(index)}", answer
    print(f"{len(answers)} answers, each once, each its own, each in OpenAI's shape")


def main() -> int:
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        accounts = [f"provider={name},name={name},key=sk-{name},limit={calls}/10s,{tokens}"
                    for name, _, _, calls, tokens, _ in ACCOUNTS]
        with provider(work, accounts, "50ms..500ms") as url:
            url = url.removesuffix("/v1")
            configure(work, url)
            lines = (json.dumps({"custom_id": f"r-{index}", "method": "POST", "url": "/v1/chat/completions", "body":
                     {"max_tokens": 100, "messages": [{"role": "user", "content": question(index)}]}}) for index in range(JOBS))
            (work / "in.jsonl").write_text("\n".join(lines) + "\n")
            subprocess.run([FOREBAY, "run", "in.jsonl", "--output", "out.jsonl", "--pool", "chat"], cwd=work, check=True,
                           stderr=subprocess.DEVNULL)
            check(work)
        record = [json.loads(line) for line in (work / "record.jsonl").open()]
        times = [call["at"] for call in record]
        rate = sum(calls for _, _, _, calls, *_ in ACCOUNTS) / 10
        share = (len(record) - 1) / (max(times) - min(times)) / rate
        print(f"{len(record)} calls for {JOBS} jobs; {share:.2%} of the sum of the rates, {rate:.0f} a second")
        return subprocess.run([ROOT / "benches/recount.py", work / "record.jsonl",
                               *(f"{name}={calls}/10" for name, _, _, calls, *_ in ACCOUNTS)]).returncode


if __name__ == "__main__":
    sys.exit(main())
