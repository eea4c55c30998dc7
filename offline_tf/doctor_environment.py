"""python -m offline_tf.doctor_environment: what this machine and this Python bring, and what is wrong.

Runs on a bare Python: it imports nothing but the standard library, and looks at the rest from a process
of its own, which may fail or crash.
"""

from __future__ import annotations

import argparse
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

from offline_tf.install_hints import install

USAGE = """
Prints versions (pinned and installed), devices, CPU, memory, rendering and caches, and what is wrong.
Exit code: 0 all that is needed is there, 1 something is missing or of another version.
"""
_ROOT = pathlib.Path(__file__).resolve().parent.parent
_NEEDED = "requirements.txt"
# Of environments of their own.
_SEPARATE = tuple(
    f"requirements-{name}.txt" for name in ("original", "benchmarks", "lite")
)  # elsewhere
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


class Problem(NamedTuple):
    """What is wrong, and what to do."""

    what: str
    fix: str


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
    found: dict[str, Package] = {}
    for file in [_NEEDED, *files]:
        if not (root / file).exists():
            continue
        lines = (root / file).read_text().splitlines()
        comment = (
            lines[0].lstrip("# ") if lines and lines[0].startswith("#") else _PURPOSES.get(file, "")
        )
        for line in lines:
            match = re.match(r"([\w.-]+)(?:\[[^\]]*\])?==([^\s;#]+)", line)
            if match and match[1] not in found:
                purpose = "" if file == _NEEDED else comment
                found[match[1]] = Package(match[1], match[2], version(match[1]), file, purpose)
    return list(found.values())


