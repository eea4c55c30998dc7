"""What is wrong with a machine, from the facts of `facts.examine`, and all of them as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from offline_tf.install_hints import install

NEEDED = "requirements.txt"


class Problem(NamedTuple):
    """What is wrong, and what to do."""

    what: str
    fix: str


def problems(report: dict[str, Any]) -> list[Problem]:
    """Returns what is wrong in a report."""
    wrong: list[Problem] = []
    low, high = report["python"]["wanted"]
    if not low <= tuple(map(int, report["python"]["version"].split(".")[:2])) <= high:
        text = ".".join(map(str, low)) + " to " + ".".join(map(str, high))
        what = f"Python is {report['python']['version']}, expected {text}"
        wrong.append(Problem(what, "install one, and PYTHON=python3.11 ./run.sh ..."))
    if not report["packages"]:
        wrong.append(Problem(f"no {NEEDED} beside the code: versions are not checked", ""))
    for row in report["packages"]:
        if row["file"] != NEEDED or row["installed"] == row["pinned"]:
            continue
        state = f"is {row['installed']}" if row["installed"] else "is missing"
        fix = install(NEEDED)
        wrong.append(Problem(f"{row['name']} {state}, expected {row['pinned']}", fix))
    if report["cpu"]["features"].get("avx2") is False:
        wrong.append(Problem("the CPU has no AVX2: TensorFlow's wheels may not start", ""))
    tensorflow = report["tensorflow"]
    installed = {row["name"] for row in report["packages"] if row["installed"]}
    if "tensorflow" in installed and "error" in tensorflow:
        what = f"TensorFlow does not start: {tensorflow['error']}"
        wrong.append(Problem(what, install(NEEDED, "--force-reinstall")))
    if "mujoco" in installed and "error" in report["mujoco"]:
        what = f"MuJoCo does not start: {report['mujoco']['error']}"
        wrong.append(Problem(what, install(NEEDED, "--force-reinstall")))
    if "error" in report["folders"]:
        wrong.append(Problem(f"the folders cannot be seen: {report['folders']['error']}", ""))
    return wrong


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
            + (f"  ({row['file']})" if row["file"] != NEEDED else "")
        )
    missing: dict[str, list[str]] = {}
    for row in report["packages"]:
        if row["file"] != NEEDED and row["installed"] is None:
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
