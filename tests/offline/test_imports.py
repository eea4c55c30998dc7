import ast
import functools
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
PACKAGES = ("offline_tf", "morel_tf", "mopp_tf", "flags")
FILES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in FILES}
# Rooms of offline_tf, from the ground up: each imports rooms of lower floors alone.
FLOORS = (
    ("types",),
    ("install_hints",),
    ("machine", "numerics", "run_folder", "tasks"),
    ("config", "export", "models"),
    ("inspection", "policies"),
    ("evaluation", "rendering", "reports"),
    ("datasets",),
    ("judging",),
    ("pipeline",),
    ("studies",),
)
FLOOR_OF = {f"offline_tf.{room}": floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Within morel_tf and mopp_tf, likewise; what stands beside these folders (config, algorithm) is shared.
INNER_ROOMS = {
    "morel_tf": ("models", "planning", "experiment"),
    "mopp_tf": ("models", "planning", "mbop", "experiment"),
}


@functools.cache
def imports(path):
    """All modules that a file imports, also inside functions, as full names."""
    found = set()
    package = module_name(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            full = {f"{source}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else source for name in full}
    return found


@functools.cache
def is_binary(path):
    return any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        for node in ast.parse(path.read_text()).body
    )


def ours(path):
    """First parts of our packages among a file's imports."""
    return {name.split(".")[0] for name in imports(path)} & set(PACKAGES)


def test_the_finder_sees_all_kinds_of_imports(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "offline_tf" / "toy.py"
    path.parent.mkdir()
    path.write_text(
        "import numpy as np\nfrom . import types\nfrom .tasks import ant\nfrom flags import schema\n"
        "def f():\n    from absl import flags as f\n    import morel_tf.config\n"
        "if __name__ == '__main__':\n    f()\n"
    )
    expected = {"numpy", "offline_tf.types", "offline_tf.tasks.ant", "flags.schema", "absl"}
    assert imports(path) == expected | {"morel_tf.config"}
    assert absl_flags(path) and is_binary(path)


def room_of(module):
    """The room of offline_tf that a module stands in, or None."""
    name = ".".join(module.split(".")[:2])
    return name if name in FLOOR_OF else None


def test_every_folder_of_offline_tf_is_on_a_floor():
    folders = {path.parent.name for path in (ROOT / "offline_tf").glob("*/__init__.py")}
    assert folders <= {room for rooms in FLOORS for room in rooms}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_room_imports_rooms_of_lower_floors(path):
    own = room_of(module_name(path))
    if own is None:
        return
    others = {room_of(name) for name in imports(path)} - {own, None}
    assert {name: FLOOR_OF[name] for name in others if FLOOR_OF[name] >= FLOOR_OF[own]} == {}


@pytest.mark.parametrize("package", INNER_ROOMS)
def test_experiments_stand_above_planning_and_planning_above_models(package):
    rooms = [f"{package}.{room}" for room in INNER_ROOMS[package]]
    for path in (ROOT / package).rglob("*.py"):
        own = [i for i, room in enumerate(rooms) if module_name(path).startswith(room + ".")]
        seen = {
            i for i, room in enumerate(rooms) for name in imports(path) if name.startswith(room)
        }
        assert not own or max(seen, default=0) <= own[0], path


def absl_flags(path):
    """Whether a file imports absl.flags in any form."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import) and any(a.name == "absl.flags" for a in node.names):
            return True
        if isinstance(node, ast.ImportFrom) and (
            node.module == "absl.flags"
            or (node.module == "absl" and any(a.name == "flags" for a in node.names))
        ):
            return True
    return False


def test_there_is_something_to_check():
    assert {"offline_tf/types.py", "morel_tf/algorithm.py", "flags/schema.py"} <= set(NAMES)
    binaries = {module_name(path) for path in FILES if is_binary(path)}
    assert {"offline_tf.collect", "morel_tf.train", "morel_tf.evaluate"} <= binaries


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_import_rules(path):
    package = path.relative_to(ROOT).parts[0]
    allowed = {
        "offline_tf": {"offline_tf"},
        "morel_tf": {"morel_tf", "offline_tf"},
        "mopp_tf": {"mopp_tf", "offline_tf"},
        "flags": {"flags", "offline_tf"},
    }[package]
    if is_binary(path):
        allowed = allowed | {"flags"}
    assert ours(path) <= allowed


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_only_flags_touches_absl_flags(path):
    assert not absl_flags(path) or path.relative_to(ROOT).parts[0] == "flags"


def test_nothing_but_tests_imports_a_binary():
    binaries = {module_name(path) for path in FILES if is_binary(path)}
    others = [*FILES, *(ROOT / "benchmarks").rglob("*.py")]
    found = {str(path): sorted(imports(path) & binaries) for path in others}
    assert not {name: names for name, names in found.items() if names}


def test_packages_are_light():
    packages = sorted({path.parent for path in FILES if path.name == "__init__.py"})
    names = [module_name(folder / "__init__.py") for folder in packages]
    assert {"offline_tf", "offline_tf.tasks", "offline_tf.datasets", "morel_tf"} <= set(names)
    code = f"import sys, {', '.join(names)}; print(sorted(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    loaded = set(ast.literal_eval(run.stdout))
    assert set(names) <= loaded
    heavy = {"tensorflow", "keras", "tensorflow_probability", "mujoco", "gymnasium", "h5py"}
    assert not loaded & heavy
