"""What a Hub remembers: repositories, commits, references and content, in memory."""

from __future__ import annotations

import hashlib
import itertools
import time
from dataclasses import dataclass, field
from typing import Any

LFS_SUFFIXES = (".parquet", ".arrow", ".safetensors", ".bin", ".png", ".jpg", ".zip", ".gz")
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
LFS_THRESHOLD = 10_000_000


class NotFound(Exception):  # noqa: N818 - an HTTP answer, not a failure of this code
    """The Hub's 404: `code` is the X-Error-Code header that clients look at."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Conflict(Exception):  # noqa: N818
    """The Hub's 409 or 412."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Blob:
    """One file of a tree. `sha256` is set for LFS files, whose git object is only a pointer."""

    data: bytes
    oid: str
    sha256: str | None = None

    @classmethod
    def regular(cls, data: bytes) -> Blob:
        return cls(data, git_oid(data))

    @classmethod
    def lfs(cls, data: bytes) -> Blob:
        sha256 = hashlib.sha256(data).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n"
        return cls(data, git_oid(pointer.encode()), sha256)


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    message: str
    time: float
    tree: dict[str, Blob]


@dataclass
class Repo:
    """Branches and pull requests point at commits; so do tags."""

    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    prs: dict[int, dict[str, Any]] = field(default_factory=dict)

    def resolve(self, revision: str) -> Commit:
        """The commit of a branch, a tag, `refs/pr/N`, `refs/heads/x` or a full hash."""
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        oid = self.branches.get(name) or self.tags.get(name)
        if oid is None and revision.startswith("refs/pr/"):
            oid = self.prs.get(int(revision.removeprefix("refs/pr/")), {}).get("head")
        oid = oid or revision
        if oid not in self.commits:
            raise NotFound("RevisionNotFound")
        return self.commits[oid]

    def move(self, revision: str, oid: str) -> None:
        if revision.startswith("refs/pr/"):
            self.prs[int(revision.removeprefix("refs/pr/"))]["head"] = oid
        else:
            self.branches[revision.removeprefix("refs/heads/")] = oid

    def open_pr(self, title: str, description: str, base: str = "main") -> int:
        number = len(self.prs) + 1
        self.prs[number] = {
            "title": title, "description": description, "head": self.resolve(base).oid, "time": time.time(),
        }  # fmt: skip
        return number

    def add_commit(self, revision: str, title: str, message: str, tree: dict[str, Blob], parent: str | None) -> Commit:
        key = f"{parent}{title}{message}{sorted((path, blob.oid) for path, blob in tree.items())}{next(_NONCE)}"
        commit = Commit(hashlib.sha1(key.encode()).hexdigest(), parent, title, message, time.time(), tree)
        self.commits[commit.oid] = commit
        self.move(revision, commit.oid)
        return commit

    def history(self, revision: str) -> list[Commit]:
        """Newest first."""
        commits = [self.resolve(revision)]
        while commits[-1].parent:
            commits.append(self.commits[commits[-1].parent])
        return commits

    def size(self) -> int:
        """Bytes of all files of the main branch."""
        return sum(len(blob.data) for blob in self.resolve("main").tree.values())

    def state(self) -> dict[str, Any]:
        """For the control endpoint."""
        return {
            "private": self.private,
            "branches": self.branches,
            "tags": self.tags,
            "prs": self.prs,
            "commits": [
                {"oid": c.oid, "parent": c.parent, "title": c.title, "message": c.message,
                 "files": {path: [len(blob.data), blob.sha256 or blob.oid] for path, blob in sorted(c.tree.items())}}
                for c in self.commits.values()
            ],
        }  # fmt: skip


class Store:
    """All repositories by `kind/owner/name`, and content that was uploaded but perhaps not committed yet."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}  # sha256 -> content
        self.parts: dict[tuple[str, int], bytes] = {}
        self.xorbs: dict[str, list[bytes]] = {}  # xorb hash -> its chunks
        self.xorb_shards: dict[str, bytes] = {}

    def repo(self, key: str) -> Repo:
        if key not in self.repos:
            raise NotFound("RepoNotFound")
        return self.repos[key]

    def create(self, key: str, private: bool) -> None:
        repo = self.repos[key] = Repo(private)
        repo.add_commit("main", "initial commit", "", {".gitattributes": Blob.regular(GITATTRIBUTES)}, None)

    def commit(self, repo: Repo, revision: str, lines: list[dict[str, Any]]) -> Commit:
        """Applies the NDJSON operations of a commit request to the head of `revision`, all or nothing."""
        import base64

        header = lines[0]["value"]
        head = repo.resolve(revision)
        parent = header.get("parentCommit")
        if parent and parent != head.oid:
            raise Conflict(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(head.tree)
        for line in lines[1:]:
            value, path = line["value"], line["value"]["path"]
            if line["key"] == "file":
                tree[path] = Blob.regular(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.objects:
                    raise Conflict(400, f"LFS object {value['oid']} of {path} was never uploaded")
                tree[path] = Blob.lfs(self.objects[value["oid"]])
            elif line["key"] == "deletedFile":
                if tree.pop(path, None) is None:
                    raise NotFound("EntryNotFound")
            elif line["key"] == "deletedFolder":
                tree = {name: blob for name, blob in tree.items() if not name.startswith(path.rstrip("/") + "/")}
        return repo.add_commit(revision, header["summary"], header.get("description", ""), tree, head.oid)


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


_NONCE = itertools.count()
