"""Check a Batch output file of embeddings against the model itself, number by number."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Iterator

import numpy as np

from model import DIMENSIONS, Model

WINDOW = 1_000_000  # One second, in the microseconds that the record's times are whole numbers of.


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read the objects of a JSON Lines file."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def read_vectors(answer: dict[str, Any]) -> np.ndarray:
    """Read the vectors of one output line in the order of their texts, or say what is wrong."""
    if answer.get("error") is not None:
        raise ValueError(f"error {json.dumps(answer['error'])}")
    response = answer.get("response") or {}
    if response.get("status_code") != 200:
        raise ValueError(f"status {response.get('status_code')}")
    data = sorted(response["body"]["data"], key=lambda item: item["index"])
    if [item["index"] for item in data] != list(range(len(data))):
        raise ValueError("indexes that are not 0, 1, 2, ...")
    return np.array([item["embedding"] for item in data], dtype=np.float32)


def check_vectors(input_path: Path, output_path: Path) -> bool:
    """Compare every vector with the model's own, print what was found, and say if all is well."""
    answers: dict[str, dict[str, Any]] = {}
    seen: Counter[str] = Counter()
    for answer in read_lines(output_path):
        seen[answer["custom_id"]] += 1
        answers.setdefault(answer["custom_id"], answer)

    model = Model()
    compared = missing = wrong = 0
    largest = 0.0
    asked = set()
    for request in read_lines(input_path):
        custom_id, given = request["custom_id"], request["body"]["input"]
        asked.add(custom_id)
        if custom_id not in answers:
            missing += 1
            continue
        texts = [given] if isinstance(given, str) else given
        try:
            vectors = read_vectors(answers[custom_id])
            if vectors.shape != (len(texts), DIMENSIONS):
                raise ValueError(f"vectors of shape {vectors.shape}")
            expected = np.stack([model.embed(text)[0] for text in texts])
            compared += len(texts)
            difference = float(np.abs(vectors - expected).max())
            largest = max(largest, difference)
            if not np.array_equal(vectors, expected):
                raise ValueError(f"a difference of {difference:.3g}")
        except (ValueError, KeyError, TypeError) as error:
            wrong += 1
            print(f"wrong: {custom_id}: {error}", file=sys.stderr)
    duplicates = sum(count - 1 for count in seen.values())
    unexpected = len(answers.keys() - asked)

    print(f"vectors compared      {compared}")
    print(f"largest difference    {largest:.3g}")
    print(f"missing               {missing}")
    print(f"duplicates            {duplicates}")
    print(f"not asked for         {unexpected}")
    print(f"wrong                 {wrong}")
    return compared > 0 and not (missing or duplicates or unexpected or wrong)


def most_in_any_second(times: list[int]) -> int:
    """Count the most of some times, in microseconds, that any one trailing second holds."""
    most = start = 0
    times = sorted(times)
    for end, time in enumerate(times):
        while times[start] <= time - WINDOW:
            start += 1
        most = max(most, end - start + 1)
    return most


def print_record(path: Path) -> None:
    """Print what the server's record says of each account."""
    calls: dict[str, list[tuple[int, int]]] = {}
    for line in read_lines(path):
        call = (round(line["time"] * 1_000_000), line["status"])
        calls.setdefault(line["account"] or "(no account)", []).append(call)
    for account, made in sorted(calls.items()):
        refused = sum(status == 429 for _, status in made)
        most = most_in_any_second([time for time, _ in made])
        admitted = most_in_any_second([time for time, status in made if status != 429])
        print(f"account {account}: {len(made)} calls, {refused} answered 429,"
              f" at most {most} in any second ({admitted} admitted)")


def main() -> None:
    """Run the check, and exit with 1 if anything is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, required=True, help="the Batch input file")
    parser.add_argument("--output", type=Path, required=True, help="the Batch output file to check")
    parser.add_argument("--record", type=Path, help="the server's record, to count the calls")
    arguments = parser.parse_args()

    well = check_vectors(arguments.input, arguments.output)
    if arguments.record:
        print_record(arguments.record)
    print("every vector is exactly the model's own" if well else "NOT as it should be")
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
