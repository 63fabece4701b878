"""Worker for Qualcomm AI Hub: its own client library, with the account of ~/.qai_hub/client.ini."""

from __future__ import annotations

from collections import Counter
from typing import Any

import qai_hub

_client: qai_hub.Client | None = None


def describe() -> dict[str, Any]:
    """Return the version of the client library, and the devices of the service."""
    devices = [
        {"name": each.name, "os": each.os, "attributes": list(each.attributes)}
        for each in client().get_devices()
    ]
    return {"version": str(qai_hub.__version__), "devices": devices}


def submit(path: str, name: str, device: dict[str, str], unit: str) -> dict[str, str]:
    """Upload a file and submit its profile job; return the id of the job."""
    job = client().submit_inference_job(
        path,
        device=qai_hub.Device(device["name"], device["os"]),
        name=name,
        options=f"--compute_unit {unit}",
        # A quota is the caller's to deal with: the client would wait for hours.
        retry=False,
        profile=True,
    )
    assert not isinstance(job, list)
    return {"job": job.job_id}


def status(job: str) -> dict[str, Any]:
    """Return the state of a job: running, failed with its reason, or done with its figures."""
    remote = client().get_job(job)
    state = remote.get_status()
    if state.failure:
        return {"state": "failed", "reason": state.message or "no reason given"}
    if not state.success:
        return {"state": "running"}
    profile = remote.download_profile()
    summary = profile.get("execution_summary", {})
    # Times are whole microseconds. Older jobs have the median alone.
    times = [us for us in summary.get("all_inference_times") or [] if us > 0]
    estimated = summary.get("estimated_inference_time") or 0
    layers = Counter(each["compute_unit"].lower() for each in profile.get("execution_detail", ()))
    return {
        "state": "done",
        "times_ms": [us / 1e3 for us in times or [estimated] if us > 0],
        "placement": dict(layers),
        "load_ms": (summary.get("first_load_time") or 0) / 1e3 or None,
        "peak_mb": (summary.get("estimated_inference_peak_memory") or 0) / 1e6 or None,
    }


def client() -> qai_hub.Client:
    """Return the client, which reads the account from the service's own configuration."""
    global _client
    if _client is None:
        _client = qai_hub.Client()
        _client.set_verbose(False)
    return _client


def kind_of(error: Exception) -> str:
    """Return the kind of an error: quota, account, unreachable, gone or refused."""
    if isinstance(error, qai_hub.client.RateLimitedError):
        return "quota"
    # The client keeps the status of the answer in the error that it was made from.
    cause = error.__cause__ or error.__context__
    code = getattr(cause, "status_code", None)
    if code in (401, 403, 1000) or isinstance(cause, FileNotFoundError):
        return "account"
    if code == 404:
        return "gone"
    # Errors of `requests` are OSErrors.
    if isinstance(error, (qai_hub.client.InternalError, OSError)):
        return "unreachable"
    return "refused"
