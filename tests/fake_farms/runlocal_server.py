"""Stand-in for RunLocal: its REST protocol in JSON, for its own client library.

Runs with a Python that has `runlocal_hub` (`python -I runlocal_server.py SCENARIO PORT`). Shapes of
the answers are those that the client library reads, version 0.1.7.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

SCENARIO = Path(sys.argv[1])
DEVICES = [
    ("iPhone 12", "A14 Bionic", "17.5"),
    ("iPhone 12 Pro Max", "A14 Bionic", "17.5"),
    ("iPhone 13", "A15 Bionic", "18.0"),
]
UNITS = ["CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE", "ALL"]
uploads: dict[str, str] = {}
jobs: dict[str, dict[str, Any]] = {}
failures: Counter[str] = Counter()


def scenario() -> dict[str, Any]:
    return dict(json.loads(SCENARIO.read_text()))


def log(line: str) -> None:
    with SCENARIO.with_suffix(".log").open("a") as file:
        file.write(line + "\n")


def device(name: str, soc: str, system: str) -> dict[str, Any]:
    return {
        "Name": name,
        "Year": 2020,
        "Soc": soc,
        "Ram": 4,
        "OS": "iOS",
        "OSVersion": system,
        "Disabled": False,
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if self._refused():
            return
        if url.path == "/devices/benchmark":
            with_units = "upload_id" in parse_qs(url.query)
            self._answer(
                [
                    {
                        "device": device(*each),
                        "compute_units": UNITS if with_units else [],
                        "native_device_id": f"id-{each[0]}",
                    }
                    for each in DEVICES
                ]
            )
        elif url.path.startswith("/benchmarks/id/"):
            job = jobs.get(url.path.rpartition("/")[2])
            if job is None:
                self._answer({"detail": "benchmark not found"}, 404)
            else:
                self._answer(self._benchmark(job))
        else:
            self._answer({"detail": self.path}, 404)

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self._refused():
            return
        if url.path == "/uploads/model/coreml":
            names = zipfile.ZipFile(io.BytesIO(body)).namelist()
            assert any(name.endswith("Manifest.json") for name in names), names
            number = f"upload{len(uploads) + 1}"
            uploads[number] = query["upload_filename"]
            lines = [
                {"progress": 50, "message": "storing"},
                {"progress": 100, "upload_id": number, "already_exists": False},
            ]
            text = "".join(f"data: {json.dumps(line)}\n\n" for line in lines)
            self._send(200, "text/event-stream", text.encode())
        elif url.path == "/coreml/benchmark/enqueue":
            self._enqueue(uploads[query["upload_id"]], query["upload_id"], json.loads(body))
        else:
            self._answer({"detail": self.path}, 404)

    def _enqueue(self, filename: str, upload: str, request: dict[str, Any]) -> None:
        plan = scenario()
        outstanding = [each for each in jobs.values() if each["looks"] < 2]
        if len(outstanding) >= plan.get("quota", 10**6):
            self._answer({"detail": "rate limit"}, 429)
            return
        (wanted,) = request["device_requests"]
        digest = filename.removeprefix("converted-").partition(".")[0]
        number = f"b{len(jobs) + 1}"
        left = plan.get("fails", {}).get(digest)
        failure = None
        if left and failures[digest] < left[1]:
            failures[digest] += 1
            failure = left[0]
        jobs[number] = {
            "digest": digest,
            "looks": 0,
            "unit": wanted["compute_units"][0],
            "device": wanted["device_id"].removeprefix("id-"),
            "failure": failure,
            "upload": upload,
        }
        log(f"job {digest}")
        log(f"unit {wanted['compute_units']}")
        self._answer([number])

    def _benchmark(self, job: dict[str, Any]) -> dict[str, Any]:
        job["looks"] += 1
        plan = scenario()
        status = "Pending" if job["looks"] == 1 else "Running"
        runs: list[dict[str, Any]] = []
        if job["looks"] > 2 and job["failure"]:
            status = "Failed"
            runs = [{"Success": False, "ComputeUnit": job["unit"], "FailureReason": job["failure"]}]
        elif job["looks"] > 2:
            status = "Complete"
            if job["digest"] not in plan.get("empty", ()):
                ms = plan["times"][job["digest"]] / 1e3
                runs = [
                    {
                        "Success": True,
                        "Status": "Complete",
                        "ComputeUnit": job["unit"],
                        "LoadMsMedian": 20.5,
                        "InferenceMsArray": [ms, ms, ms + 0.002],
                        "InferenceMsMedian": ms,
                        "PeakRamUsage": 33.5,
                    }
                ]
        found = next(each for each in DEVICES if each[0] == job["device"])
        return {
            "UploadId": job["upload"],
            "DeviceInfo": device(*found),
            "Status": status,
            "BenchmarkData": runs,
        }

    def _refused(self) -> bool:
        if scenario().get("unknown_key") or self.headers["X-API-KEY"] != "stand-in":
            self._answer({"detail": "Invalid API key"}, 401)
            return True
        return False

    def _answer(self, data: Any, code: int = 200) -> None:
        self._send(code, "application/json", json.dumps(data).encode())

    def _send(self, code: int, kind: str, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed but the port."""


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