def problems(report: dict[str, Any]) -> list[Problem]:
    """Returns what is wrong in a report."""
    found = []
    low, high = report["python"]["wanted"]
    if not low <= tuple(map(int, report["python"]["version"].split(".")[:2])) <= high:
        text = ".".join(map(str, low)) + " to " + ".".join(map(str, high))
        what = f"Python is {report['python']['version']}, expected {text}"
        found.append(Problem(what, "install one, and PYTHON=python3.11 ./run.sh ..."))
    if not report["packages"]:
        found.append(Problem(f"no {_NEEDED} beside the code: versions are not checked", ""))
    for row in report["packages"]:
        if row["file"] != _NEEDED or row["installed"] == row["pinned"]:
            continue
        state = f"is {row['installed']}" if row["installed"] else "is missing"
        fix = install(_NEEDED)
        found.append(Problem(f"{row['name']} {state}, expected {row['pinned']}", fix))
    if report["cpu"]["features"].get("avx2") is False:
        found.append(Problem("the CPU has no AVX2: TensorFlow's wheels may not start", ""))
    tensorflow = report["tensorflow"]
    installed = {row["name"] for row in report["packages"] if row["installed"]}
    if "tensorflow" in installed and "error" in tensorflow:
        what = f"TensorFlow does not start: {tensorflow['error']}"
        found.append(Problem(what, install(_NEEDED, "--force-reinstall")))
    if "mujoco" in installed and "error" in report["mujoco"]:
        what = f"MuJoCo does not start: {report['mujoco']['error']}"
        found.append(Problem(what, install(_NEEDED, "--force-reinstall")))
    if "error" in report["folders"]:
        found.append(Problem(f"the folders cannot be seen: {report['folders']['error']}", ""))
    return found


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
        **{name: parts.get(name, {"error": "not examined"}) for name in _PARTS},
    }
    report["problems"] = [problem._asdict() for problem in problems(report)]
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
    wanted = {
        "offline_tf": ("offline_tf.numerics.large_columns", "cache_folder"),
        "d4rl": ("offline_tf.datasets.formats.d4rl_download", "folder"),
        "minari": ("offline_tf.datasets.formats.minari", "root"),
    }
    found = {}
    for name, (module, function) in wanted.items():
        path = pathlib.Path(getattr(importlib.import_module(module), function)())
        files = [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()]
        there = next(p for p in (path, *path.absolute().parents) if p.exists())
        found[name] = {
            "path": str(path),
            "exists": path.exists(),
            "gib": round(sum(p.stat().st_size for p in files) / _GIB, 3),
            "free_gib": round(shutil.disk_usage(there).free / _GIB, 1),
        }
    return found


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
    wide, narrow = (sorted(spent)[len(spent) // 2] for spent in times)
    return wide / narrow


_PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "mujoco": mujoco,
    "tensorflow": tensorflow,
    "rendering": rendering,
    "folders": folders,
}


def separately(names: Sequence[str] = tuple(_PARTS)) -> dict[str, Any]:
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
    found: dict[str, Any] = {}
    for name, child in children.items():
        try:
            text, _ = child.communicate(timeout=_PART_SECONDS)
            found[name] = json.loads(text.splitlines()[-1])
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            found[name] = {"error": f"no answer within {_PART_SECONDS} s"}
        except (ValueError, IndexError):
            how = f"signal {-child.returncode}" if child.returncode < 0 else "no answer"
            found[name] = {"error": f"it crashes ({how})"}
    return found


def one_part(name: str) -> dict[str, Any]:
    """Returns what one part finds, or its error."""
    try:
        return _PARTS[name]()
    except Exception as error:  # whatever an import may raise
        reason = " ".join(str(error).split())[:200]
        return {"error": f"{type(error).__name__}: {reason}"}


def _or_error(part: dict[str, Any], words: Callable[[dict[str, Any]], str]) -> str:
    return part["error"] if "error" in part else words(part)


def in_words(report: dict[str, Any]) -> str:
    """The report as text."""
    processor, room = report["cpu"], report["memory"]
    features = ", ".join(n if has else f"no {n}" for n, has in processor["features"].items())
    free = {name: "?" if value is None else f"{value:g}" for name, value in room.items()}
    limit = (
        ""
        if room["container_limit"] is None
        else (f"; container: {free['container_used']} used of {free['container_limit']}")
    )
    lines = [
        f"project     {report['project']['version']}, commit {report['project']['commit']}",
        f"python      {report['python']['version']} ({report['python']['executable']})",
        f"system      {report['system']}",
        f"cpu         {processor['model']}; {processor['cores_usable']:g} of {processor['cores']} "
        "cores usable",
        f"            {features or 'features unknown'}",
        f"memory      {free['available']} GiB free of {free['total']}{limit}",
        "tensorflow  " + _or_error(report["tensorflow"], _tensorflow_in_words),
        "mujoco      " + _or_error(report["mujoco"], lambda part: part["version"]),
        "rendering   " + _or_error(report["rendering"], _rendering_in_words),
    ]
    caches = report["folders"]
    if "error" in caches:
        lines.append("caches      " + caches["error"])
    else:
        lines += [
            f"cache       {name}: {row['path']}, "
            + (f"{row['gib']:.2f} GiB" if row["exists"] else "not there yet")
            + f"; {row['free_gib']:g} GiB free"
            for name, row in caches.items()
        ]
    lines += ["", f"{'package':28s} {'pinned':14s} installed"]
    for row in report["packages"]:
        differs = row["installed"] != row["pinned"]
        mark = "" if not differs else "  <- differs" if row["installed"] else ""
        lines.append(
            f"{row['name']:28s} {row['pinned']:14s} {row['installed'] or 'missing'}{mark}"
            + (f"  ({row['file']})" if row["file"] != _NEEDED else "")
        )
    missing: dict[str, list[str]] = {}
    for row in report["packages"]:
        if row["file"] != _NEEDED and row["installed"] is None:
            missing.setdefault(f"{row['file']}|{row['purpose']}", []).append(row["name"])
    for key, names in missing.items():
        file, _, purpose = key.partition("|")
        lines += [
            "",
            f"not installed: {', '.join(names)}",
            f"  {purpose}",
            "  " + install(file),
        ]
    lines.append("")
    for problem in report["problems"]:
        lines.append(
            f"PROBLEM {problem['what']}" + (f"; {problem['fix']}" if problem["fix"] else "")
        )
    if not report["problems"]:
        lines.append("no problem found")
    return "\n".join(lines)


def _tensorflow_in_words(part: dict[str, Any]) -> str:
    def threads(number: int) -> str:
        return str(number) if number else "all"

    return (
        f"{part['version']} on {', '.join(part['devices'])}; "
        f"oneDNN {'on' if part['onednn'] else 'off'}, "
        f"built {'with' if part['cuda_build'] else 'without'} CUDA, "
        f"threads {threads(part['threads_inter_op'])} between and "
        f"{threads(part['threads_intra_op'])} within operations\n"
        f"            products in bfloat16 {part['bfloat16_speed_ratio']:g} times as fast as in "
        f"float32; --precision=auto takes {part['precision_auto']}"
    )


def _rendering_in_words(part: dict[str, Any]) -> str:
    name = part["back_end"] or f"none ({part['reason']}); {part['install']}"
    return f"{name}; films as gif{' and mp4' if part['mp4'] else ''}"


def main(arguments: Sequence[str]) -> int:
    """Prints the report; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m offline_tf.doctor_environment",
        description=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--part", choices=_PARTS, help="one part alone, in this process, as JSON")
    given = parser.parse_args(arguments)
    if given.part:
        print(json.dumps(one_part(given.part)))
        return 0
    report = examine()
    print(json.dumps(report, indent=2) if given.json else in_words(report))
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
