#!/usr/bin/env python3
"""Faults at random, and then an account that must add up.

Forebay, the nats-server and the simulated provider are killed, stopped and continued at random, connections
are cut, latencies stretched, and answers spoiled, while jobs are published. Then everything is left in peace
until nothing waits any more, and every job must have exactly one completion.

    JOBS=50000 SECONDS=300 SEED=1 benches/chaos.py
"""
from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOREBAY = os.environ.get("FOREBAY", str(ROOT / "target/release/forebay"))
NATS = shutil.which("nats-server", path=f"{ROOT}/.tools:{os.environ['PATH']}")
JOBS = int(os.environ.get("JOBS", "50000"))
SECONDS = float(os.environ.get("SECONDS", "300"))
SEED = int(os.environ.get("SEED", "1"))
# How long it may take in peace until nothing waits any more.
PEACE = 900
# Publishes whose acknowledgement is awaited at once.
WINDOW = 512
FAULTS = "error=0.02,overloaded=0.005,reset=0.01,truncated=0.005,malformed=0.005,hang=0.0005"


def log(text: str) -> None:
    print(f"{time.monotonic() - BEGAN:7.1f} s  {text}", file=sys.stderr, flush=True)


BEGAN = time.monotonic()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Service:
    """A process that is started again whenever it has ended."""

    def __init__(self, name: str, command: list[str], home: Path) -> None:
        self.name, self.command, self.home = name, command, home
        self.process: asyncio.subprocess.Process | None = None
        self.starts = 0
        self.ending = False
        self.task: asyncio.Task | None = None

    async def keep(self) -> None:
        while not self.ending:
            self.starts += 1
            command = [part.replace("{start}", str(self.starts)) for part in self.command]
            with open(self.home / f"{self.name}.log", "ab") as output:
                self.process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
            await self.process.wait()
            await asyncio.sleep(0.3)

    def start(self) -> None:
        self.task = asyncio.create_task(self.keep())

    def signal(self, number: int) -> None:
        if self.process and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def end(self) -> None:
        self.ending = True
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        if self.process:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.process.wait(), 60)
        self.signal(signal.SIGKILL)
        if self.task:
            await self.task


class Proxy:
    """Passes connections on, late if asked to, and can cut them all."""

    def __init__(self, name: str, target: int) -> None:
        self.name, self.target, self.port = name, target, free_port()
        self.delay = 0.0
        self.writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        await asyncio.start_server(self.accept, "127.0.0.1", self.port)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        self.writers |= {writer, far_writer}
        await asyncio.gather(self.copy(reader, far_writer), self.copy(far_reader, writer))
        self.writers -= {writer, far_writer}

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()
        writer.close()

    def cut(self) -> None:
        for writer in list(self.writers):
            writer.transport.abort()


