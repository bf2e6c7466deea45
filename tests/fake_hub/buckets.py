"""Buckets: files by path without history. Their content comes by Xet and is named by its Xet hash."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

Reply = tuple[Any, int]


class Buckets:
    """All buckets by `owner/name`. Methods answer with a JSON value and a status."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, dict[str, Any]]] = {}
        self.contents: dict[str, bytes] = {}

    def create(self, name: str, url: str) -> Reply:
        answer = {"url": f"{url}/buckets/{name}", "id": name}
        if name in self.buckets:
            return {"error": "You already created this bucket", **answer}, 409
        self.buckets[name] = {}
        return answer, 200

    def info(self, name: str) -> Reply:
        files = self.buckets[name].values()
        size = sum(file["size"] for file in files)
        return {"id": name, "private": True, "createdAt": _now(), "size": size, "totalFiles": len(files)}, 200

    def tree(self, name: str, prefix: str, recursive: bool) -> Reply:
        """Files whose path begins with a prefix, as characters; folders only where it is not recursive."""
        entries: dict[str, dict[str, Any]] = {}
        for path, file in sorted(self.buckets[name].items()):
            if not path.startswith(prefix):
                continue
            below = path[len(prefix) :].lstrip("/")
            folder = path[: len(path) - len(below)] + below.split("/")[0]
            if recursive or "/" not in below:
                entries[path] = file
            else:
                entries[folder] = {"type": "directory", "path": folder, "uploadedAt": file["uploadedAt"]}
        return list(entries.values()), 200

    def paths_info(self, name: str, paths: list[str]) -> Reply:
        return [self.buckets[name][path] for path in paths if path in self.buckets[name]], 200

    def batch(self, name: str, lines: list[dict[str, Any]]) -> Reply:
        files, failed = self.buckets[name], []
        for line in lines:
            path = line["path"]
            if line["type"] == "deleteFile":
                files.pop(path, None)
            elif line["xetHash"] not in self.contents:
                failed.append({"path": path, "error": f"no content {line['xetHash']}"})
            else:
                size = len(self.contents[line["xetHash"]])
                files[path] = {
                    "type": "file", "path": path, "size": size, "xetHash": line["xetHash"],
                    "mtime": _iso(datetime.fromtimestamp((line["mtime"] or 0) / 1000, UTC)),
                    "uploadedAt": _now(),
                }  # fmt: skip
        return {"success": not failed, "failed": failed}, 200 if len(failed) < len(lines) else 422


def lines_of(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in body.splitlines() if line.strip()]


def _now() -> str:
    return _iso(datetime.now(UTC))


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
