"""An OpenAI-compatible /v1/embeddings server on a real model, with strictly limited accounts."""

from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import sys
import threading
import time
import traceback
import uuid
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Optional
from urllib.parse import urlsplit

from model import DIMENSIONS, MODEL_NAME, Model

WINDOW = 1_000_000  # The limits' window, in the microseconds that all times here are counted in.
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_INPUTS = 2048


def now() -> int:
    """Return the time of the steady clock in microseconds."""
    return time.monotonic_ns() // 1000


STEADY_TO_UNIX = time.time_ns() // 1000 - now()


class ApiError(Exception):
    """A refusal, carrying the HTTP status and the fields of OpenAI's error object."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error",
                 param: Optional[str] = None, code: Optional[str] = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Admission(NamedTuple):
    """What an account answered to one request, with its waits in milliseconds rounded up."""

    time: int
    admitted: bool
    used: int
    remaining: int
    retry_ms: int
    reset_ms: int


class Account:
    """One API key, with a strict limit on the requests admitted in any trailing second."""

    def __init__(self, name: str, key: str, limit: int) -> None:
        self.name, self.key, self.limit = name, key, limit
        self._times: deque[int] = deque()
        self._lock = threading.Lock()

    @classmethod
    def parse(cls, text: str) -> Account:
        """Read an account from NAME:KEY:REQUESTS_PER_SECOND."""
        name, _, rest = text.partition(":")
        key, _, limit = rest.rpartition(":")
        if not (name and key and limit.isdecimal() and int(limit) > 0):
            raise argparse.ArgumentTypeError(f"{text!r} is not NAME:KEY:REQUESTS_PER_SECOND")
        return cls(name, key, int(limit))

    def admit(self) -> Admission:
        """Admit a request that arrives now, if fewer than the limit were in the last second."""
        with self._lock:
            time_now = now()
            while self._times and self._times[0] <= time_now - WINDOW:
                self._times.popleft()
            used = len(self._times)
            admitted = used < self.limit
            if admitted:
                self._times.append(time_now)
            left = [-(-(at + WINDOW - time_now) // 1000)
                    for at in (self._times[0], self._times[-1])]
            return Admission(time_now, admitted, used, self.limit - len(self._times),
                             retry_ms=0 if admitted else left[0], reset_ms=left[1])

    def limit_headers(self, admission: Admission) -> dict[str, str]:
        """Say in OpenAI's headers where the account stands after an admission or a refusal."""
        milliseconds = admission.reset_ms
        headers = {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(admission.remaining),
            "x-ratelimit-reset-requests": "1s" if milliseconds == 1000 else f"{milliseconds}ms",
        }
        if not admission.admitted:
            headers["retry-after"] = str(-(-admission.retry_ms // 1000))
            headers["retry-after-ms"] = str(admission.retry_ms)
        return headers


class Service:
    """The model and the accounts behind the HTTP server, and the record of what was answered."""

    def __init__(self, accounts: list[Account], workers: int, record: Optional[Path]) -> None:
        self.accounts = accounts
        self._model = Model()
        self._model.embed("warm up")  # The first run allocates; no request should wait for it.
        self._workers = threading.BoundedSemaphore(workers)
        self._record = record.open("a", encoding="utf-8") if record else None
        self._record_lock = threading.Lock()

    def record(self, arrived: int, account: Optional[Account], status: int) -> None:
        """Append one answered request to the record file, if there is one."""
        if self._record is None:
            return
        line = {"time": (arrived + STEADY_TO_UNIX) / 1_000_000,
                "account": account.name if account else None, "status": status}
        with self._record_lock:
            self._record.write(json.dumps(line) + "\n")
            self._record.flush()

    def account(self, authorization: str) -> Account:
        """Find the account of an Authorization header."""
        scheme, _, key = authorization.partition(" ")
        for account in self.accounts:
            if scheme.lower() == "bearer" and key.strip() == account.key:
                return account
        raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")

    def models(self) -> dict[str, Any]:
        """Answer GET /v1/models."""
        return {"object": "list", "data": [
            {"id": MODEL_NAME, "object": "model", "created": 0, "owned_by": "local"}]}

    def embeddings(self, body: bytes) -> dict[str, Any]:
        """Answer POST /v1/embeddings."""
        texts, as_base64 = read_request(body)
        data, tokens = [], 0
        for index, text in enumerate(texts):
            with self._workers:
                vector, count = self._model.embed(text)
            tokens += count
            embedding: Any
            if as_base64:
                embedding = base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
            else:  # Nine significant digits give every float32 back exactly.
                embedding = [float(f"{value:.9g}") for value in vector.tolist()]
            data.append({"object": "embedding", "index": index, "embedding": embedding})
        return {"object": "list", "data": data, "model": MODEL_NAME,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def read_request(body: bytes) -> tuple[list[str], bool]:
    """Check an embeddings request; return its texts, and whether base64 is asked for."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(request, dict):
        raise ApiError(400, "The JSON body of your request must be an object.")

    model = request.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "You must provide a model parameter.", param="model")
    if model != MODEL_NAME:
        raise ApiError(404, f"The model `{model}` does not exist or you do not have access to it.",
                       param="model", code="model_not_found")

    given = request.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not 1 <= len(texts) <= MAX_INPUTS:
        raise ApiError(400, f"'input' must be a string or a list of 1 to {MAX_INPUTS} strings.",
                       param="input")
    for text in texts:
        if not isinstance(text, str) or not text:
            raise ApiError(400, "Each input must be a string that is not empty.", param="input")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ApiError(400, "Each input must be valid Unicode.", param="input")

    encoding_format = request.get("encoding_format") or "float"
    if encoding_format not in ("float", "base64"):
        raise ApiError(400, "'encoding_format' must be 'float' or 'base64'.",
                       param="encoding_format")
    if request.get("dimensions") not in (None, DIMENSIONS):
        raise ApiError(400, f"This model has {DIMENSIONS} dimensions.", param="dimensions")
    return texts, encoding_format == "base64"


class Server(ThreadingHTTPServer):
    """A thread for each connection, and room for a burst of new ones."""

    daemon_threads = True
    request_queue_size = 128
    service: Service


class Handler(BaseHTTPRequestHandler):
    """The requests of one connection, one after the other."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle(self) -> None:
        """Serve the connection until either side ends it."""
        try:
            super().handle()
        except ConnectionError:
            pass

    def do_GET(self) -> None:
        """Answer a GET request."""
        self._answer()

    def do_POST(self) -> None:
        """Answer a POST request."""
        self._answer()

    def _answer(self) -> None:
        """Read the whole request, then count it against its account, then do what it asks."""
        service, account, headers = self.server.service, None, {}
        arrived, status = now(), 200
        try:
            body = self._read_body()
            arrived = now()
            endpoint = (self.command, urlsplit(self.path).path)
            if endpoint not in (("GET", "/v1/models"), ("POST", "/v1/embeddings")):
                raise ApiError(404, f"Invalid URL ({self.command} {self.path})")
            account = service.account(self.headers.get("Authorization", ""))
            if self.command == "GET":
                answer = service.models()
            else:
                admission = account.admit()
                arrived, headers = admission.time, account.limit_headers(admission)
                if not admission.admitted:
                    raise ApiError(
                        429, f"Rate limit reached for {MODEL_NAME} in account {account.name} on"
                        f" requests per second: Limit {account.limit}, Used {admission.used},"
                        f" Requested 1. Please try again in {admission.retry_ms}ms.",
                        kind="requests", code="rate_limit_exceeded")
                answer = service.embeddings(body)
        except ApiError as error:
            status, answer = error.status, error.body
        except ConnectionError:
            raise
        except Exception:
            traceback.print_exc()
            self.close_connection = True
            status, answer = 500, ApiError(500, "The server failed.", kind="server_error").body
        service.record(arrived, account, status)
        self._send(status, answer, headers)

    def _read_body(self) -> bytes:
        """Read the body; where it cannot be read, the connection ends after the answer."""
        length = self.headers.get("Content-Length", "0" if self.command == "GET" else "")
        if not length.isdecimal() or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise ApiError(411, "A Content-Length header is needed.")
        if int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            raise ApiError(413, f"The body may have at most {MAX_BODY_BYTES} bytes.")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionResetError("the client left before the end of the body")
        return body

    def _send(self, status: int, answer: dict[str, Any], headers: dict[str, str]) -> None:
        """Send one whole JSON answer."""
        content = json.dumps(answer, separators=(",", ":")).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("x-request-id", f"req_{uuid.uuid4().hex}")
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def send_error(self, code: int, message: Optional[str] = None,
                   explain: Optional[str] = None) -> None:
        """Answer what is not proper HTTP, or not GET or POST, with OpenAI's error object too."""
        self.close_connection = True
        self._send(code, ApiError(code, message or "Bad request.").body, {})

    def log_message(self, *_: Any) -> None:
        """Say nothing; the record file has it all."""


def main() -> None:
    """Load the model, listen, and serve until a signal says to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:9100", metavar="HOST:PORT",
                        help="where to listen; port 0 takes a free one (default 127.0.0.1:9100)")
    parser.add_argument("--account", type=Account.parse, action="append", required=True,
                        metavar="NAME:KEY:REQUESTS_PER_SECOND", help="may be given several times")
    parser.add_argument("--record", type=Path, metavar="FILE",
                        help="append one JSON line for each answered request")
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1), metavar="N",
                        help="how many texts are embedded at once (default: the cores, at most 4)")
    arguments = parser.parse_args()
    host, _, port = arguments.listen.rpartition(":")
    if not host or not port.isdecimal():
        parser.error("--listen must be HOST:PORT")
    if arguments.workers < 1:
        parser.error("--workers must be 1 or more")
    if len({account.key for account in arguments.account}) < len(arguments.account):
        parser.error("each --account needs a key of its own")

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    sys.setswitchinterval(0.001)  # A request that arrives is counted soon, even amid inference.
    try:
        server = Server((host, int(port)), Handler)
    except OSError as error:
        sys.exit(f"cannot listen on {arguments.listen}: {error.strerror}")
    server.service = Service(arguments.account, arguments.workers, arguments.record)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}).start()
    print(f"listening on http://{host}:{server.server_address[1]}/v1", flush=True)
    stop.wait()
    server.shutdown()
    server.server_close()


if __name__ == "__main__":
    main()
