"""Facts about this machine and this Python: versions, devices, memory, rendering, caches.

Runs on a bare Python: it imports nothing but the standard library, and looks at the rest from a process
of its own, which may fail or crash.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from offline_tf.machine import verdict

_ROOT = pathlib.Path(__file__).resolve().parents[2]
# Of environments of their own, or of a bench.
_SEPARATE = tuple(
    f"requirements-{name}.txt" for name in ("original", "benchmarks", "lite", "plants", "policies")
)
_PURPOSES = {"requirements-dev.txt": "The tests and checks of ./run.sh test."}  # has no comment
_FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")
_PART_SECONDS = 120
_GIB = 2.0**30


class Package(NamedTuple):
    """A package that a requirements file pins.

    Attributes:
      name: its distribution.
      pinned: the version in the file.
      installed: the version here, or None.
      file: which pins it.
      purpose: what an optional one is for, in the words of its file.
    """

    name: str
    pinned: str
    installed: str | None
    file: str
    purpose: str


def installed_version(name: str) -> str | None:
    """The version of a distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def packages(
    root: pathlib.Path = _ROOT, version: Callable[[str], str | None] = installed_version
) -> list[Package]:
    """Returns what the requirements files pin, needed packages first.

    Args:
      root: folder of the files; an installed package has none.
      version: distribution -> version here, or None.
    """
    files = [p.name for p in sorted(root.glob("requirements-*.txt")) if p.name not in _SEPARATE]
    files.sort(key=lambda file: file in _PURPOSES)  # what the tests need too is named by its use
    pinned: dict[str, Package] = {}
    for file in [verdict.NEEDED, *files]:
        if not (root / file).exists():
            continue
        lines = (root / file).read_text().splitlines()
        comment = (
            lines[0].lstrip("# ") if lines and lines[0].startswith("#") else _PURPOSES.get(file, "")
        )
        for line in lines:
            match = re.match(r"([\w.-]+)(?:\[[^\]]*\])?==([^\s;#]+)", line)
            if match and match[1] not in pinned:
                purpose = "" if file == verdict.NEEDED else comment
                name = match[1]
                pinned[name] = Package(name, match[2], version(name), file, purpose)
    return list(pinned.values())


def examine(parts: dict[str, Any] | None = None) -> dict[str, Any]:
    """Returns the report as in --json.

    Args:
      parts: what `separately` returns; None: calls it.
    """
    parts = separately() if parts is None else parts
    report: dict[str, Any] = {
        "project": {"version": _project_version(), "commit": _commit()},
        "python": {
            "version": platform.python_version(),
            "executable": sys.executable,
            "wanted": ((3, 11), (3, 13)),
        },
        "system": platform.platform(),
        "packages": [package._asdict() for package in packages()],
        "cpu": cpu(),
        "memory": memory(),
        **{name: parts.get(name, {"error": "not examined"}) for name in PARTS},
    }
    report["problems"] = [problem._asdict() for problem in verdict.problems(report)]
    return report


def _project_version() -> str:
    file = _ROOT / "pyproject.toml"
    match = re.search(r'^version = "(.+)"', file.read_text(), re.M) if file.exists() else None
    return match[1] if match else installed_version("morel-mopp-tf") or "unknown"


def _commit() -> str:
    try:
        run = ["git", "-C", str(_ROOT)]
        words = [[*run, "rev-parse", "--short=12", "HEAD"], [*run, "status", "--porcelain", "-uno"]]
        done = [subprocess.run(w, capture_output=True, text=True, timeout=30) for w in words]
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    if done[0].returncode:
        return "unknown"
    return done[0].stdout.strip() + ("+changes" if done[1].stdout.strip() else "")


def _read(path: str) -> str:
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return ""


def cpu() -> dict[str, Any]:
    """Model, cores that may be used, and features; of other systems than Linux, cores alone."""
    text = _read("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.+)$", text, re.M)
    flags = re.search(r"^flags\s*: (.+)$", text, re.M)  # x86; other processors have other names
    has = set(flags[1].split()) if flags else set()
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    limit = int(quota) / int(period) if quota.isdigit() and period.isdigit() else None
    return {
        "model": model[1] if model else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "cores_usable": cores if limit is None else min(cores, limit),
        "features": {name: name in has for name in _FEATURES} if has else {},
    }


def memory() -> dict[str, float | None]:
    """GiB: of the machine, free in it, and the container's limit and what of it is used."""
    kilobytes = dict(re.findall(r"^(\w+):\s+(\d+) kB", _read("/proc/meminfo"), re.M))

    def gib(text: str | None, unit: float) -> float | None:
        return round(int(text) * unit / _GIB, 2) if text and text.isdigit() else None

    return {
        "total": gib(kilobytes.get("MemTotal"), 1024.0),
        "available": gib(kilobytes.get("MemAvailable"), 1024.0),
        "container_limit": gib(_read("/sys/fs/cgroup/memory.max").strip(), 1.0),
        "container_used": gib(_read("/sys/fs/cgroup/memory.current").strip(), 1.0),
    }


