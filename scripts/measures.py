#!/usr/bin/env python3
"""Prints how the code measures: sizes, density, names and circles, of code that is no test.

    scripts/measures.py [REVISION ...]

Without a revision, of the working tree. A file's tests (`tests.rs`, and what follows `#[cfg(test)]`) do not count, nor do
the folders tests, benches and examples.
"""
from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: What makes a path through a function branch: keywords, arms of a match, lazy operators, `?`, and closures' combinators.
BRANCH = re.compile(
    r"\b(?:if|else|while|for|loop)\b|=>|&&|\|\||\?(?!\w)|"
    r"\.(?:map_or|map_or_else|and_then|or_else|unwrap_or|unwrap_or_else|unwrap_or_default|filter|filter_map|is_some_and|"
    r"is_none_or|is_ok_and|then|then_some|ok_or|ok_or_else|take_while|skip_while|take_if|get_or_insert_with|or_insert_with|"
    r"map|map_err|map_ok|for_each|any|all|find|find_map|position|retain|flat_map|fold|partition|inspect_err)\(")
TYPE = re.compile(r"^\s*(?:pub(?:\([^)]*\))? )?(?:struct|enum|trait|union|type) ([A-Z]\w*)", re.M)
FUNCTION = re.compile(r"^(\s*)(?:pub(?:\([^)]*\))? )?(?:default )?(?:const )?(?:async )?(?:unsafe )?fn (\w+)")


#: Names that each room may have for itself.
SHARED = ("Error", "Config", "Args")


def sources(revision: str | None) -> dict[str, str]:
    """Each file's text without its tests, by its path."""
    if revision is None:
        listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", "*.rs"], cwd=ROOT, text=True)
        texts = {path: (ROOT / path).read_text() for path in listed.split() if (ROOT / path).exists()}
    else:
        listed = subprocess.check_output(["git", "ls-tree", "-r", "--name-only", revision], cwd=ROOT, text=True)
        paths = [path for path in listed.split("\n") if path.endswith(".rs")]
        texts = {path: subprocess.check_output(["git", "show", f"{revision}:{path}"], cwd=ROOT, text=True) for path in paths}
    is_test = lambda path: path.endswith("tests.rs") or set(path.split("/")[:-1]) & {"tests", "benches", "examples", "fuzz"}
    return {path: re.split(r"^#\[cfg\(test\)\]", text, maxsplit=1, flags=re.M)[0] for path, text in texts.items() if not is_test(path)}


def without_strings(line: str) -> str:
    return re.sub(r'"(?:\\.|[^"\\])*"', '""', line)


def code_lines(text: str) -> list[str]:
    lines = (line for line in text.split("\n"))
    return [without_strings(line).split("//")[0].rstrip() for line in lines if line.strip() and not line.strip().startswith("//")]


def functions(text: str) -> list[tuple[str, int, int]]:
    """Name, lines and branches of each function."""
    found, lines = [], text.split("\n")
    for index, line in enumerate(lines):
        match = FUNCTION.match(line)
        if not match:
            continue
        end = index
        for end in range(index, len(lines)):
            if lines[end].startswith(match[1] + "}") or (end == index and lines[end].rstrip().endswith(("}", ";"))):
                break
            if lines[end].rstrip() == match[1] + "where" :
                continue
            if lines[end].rstrip().endswith(";") and end > index and not any("{" in l for l in lines[index:end + 1]):
                break
        body = lines[index:end + 1]
        branches = sum(len(BRANCH.findall(one)) for one in code_lines("\n".join(body)))
        found.append((match[2], len(body), branches))
    return found


def quantiles(values: list[int]) -> str:
    values = sorted(values)
    return f"{values[len(values) // 2]} / {values[len(values) * 9 // 10]} / {values[-1]}"


def words(name: str) -> int:
    return len(re.findall(r"[A-Z][a-z0-9]*", name))


def expanded(tree: str) -> list[str]:
    """The paths of a `use` tree: `a::{b, c::d}` is `a::b` and `a::c::d`."""
    match = re.match(r"^([\w:]*?)(?:::)?\{(.*)\}$", tree.strip(), re.S)
    if not match:
        return [tree.strip().partition(" as ")[0]]
    head, body = match.groups()
    parts, depth = [""], 0
    for char in body:
        depth += (char == "{") - (char == "}")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [f"{head}::{path}" if head else path for part in parts if part.strip() for path in expanded(part)]


