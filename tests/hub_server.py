"""A small stand-in for the hub: the part of its interface that pushing and loading a model use, kept in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

USER = "somebody"


class Hub:
    """Repositories by name, each a dict of files by path, and large files by their digest."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}

    def commit_of(self, repo: str) -> str:
        digest = hashlib.sha1()
        for path, content in sorted(self.repos[repo].items()):
            digest.update(path.encode() + content)
        return digest.hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers one request; `hub` and `endpoint` are set by `hub_server`."""

    hub: Hub
    endpoint: str
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def _answer(self, method: str) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlparse(self.path).path)
        for pattern, name in ROUTES:
            verbs, _, expression = pattern.partition(" ")
            match = re.fullmatch(expression, path)
            if method in verbs.split("|") and match:
                if (repo := match.groupdict().get("repo")) and repo not in self.hub.repos:
                    self._send(404, {"error": "no such repository"}, {"X-Error-Code": "RepoNotFound"})
                else:
                    getattr(self, name)(**match.groupdict())
                return
        self._send(404, {"error": f"the stand-in does not know {method} {path}"})

    def _send(self, status: int, content: object = None, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def who_am_i(self) -> None:
        self._send(200, {"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token"}})

    def validate_yaml(self) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def create(self) -> None:
        asked = json.loads(self.body)
        repo = f"{asked.get('organization') or USER}/{asked['name']}"
        self.hub.repos.setdefault(repo, {".gitattributes": b""})
        self._send(200, {"url": f"{self.endpoint}/{repo}", "id": repo, "name": repo})

    def info(self, repo: str) -> None:
        siblings = [{"rfilename": path} for path in self.hub.repos[repo]]
        self._send(
            200, {"id": repo, "modelId": repo, "sha": self.hub.commit_of(repo), "siblings": siblings, "tags": []}
        )

    def tree(self, repo: str, folder: str | None) -> None:
        start = f"{folder}/" if folder else ""
        files = [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for path, content in self.hub.repos[repo].items()
            if path.startswith(start)
        ]
        self._send(200, files)

    def resolve(self, repo: str, file: str) -> None:
        content = self.hub.repos[repo].get(file)
        commit = {"X-Repo-Commit": self.hub.commit_of(repo)}
        if content is None:
            self._send(404, {"error": "no such file"}, {**commit, "X-Error-Code": "EntryNotFound"})
            return
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self._send(200, content, {**commit, "ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": str(len(content))})

    def preupload(self, repo: str) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in json.loads(self.body)["files"]
        ]
        self._send(200, {"files": files})

    def large_files(self, repo: str) -> None:
        objects = [
            {
                **asked,
                "actions": {
                    "upload": {"href": f"{self.endpoint}/large/{asked['oid']}"},
                    "verify": {"href": f"{self.endpoint}/verify"},
                },
            }
            for asked in json.loads(self.body)["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        self.hub.large[oid] = self.body
        self._send(200)

    def verify(self) -> None:
        self._send(200)

    def commit(self, repo: str) -> None:
        files = self.hub.repos[repo]
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        oid = self.hub.commit_of(repo)
        self._send(200, {"commitUrl": f"{self.endpoint}/{repo}/commit/{oid}", "commitOid": oid, "success": True})


ROUTES = [
    ("GET /api/whoami-v2", "who_am_i"),
    ("POST /api/validate-yaml", "validate_yaml"),
    ("POST /api/repos/create", "create"),
    (r"GET /api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/[^/]+)?", "info"),
    (r"GET /api/models/(?P<repo>[^/]+/[^/]+)/tree/[^/]+(?:/(?P<folder>.+))?", "tree"),
    (r"POST /api/models/(?P<repo>[^/]+/[^/]+)/preupload/[^/]+", "preupload"),
    (r"POST /api/models/(?P<repo>[^/]+/[^/]+)/commit/[^/]+", "commit"),
    (r"POST /(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "large_files"),
    (r"PUT /large/(?P<oid>\w+)", "upload"),
    ("POST /verify", "verify"),
    (r"GET|HEAD /(?P<repo>[^/]+/[^/]+)/resolve/[^/]+/(?P<file>.+)", "resolve"),
]
"""Methods and paths of requests, and what answers them."""


@contextmanager
def hub_server() -> Iterator[tuple[Hub, str]]:
    """Run the stand-in on a free port; provides what it stores, and its address for `HF_ENDPOINT`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.hub, Handler.endpoint = Hub(), f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Handler.hub, Handler.endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
