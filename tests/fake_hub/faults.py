"""Which request is hit by which fault, and what the fault does to the connection."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

STATUSES = {
    "401": (401, {}), "402": (402, {}), "403": (403, {}),
    "409": (409, {}), "412": (412, {}), "429": (429, {}),
    "429-ratelimit": (429, {"RateLimit": '"api";r=0;t=1', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}),
    "429-retry-after": (429, {"Retry-After": "1"}),
    "500": (500, {}), "502": (502, {}), "503": (503, {"Retry-After": "0"}), "504": (504, {}),
}  # fmt: skip


class Faults:
    """Counts requests, keeps their log, and hands out the fault of each. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.replace([])

    def replace(self, rules: list[dict[str, Any]]) -> None:
        with self._lock:
            self.log: list[dict[str, Any]] = []
            self._rules = [{"times": -1 if "every" in rule else 1, **rule} for rule in rules]

    def next(self, method: str, path: str, authorised: bool) -> dict[str, Any]:
        """A new log entry, whose `fault` is the kind to apply or None."""
        with self._lock:
            entry = {"at": len(self.log), "method": method, "path": path, "authorised": authorised, "fault": None}
            for rule in self._rules:
                hit = rule["at"] == entry["at"] if "at" in rule else re.search(rule["match"], f"{method} {path}")
                if hit and rule["times"] != 0:
                    rule["times"] -= 1
                    entry["fault"] = rule["kind"]
                    break
            self.log.append(entry)
            return entry


def answer_with_fault(
    kind: str, connection: socket.socket, answer: Callable[[], bytes], stall: float, late: float
) -> bytes | None:
    """What goes over the wire instead of `answer()`; None means the connection was closed.

    `answer` carries the request out and returns its whole HTTP response. Faults that begin with `lost` carry the
    request out before the answer is lost; `late` carries it out after the client has been told that it failed.
    """
    if kind in STATUSES:
        return error_response(*STATUSES[kind])
    if kind == "late-504":
        threading.Timer(late, answer).start()
        return error_response(504, {})
    if kind == "lost-504":
        answer()
        return error_response(504, {})
    if kind in ("lost", "lost-stall"):
        answer()
    if kind in ("stall", "lost-stall"):
        time.sleep(stall)
    if kind == "cut":
        whole = answer()
        connection.sendall(whole[: max(1, len(whole) * 2 // 3)])
    connection.close()
    return None


def error_response(status: int, headers: dict[str, str], message: str = "a fault on demand") -> bytes:
    body = json.dumps({"error": message}).encode()
    lines = [f"HTTP/1.1 {status} Fault", f"Content-Length: {len(body)}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
