#!/usr/bin/env python3
"""JOBS= (10,000) chats of which nine in ten repeat another one: calls made where each is called, where calls
are coalesced, and where answers are kept too. Each job's answer must be that of its own question.

    benches/caching.py
"""
from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from simulated import FOREBAY, print_machine, provider

JOBS = int(os.environ.get("JOBS", "10000"))
#: Calls a second.
RATE = 200


def run(name: str, cache: str, questions: list[int]) -> int:
    """Runs the questions; returns how many calls the provider had."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        with provider(work, [f"name=one,key=sk-one,limit={RATE}/1s"], "200ms..2s") as url:
            (work / "one.key").write_text("sk-one")
            (work / "forebay.toml").write_text(
                f'[nats]\nlisten = "127.0.0.1:0"\n[account.one]\nprovider = "openai"\nbase_url = "{url}"\n'
                f'keys = [{{ file = "one.key" }}]\nlimits = [{{ requests = {RATE}, per = "1s" }}]\n'
                f'[pool.chat]\ntargets = [{{ account = "one", model = "gpt-4o-mini" }}]\ncache = "{cache}"\n')
            lines = (json.dumps({"custom_id": str(index), "method": "POST", "url": "/v1/chat/completions", "body":
                     {"messages": [{"role": "user", "content": f"question {question}"}]}})
                     for index, question in enumerate(questions))
            (work / "in.jsonl").write_text("\n".join(lines) + "\n")
            started = time.monotonic()
            ended = subprocess.run([FOREBAY, "run", "in.jsonl", "--output", "out.jsonl", "--pool", "chat"], cwd=work,
                                   check=True, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
            took = time.monotonic() - started
        answers = [json.loads(line) for line in (work / "out.jsonl").open()]
        assert [one["custom_id"] for one in answers] == [str(index) for index in range(len(questions))]
        for answer, question in zip(answers, questions):
            said = answer["response"]["body"]["choices"][0]["message"]["content"]
            assert said == f"You said: question {question}", answer
        calls = sum(1 for _ in (work / "record.jsonl").open())
        print(f"{name}: {calls} calls for {len(questions)} jobs of {len(set(questions))} questions, {took:.1f} s; "
              f"{ended.stdout.splitlines()[-1]}", flush=True)
        return calls


def main() -> int:
    print_machine()
    questions = [index % (JOBS // 10) for index in range(JOBS)]
    random.Random(1).shuffle(questions)
    run("each called", "off", questions)
    run("calls coalesced", "coalesce", questions)
    kept = run("keeping answers too", "1h", questions)
    assert kept == len(set(questions)), "a question was asked twice"
    print("every answer is that of its own question")
    return 0


if __name__ == "__main__":
    sys.exit(main())
