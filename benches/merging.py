#!/usr/bin/env python3
"""JOBS= (10,000) embedding jobs of real texts (docstrings of Python's library) at 60 requests a second, which is 60 a
minute at SCALE 60: each in a call of its own, merged, and merged with 1 % of texts that the provider refuses. Compares
every vector with that of the lone call.

    benches/merging.py
"""
from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from pathlib import Path

from simulated import FOREBAY, print_machine, provider

JOBS = int(os.environ.get("JOBS", "10000"))
MODEL = "text-embedding-3-small"
#: Calls a second.
RATE = 60


def docstrings(path: Path) -> list[str]:
    """Every docstring of a source file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return [text.strip() for text in found if text and text.strip()]


def texts(count: int) -> list[str]:
    """So many different texts, in the order of their files."""
    known: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        for text in docstrings(path):
            known.setdefault(text)
        if len(known) >= count:
            return list(known)[:count]
    sys.exit(f"Python's library has {len(known)} texts, {count} are wanted: set JOBS=")


def run(name: str, asked: list[str], merge: bool) -> dict[str, list[float] | str]:
    """Embeds the texts; returns each one's vector, or that it failed."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        with provider(work, [f"name=one,key=sk-one,limit={RATE}/1s"], "50ms") as url:
            (work / "one.key").write_text("sk-one")
            (work / "forebay.toml").write_text(
                f'[nats]\nlisten = "127.0.0.1:0"\n[account.one]\nprovider = "openai"\nbase_url = "{url}"\n'
                f'keys = [{{ file = "one.key" }}]\nlimits = [{{ requests = {RATE}, per = "1s" }}]\n'
                f'[pool.{MODEL}]\ntargets = [{{ account = "one", model = "{MODEL}" }}]\nmerge = {str(merge).lower()}\n')
            lines = (json.dumps({"custom_id": str(index), "method": "POST", "url": "/v1/embeddings",
                                 "body": {"model": MODEL, "input": text}}) for index, text in enumerate(asked))
            (work / "in.jsonl").write_text("\n".join(lines) + "\n")
            started = time.monotonic()
            ended = subprocess.run([FOREBAY, "run", "in.jsonl", "--output", "out.jsonl"], cwd=work,
                                   stderr=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
            took = time.monotonic() - started
            assert ended.returncode in (0, 1), ended
        record = [json.loads(line) for line in (work / "record.jsonl").open()]
        refusals = sum(call["status"] == 429 for call in record)
        calls = len(record)
        print(f"{name}: {calls} calls for {len(asked)} texts, {refusals} of them refused by a limit, {took:.1f} s",
              flush=True)
        print(f"  {ended.stdout.splitlines()[-1]}", flush=True)
        found: dict[str, list[float] | str] = {}
        for line in (work / "out.jsonl").open():
            answer = json.loads(line)
            (vector,) = answer["response"]["body"]["data"]
            found[asked[int(answer["custom_id"])]] = vector["embedding"]
        errors = work / "out.errors.jsonl"
        for line in errors.open() if errors.exists() else ():
            answer = json.loads(line)
            assert answer["response"]["status_code"] == 400, answer
            found[asked[int(answer["custom_id"])]] = "failed"
        return found


def main() -> int:
    print_machine()
    asked = texts(JOBS)
    merged = run("merged", asked, merge=True)
    bad = {index: f"reject {index}" for index in range(50, JOBS, 100)}
    some_bad = [bad.get(index, text) for index, text in enumerate(asked)]
    parted = run("merged, one text in a hundred refused", some_bad, merge=True)
    alone = run("each alone", asked, merge=False)
    assert len(merged) == len(alone) == len(parted) == JOBS, "a text has no answer"
    assert merged == alone, "a vector is not that of the lone call"
    for index, text in enumerate(some_bad):
        expected = "failed" if index in bad else alone[text]
        assert parted[text] == expected, (index, parted[text])
    print(f"every vector is that of the lone call; {len(bad)} refused texts failed, and no other")
    return 0


if __name__ == "__main__":
    sys.exit(main())
