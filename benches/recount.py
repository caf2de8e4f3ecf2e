#!/usr/bin/env python3
"""Counts a simulated provider's record a second time.

The record has a JSON object per call: at (Unix seconds), account, key, status. For each account this
prints the calls, the refusals (429), the highest count in any trailing period, and the share of the
allowed rate, (calls - 1) / (last - first), that was used.

    recount.py RECORD.jsonl ACCOUNT=CALLS/SECONDS ...
"""
from __future__ import annotations

import json
import sys


def highest_in_any_period(times: list[float], period: float) -> int:
    """The most calls that any trailing period holds; a call exactly a period ago still counts."""
    highest, first = 0, 0
    for last, time in enumerate(times):
        while time - times[first] > period:
            first += 1
        highest = max(highest, last - first + 1)
    return highest


def main() -> int:
    record, *specs = sys.argv[1:]
    with open(record, encoding="utf-8") as lines:
        calls = [json.loads(line) for line in lines]
    refusals = 0
    print(f"{'ACCOUNT':<10} {'CALLS':>6} {'REFUSALS':>9} {'HIGHEST/LIMIT':>14} {'OF THE ALLOWED RATE':>20}")
    for spec in specs:
        account, limit = spec.split("=")
        most, period = (float(part) for part in limit.split("/"))
        own = sorted((call["at"], call["status"]) for call in calls if call["account"] == account)
        times = [at for at, _ in own]
        refused = sum(status == 429 for _, status in own)
        refusals += refused
        span = times[-1] - times[0] if times else 0.0
        share = (len(times) - 1) / span / (most / period) if span else float("nan")
        highest = f"{highest_in_any_period(times, period)}/{most:.0f}"
        print(f"{account:<10} {len(times):>6} {refused:>9} {highest:>14} {share:>19.2%}")
    known = {spec.split("=")[0] for spec in specs}
    strangers = sum(call["account"] not in known for call in calls)
    if strangers:
        print(f"{strangers} calls of accounts that were not named")
    return 1 if refusals or strangers else 0


if __name__ == "__main__":
    sys.exit(main())
