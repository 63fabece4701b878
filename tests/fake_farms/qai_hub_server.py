"""Stand-in for Qualcomm AI Hub: its REST protocol in protobuf, for its own client library.

Runs with a Python that has `qai_hub` (`python -I qai_hub_server.py SCENARIO PORT`). Shapes of the
answers are those that the client library reads, version 0.56.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

import qai_hub.public_api_pb2 as pb

SCENARIO = Path(sys.argv[1])
DEVICES = [
    ("Samsung Galaxy S24", "14", "chipset:qualcomm-snapdragon-8gen3"),
    ("Samsung Galaxy S24", "13", "chipset:qualcomm-snapdragon-8gen3"),
    ("Samsung Galaxy S24 Ultra", "14", "chipset:qualcomm-snapdragon-8gen3"),
    ("Google Pixel 8", "14", "chipset:google-tensor-g3"),
    ("Samsung Galaxy S25", "15", "chipset:exynos-2500"),
]
lock = Lock()
models: dict[str, bytes] = {}
jobs: dict[str, dict[str, Any]] = {}
failures: Counter[str] = Counter()


def scenario() -> dict[str, Any]:
    return dict(json.loads(SCENARIO.read_text()))


def log(line: str) -> None:
    with SCENARIO.with_suffix(".log").open("a") as file:
        file.write(line + "\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        parts = url.path.strip("/").split("/")[2:]
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if self._refused():
            return
        if parts == ["devices"]:
            chosen = [
                pb.Device(
                    name=name,
                    os=os,
                    attributes=["os:android", "vendor:x", chip, "framework:tflite"],
                )
                for name, os, chip in DEVICES
                if query.get("name") in (None, "", name) and query.get("os") in (None, "", os)
            ]
            chosen = chosen[:1] if query.get("select") == "True" else chosen
            self._answer(pb.DeviceList(devices=chosen, total_query_count=len(chosen)))
        elif parts[0] == "models" and parts[2:] == ["multipart_upload"]:
            url_ = f"http://127.0.0.1:{self.server.server_address[1]}/upload/{parts[1]}"
            urls = pb.FileMultipartUploadURL(urls=[url_], upload_id="u", max_part_size=1 << 30)
            self._answer(pb.FileUploadResponse(multipart_url=urls))
        elif parts[0] == "jobs" and parts[1] not in jobs:
            self._error(404, "no such job")
        elif parts[0] == "jobs" and parts[2:] == ["result"]:
            self._answer(self._result(jobs[parts[1]]))
        elif parts[0] == "jobs":
            self._answer(self._job(jobs[parts[1]]))
        else:
            self._error(404, self.path)

    def do_PUT(self) -> None:
        models[self.path.rpartition("/")[2]] = self._body()
        self.send_response(200)
        self.send_header("ETag", '"etag"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        parts = urlsplit(self.path).path.strip("/").split("/")[2:]
        body = self._body()
        if self._refused():
            return
        with lock:
            if parts == ["models"]:
                self._answer(pb.CreateUpdateResponse(id=f"m{len(models) + 1}"))
                models[f"m{len(models) + 1}"] = b""
            elif parts[0] == "models":
                self._answer(pb.CreateUpdateResponse(id=parts[1]))
            elif parts == ["jobs"]:
                self._submit(pb.Job.FromString(body).inference_job)
            else:
                self._error(404, self.path)

    def _submit(self, job: pb.InferenceJob) -> None:
        plan = scenario()
        outstanding = [each for each in jobs.values() if each["looks"] < 2]
        if len(outstanding) >= plan.get("quota", 10**6):
            self._error(429, json.dumps({"detail": "too many jobs"}))
            return
        assert models[job.model.model_id], "the file was uploaded before the job"
        number = f"j{len(jobs) + 1}"
        digest = job.name.partition(" ")[2]
        jobs[number] = {
            "id": number,
            "digest": digest,
            "looks": 0,
            "job": job,
            "failure": None,
        }
        left = plan.get("fails", {}).get(digest)
        if left and failures[digest] < left[1]:
            failures[digest] += 1
            jobs[number]["failure"] = left[0]
        log(f"job {digest}")
        log(f"options {job.options}")
        self._answer(pb.CreateUpdateResponse(id=number))

    def _job(self, entry: dict[str, Any]) -> pb.Job:
        entry["looks"] += 1
        job = pb.InferenceJob()
        job.CopyFrom(entry["job"])
        job.inference_job_id = entry["id"]
        states = (pb.JOB_STATE_CREATED, pb.JOB_STATE_MEASURING_PERFORMANCE)
        done = pb.JOB_STATE_FAILED if entry["failure"] else pb.JOB_STATE_DONE
        # The client asks twice for each look: once for the job, once for its state.
        job.job_state = states[entry["looks"] - 1] if entry["looks"] <= 2 else done
        if entry["looks"] > 2 and entry["failure"]:
            job.failure_reason = entry["failure"]
        return pb.Job(inference_job=job)

    def _result(self, entry: dict[str, Any]) -> pb.JobResult:
        plan = scenario()
        result = pb.JobResult()
        digest = entry["digest"]
        if digest in plan.get("empty", ()):
            result.inference_job_result.SetInParent()
            return result
        us = plan["times"][digest]
        detail = result.inference_job_result.detail
        detail.major_version = 1
        detail.minor_version = 2
        detail.execution_time = us
        detail.all_execution_times.extend([us, us, us + 2])
        detail.cold_load_time = 120_000
        detail.after_execution_peak_memory = 50_000_000
        units = {"NPU": pb.COMPUTE_UNIT_NPU, "GPU": pb.COMPUTE_UNIT_GPU, "CPU": pb.COMPUTE_UNIT_CPU}
        for name, count in plan.get("layers", {}).get(digest, {"CPU": 3}).items():
            for number in range(count):
                layer = detail.layer_details.add()
                layer.name = f"{name}{number}"
                layer.compute_unit = units[name]
        return result

    def _refused(self) -> bool:
        if scenario().get("unknown_key") or self.headers["Authorization"] != "token stand-in":
            self._error(401, "")
            return True
        return False

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, message: Any) -> None:
        self._send(200, "application/x-protobuf", message.SerializeToString())

    def _error(self, code: int, text: str) -> None:
        self._send(code, "application/json", text.encode())

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
