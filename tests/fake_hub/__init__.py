"""A Hub for tests: a real HTTP server in its own process, with LFS, Xet, and faults on demand. See README.md.

with FakeHub() as hub:
    hub.faults({"at": 3, "kind": "503"})        # the fourth request from now is answered 503
    ...                                         # run a client with HF_ENDPOINT=hub.url and token=hub.token
    hub.log(), hub.repo("datasets/user/name")
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

TOKEN = "hf_fakehubtokenfakehubtokenfakehub0"
# Faults that pass, and refusals that do not.
REFUSALS = ("401", "403")
FAULTS = (
    "409", "412", "429", "429-ratelimit", "429-retry-after", "500", "502", "503", "504",
    "drop", "cut", "stall", "lost", "lost-504", "lost-stall", "late-504",
)  # fmt: skip


class FakeHub:
    """Starts the server in a child process and talks to its control endpoints; stops it on exit.

    Args:
        stall (`float`, *optional*, defaults to `3.0`): seconds of silence of a stalled request before it is dropped.
        late (`float`, *optional*, defaults to `0.3`): seconds after which a `late-504` request is carried out.
        part_size (`int`, *optional*): LFS files larger than this are taken in parts of this many bytes.
        xet (`bool`, *optional*, defaults to `True`): whether Xet uploads are accepted.
    """

    def __init__(self, *, stall: float = 3.0, late: float = 0.3, part_size: int | None = None, xet: bool = True):
        command = [
            sys.executable,
            str(Path(__file__).with_name("server.py")),
            "--stall",
            str(stall),
            "--late",
            str(late),
        ]
        command += ["--part-size", str(part_size)] if part_size else []
        command += [] if xet else ["--no-xet"]
        # The server ends when its standard input does, so it never outlives its parent.
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen([*command, "--with-parent"], text=True, **pipes)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        self.token = TOKEN
        if not self.url.startswith("http"):
            raise RuntimeError(f"the fake Hub did not start (exit status {self._process.wait()})")

    def __enter__(self) -> FakeHub:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def _control(self, action: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"{self.url}/_fake/{action}", data=data, timeout=30) as answer:
            return json.load(answer)

    def reset(self, *, blobs: bool = True) -> None:
        """Forgets repositories, log and faults; with `blobs=False` keeps uploaded content that is not committed."""
        self._control("reset", {"blobs": blobs})

    def account(self, **account: Any) -> None:
        """Whose token it is; a free account without organisations until told otherwise, or reset.

        `isPro`, `privateUsed` (bytes of other private repositories), and `orgs`: a list of `{"name", "plan",
        "isEnterprise", "numUsers", "privateUsed"}`, of which all but the name may be left out.
        """
        self._control("account", account)

    def faults(self, *faults: dict[str, Any]) -> None:
        """Replaces the faults and starts counting requests from 0.

        Each is `{"kind": one of FAULTS or REFUSALS}` with `"at": n` (the n-th request) or `"match": regex on
        "METHOD /path"`, and optionally `"times": k` (defaults to 1 for `match`, `-1` for always).
        """
        self._control("faults", list(faults))

    def log(self) -> list[dict[str, Any]]:
        """The requests since the last `faults()` or `reset()`: method, path, status, fault, bytes, authorised."""
        answer: list[dict[str, Any]] = self._control("log")
        return answer

    def repo(self, key: str) -> dict[str, Any] | None:
        """`key` is `datasets/user/name`, `models/...`: private, branches, tags, prs, commits (oid, parent, title,
        files) oldest first; None if it does not exist."""
        answer: dict[str, dict[str, Any]] = self._control("state")
        return answer.get(key)

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs, oldest first, as the API gives them, and under `"sent"` the request that started them."""
        answer: list[dict[str, Any]] = self._control("jobs")
        return answer

    def change_job(
        self, id_: str, stage: str, *, message: str | None = None, seconds: int | None = None, log: tuple[str, ...] = ()
    ) -> None:
        """Says what became of a job: its stage, with a message, after some seconds, having printed some lines."""
        self._control("job", {"id_": id_, "stage": stage, "message": message, "seconds": seconds, "log": log})