def folders() -> dict[str, Any]:
    """Cache folders: path, GiB in them, GiB free on their disk."""
    finders = {
        "offline_tf": ("offline_tf.numerics.large_columns", "cache_folder"),
        "d4rl": ("offline_tf.datasets.formats.d4rl_download", "folder"),
        "minari": ("offline_tf.datasets.formats.minari", "root"),
    }
    caches = {}
    for name, (module, function) in finders.items():
        path = pathlib.Path(getattr(importlib.import_module(module), function)())
        files = [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()]
        existing = next(p for p in (path, *path.absolute().parents) if p.exists())
        caches[name] = {
            "path": str(path),
            "exists": path.exists(),
            "gib": round(sum(p.stat().st_size for p in files) / _GIB, 3),
            "free_gib": round(shutil.disk_usage(existing).free / _GIB, 1),
        }
    return caches


def rendering() -> dict[str, Any]:
    """The back end that render would take."""
    back_ends = importlib.import_module("offline_tf.rendering.back_ends")
    writers = importlib.import_module("offline_tf.rendering.writers")
    choice = back_ends.choose(os.environ.get("MUJOCO_GL", ""))
    part = {"back_end": choice.name, "reason": choice.reason, "mp4": writers.can_write_mp4()}
    return part | ({} if choice.name else {"install": back_ends.INSTALL})


def mujoco() -> dict[str, Any]:
    """MuJoCo's version."""
    os.environ.pop("MUJOCO_GL", None)
    return {"version": importlib.import_module("mujoco").mj_versionString()}


def tensorflow() -> dict[str, Any]:
    """Devices, threads, build, and how fast products in bfloat16 are beside float32."""
    tf = importlib.import_module("tensorflow")
    networks = importlib.import_module("offline_tf.models.networks")
    build = tf.sysconfig.get_build_info()
    threading = tf.config.threading
    return {
        "version": tf.__version__,
        "devices": [device.name for device in tf.config.list_physical_devices()],
        "cuda_build": bool(build.get("is_cuda_build")),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0",
        "threads_inter_op": threading.get_inter_op_parallelism_threads(),
        "threads_intra_op": threading.get_intra_op_parallelism_threads(),
        "precision_auto": networks.product_dtype("auto").name,
        "bfloat16_speed_ratio": round(bfloat16_ratio(tf), 2),
    }


def bfloat16_ratio(tf: Any, size: int = 1024, seconds: float = 1.0) -> float:
    """Median time of a float32 product over that of a bfloat16 one, taken in turns."""
    values = [tf.cast(tf.fill([size, size], 0.5), kind) for kind in (tf.float32, tf.bfloat16)]
    times: list[list[float]] = [[], []]
    for value in values:
        tf.linalg.matmul(value, value).numpy()
    began = time.perf_counter()
    while len(times[0]) < 3 or (time.perf_counter() - began < seconds and len(times[0]) < 500):
        for value, spent in zip(values, times):
            start = time.perf_counter()
            tf.linalg.matmul(value, value).numpy()
            spent.append(time.perf_counter() - start)
    float32_seconds, bfloat16_seconds = (sorted(spent)[len(spent) // 2] for spent in times)
    return float32_seconds / bfloat16_seconds


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "mujoco": mujoco,
    "tensorflow": tensorflow,
    "rendering": rendering,
    "folders": folders,
}


def separately(names: Sequence[str] = tuple(PARTS)) -> dict[str, Any]:
    """Examines parts, each in a process of its own, all at once; one that fails is its "error"."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    children = {
        name: subprocess.Popen(
            [sys.executable, "-m", "offline_tf.doctor_environment", f"--part={name}"],
            cwd=_ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for name in names
    }
    parts: dict[str, Any] = {}
    for name, child in children.items():
        try:
            text, _ = child.communicate(timeout=_PART_SECONDS)
            parts[name] = json.loads(text.splitlines()[-1])
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            parts[name] = {"error": f"no answer within {_PART_SECONDS} s"}
        except (ValueError, IndexError):
            how = f"signal {-child.returncode}" if child.returncode < 0 else "no answer"
            parts[name] = {"error": f"it crashes ({how})"}
    return parts


def one_part(name: str) -> dict[str, Any]:
    """Returns what one part finds, or its error."""
    try:
        return PARTS[name]()
    except Exception as error:  # whatever an import may raise
        reason = " ".join(str(error).split())[:200]
        return {"error": f"{type(error).__name__}: {reason}"}
