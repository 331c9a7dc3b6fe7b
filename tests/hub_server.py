"""A stand-in for the Hub on this machine: one dataset repository at one commit, with faults on demand."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "org/tiny"


class Hub:
    """What it serves, what it was asked for, and what goes wrong."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.fetched: Counter[str] = Counter()
        """File -> how often its content was asked for."""
        self.faults: dict[str, list[str]] = {}
        """File -> what happens to the next requests for it: `drop` (half of it, then the connection ends) or `503`."""
        self.card: dict[str, object] = {}
        """`cardData` of the repository."""
        self.url = ""

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def entry(self, path: Path) -> dict[str, object]:
        name, size = path.relative_to(self.folder).as_posix(), path.stat().st_size
        return {"type": "file", "path": name, "size": size, "oid": sha256(name.encode()).hexdigest()[:40]}

    def tree(self, prefix: str, recursive: bool) -> list[dict[str, object]]:
        root, found = self.folder / prefix, []
        for path in sorted(root.rglob("*") if recursive else root.iterdir()):
            name = path.relative_to(self.folder).as_posix()
            found.append(self.entry(path) if path.is_file() else {"type": "directory", "path": name, "oid": "0" * 40})
        return found

    def info(self) -> dict[str, object]:
        names = [{"rfilename": path.relative_to(self.folder).as_posix()} for path in self.files()]
        return {"id": REPO, "sha": COMMIT, "siblings": names, "cardData": self.card, "tags": [], "private": False}


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """Serve the files of a folder as the repository's until the block ends."""
    hub = Hub(folder)

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        api, content = f"/api/datasets/{REPO}", f"/datasets/{REPO}/resolve/{COMMIT}/"
        if path in (api, f"{api}/revision/{COMMIT}"):
            self._json(self.hub.info())
        elif path.startswith(f"{api}/tree/{COMMIT}"):
            prefix = path.removeprefix(f"{api}/tree/{COMMIT}").strip("/")
            if (self.hub.folder / prefix).is_dir():
                self._json(self.hub.tree(prefix, parse_qs(url.query).get("recursive", ["false"])[0].lower() == "true"))
            else:
                self._missing()
        elif path.startswith(content) and (file := self.hub.folder / path.removeprefix(content)).is_file():
            self._content(file)
        else:
            self._missing()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        kind = self.headers.get("Content-Type", "")
        paths = json.loads(body)["paths"] if "json" in kind else parse_qs(body)["paths"]
        self._json([self.hub.entry(path) for name in paths if (path := self.hub.folder / name).is_file()])

    def _content(self, file: Path) -> None:
        name, whole = file.relative_to(self.hub.folder).as_posix(), file.read_bytes()
        if self.command == "GET":
            self.hub.fetched[name] += 1
        fault = self.hub.faults[name].pop(0) if self.command == "GET" and self.hub.faults.get(name) else None
        if fault == "503":
            self._answer(503, b"busy", {})
            return
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        last = self.headers.get("Range", "bytes=0-").split("-")[1]
        part = whole[start : int(last) + 1 if last else None]
        headers = {"ETag": f'"{sha256(whole).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if "Range" in self.headers:
            headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(whole)}"
        self._answer(206 if "Range" in self.headers else 200, part, headers, cut=fault == "drop")

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _missing(self) -> None:
        self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the tests' output is for the tests."""
