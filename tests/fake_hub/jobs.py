"""Jobs: started, listed by label and stage, read, cancelled. Nothing runs; a test says what became of them."""

from __future__ import annotations

import json
import urllib.parse
from datetime import UTC, datetime
from typing import Any

# Namespaces: those that may run jobs, and one without credit. Any other is refused.
MAY_RUN, WITHOUT_CREDIT = ("tester", "lab"), "poor"
_GPU = {"type": "gpu", "manufacturer": "Nvidia"}
HARDWARE = [
    {"name": name, "prettyName": name, "cpu": cpu, "ram": ram, "ephemeralStorage": "50 GB", "accelerator": accelerator,
     "unitCostMicroUSD": round(1e6 * hourly / 60), "unitCostUSD": hourly / 60, "unitLabel": "minute"}
    for name, cpu, ram, accelerator, hourly in [
        ("cpu-upgrade", "8 vCPU", "32 GB", None, 0.03),
        ("l4x1", "8 vCPU", "30 GB", {**_GPU, "model": "L4", "quantity": "1", "vram": "24 GB"}, 0.80),
        ("l4x4", "48 vCPU", "186 GB", {**_GPU, "model": "L4", "quantity": "4", "vram": "96 GB"}, 3.80),
        ("h200", "23 vCPU", "256 GB", {**_GPU, "model": "H200", "quantity": "1", "vram": "141 GB"}, 5.00),
        ("odd", "8 vCPU", "64 GB", {**_GPU, "model": "Z9000", "quantity": "1", "vram": "48 GB"}, 2.00),
        ("v5e-1x1", "24 vCPU", "48 GB", {"type": "tpu", "manufacturer": "Google", "model": "v5e", "quantity": "1",
                                         "vram": "16 GB"}, 1.20),
    ]
]  # fmt: skip

Reply = tuple[Any, int]


class Jobs:
    """All jobs, oldest first. Methods answer with a JSON value, or the bytes of a stream, and a status."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.logs: dict[str, list[str]] = {}
        # what was sent, with the values of secrets, which no answer shows
        self.sent: list[dict[str, Any]] = []

    def refusal(self, authorised: bool, namespace: str) -> Reply | None:
        if not authorised:
            return {"error": "Invalid username or password."}, 401
        if namespace == WITHOUT_CREDIT:
            return {"error": "Pre-paid credit balance is insufficient - add more credits to your account."}, 402
        if namespace not in MAY_RUN:
            return {"error": f"You do not have the required permissions for {namespace}"}, 403
        return None

    def run(self, namespace: str, spec: dict[str, Any]) -> Reply:
        if spec["flavor"] not in {each["name"] for each in HARDWARE}:
            return {"error": f"Invalid flavor {spec['flavor']}"}, 400
        now = _now()
        job = {
            "id": f"{len(self.jobs) + 1:024x}", "createdAt": now, "startedAt": None, "finishedAt": None,
            "dockerImage": spec.get("dockerImage"), "spaceId": spec.get("spaceId"), "command": spec["command"],
            "arguments": spec["arguments"], "environment": spec["environment"], "secrets": {}, "flavor": spec["flavor"],
            "labels": spec.get("labels"), "timeout": spec.get("timeoutSeconds"),
            "status": {"stage": "SCHEDULING", "message": None}, "durations": {"runningSecs": None},
            "owner": {"id": "0" * 24, "name": namespace, "type": "user"},
        }  # fmt: skip
        self.jobs.append(job)
        self.sent.append(spec)
        return job, 200

    def find(self, namespace: str, query: str) -> Reply:
        asked = urllib.parse.parse_qsl(query)
        stages = {value for key, value in asked if key == "stage"}
        labels = dict(value.split("=", 1) for key, value in asked if key == "label")
        found = [
            job for job in reversed(self.jobs)
            if job["owner"]["name"] == namespace and (not stages or job["status"]["stage"] in stages)
            and labels.items() <= (job["labels"] or {}).items()
        ]  # fmt: skip
        return found, 200

    def one(self, namespace: str, id_: str) -> dict[str, Any] | None:
        return next((job for job in self.jobs if (job["owner"]["name"], job["id"]) == (namespace, id_)), None)

    def log(self, id_: str, tail: str | None) -> Reply:
        now = datetime.now(UTC).isoformat()
        lines = self.logs.get(id_, [])[-int(tail) if tail else 0 :]
        events = (f"data: {json.dumps({'data': line, 'timestamp': now})}\n\n" for line in lines)
        return "".join(events).encode(), 200

    def cancel(self, job: dict[str, Any]) -> Reply:
        job["status"]["stage"] = "CANCELED"
        return job, 200

    def change(self, id_: str, stage: str, message: str | None, seconds: int | None, log: list[str]) -> None:
        """What a test says became of a job."""
        job = next(job for job in self.jobs if job["id"] == id_)
        job["status"] = {"stage": stage, "message": message}
        job["finishedAt"] = _now() if stage not in ("RUNNING", "SCHEDULING") else None
        job["durations"] = {"runningSecs": seconds}
        self.logs[id_] = log


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
