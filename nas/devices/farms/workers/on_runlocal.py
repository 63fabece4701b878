"""Worker for RunLocal: its own client library, with the key in RUNLOCAL_API_KEY."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

from runlocal_hub import RunLocalClient
from runlocal_hub.exceptions import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    ModelNotFoundError,
    NetworkError,
)
from runlocal_hub.models import DeviceUsage, JobType

LOCAL = "NAS_RUNLOCAL_LOCAL_SERVER"
"""Environment variable for the client's own option of a server on this computer, for tests."""

_client: RunLocalClient | None = None


def describe() -> dict[str, Any]:
    """Return the version of the client library, and the devices of the service."""
    listed = client().device_selector.list_all_devices()
    devices = [
        {
            "name": each.device.Name,
            "soc": each.device.Soc,
            "os": each.device.OS,
            "os_version": each.device.OSVersion,
            "id": each.native_device_id,
        }
        for each in listed
    ]
    return {"version": version("runlocal-hub"), "devices": devices}


def submit(path: str, name: str, device: dict[str, str], unit: str) -> dict[str, str]:
    """Upload a package and enqueue its benchmark; return the id of the job."""
    upload = client().upload_model(path)
    usages: list[DeviceUsage] = client().device_selector.list_all_devices(model_id=upload)
    chosen = [each for each in usages if each.native_device_id == device["id"]]
    if not chosen:
        raise ValueError(f"{device['name']} does not take this model")
    # The client's public `benchmark` waits for the result; this is the step before the wait.
    usage = DeviceUsage(
        device=chosen[0].device, compute_units=[unit], native_device_id=device["id"]
    )
    (job,) = client()._submit_jobs(upload, [usage], job_type=JobType.BENCHMARK)
    return {"job": job}


def status(job: str) -> dict[str, Any]:
    """Return the state of a job: running, failed with its reason, or done with its figures."""
    result = client().check_job_status(job)
    if result is None or not result.is_complete:
        return {"state": "running"}
    runs = (result.data or {}).get("BenchmarkData") or []
    failed = [each for each in runs if not each.get("Success")]
    if result.is_failed or not runs or failed:
        reason = failed[0].get("FailureReason") or failed[0].get("FailureError") if failed else ""
        return {"state": "failed", "reason": reason or result.error or "no reason given"}
    (run, *_) = runs
    times = [float(ms) for ms in run.get("InferenceMsArray") or [] if float(ms) > 0]
    median = float(run.get("InferenceMsMedian") or 0)
    return {
        "state": "done",
        "times_ms": times or ([median] if median > 0 else []),
        "placement": {},
        "load_ms": run.get("LoadMsMedian"),
        "peak_mb": run.get("PeakRamUsage"),
    }


def client() -> RunLocalClient:
    """Return the client, which reads the key from its own environment variable."""
    global _client
    if _client is None:
        _client = RunLocalClient(local_server=bool(os.environ.get(LOCAL)), verbosity=0)
        # The caller tries again itself; the client would wait for minutes at a quota.
        _client.http_client.max_retry_attempts = 1
    return _client


def kind_of(error: Exception) -> str:
    """Return the kind of an error: quota, account, unreachable, gone or refused."""
    code = getattr(error, "status_code", None)
    if isinstance(error, (AuthenticationError, ConfigurationError)) or code in (401, 403):
        return "account"
    if code in (402, 429):
        return "quota"
    if isinstance(error, ModelNotFoundError) or code == 404:
        return "gone"
    # Errors of `requests` are OSErrors.
    if isinstance(error, (NetworkError, OSError)) or (
        isinstance(error, APIError) and (code or 0) >= 500
    ):
        return "unreachable"
    return "refused"