def imports(files: dict[tuple[str, ...], str]) -> dict[tuple[str, ...], set[tuple[str, ...]]]:
    """Which modules of a crate each of its modules names. What is above it in its own folder does not count."""
    found = {}
    for module, text in files.items():
        text = re.sub(r"//.*", "", text)
        uses = re.findall(r"\buse ((?:crate|super|self|\w+)\b[^;]*);", text)
        paths = [path for use in uses for path in expanded(re.sub(r"\s+", " ", use))]
        paths += re.findall(r"\b(?:crate|super)(?:::\w+)+", re.sub(r"\buse [^;]*;", "", text))
        found[module] = set()
        for names in (path.replace(" ", "").split("::") for path in paths):
            base = list(module)
            if names[0] == "crate":
                base, names = [], names[1:]
            elif names[0] == "self":
                names = names[1:]
            else:
                while names and names[0] == "super":
                    base, names = base[:-1], names[1:]
            while names and tuple(base + names[:1]) in files:
                base, names = base + names[:1], names[1:]
            if tuple(base) in files and tuple(base) != module[: len(base)]:
                found[module].add(tuple(base))
    return found


def circles(texts: dict[str, str]) -> int:
    """Files of crates from which a chain of imports leads back to them."""
    crates: dict[str, dict[tuple[str, ...], str]] = {}
    for path, text in texts.items():
        crate, _, inside = f"/{path}".partition("/src/")
        if inside and inside != "main.rs":
            names = tuple(inside.removesuffix(".rs").split("/"))
            crates.setdefault(crate, {})[() if names == ("lib",) else names] = text
    in_circle = 0
    for files in crates.values():
        named = imports(files)
        for module in named:
            reached, left = set(), list(named[module])
            while left:
                other = left.pop()
                if other not in reached:
                    reached.add(other)
                    left += named[other]
            in_circle += module in reached
    return in_circle


def measure(revision: str | None) -> dict[str, str]:
    texts = sources(revision)
    lines = {path: text.count("\n") for path, text in texts.items()}
    code = [line for text in texts.values() for line in code_lines(text)]
    every = [function for text in texts.values() for function in functions(text)]
    types = [(path.split("/src/")[0] if "/src/" in path else path.split("/")[0], name) for path, text in texts.items() for name in TYPE.findall(text)]
    by_name = Counter(name for _, name in types)
    dots = sum(1 for line in code if len(re.findall(r"(?<![.\d])\.(?![.\d])", line)) >= 4)
    branches = sum(len(BRANCH.findall(line)) for line in code)
    docs = [line for text in texts.values() for line in text.split("\n") if line.strip().startswith(("///", "//!"))]
    whys = [line for text in texts.values() for line in text.split("\n") if re.match(r"\s*//(?![/!])", line)]
    return {
        "files / lines": f"{len(texts)} / {sum(lines.values())}",
        "lines a file: median / p90 / most": quantiles(list(lines.values())),
        "bytes a file: median / p90 / most": quantiles([len(text.encode()) for text in texts.values()]),
        "lines a function: median / p90 / most": quantiles([size for _, size, _ in every]),
        "functions over 70 lines": f"{100 * sum(size > 70 for _, size, _ in every) / len(every):.1f} %",
        "branches a function: most": f"{max((b, n) for n, _, b in every)}",
        "branches a line": f"{branches / len(code):.2f}",
        "lines with four dots or more": f"{100 * dots / len(code):.1f} %",
        "type names of one word": f"{100 * sum(words(name) == 1 for name in by_name) / len(by_name):.0f} % of {len(by_name)}",
        "type names used for two things": f"{sum(count > 1 for count in by_name.values())}",
        "of these, in one crate": f"{sum(count > 1 and name not in SHARED for (_, name), count in Counter(types).items())}",
        "files in circles of imports": f"{circles(texts)}",
        "doc lines / why lines": f"{100 * len(docs) / sum(lines.values()):.1f} % / {100 * len(whys) / sum(lines.values()):.1f} %",
    }


def main() -> None:
    columns = sys.argv[1:] or [None]
    tables = [measure(column) for column in columns]
    print("| | " + " | ".join(column or "working tree" for column in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name in tables[0]:
        print(f"| {name} | " + " | ".join(table[name] for table in tables) + " |")


if __name__ == "__main__":
    main()
