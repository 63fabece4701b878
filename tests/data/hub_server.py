"""A stand-in for the Hugging Face hub: the parts of its HTTP API that data sets are read by.

`datasets` and `huggingface_hub` run unchanged against it, with HF_ENDPOINT as their own setting.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(name: str, files: Mapping[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a hub with one data set, and the requests that it was sent.

    Args:
        name: of the data set, OWNER/NAME.
        files: contents by path in the repository.
    """
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            asked = self.rfile.read(length).decode()
            requests.append(f"{self.command} {self.path} {asked}")
            if self.path.startswith(f"/api/datasets/{name}/paths-info/"):
                paths = json.loads(asked)["paths"]
                self._send(json.dumps([_entry(p, files[p]) for p in paths if p in files]).encode())
            else:
                self._refuse()

        def _answer(self, body: bool) -> None:
            requests.append(f"{self.command} {self.path}")
            path = unquote(urlsplit(self.path).path)
            api = f"/api/datasets/{name}"
            if path == api or path.startswith(f"{api}/revision/"):
                siblings = [{"rfilename": each} for each in files]
                self._send(json.dumps({"id": name, "sha": REVISION, "siblings": siblings}).encode())
            elif path.startswith(f"{api}/tree/"):
                self._send(json.dumps(_tree(files, path)).encode())
            elif path.startswith(f"/datasets/{name}/resolve/"):
                wanted = path.split("/resolve/")[1].partition("/")[2]
                if wanted in files:
                    self._send(files[wanted], body)
                else:
                    self._refuse()
            else:
                self._refuse()

        def _send(self, content: bytes, body: bool = True) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.end_headers()
            if body:
                self.wfile.write(content)

        def _refuse(self) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(content).hexdigest()
    return {"type": "file", "path": path, "size": len(content), "oid": oid}


def _tree(files: Mapping[str, bytes], path: str) -> list[dict[str, Any]]:
    """Return all files below a path, and the folders that hold them."""
    below = path.split("/tree/")[1].partition("/")[2]
    entries = [_entry(each, content) for each, content in files.items() if each.startswith(below)]
    folders = {each.rpartition("/")[0] for each in files if "/" in each and each.startswith(below)}
    return [*({"type": "directory", "path": f, "oid": "0", "size": 0} for f in folders), *entries]
