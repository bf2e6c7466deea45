"""The HTTP side: one handler, one method per endpoint, the Hub's own paths and JSON.

Run it by hand with `python server.py --port 8000`, then `HF_ENDPOINT=http://127.0.0.1:8000 HF_TOKEN=hf_... hf ...`.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import socket
import sys
import threading
import time
import urllib.parse
import uuid
from collections import Counter
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fake_hub import TOKEN
from fake_hub.buckets import Buckets, lines_of
from fake_hub.faults import Faults, answer_with_fault
from fake_hub.jobs import HARDWARE, Jobs
from fake_hub.store import LFS_SUFFIXES, LFS_THRESHOLD, Blob, Commit, Conflict, NotFound, Repo, Store, git_oid
from fake_hub.xet import shard_files, xorb_chunks

USER = "tester"
FREE_ACCOUNT = {"isPro": False, "canPay": False, "periodEnd": None, "orgs": [], "privateUsed": 0}
# Entries of a folder that a commit may make, as on the Hub.
FOLDER_ENTRIES = 10_000
KINDS = r"(?P<kind>models|datasets|spaces)"
NAME = r"(?P<name>[^/]+/[^/]+)"


class Answer(Exception):  # noqa: N818
    """Ends a request: status, JSON or bytes, headers."""

    def __init__(self, body: Any = None, status: int = 200, headers: dict[str, str] | None = None):
        super().__init__(status)
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.status = status
        self.headers = {"Content-Type": "application/octet-stream" if isinstance(body, bytes) else "application/json"}
        self.headers.update(headers or {})


class Hub:
    """The state shared by all connections. `lock` makes each request atomic."""

    def __init__(self, *, stall: float, late: float, part_size: int | None, xet: bool) -> None:
        self.stall, self.late, self.part_size, self.xet = stall, late, part_size, xet
        self.store, self.faults, self.lock = Store(), Faults(), threading.Lock()
        self.buckets = Buckets()
        self.jobs = Jobs()
        self.account: dict[str, Any] = dict(FREE_ACCOUNT)
        self.url = ""


class Request:
    """One request, read completely; `respond` finds its endpoint and carries it out."""

    def __init__(self, hub: Hub, method: str, target: str, headers: Any, body: bytes) -> None:
        self.hub, self.store, self.method, self.headers, self.body = hub, hub.store, method, headers, body
        url = urllib.parse.urlsplit(target)
        self.path = url.path
        self.query_string = url.query
        self.query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        self.authorised = headers.get("Authorization") == f"Bearer {TOKEN}"

    def respond(self) -> Answer:
        for method, pattern, endpoint in ROUTES:
            match = re.fullmatch(pattern, self.path)
            if match and self.method in method:
                arguments = {name: urllib.parse.unquote(value) for name, value in match.groupdict("").items()}
                try:
                    with self.hub.lock:
                        endpoint(self, **arguments)
                except Answer as answer:
                    return answer
                except NotFound as missing:
                    return self._missing(missing.code)
                except Conflict as conflict:
                    return Answer({"error": str(conflict)}, conflict.status)
                raise AssertionError(f"{endpoint.__name__} gave no answer")
        return Answer({"error": f"the fake Hub does not know {self.method} {self.path}"}, 404)

    def _missing(self, code: str) -> Answer:
        status = 404 if self.authorised or code != "RepoNotFound" else 401
        return Answer({"error": code}, status, {"X-Error-Code": code, "X-Error-Message": code})

    def json(self) -> Any:
        return json.loads(self.body)

    def repo(self, kind: str, name: str, write: bool = False) -> Repo:
        repo = self.store.repo(f"{kind or 'models'}/{name}")
        if (write or repo.private) and not self.authorised:
            raise NotFound("RepoNotFound")
        return repo

    # --- accounts and repositories

    def whoami(self) -> None:
        if not self.authorised:
            raise Answer({"error": f"Invalid credentials: {self.headers.get('Authorization')}"}, 401)
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
        account = {name: value for name, value in self.hub.account.items() if name not in ("orgs", "privateUsed")}
        orgs = [
            {"type": "org", "name": org["name"], "fullname": org["name"], "roleInOrg": "write", "canPay": False}
            | {name: org[name] for name in ("isEnterprise",) if name in org}
            for org in self.hub.account["orgs"]
        ]
        raise Answer({"type": "user", "name": USER, "fullname": USER, **account, "orgs": orgs, "auth": auth})

    def organization(self, owner: str) -> None:
        shown = ("name", "plan", "numUsers")
        found = next((org for org in self.hub.account["orgs"] if org["name"] == owner), None)
        if found is None:
            raise Answer({"error": "No organization found"}, 404)
        raise Answer({"avatarUrl": "", "fullname": owner, **{name: found[name] for name in shown if name in found}})

    def storage(self, owner: str = "") -> None:
        """The repositories of an account, and one that stands for whatever else it has."""
        owner = owner or USER
        found = [
            {"id": key.split("/", 1)[1], "type": key.split("s/")[0], "updatedAt": _iso(0), "storage": repo.size()}
            | {"visibility": "private" if repo.private else "public"}
            for key, repo in self.store.repos.items()
            if key.split("/")[1] == owner
        ]
        other = {"id": f"{owner}/other", "type": "model", "updatedAt": _iso(0), "visibility": "private"}
        raise Answer([*found, {**other, "storage": self._owner(owner).get("privateUsed", 0)}])

    def _owner(self, owner: str) -> dict[str, Any]:
        return next((org for org in self.hub.account["orgs"] if org["name"] == owner), self.hub.account)

    def check_quota(self, name: str, added: int) -> None:
        """Refuses private content beyond 100 GB for accounts without a paid plan."""
        account = self._owner(name.split("/")[0])
        paid = account.get("isPro") or account.get("plan") or account.get("isEnterprise")
        if not paid and account.get("privateUsed", 0) + added > 100e9:
            message = "Private repository storage limit reached, please upgrade your plan to increase it"
            raise Answer({"error": message}, 403, {"X-Error-Message": message})

    def create_repo(self) -> None:
        if not self.authorised:
            raise Answer({"error": "Invalid username or password."}, 401)
        body = self.json()
        private = body.get("private") is True or body.get("visibility") == "private"
        key = f"{body.get('type') or 'model'}s/{body.get('organization') or USER}/{body['name']}"
        created = {"url": f"{self.hub.url}/{key.removeprefix('models/')}", "id": key.split("/", 1)[1]}
        if key in self.store.repos:
            raise Answer({"error": "You already created this repo", **created}, 409)
        self.store.create(key, private)
        raise Answer(created)

    def delete_repo(self) -> None:
        body = self.json()
        key = f"{body.get('type') or 'model'}s/{body.get('organization') or USER}/{body['name']}"
        self.store.repo(key)
        del self.store.repos[key]
        raise Answer({})

    def settings(self, kind: str, name: str) -> None:
        repo, body = self.repo(kind, name, write=True), self.json()
        repo.private = (
            body.get("visibility") == "private" if "visibility" in body else body.get("private", repo.private)
        )
        raise Answer({"private": repo.private})

    def repo_info(self, kind: str, name: str, revision: str = "main") -> None:
        repo = self.repo(kind, name)
        commit = repo.resolve(revision or "main")
        siblings = [{"rfilename": path, **_file_entry(path, blob)} for path, blob in sorted(commit.tree.items())]
        raise Answer({
            "_id": "0" * 24, "id": name, "author": name.split("/")[0], "sha": commit.oid, "private": repo.private,
            "gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": [], "siblings": siblings,
            "createdAt": _iso(0), "lastModified": _iso(commit.time),
        })  # fmt: skip

    def refs(self, kind: str, name: str) -> None:
        repo = self.repo(kind, name)

        def listing(refs: dict[str, str], prefix: str) -> list[dict[str, str]]:
            return [{"name": ref, "ref": prefix + ref, "targetCommit": oid} for ref, oid in refs.items()]

        prs = {str(number): pr["head"] for number, pr in repo.prs.items()}
        answer = {"branches": listing(repo.branches, "refs/heads/"), "tags": listing(repo.tags, "refs/tags/")}
        raise Answer({**answer, "converts": [], "pullRequests": listing(prs, "refs/pr/")})

    def branch(self, kind: str, name: str, ref: str) -> None:
        repo = self.repo(kind, name, write=True)
        if ref in repo.branches:
            raise Conflict(409, f"Reference already exists: refs/heads/{ref}")
        repo.branches[ref] = repo.resolve(self.json().get("startingPoint") or "main").oid
        raise Answer({})

    def tag(self, kind: str, name: str, revision: str) -> None:
        repo, tag = self.repo(kind, name, write=True), self.json()["tag"]
        if tag in repo.tags:
            raise Conflict(409, f"Tag reference exists already: {tag}")
        repo.tags[tag] = repo.resolve(revision).oid
        raise Answer({})

    def commits(self, kind: str, name: str, revision: str) -> None:
        history = self.repo(kind, name).history(revision)
        raise Answer([
            {"id": c.oid, "title": c.title, "message": c.message, "authors": [{"user": USER}], "date": _iso(c.time)}
            for c in history
        ])  # fmt: skip

    # --- pull requests

    def open_discussion(self, kind: str, name: str) -> None:
        repo, body = self.repo(kind, name, write=True), self.json()
        number = repo.open_pr(body["title"], body.get("description", ""))
        raise Answer(self._pr(kind, name, repo, number))

    def discussions(self, kind: str, name: str) -> None:
        repo = self.repo(kind, name)
        found = [self._pr(kind, name, repo, number) for number in sorted(repo.prs, reverse=True)]
        raise Answer({"discussions": found, "count": len(found), "start": 0})

    def discussion(self, kind: str, name: str, number: str) -> None:
        repo = self.repo(kind, name)
        if int(number) not in repo.prs:
            raise NotFound("EntryNotFound")
        details = {"events": [], "filesWithConflicts": [], "changes": {"base": "refs/heads/main"}, "diff": ""}
        raise Answer({**self._pr(kind, name, repo, int(number)), **details})

    def _pr(self, kind: str, name: str, repo: Repo, number: int) -> dict[str, Any]:
        pr = repo.prs[number]
        return {
            "num": number, "title": pr["title"], "status": "draft", "isPullRequest": True, "author": {"name": USER},
            "createdAt": _iso(pr["time"]), "repo": {"name": name, "type": kind.removesuffix("s")},
        }  # fmt: skip

    # --- reading files

    def tree(self, kind: str, name: str, revision: str, path: str = "") -> None:
        commit = self.repo(kind, name).resolve(revision)
        inside = {p: b for p, b in commit.tree.items() if not path or p.startswith(path + "/")}
        if path and not inside:
            raise NotFound("EntryNotFound")
        depth = len(PurePosixPath(path).parts)
        entries, recursive = {}, self.query.get("recursive", "").lower() in ("1", "true")
        for file, blob in sorted(inside.items()):
            parts = PurePosixPath(file).parts
            for level in range(depth + 1, len(parts) if recursive else min(len(parts), depth + 2)):
                folder = "/".join(parts[:level])
                entries[folder] = {"type": "directory", "path": folder, "oid": git_oid(folder.encode()), "size": 0}
            if recursive or len(parts) == depth + 1:
                entries[file] = _file_entry(file, blob)
        for entry in entries.values() if self.query.get("expand", "").lower() in ("1", "true") else ():
            entry["lastCommit"] = {"id": commit.oid, "title": commit.title, "date": _iso(commit.time)}
        raise Answer(list(entries.values()))

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        commit = self.repo(kind, name).resolve(revision)
        if self.headers.get("Content-Type", "").startswith("application/json"):
            paths = self.json()["paths"]
        else:
            paths = urllib.parse.parse_qs(self.body.decode()).get("paths", [])
        found: list[dict[str, Any]] = []
        for path in paths:
            if path in commit.tree:
                found.append(_file_entry(path, commit.tree[path]))
            elif any(file.startswith(path.rstrip("/") + "/") for file in commit.tree):
                found.append({"type": "directory", "path": path, "oid": git_oid(path.encode()), "size": 0})
        raise Answer(found)

    def resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        commit = self.repo(kind, name).resolve(revision)
        if path not in commit.tree:
            raise Answer(
                {"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit.oid}
            )
        blob = commit.tree[path]
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.sha256 or blob.oid}"', "Accept-Ranges": "bytes"}
        if blob.sha256:
            headers.update({"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))})
        self._send_range(blob.data, headers)

    def _send_range(self, data: bytes, headers: dict[str, str]) -> None:
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if span is None:
            raise Answer(data, 200, headers)
        first, last = int(span[1]), min(int(span[2] or len(data) - 1), len(data) - 1)
        if first >= len(data):
            raise Answer(b"", 416, {"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        raise Answer(data[first : last + 1], 206, headers)

    # --- writing: what is uploaded how, LFS, commits

    def preupload(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name, write=True)
        tree = repo.resolve(revision).tree
        files = []
        for file in self.json()["files"]:
            path, old = file["path"], tree.get(file["path"])
            is_lfs = (
                path.endswith(LFS_SUFFIXES) or file["size"] > LFS_THRESHOLD or b"\0" in base64.b64decode(file["sample"])
            )
            oid = old and (old.sha256 or old.oid)
            mode = "lfs" if is_lfs else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **({"oid": oid} if oid else {})})
        raise Answer({"files": files})

    def validate_yaml(self) -> None:
        import yaml

        match = re.match(r"^\ufeff?---\r?\n(.*?)\r?\n---", self.json()["content"], re.DOTALL)
        try:
            data = yaml.safe_load(match[1]) if match else {}
            errors = [] if isinstance(data, dict) else [{"message": "the front matter is not a mapping"}]
        except yaml.YAMLError as error:
            errors = [{"message": str(error)}]
        raise Answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def lfs_batch(self, kind: str, name: str) -> None:
        asked, objects = self.json(), []
        if self.repo(kind, name, write=True).private:
            self.check_quota(name, sum(item["size"] for item in asked["objects"]))
        # a client that knows Xet takes the objects no further
        if self.hub.xet and "xet" in asked.get("transfers", ()):
            raise Answer({"transfer": "xet", "objects": asked["objects"]})
        for item in asked["objects"]:
            if item["oid"] in self.store.objects:
                objects.append(item)
                continue
            upload: dict[str, Any] = {"href": f"{self.hub.url}/_lfs/{item['oid']}", "header": {}}
            size = self.hub.part_size
            if size and item["size"] > size:
                parts = range(1, -(-item["size"] // size) + 1)
                upload["header"] = {str(n): f"{self.hub.url}/_lfs/{item['oid']}/{n}" for n in parts}
                upload["header"]["chunk_size"] = str(size)
            verify = {"href": f"{self.hub.url}/_lfs/{item['oid']}/verify", "header": {}}
            objects.append({**item, "actions": {"upload": upload, "verify": verify}})
        raise Answer({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str, part: str = "") -> None:
        if part:
            self.store.parts[oid, int(part)] = self.body
            raise Answer({}, 200, {"ETag": f'"{git_oid(self.body)}"'})
        self._keep(oid, self.body)

    def lfs_complete(self, oid: str) -> None:
        numbers = [part["partNumber"] for part in self.json()["parts"]]
        self._keep(oid, b"".join(self.store.parts[oid, number] for number in numbers))

    def lfs_verify(self, oid: str) -> None:
        if len(self.store.objects.get(oid, b"")) != self.json()["size"]:
            raise Answer({"error": "not uploaded"}, 404)
        raise Answer({})

    def _keep(self, oid: str, data: bytes) -> None:
        if Blob.lfs(data).sha256 != oid:
            raise Answer({"error": "the content does not have this sha256"}, 400)
        self.store.objects[oid] = data
        raise Answer({})

    def commit(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name, write=True)
        lines = [json.loads(line) for line in self.body.splitlines() if line]
        answer = {}
        if self.query.get("create_pr") == "1":
            number = repo.open_pr(lines[0]["value"]["summary"], "", revision)
            revision = f"refs/pr/{number}"
            answer["pullRequestUrl"] = f"{self.hub.url}/{kind}/{name}/discussions/{number}"
        commit: Commit = self.store.commit(repo, revision, lines)
        folder, entries = Counter(path.rpartition("/")[0] for path in commit.tree).most_common(1)[0]
        if entries > FOLDER_ENTRIES:
            repo.move(revision, str(commit.parent))
            raise Answer({"error": f"{folder} has {entries} entries, more than {FOLDER_ENTRIES}"}, 400)
        url = f"{self.hub.url}/{kind}/{name}/commit/{commit.oid}"
        raise Answer({**answer, "success": True, "commitOid": commit.oid, "commitUrl": url})

    # --- buckets, whose content is uploaded as that of repositories is

    def bucket(self, bucket: str, action: str = "", path: str = "") -> None:
        buckets = self.hub.buckets
        if not self.authorised:
            raise Answer({"error": "Invalid username or password."}, 401)
        if self.method == "POST" and not action:
            raise Answer(*buckets.create(bucket, self.hub.url))
        if bucket not in buckets.buckets:
            raise NotFound("RepoNotFound")
        if action.startswith("xet-"):
            self._xet_connection()
        raise Answer(
            *{
                "": lambda: buckets.info(bucket),
                "tree": lambda: buckets.tree(bucket, path, self.query.get("recursive", "").lower() == "true"),
                "paths-info": lambda: buckets.paths_info(bucket, self.json()["paths"]),
                "batch": lambda: buckets.batch(bucket, lines_of(self.body)),
            }[action]()
        )

    def bucket_file(self, bucket: str, path: str) -> None:
        file = self.hub.buckets.buckets.get(bucket, {}).get(path)
        if file is None or not self.authorised:
            raise NotFound("EntryNotFound" if self.authorised else "RepoNotFound")
        self._send_range(self.hub.buckets.contents[file["xetHash"]], {"ETag": f'"{file["xetHash"]}"'})

    # --- jobs, which never run

    def hardware(self) -> None:
        raise Answer(HARDWARE)

    def jobs(self, namespace: str, id_: str = "", action: str = "") -> None:
        jobs = self.hub.jobs
        reply = jobs.refusal(self.authorised, namespace)
        if reply is None and not id_:
            reply = (
                jobs.run(namespace, self.json()) if self.method == "POST" else jobs.find(namespace, self.query_string)
            )
        elif reply is None and (job := jobs.one(namespace, id_)) is None:
            reply = {"error": "Job not found"}, 404
        elif reply is None and action == "logs":
            reply = jobs.log(id_, self.query.get("tail"))
        elif reply is None:
            reply = jobs.cancel(job) if action == "cancel" else (job, 200)
        raise Answer(*reply)

    # --- Xet: a token, a grant for each xorb, its bytes and its commit, then a shard that makes files of xorbs.
    # Older clients post xorbs directly. Chunk look-ups and telemetry answer 404, and clients do without.

    def xet_token(self, kind: str, name: str, revision: str) -> None:
        self.repo(kind, name, write=True)
        if not self.hub.xet:
            raise Answer({"error": "Xet is off"}, 404)
        self._xet_connection()

    def _xet_connection(self) -> None:
        url, expires = f"{self.hub.url}/_cas", int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": "cas", "X-Xet-Token-Expiration": str(expires)}
        raise Answer({"casUrl": url, "accessToken": "cas", "exp": expires}, 200, headers)

    def xorb_grant(self, hash_: str) -> None:
        if hash_ in self.store.xorbs:
            raise Answer({}, 200)
        grant = {"id": hash_, "url": f"{self.hub.url}/_cas/upload/{hash_}", "method": "PUT", "headers": {}}
        raise Answer(grant, 201)

    def xorb(self, hash_: str) -> None:
        new = hash_ not in self.store.xorbs
        self.store.xorbs[hash_] = xorb_chunks(self.body)
        raise Answer({"was_inserted": new})

    def xorb_commit(self, hash_: str) -> None:
        raise Answer({}, 200 if hash_ in self.store.xorbs else 404)

    def shard(self, version: str = "") -> None:
        for name, sha256, terms in shard_files(self.body):
            if missing := [xorb for xorb, _, _ in terms if xorb not in self.store.xorbs]:
                raise Answer({"error": f"a file refers to xorb {missing[0]}, which was never uploaded"}, 400)
            data = b"".join(chunk for xorb, first, end in terms for chunk in self.store.xorbs[xorb][first:end])
            if sha256 is not None and Blob.lfs(data).sha256 != sha256:
                raise Answer({"error": "the chunks of a file do not have its sha256"}, 400)
            self.hub.buckets.contents[name] = data
            if sha256 is not None:
                self.store.objects[sha256] = data
        if version == "2":
            raise Answer(b'{"type":"result","result":1}\n', 200, {"Content-Type": "application/x-ndjson"})
        raise Answer({"result": 1})


def _file_entry(path: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(blob.data), "oid": blob.oid, "blobId": blob.oid}
    if blob.sha256:
        entry["lfs"] = {"oid": blob.sha256, "sha256": blob.sha256, "size": len(blob.data), "pointerSize": 130}
    return entry


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


_API, _GIT = rf"/api/{KINDS}/{NAME}", rf"/(?:(?P<kind>datasets|spaces)/)?{NAME}"
_BUCKET = r"(?P<bucket>[^/]+/[^/]+)"
ROUTES: list[tuple[tuple[str, ...], str, Any]] = [
    (("GET",), "/api/whoami-v2", Request.whoami),
    (("GET",), "/api/organizations/(?P<owner>[^/]+)/overview", Request.organization),
    (("GET",), "/api(?:/organizations/(?P<owner>[^/]+))?/settings/repositories", Request.storage),
    (("POST",), "/api/repos/create", Request.create_repo),
    (("DELETE",), "/api/repos/delete", Request.delete_repo),
    (("POST",), "/api/validate-yaml", Request.validate_yaml),
    (
        ("GET", "POST"),
        rf"/api/buckets/{_BUCKET}(?:/(?P<action>xet-write-token|xet-read-token|paths-info|batch))?",
        Request.bucket,
    ),
    (("GET",), rf"/api/buckets/{_BUCKET}/(?P<action>tree)(?:/(?P<path>.+))?", Request.bucket),
    (("GET", "HEAD"), rf"/buckets/{_BUCKET}/resolve/(?P<path>.+)", Request.bucket_file),
    (("GET",), "/api/jobs/hardware", Request.hardware),
    (("GET", "POST"), r"/api/jobs/(?P<namespace>[^/]+)", Request.jobs),
    (("GET", "POST"), r"/api/jobs/(?P<namespace>[^/]+)/(?P<id_>\w+)(?:/(?P<action>logs|cancel))?", Request.jobs),
    (("PUT",), rf"{_API}/settings", Request.settings),
    (("GET",), rf"{_API}(?:/revision/(?P<revision>[^/]+))?", Request.repo_info),
    (("GET",), rf"{_API}/refs", Request.refs),
    (("POST",), rf"{_API}/branch/(?P<ref>[^/]+)", Request.branch),
    (("POST",), rf"{_API}/tag/(?P<revision>[^/]+)", Request.tag),
    (("GET",), rf"{_API}/commits/(?P<revision>[^/]+)", Request.commits),
    (("POST",), rf"{_API}/discussions", Request.open_discussion),
    (("GET",), rf"{_API}/discussions", Request.discussions),
    (("GET",), rf"{_API}/discussions/(?P<number>\d+)", Request.discussion),
    (("GET",), rf"{_API}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", Request.tree),
    (("POST",), rf"{_API}/paths-info/(?P<revision>[^/]+)", Request.paths_info),
    (("POST",), rf"{_API}/preupload/(?P<revision>[^/]+)", Request.preupload),
    (("GET",), rf"{_API}/xet-write-token/(?P<revision>[^/]+)", Request.xet_token),
    (("POST",), rf"{_API}/commit/(?P<revision>[^/]+)", Request.commit),
    (("POST",), rf"{_GIT}\.git/info/lfs/objects/batch", Request.lfs_batch),
    (("PUT",), r"/_lfs/(?P<oid>\w+)(?:/(?P<part>\d+))?", Request.lfs_put),
    (("POST",), r"/_lfs/(?P<oid>\w+)", Request.lfs_complete),
    (("POST",), r"/_lfs/(?P<oid>\w+)/verify", Request.lfs_verify),
    (("POST",), r"/_cas/v1/xorb-grants/default/(?P<hash_>\w+)", Request.xorb_grant),
    (("PUT",), r"/_cas/upload/(?P<hash_>\w+)", Request.xorb),
    (("POST",), r"/_cas/v1/xorb-commits/default/(?P<hash_>\w+)/grant/\w+", Request.xorb_commit),
    (("POST",), r"/_cas/(?:v1/)?xorbs/default/(?P<hash_>\w+)", Request.xorb),
    (("POST",), r"/_cas/(?:v(?P<version>[12])/)?shards", Request.shard),
    (("GET", "HEAD"), rf"{_GIT}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Request.resolve),
]


class Handler(BaseHTTPRequestHandler):
    """Reads a request, lets the faults have their say, and writes the answer."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, OSError, ValueError):
            self.close_connection = True

    def handle_any(self) -> None:
        body = self._read_body()
        request = Request(self.hub, self.command, self.path, self.headers, body)
        if request.path.startswith("/_fake/"):
            self._write(_wire(self._control(request)))
            return
        entry = self.hub.faults.next(self.command, request.path, request.authorised)
        entry["bytes"] = len(body)

        def answer() -> bytes:
            done = request.respond()
            entry["status"] = done.status
            done.headers["X-Request-Id"] = str(uuid.uuid4())
            return _wire(done, body=self.command != "HEAD")

        if entry["fault"] is None:
            self._write(answer())
            return
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        wire = answer_with_fault(entry["fault"], self.connection, answer, self.hub.stall, self.hub.late)
        if wire is None:
            self.close_connection = True
        else:
            self._write(wire if self.command != "HEAD" else wire.split(b"\r\n\r\n")[0] + b"\r\n\r\n")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

    def _write(self, wire: bytes) -> None:
        self.wfile.write(wire)
        self.wfile.flush()

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _control(self, request: Request) -> Answer:
        hub, action = self.hub, request.path.removeprefix("/_fake/")
        with hub.lock:
            if action == "reset":
                kept = None if request.json().get("blobs", True) else hub.store
                hub.store, contents = Store(), hub.buckets.contents
                hub.buckets = Buckets()
                if kept:
                    hub.buckets.contents = contents
                    hub.store.objects, hub.store.xorbs = kept.objects, kept.xorbs
                hub.faults.replace([])
                hub.jobs, hub.account = Jobs(), dict(FREE_ACCOUNT)
            elif action == "jobs":
                return Answer([{**job, "sent": sent} for job, sent in zip(hub.jobs.jobs, hub.jobs.sent, strict=True)])
            elif action == "job":
                hub.jobs.change(**request.json())
            elif action == "account":
                hub.account = {**FREE_ACCOUNT, **request.json()}
            elif action == "faults":
                hub.faults.replace(request.json())
            elif action == "log":
                return Answer(hub.faults.log)
            elif action == "state":
                return Answer({key: repo.state() for key, repo in hub.store.repos.items()})
        return Answer({})


def _wire(answer: Answer, body: bool = True) -> bytes:
    headers = {**answer.headers, "Content-Length": str(len(answer.body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {answer.status} Fake\r\n{head}\r\n".encode() + (answer.body if body else b"")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--stall", type=float, default=3.0)
    parser.add_argument("--late", type=float, default=0.3)
    parser.add_argument("--part-size", type=int, default=None)
    parser.add_argument("--no-xet", dest="xet", action="store_false")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input does")
    options = parser.parse_args()
    hub = Hub(stall=options.stall, late=options.late, part_size=options.part_size, xet=options.xet)
    server = Server(("127.0.0.1", options.port), type("Handler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    print(hub.url, flush=True)
    if options.with_parent:
        threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
