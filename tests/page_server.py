"""A stand-in for the server of the page: the HTTP interface over one known case, in a thread."""

from __future__ import annotations

import io
import json
import re
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from ray_brats.recipes import tasks
from ray_brats.recipes.tasks import TASKS

POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
MODELS = [
    {
        "name": name,
        "default": name == "standard",
        "modalities": ["t1ce", "t2", "flair"],
        "task": known[0],
        "targets": tasks.targets_as_json(TASKS[known[0]].targets),
        "integers": {task: TASKS[task].integers for task in known},
        "card": {},
    }
    for name, known in {
        "standard": ("gli-2020", "gli-2023"),
        "baseline": ("gli-2020", "gli-2023"),
        "treated": ("gli-post",),
    }.items()
]


@dataclass
class Script:
    """What the stand-in answers and what it was sent; `reset` puts it back."""

    mask: bytes = b""
    phantom: Mapping[str, bytes] = field(default_factory=dict)
    volumes_ml: dict[str, float] = field(default_factory=dict)
    refusal: tuple[int, dict[str, Any], dict[str, str]] | None = None  # of the next job
    failure: dict[str, Any] | None = None  # how the job ends instead of with a mask
    key: str = ""
    niivue: bytes | None = None
    task: str = "gli-2020"
    study: Mapping[str, bytes] = field(default_factory=dict)
    """What the answer to a raw study holds."""
    remarks: list[str] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)  # jobs run until it is set
    polls: int = 0
    cancelled: bool = False
    sent: dict[str, bytes] = field(default_factory=dict)
    query: str = ""

    def reset(self) -> None:
        self.refusal = self.failure = self.niivue = None
        self.key, self.task, self.query = "", "gli-2020", ""
        self.polls, self.cancelled, self.sent, self.remarks = 0, False, {}, []
        self.go.set()


def job_state(script: Script) -> dict[str, Any]:
    """Queued when first asked, running while it must not go on, then its end."""
    script.polls += 1
    if script.cancelled:
        return {"state": "cancelled", "progress": 0.5}
    if script.polls == 1:
        return {"state": "queued", "progress": 0}
    if not script.go.is_set():
        return {"state": "running", "progress": 0.5}
    if script.failure is not None:
        return {"state": "failed", "progress": 0.5, **script.failure}
    ended: dict[str, Any] = {"state": "done", "progress": 1, "volumes_ml": script.volumes_ml}
    return {**ended, "remarks": script.remarks} if script.remarks else ended


def parts_of(body: bytes, content_type: str) -> dict[str, bytes]:
    """Parts of a multipart body by name."""
    boundary = re.search("boundary=(.+)", content_type)
    assert boundary is not None
    contents = {}
    for part in body.split(b"--" + boundary[1].encode())[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]+)"', head)
        assert name is not None
        contents[name[1].decode()] = content.removesuffix(b"\r\n")
    return contents


def zipped(
    files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED, folder: str = "phantom/"
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(f"{folder}{name}", content)
    return buffer.getvalue()


def unzipped(content: bytes) -> dict[str, bytes]:
    """Files of an archive by their paths, of which none is there twice."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        assert len(set(names)) == len(names)
        return {name: archive.read(name) for name in names}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Script

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, content: bytes | dict[str, Any], status: int = 200, **headers: str) -> None:
        if isinstance(content, dict):
            content = json.dumps(content).encode()
            headers["Content_Type"] = "application/json"
        self.send_response(status)
        headers["Content_Length"] = str(len(content))
        headers["Content_Security_Policy"] = POLICY
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def refused(self) -> bool:
        if not self.script.key or self.headers["Authorization"] == f"Bearer {self.script.key}":
            return False
        self.answer({"error": "This server asks for an API key."}, 401)
        return True

    def do_GET(self) -> None:
        path, script = self.path.partition("?")[0], self.script
        if path == "/" or path.startswith("/page/"):
            self.static(path)
        elif self.refused():
            pass
        elif path == "/v1/models":
            self.answer({"models": MODELS})
        elif path == "/v1/phantom":
            self.answer(zipped(script.phantom), Content_Type="application/zip")
        elif path == "/v1/jobs/7":
            self.answer(job_state(script))
        elif path == "/v1/jobs/7/mask":
            marks = {"X_Ray_Brats_Model": "standard", "X_Ray_Brats_Task": script.task}
            if self.headers["Accept"] == "application/zip":
                assert "raw=true" in script.query
                marks["X_Ray_Brats_Home"] = "t1ce"
                answer = zipped(script.study, folder="")
                self.answer(answer, Content_Type="application/zip", **marks)
                return
            self.answer(script.mask, Content_Type="application/gzip", **marks)
        else:
            self.answer({"error": f"There is no {path}."}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path, _, self.script.query = self.path.partition("?")
        assert path == "/v1/jobs"
        if self.refused():
            return
        if self.script.refusal is not None:
            status, content, headers = self.script.refusal
            self.script.refusal = None
            self.answer(content, status, **headers)
            return
        if self.script.query.startswith("raw=true"):
            assert self.headers["Content-Type"] == "application/zip"
            self.script.sent = unzipped(body)
        else:
            self.script.sent = parts_of(body, self.headers["Content-Type"])
        self.answer({"id": "7", "state": "queued"}, 202)

    def do_DELETE(self) -> None:
        assert self.path == "/v1/jobs/7"
        self.script.cancelled = True
        self.answer({"id": "7", "state": "cancelled"})

    def static(self, path: str) -> None:
        name = path.removeprefix("/page/") if path != "/" else "index.html"
        file = resources.files("ray_brats.serve").joinpath("page", *name.split("/"))
        if name == "vendor/niivue.js":
            content = self.script.niivue
        else:
            content = file.read_bytes() if file.is_file() else None
        if content is None:
            self.answer({"error": f"There is no {path}."}, 404)
            return
        self.answer(content, Content_Type=TYPES["." + name.rpartition(".")[2]])


class PageServer:
    """Serves until the context ends; `url` and `script` are there inside it."""

    def __init__(self, script: Script) -> None:
        handler = type("ScriptedHandler", (Handler,), {"script": script})
        self.script = script
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> PageServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.script.go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
