"""Worker of the tests' own farm: answers from the scenario in FAKE_FARM and keeps its jobs there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

SCENARIO = Path(os.environ["FAKE_FARM"])
JOBS = SCENARIO.with_suffix(".jobs")
DEVICES = {
    ("Samsung Galaxy S24", "14"): "qualcomm-snapdragon-8gen3",
    ("Samsung Galaxy S24", "13"): "qualcomm-snapdragon-8gen3",
    ("Samsung Galaxy S24 Ultra", "14"): "qualcomm-snapdragon-8gen3",
    ("Samsung Galaxy S25", "15"): "exynos-2500",
}


class Refusal(Exception):
    """An answer of the service: the kind of the error is its first argument."""


def describe() -> dict[str, Any]:
    scenario()
    devices = [
        {"name": name, "os": os, "attributes": ["os:android", f"chipset:{chip}"]}
        for (name, os), chip in DEVICES.items()
    ]
    return {"version": "1.0", "devices": devices}


def submit(path: str, name: str, device: dict[str, str], unit: str) -> dict[str, str]:
    plan = scenario()
    jobs = read_jobs()
    if sum(job["looks"] < 2 for job in jobs.values()) >= plan.get("quota", 10**6):
        raise Refusal("quota", "too many jobs")
    assert Path(path).is_file() and (device["name"], device["os"]) in DEVICES
    digest = name.partition(" ")[2]
    before = sum(job["digest"] == digest for job in jobs.values())
    reason, times = plan.get("fails", {}).get(digest, ("", 0))
    number = f"j{len(jobs) + 1}"
    jobs[number] = {"digest": digest, "looks": 0, "failure": reason if before < times else ""}
    JOBS.write_text(json.dumps(jobs))
    with SCENARIO.with_suffix(".log").open("a") as log:
        log.write(f"job {digest}\noptions --compute_unit {unit}\n")
    return {"job": number}


def status(job: str) -> dict[str, Any]:
    plan = scenario()
    jobs = read_jobs()
    if job not in jobs:
        raise Refusal("gone", "no such job")
    entry = jobs[job]
    entry["looks"] += 1
    JOBS.write_text(json.dumps(jobs))
    if entry["looks"] < 2:
        return {"state": "running"}
    if entry["failure"]:
        return {"state": "failed", "reason": entry["failure"]}
    digest = entry["digest"]
    ms = plan["times"][digest] / 1e3
    layers = plan.get("layers", {}).get(digest, {"CPU": 3})
    return {
        "state": "done",
        "times_ms": [] if digest in plan.get("empty", ()) else [ms, ms, ms + 0.002],
        "placement": {unit.lower(): count for unit, count in layers.items()},
        "load_ms": 120.0,
        "peak_mb": 50.0,
    }


def scenario() -> dict[str, Any]:
    plan = dict(json.loads(SCENARIO.read_text()))
    if plan.get("unknown_key") or plan.get("no_key"):
        raise Refusal("account", "no such key")
    return plan


def read_jobs() -> dict[str, Any]:
    return dict(json.loads(JOBS.read_text())) if JOBS.exists() else {}


def kind_of(error: Exception) -> str:
    return str(error.args[0]) if isinstance(error, Refusal) else "refused"