class Publisher:
    """Publishes over NATS's own protocol, and again until each message is acknowledged."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.acknowledged: set[str] = set()
        self.sent: collections.Counter = collections.Counter()

    async def publish(self, messages: dict[str, tuple[str, bytes]]) -> None:
        while open_names := [name for name in messages if name not in self.acknowledged]:
            try:
                await self.attempt({name: messages[name] for name in open_names})
            except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.3)

    async def attempt(self, messages: dict[str, tuple[str, bytes]]) -> None:
        reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", self.port), 5)
        try:
            writer.write(b'CONNECT {"verbose":false,"headers":true}\r\nSUB chaos.ack.* 1\r\n')
            waiting = 0
            for name, (subject, payload) in messages.items():
                head = f"PUB {subject} chaos.ack.{name} {len(payload)}\r\n".encode()
                writer.write(head + payload + b"\r\n")
                self.sent[name] += 1
                waiting += 1
                while waiting >= WINDOW:
                    await writer.drain()
                    waiting -= await asyncio.wait_for(self.read(reader, writer), 10)
            await writer.drain()
            while waiting > 0:
                waiting -= await asyncio.wait_for(self.read(reader, writer), 10)
        finally:
            writer.close()

    async def read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        line = await reader.readuntil(b"\r\n")
        if line.startswith(b"PING"):
            writer.write(b"PONG\r\n")
        if not line.startswith((b"MSG", b"HMSG")):
            return 0
        parts = line.split()
        payload = await reader.readexactly(int(parts[-1]) + 2)
        if line.startswith(b"MSG"):
            ack = json.loads(payload)
            if "stream" in ack and "error" not in ack:
                self.acknowledged.add(parts[1].decode().rsplit(".", 1)[1])
        return 1


def jobs(rng: random.Random) -> dict[str, tuple[str, bytes, str]]:
    """Messages by name: subject, payload, and how each must end."""
    made = {}
    for index in range(JOBS):
        name, kind = f"j{index}", rng.random()
        team = rng.choice(["default", "acme", "widgets"])
        lane = rng.choice(["normal", "normal", "interactive", "bulk"])
        subject = f"ai.jobs.chat.{team}.{lane}"
        body = {"messages": [{"role": "user", "content": f"chaos {index}"}]}
        job: dict = {"id": name, "body": body}
        ends = "succeeded or failed"
        if kind < 0.02:
            job["body"], ends = {"messages": []}, "failed"
        elif kind < 0.04:
            job["deadline"], ends = "2020-01-01T00:00:00Z", "expired"
        elif kind < 0.06:
            job["batch"], ends = f"cancelled-{team}", "cancelled or succeeded or failed"
        elif kind < 0.08:
            job["on_ambiguous"] = "fail"
        elif kind < 0.10:
            due = time.time() + rng.uniform(10, max(SECONDS, 20))
            job["not_before"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(due))
        elif kind < 0.11:
            made[name] = (f"ai.jobs.nowhere.{team}", json.dumps(job).encode(), "failed")
            continue
        elif kind < 0.12:
            made[name] = (subject, b"no job %d" % index, "no job")
            continue
        made[name] = (subject, json.dumps(job).encode(), ends)
    return made


async def disturb(rng: random.Random, services: list[Service], proxies: list[Proxy], until: float) -> dict:
    done: collections.Counter = collections.Counter()
    while (now := time.monotonic()) < until:
        await asyncio.sleep(min(rng.expovariate(1 / 4), until - now))
        act = rng.choice(["kill", "kill", "stop", "cut", "cut", "stretch"])
        if act in ("kill", "stop"):
            service = rng.choice(services)
            done[f"{act} {service.name}"] += 1
            if act == "kill":
                service.signal(signal.SIGKILL)
                continue
            # Now and then for longer than an unacknowledged delivery is waited for.
            pause = 35.0 if rng.random() < 0.05 else rng.uniform(0.5, 6)
            service.signal(signal.SIGSTOP)
            await asyncio.sleep(min(pause, max(until - time.monotonic(), 0)))
            service.signal(signal.SIGCONT)
        else:
            proxy = rng.choice(proxies)
            done[f"{act} the way to the {proxy.name}"] += 1
            if act == "cut":
                proxy.cut()
                continue
            proxy.delay = rng.uniform(0.05, 1.0)
            await asyncio.sleep(min(rng.uniform(1, 5), max(until - time.monotonic(), 0)))
            proxy.delay = 0.0
    return dict(done)


async def run(config: Path, *args: str) -> str:
    process = await asyncio.create_subprocess_exec(
        FOREBAY, "--config", str(config), *args, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    out, err = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"forebay {' '.join(args)}: {err.decode().strip()}")
    return out.decode()


async def at_peace(config: Path, home: Path) -> None:
    """Returns when no job waits any more, nor is worked on."""
    last = None
    for _ in range(PEACE):
        await asyncio.sleep(1)
        with contextlib.suppress(RuntimeError):
            queues = json.loads(await run(config, "--json", "queues"))
            waiting = sum(queue["jobs"] for queue in queues["queues"])
            left = (waiting, queues["prefetched"], queues["in_flight"], queues["scheduled"])
            if left == (0, 0, 0, 0):
                return
            if left != last and int(time.monotonic() - BEGAN) % 15 == 0:
                log(f"{waiting} jobs in the stream, {queues['scheduled']} scheduled")
            last = left
    raise RuntimeError(f"still not at peace: {last}; see {home}")


async def completions(config: Path) -> list[dict]:
    """All completions that the stream has, in its order."""
    process = await asyncio.create_subprocess_exec(
        FOREBAY, "--config", str(config), "results", "tail", "--all", stdout=asyncio.subprocess.PIPE,
        limit=1 << 24)
    found = []
    with contextlib.suppress(asyncio.TimeoutError):
        while line := await asyncio.wait_for(process.stdout.readline(), 10):
            found.append(json.loads(line))
    process.kill()
    await process.wait()
    return found


def account(made: dict, sent: collections.Counter, found: list[dict], dead: int, records: list[Path]) -> bool:
    """Prints what became of everything; false if it does not add up."""
    of = collections.defaultdict(list)
    for completion in found:
        of[completion["id"]].append(completion)
    no_job = [name for name, (_, _, ends) in made.items() if ends == "no job"]
    wanted = [name for name, (_, _, ends) in made.items() if ends != "no job"]
    # A message that is no job has no id of its own.
    strays = [name for name in of if name not in made]
    missing = [name for name in wanted if name not in of]
    twice = [name for name in of if not is_once(of[name], sent.get(name, 1))]
    last = {name: of[name][-1] for name in wanted if name in of}
    wrong = [name for name, completion in last.items() if completion["status"] not in made[name][2]]
    mixed = [name for name, completion in last.items() if completion["status"] == "succeeded"
             and f"chaos {name[1:]}" not in completion["response"]["body"]["choices"][0]["message"]["content"]]
    ends = collections.Counter(completion["status"] for completion in last.values())
    again = sum(len(of[name]) - 1 for name in last)
    lines = [json.loads(line) for record in records for line in record.read_text().splitlines() if line.endswith("}")]
    calls = collections.Counter(line["status"] for line in lines)
    by_status = ", ".join(f"{count} {status or 'without an answer'}" for status, count in sorted(calls.items()))
    failed = collections.Counter(
        completion["error"]["code"] for completion in found if completion["status"] == "failed")
    resent = sum(sent.values()) - len(made)
    strays_fit = len(no_job) <= len(strays) <= sum(sent[name] for name in no_job)
    print(f"published {len(made)}, and {resent} of them once more because no acknowledgement came")
    print(f"{len(made)} = " + " + ".join(f"{count} {status}" for status, count in sorted(ends.items()))
          + f" + {len(no_job)} no job (as {len(strays)} messages); {again} were refused before they were published again")
    print(f"completions missing {len(missing)}, twice {len(twice)}, with a wrong end {len(wrong)}, "
          f"with another job's answer {len(mixed)}")
    print("failed: " + ", ".join(f"{count} {code}" for code, count in failed.most_common()))
    print(f"dead letters {dead} of {failed.total()}")
    print(f"calls that the provider noted {len(lines)} ({by_status}); calls needed "
          f"{sum(1 for completion in last.values() if completion['attempts'])}; attempts that completions tell of "
          f"{sum(len(completion['attempts']) for completion in found)}")
    for what, names in [("missing", missing), ("twice", twice), ("wrong", wrong), ("mixed", mixed)]:
        if names:
            print(f"  {what}: {', '.join(names[:10])}")
    whole = len(made) == ends.total() + len(no_job) and strays_fit and dead == failed.total()
    return whole and not (missing or twice or wrong or mixed)


def is_once(answers: list[dict], sent: int) -> bool:
    """Whether these are one answer, after refusals of earlier publishes of the same job if it was sent so often."""
    revisions = [answer["revision"] for answer in answers]
    refused = all(answer["status"] != "succeeded" and not answer["attempts"] for answer in answers[:-1])
    return revisions == list(range(1, len(answers) + 1)) and len(answers) <= sent and refused


async def main() -> int:
    rng = random.Random(SEED)
    home = Path(tempfile.mkdtemp(prefix="forebay-chaos-"))
    nats_port, provider_port = free_port(), free_port()
    to_nats, to_provider = Proxy("nats-server", nats_port), Proxy("provider", provider_port)
    await to_nats.start()
    await to_provider.start()
    (home / "nats.conf").write_text(
        f'host: 127.0.0.1\nport: {nats_port}\nmax_payload: 8MB\njetstream {{ store_dir: "{home}/store", sync_interval: 100ms }}\n')
    accounts = ""
    for name in "abc":
        (home / f"{name}.key").write_text(f"sk-{name}")
        accounts += (f'[account.{name}]\nprovider = "openai"\nbase_url = "http://127.0.0.1:{to_provider.port}/v1"\n'
                   f'keys = [{{ name = "{name}", file = "{home}/{name}.key" }}]\nlimits = [{{ requests = 1000, per = "10s" }}, {{ concurrent = 200 }}]\n')
    targets = ", ".join(f'{{ account = "{name}", model = "gpt-4o-mini" }}' for name in "abc")
    common = f'{accounts}[pool.chat]\ntargets = [{targets}]\n[call]\ntimeout = "20s"\n[data]\ndir = "{home}/data"\n'
    config, client = home / "forebay.toml", home / "client.toml"
    config.write_text(common + f'[nats]\nurl = "nats://127.0.0.1:{to_nats.port}"\n')
    client.write_text(common + f'[nats]\nurl = "nats://127.0.0.1:{nats_port}"\n')
    accounts = [part for name in "abc" for part in ("--account", f"name={name},key=sk-{name},limit=1000/10s")]
    services = [
        Service("nats-server", [NATS, "--config", str(home / "nats.conf")], home),
        Service("provider", [FOREBAY, "simulate", "--listen", f"127.0.0.1:{provider_port}", "--latency", "20ms..400ms",
                             "--faults", FAULTS, "--seed", str(SEED), "--record", f"{home}/record-{{start}}.jsonl", *accounts], home),
        Service("forebay", [FOREBAY, "--config", str(config), "serve"], home),
    ]
    for service in services:
        service.start()
    made = jobs(rng)
    publisher = Publisher(nats_port)
    until = BEGAN + SECONDS
    publishing = asyncio.create_task(publisher.publish({name: message[:2] for name, message in made.items()}))
    disturbing = asyncio.create_task(disturb(random.Random(SEED + 1), services, [to_nats, to_provider], until))
    cancelled = 0
    while cancelled < 3:
        await asyncio.sleep(SECONDS / 8)
        team = ["default", "acme", "widgets"][cancelled]
        try:
            await run(client, "cancel", "--team", team, "--batch", f"cancelled-{team}")
            cancelled += 1
        except RuntimeError as problem:
            log(f"cancelled later: {problem}")
    done = await disturbing
    await publishing
    log(f"in peace from now on; {len(publisher.acknowledged)} of {len(made)} publishes are acknowledged")
    began = time.monotonic()
    await at_peace(client, home)
    log(f"nothing waits any more, after {time.monotonic() - began:.0f} s in peace")
    dead = len(json.loads(await run(client, "--json", "dead", "list", "--limit", "1000000")))
    found = await completions(client)
    for service in reversed(services):
        await service.end()
    records = [home / f"record-{start}.jsonl" for start in range(1, services[1].starts + 1)]
    print(f"chaos: {JOBS} jobs, {SECONDS:.0f} s, seed {SEED}; "
          + ", ".join(f"{count} × {act}" for act, count in sorted(done.items())))
    adds_up = account(made, publisher.sent, found, dead, [record for record in records if record.exists()])
    print("the account adds up" if adds_up else f"THE ACCOUNT DOES NOT ADD UP; everything is in {home}")
    if adds_up:
        shutil.rmtree(home)
    return 0 if adds_up else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
