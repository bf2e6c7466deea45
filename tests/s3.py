"""An S3 server for tests: moto's, in a process of its own, with a delay and with faults on demand.

with S3(faults=0.05, seed=1) as s3:
    fsspec.filesystem("s3")         # environment variables lead every client of this process and its children there

A fault is one of: 503 SlowDown; the connection dropped before the request is carried out; the answer lost after it.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

BUCKET = "bucket"
FAULTS = ("busy", "dropped", "lost")
BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class S3:
    """Starts the server with an empty bucket; stops it on exit.

    Args:
        delay (`float`, *optional*, defaults to `0.0`): seconds that every request takes at least.
        faults (`float`, *optional*, defaults to `0.0`): share of requests that fail.
        seed (`int`, *optional*, defaults to `0`): of the faults.
    """

    def __init__(self, *, delay: float = 0.0, faults: float = 0.0, seed: int = 0) -> None:
        command = [sys.executable, str(Path(__file__)), "--delay", str(delay), "--faults", str(faults)]
        # The server ends when its standard input does, so it never outlives its parent.
        self._process = subprocess.Popen(
            [*command, "--seed", str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.endpoint = self._process.stdout.readline().strip()
        assert self.endpoint.startswith("http"), f"the server did not start (exit status {self._process.wait()})"
        self.environment = {
            "FSSPEC_S3_ENDPOINT_URL": self.endpoint, "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "AKIATESTINGTESTING", "AWS_SECRET_ACCESS_KEY": "secretofthetests",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip

    def __enter__(self) -> S3:
        import fsspec

        self._before = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        fsspec.config.set_conf_env(fsspec.config.conf)
        return self

    def __exit__(self, *_: object) -> None:
        import fsspec

        for name, value in self._before.items():
            os.environ.pop(name)
            os.environ.update({} if value is None else {name: value})
        fsspec.config.conf.pop("s3", None)
        self._process.terminate()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


class Faulty:
    """A WSGI application before another one, that delays its requests and fails some of them."""

    def __init__(self, app: Callable[..., Any], delay: float, faults: float, seed: int) -> None:
        self.app, self.delay, self.faults, self.random = app, delay, faults, random.Random(seed)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        time.sleep(self.delay)
        fault = self.random.choice(FAULTS) if self.random.random() < self.faults else None
        if fault == "busy":
            start_response("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(BUSY)))])
            return [BUSY]
        if fault is None:
            return self.app(environ, start_response)  # type: ignore[no-any-return]
        if fault == "lost":
            for _ in self.app(environ, lambda *_: lambda _: None):
                pass
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError("a fault on demand")


def main() -> None:
    import logging

    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--faults", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    app = DomainDispatcherApplication(create_backend_app)
    import boto3

    faulty = Faulty(app, options.delay, 0.0, options.seed)
    server = make_server("127.0.0.1", 0, faulty, threaded=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=BUCKET)
    faulty.faults = options.faults
    print(endpoint, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing")
    main()
