"""How long the Space takes to start, and what each of several users at once waits for a score.

    python benchmarks/space.py --cores 2

Every user's score is compared with the scorer's own before times are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from gradio_client import Client

from ladm_hf import LadmScorer
from ladm_hf.checks.demo import demo_documents

FOLDER = Path(__file__).parents[1] / "metrics" / "ladm"
START_TIMEOUT = 300.0


def start(cores: int) -> tuple[psutil.Process, str, float]:
    """The app's process on so many cores, its address, and the seconds until it answered."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": port, "HF_HUB_OFFLINE": "1"}
    begun = time.perf_counter()
    started = subprocess.Popen([sys.executable, "app.py"], cwd=FOLDER, env=environment, stdout=subprocess.DEVNULL)
    process = psutil.Process(started.pid)
    if hasattr(process, "cpu_affinity"):
        process.cpu_affinity(process.cpu_affinity()[:cores])
    url = f"http://127.0.0.1:{port}"
    while time.perf_counter() - begun < START_TIMEOUT and started.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return process, url, time.perf_counter() - begun
        except OSError:
            time.sleep(0.1)
    process.kill()
    sys.exit("the app did not start")


def ask(url: str, text: str) -> tuple[str, float]:
    """The score that a user reads, and the seconds of waiting for it."""
    client, begun = Client(url, verbose=False), time.perf_counter()
    _, panel, *_ = client.predict(text, "ladm-nano", api_name="/score")
    found = re.search(r"class=.number.>([^<]+)<", panel)
    return found[1] if found else panel, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--users", type=int, default=10)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON, such as benchmarks/results/space.json")
    options = parser.parse_args()
    texts = demo_documents(options.users)["text"][: options.users]
    process, url, seconds = start(options.cores)
    try:
        used = sum(process.cpu_times()[:2])
        with ThreadPoolExecutor(options.users) as users:
            answers = list(users.map(lambda text: ask(url, text), texts))
        memory = process.memory_info().rss
    finally:
        process.terminate()
        process.wait(30)
    expected = [f"{found.score:.4g}" for found in LadmScorer().score_texts(texts)]
    wrong = [found for (found, _), score in zip(answers, expected, strict=True) if found != score]
    if wrong:
        sys.exit(f"{len(wrong)} of {len(texts)} users got another score than the scorer gives: {wrong[0]}")
    waits = sorted(waited for _, waited in answers)
    result = {
        "cores": options.cores, "start_s": round(seconds, 1), "start_cpu_s": round(used, 1),
        "users": options.users, "wait_s": {"first": round(waits[0], 1), "last": round(waits[-1], 1)},
        "memory_mb": round(memory / 1e6),
    }  # fmt: skip
    print(json.dumps(result))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
