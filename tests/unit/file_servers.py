"""Servers of files on this machine: one like GitHub's raw files, and a stand-in of the Hugging Face hub."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class FileServer:
    """A server of raw files, like GitHub's.

    ``files`` holds the content by path, ``announced`` wrong lengths that are sent, and ``failures`` how often a path is
    refused first. ``asked`` lists the paths of all requests.
    """

    def __init__(self):
        self.files, self.announced, self.failures, self.asked = {}, {}, {}, []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            do_HEAD = do_GET

            def log_message(self, *arguments):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, request):
        """Answer one request."""
        self.asked.append(request.path)
        if self.failures.get(request.path, 0):
            self.failures[request.path] -= 1
            request.send_error(503)
        elif request.path not in self.files:
            request.send_error(404)
        else:
            self.send(request, 200, self.files[request.path])

    def send(self, request, status, content, headers=(), whole=None):
        """Send a content, under the length that is announced for the path if there is one."""
        request.send_response(status)
        for name, value in dict(headers).items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(self.announced.get(request.path, len(content))))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content if whole is None else content[:whole])

    def close(self):
        self._http.shutdown()
        self._http.server_close()


class HubServer(FileServer):
    """A stand-in of the hub that has data sets.

    ``commits`` holds the files (content by path) of a data set's commits: ``commits["owner/name"][commit]``.
    ``branches`` maps ``("owner/name", branch)`` to a commit. A data set in ``gated`` or ``private`` is only for those
    who send ``token``. ``breaks`` lists, by path in the data set, after how many bytes the next answers break off.
    ``served`` holds other contents by path, which the hub's list of files does not know. Files whose names end in
    ``.parquet`` or ``.jsonl`` are large files (LFS). ``asked`` lists method, path and range of all requests for files,
    and ``listed`` the paths of all other requests.
    """

    token = "hf_neverToBeSeen0123456789"

    def __init__(self):
        super().__init__()
        self.commits, self.branches, self.breaks, self.served = {}, {}, {}, {}
        self.gated, self.private, self.listed = set(), set(), []

    def environment(self, cache):
        """Return the variables by which a process uses this server, and a cache of its own."""
        return {
            "HF_ENDPOINT": self.host, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
        }  # fmt: skip

    def answer(self, request):
        path = unquote(urlsplit(request.path).path)
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|auth-check)(?:/(.+))?)?", path):
            self.listed.append(path)
            name, what, revision = found.groups()
            if commit := self._commit(request, name, revision or "main"):
                listing = [self._described(*file) for file in self.commits[name][commit].items()]
                self._send_json(request, listing if what == "tree" else {"id": name, "sha": commit, "siblings": []})
        elif found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.asked.append((request.command, found[3], request.headers["Range"]))
            if commit := self._commit(request, found[1], found[2]):
                self._send_file(request, commit, found[3], self.commits[found[1]][commit])
        else:
            self._refuse(request, 404, "")

    def _commit(self, request, name, revision):
        allowed = request.headers["Authorization"] == f"Bearer {self.token}"
        if name not in self.commits or (name in self.private and not allowed):
            return self._refuse(request, 401, "RepoNotFound")
        if name in self.gated and not allowed:
            return self._refuse(request, 403, "GatedRepo")
        commit = self.branches.get((name, revision), revision)
        return commit if commit in self.commits[name] else self._refuse(request, 404, "RevisionNotFound")

    def _refuse(self, request, status, code):
        said = f"no access with {request.headers['Authorization']}"
        self.send(request, status, b"", {"X-Error-Code": code, "X-Error-Message": said})

    def _send_json(self, request, value):
        self.send(request, 200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    @staticmethod
    def _described(path, content):
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        large = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        is_large = path.endswith((".parquet", ".jsonl"))
        return {"type": "file", "path": path, "size": len(content), "oid": blob, **({"lfs": large} if is_large else {})}

    def _send_file(self, request, commit, path, files):
        if path not in files:
            return self._refuse(request, 404, "EntryNotFound")
        described = self._described(path, files[path])
        etag = described.get("lfs", described)["oid"]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "X-Linked-Etag": f'"{etag}"'}
        content, status = self.served.get(path, files[path]), 200
        if request.command == "GET":
            if begin := int((request.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-")):
                headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
                content, status = content[begin:], 206
            sent = self.breaks[path].pop(0) if self.breaks.get(path) else None
            return self.send(request, status, content, headers, sent)
        return self.send(request, status, content, {**headers, "X-Linked-Size": len(content)})
