"""Make an OpenAI Batch input file of embedding requests from the texts of Debian's fortunes."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

MODEL_NAME = "all-MiniLM-L6-v2"
DEFAULT_FOLDER = Path("/usr/share/games/fortunes")


def read_text(path: Path) -> str:
    """Read a file as UTF-8, or as Latin-1 where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return path.read_text(encoding="latin-1")


def read_fortunes(folder: Path) -> list[str]:
    """Read the texts of every file of a folder, in file order, each text once."""
    files = sorted(path for path in folder.glob("*")
                   if path.is_file() and path.suffix not in (".dat", ".u8"))
    texts: dict[str, None] = {}
    for path in files:
        for text in re.split(r"^%[ \t]*$", read_text(path), flags=re.MULTILINE):
            if text.strip():
                texts.setdefault(text.strip())
    return list(texts)


def main() -> None:
    """Choose texts evenly over all of the files, and write one request for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="how many texts (default 2000)")
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    parser.add_argument("--fortunes", type=Path, default=DEFAULT_FOLDER, metavar="DIR",
                        help=f"where the texts are (default {DEFAULT_FOLDER})")
    arguments = parser.parse_args()

    texts = read_fortunes(arguments.fortunes)
    if not texts:
        parser.error(f"no texts in {arguments.fortunes}; get them with:"
                     " apt-get install fortunes fortunes-min")
    if not 1 <= arguments.count <= len(texts):
        parser.error(f"--count must be from 1 to {len(texts)}, the number of texts there are")

    with arguments.output.open("w", encoding="utf-8") as output:
        for number in range(arguments.count):
            request = {
                "custom_id": f"fortune-{number + 1:05d}",
                "method": "POST",
                "url": "/v1/embeddings",
                "body": {"model": MODEL_NAME,
                         "input": texts[number * len(texts) // arguments.count]},
            }
            output.write(json.dumps(request, ensure_ascii=False) + "\n")
    print(f"wrote {arguments.count} of {len(texts)} texts to {arguments.output}")


if __name__ == "__main__":
    main()
