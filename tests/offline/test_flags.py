import dataclasses
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import typing

import pytest

from flags import definitions, preset_files, schema
from morel_tf import config
from offline_tf import tasks
from offline_tf.config.knobs import check, knob, rebuild
from offline_tf.config.shared_knobs import InspectConfig
from offline_tf.types import UserError

ROOT = pathlib.Path(__file__).parent.parent.parent
STAGES = (*config.STAGES, config.BehaviorConfig)
PRESETS = sorted((ROOT / "flags" / "presets").glob("*/*/*.flags"))
PRESET_NAMES = ["/".join(path.with_suffix("").parts[-3:]) for path in PRESETS]


def parse(stages, words):
    """One instance per stage, from flags of their own."""
    values = schema.flags.FlagValues()
    for stage in stages:
        definitions.define(stage, values)
    rest = values(["prog", *words])
    assert rest == ["prog"]
    return [definitions.read(stage, values) for stage in stages]


def stages_of(family):
    return importlib.import_module(f"{family}_tf.config").STAGES


def merged(parts):
    return {name: value for part in parts for name, value in vars(part).items()}


def other_value(field, kind=None):
    """A valid value of a knob that is not its default, and how a user writes it.

    `kind` is that of a knob whose default is none.
    """
    default, meta = field.default, field.metadata
    if meta["choices"]:
        value = next(x for x in meta["choices"] if x != default)
    elif isinstance(default, tuple):
        value = (*default, "x" if kind is str else 7)
    elif isinstance(default, bool):
        value = not default
    elif isinstance(default, int):
        value = default + 1 if meta["high"] is None or default < meta["high"] else default - 1
    elif isinstance(default, float):
        value = default * 0.5 if default else 0.25
    elif default is None:
        value = 12 if kind is int else 0.25
    else:
        value = {"devices": "all"}.get(field.name, default + "x")
    return value, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


# --- dataclasses and flags ---


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_defaults_round_trip(stage):
    assert parse([stage], []) == [stage()]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_other_values_round_trip(stage):
    fields = dataclasses.fields(stage)
    types = {name: typing.get_args(hint)[:1] for name, hint in typing.get_type_hints(stage).items()}
    chosen = {f.name: other_value(f, *types[f.name]) for f in fields}
    words = [f"--{name}={text}" for name, (_, text) in chosen.items()]
    (found,) = parse([stage], words)
    assert found == stage(**{name: value for name, (value, _) in chosen.items()})
    hints = typing.get_type_hints(stage)
    for field in fields:
        value = getattr(found, field.name)
        assert value != field.default
        kinds = typing.get_args(hints[field.name]) or (hints[field.name],)
        if isinstance(value, tuple):
            assert {type(x) for x in value} == {kinds[0]}
        else:
            assert type(value) in kinds


def test_names_of_one_binary_are_distinct():
    names = [field.name for stage in config.STAGES for field in dataclasses.fields(stage)]
    assert len(names) == len(set(names))


def test_defining_a_name_twice_fails():
    with pytest.raises(schema.flags.DuplicateFlagError):
        parse([config.RunConfig, config.BehaviorConfig], [])


@dataclasses.dataclass(frozen=True)
class Toy:
    """Toy stage."""

    on: bool = knob(False, "A switch.")
    share: float = knob(0.5, "A share.", low=0.0, high=1.0, source="nowhere")
    widths: tuple[int, ...] = knob((4, 4), "Widths.", low=1)
    limit: int | None = knob(None, "A limit.", low=2)

    def __post_init__(self):
        check(self)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--on"], Toy(on=True)),
        (["--on", "--noon"], Toy()),
        (["--share=0"], Toy(share=0.0)),  # bounds are inclusive
        (["--share=1"], Toy(share=1.0)),
        (["--widths="], Toy(widths=())),
        (["--widths=3"], Toy(widths=(3,))),
        (["--limit=2"], Toy(limit=2)),
    ],
)
def test_toy_flags(words, expected):
    assert parse([Toy], words) == [expected]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--share=1.5", "--share: expected a value in [0, 1], got 1.5"),
        ("--share=-0.1", "--share: expected a value in [0, 1], got -0.1"),
        ("--widths=4,0", "--widths: expected a value in [1, inf], got 0"),
        ("--widths=4,x", "--widths: expected a comma-separated list of int, got ['4', 'x']"),
        ("--limit=1", "--limit: expected a value in [2, inf], got 1"),
    ],
)
def test_bad_values_are_named_in_one_line(word, message):
    with pytest.raises(UserError) as error:
        parse([Toy], [word])
    assert str(error.value) == message


def test_nan_is_out_of_bounds():
    with pytest.raises(UserError, match="--share"):
        Toy(share=float("nan"))


def test_numbers_are_finite_unless_a_knob_says_otherwise():
    knobs = {
        name: knob(1.0, "A number.", low=0.0, infinite=name == "far") for name in ("near", "far")
    }
    toy = dataclasses.make_dataclass(
        "Toy",
        [(name, float, field) for name, field in knobs.items()],
        namespace={"__post_init__": check},
    )
    assert toy(far=float("inf")).far == float("inf")
    with pytest.raises(UserError, match="^--near: expected a finite number, got inf$"):
        toy(near=float("inf"))


def test_a_stage_is_rebuilt_from_a_manifest_and_defaults():
    flags = json.loads(json.dumps(dataclasses.asdict(Toy(share=0.25, widths=(3,)))))
    assert rebuild(Toy, flags | {"of_another_stage": 1}) == Toy(share=0.25, widths=(3,))
    del flags["share"]
    assert rebuild(Toy, flags) == Toy(widths=(3,))


def test_unknown_choice_is_named():
    with pytest.raises(UserError, match="--halt: expected one of absorbing, truncate, got 'stop'"):
        config.PmdpConfig(halt="stop")
    with pytest.raises(schema.flags.IllegalFlagValueError, match="absorbing"):
        parse([config.PmdpConfig], ["--halt=stop"])


def test_misspelled_flag_names_the_nearest():
    with pytest.raises(schema.flags.UnrecognizedFlagError, match="Did you mean: halt_offset"):
        parse(config.STAGES, ["--halt_ofset=3"])


# --- presets ---


def test_every_robot_has_a_tuned_preset():
    found = {name for name in PRESET_NAMES if name.startswith("morel/tuned/")}
    robots = ("hopper", "walker2d", "halfcheetah", "ant")  # tests register others
    assert found == {f"morel/tuned/{robot}" for robot in robots}


@pytest.mark.parametrize(
    "dataset, file",
    [
        ("medium-ours", "hopper-medium"),
        ("medium-expert-ours", "hopper-medium-expert"),
        ("medium-sac", "hopper-medium"),
        ("medium-replay-sac", "hopper-mixed"),
        ("somewhere/hopper-medium-v2.hdf5", "hopper-medium"),
        ("hopper_medium_replay-v2.hdf5", "hopper-mixed"),
        ("hopper-medium-replay-v2.hdf5", "hopper-mixed"),
    ],
)
def test_a_data_sets_own_preset_comes_first(dataset, file):
    assert preset_files.preset_file("mopp", "authors", "hopper", dataset).stem == file
    assert preset_files.preset_file("mopp", "tuned", "hopper", dataset).stem == "hopper"


def test_a_data_set_without_a_preset_is_named_with_those_there_are():
    with pytest.raises(
        UserError,
        match=r"env=walker2d and --dataset=expert-ours, got 'authors'.*authors \(walker2d-medium\)",
    ):
        preset_files.preset_file("mopp", "authors", "walker2d", "expert-ours")


@pytest.mark.parametrize("path", PRESETS, ids=PRESET_NAMES)
def test_preset_parses_for_its_robot(path):
    family, preset = path.parts[-3], path.parts[-2]
    robot, _, kind = path.stem.partition("-")
    data = [f"--dataset={kind}-ours"] if kind else []
    if preset == "default":
        data = ["--dataset=mine.hdf5"]  # on data that are made here it is tuned
    words = ["prog", f"--env={robot}", f"--preset={preset}", *data]
    expanded = preset_files.expand(words, family, tasks.names(), "hopper")
    assert expanded == [words[0], f"--flagfile={path}", *words[1:]]
    found = merged(parse(stages_of(family), expanded[1:]))
    assert found["env"] == robot and found["preset"] == preset
    values = dict(re.findall(r"^--(\w+)=(.*)$", path.read_text(), re.MULTILINE))
    assert values
    for name, text in values.items():
        value = found[name]
        written = ",".join(map(str, value)) if isinstance(value, tuple) else value
        if isinstance(value, bool):
            assert text == str(value).lower()
        else:
            assert type(written)(text) == written


# H, kappa, sigma_M, L, orderings, K'. For HalfCheetah and Walker2d another implementation has H, kappa,
# L, K and K'; nobody published sigma_M or orderings.
PUBLISHED = {
    "hopper-random": (4, 10.0, 0.45, 0.5, (1, 2, 4), 6),
    "hopper-medium": (4, 0.3, 0.25, 1.0, (0, 3, 4), 6),
    "hopper-mixed": (4, 0.3, 0.6, 1.0, (0, 3, 4), 6),
    "hopper-medium-expert": (10, 3.0, 0.4, 1.0, (0, 2, 3), 6),
    "halfcheetah-random": (3, 3.0, 0.25, 4.0, (), 3),
    "halfcheetah-medium": (2, 3.0, 0.25, 5.0, (), 3),
    "walker2d-random": (3, 0.3, 0.25, 8.0, (), 3),
    "walker2d-medium": (2, 0.1, 0.25, 7.0, (), 3),
}
PUBLISHED_FOR_ALL = {
    "encoder_hidden": (500,),
    "latent_dim": 0,
    "head_hidden": (200, 100),
    "q_hidden": (500, 500),
    "conditioning": "mode",
    "targets": "absolute",
    "normalize": False,
    "reward_scaling": "minmax",
    "batch_size": 512,
    "learning_rate": 1e-3,
    "final_rate_share": 1.0,
    "weight_decay": 1e-5,
    "holdout_share": 0.0,
    "components": 1,
    "return_weighting": 0.0,
    "dynamics_members": 3,
    "discount": 0.99,
    "target_rate": 0.005,
    "q_return_steps": 1,
    "fqe_actions": "data",
    "judge_members": 0,
    "population": 100,
    "q_proposals": 10,
    "q_of_proposals": "first",
    "noise": "before",
    "proposals": "modes",
    "plan_mix": 0.0,
    "temperature_units": "absolute",
    "value_noise": "own",
    "terminal_value": True,
    "planner_termination": "none",
    "least_kept": 0.2,
    "fallback": "replace",
    "uncertainty_units": "raw",
    "uncertainty_penalty": 0.0,
    "eval_episodes": 20,
}


@pytest.mark.parametrize("preset", ["authors", "authors-20k"])
@pytest.mark.parametrize("data", PUBLISHED)
def test_the_authors_settings_stay_what_was_published(data, preset):
    """Presets hold differences only, so another default would change them."""
    robot, _, kind = data.partition("-")
    path = preset_files.preset_file("mopp", preset, robot, f"{kind}-ours")
    assert path.stem == data
    lines = [line for line in path.read_text().splitlines() if line.startswith("--")]
    found = merged(parse(stages_of("mopp"), lines))
    names = (
        "horizon inverse_temperature sigma_max uncertainty_limit dynamics_orders behavior_members"
    )
    assert tuple(found[name] for name in names.split()) == PUBLISHED[data]
    steps = 500_000 if preset == "authors" else 20_000
    fits = dict.fromkeys(("dynamics_steps", "behavior_steps", "q_steps"), steps)
    assert {name: found[name] for name in PUBLISHED_FOR_ALL | fits} == PUBLISHED_FOR_ALL | fits


MOREL_FOR_ALL = {
    "ensemble_size": 4,
    "dynamics_batch_size": 256,
    "dynamics_final_rate_share": 1.0,
    "covariance": "fixed",
    "velocities": "observed",
    "holdout_share": 0.0,
    "rollout_noise": "none",
    "start_mix": None,
    "bc_epochs": 5,
    "bc_loss": "squared",
    "bc_batch_size": 256,
    "bc_learning_rate": 1e-3,
    "discount": 0.999,
    "gae_lambda": 0.97,
    "kl_per_update": 0.01,
    "kl_final_share": 1.0,
    "fisher_share": 1.0,
    "max_log_std": 1.0,
    "baseline_hidden": (128, 128),
    "baseline_learning_rate": 1e-3,
    "baseline_weight_decay": 0.0,  # theirs, 1e-3, is of raw returns
    "baseline_epochs": 1,
    "baseline_batch_size": 256,
}
MOREL_AUTHORS = {
    "dynamics_hidden": (512, 512),
    "dynamics_learning_rate": 1e-3,
    "dynamics_epochs": 25,
    "scale": "mad",
    "disagreement_space": "authors",
    "threshold_rule": "max",
    "pessimism_coef": 3.0,
    "halt": "truncate",
    "model_actions": "drawn",
    "horizon": 700,
    "paths_per_member": 50,
    "iterations": 500,
    "cg_iterations": 20,
    "cg_damping": 1e-3,
    "init_log_std": -0.25,
    "min_log_std": -1.0,
    "policy_hidden": (64, 64),
    "policy_velocity_scale": 0.02,
    "baseline_velocity_scale": 0.02,
}
MOREL_PAPER = {
    "dynamics_learning_rate": 5e-4,
    "scale": "std",
    "disagreement_space": "observation",
    "threshold_rule": "beta",
    "halt": "absorbing",
    "policy_hidden": (32, 32),
}
# Hidden widths, epochs, updates, paths, horizon, CG steps, first and least log std, HALT, velocities.
MOREL_PAPER_ROBOTS = {
    "ant": ((512, 512), 300, 1000, 200, 500, 10, -0.01, -2.0, 100.0, 1.0),
    "hopper": ((512, 512), 300, 500, 50, 400, 25, -0.25, -2.0, 50.0, 0.02),
    "walker2d": ((512, 512), 300, 1000, 100, 700, 20, -0.5, -1.0, 30.0, 0.02),
    "halfcheetah": ((1024, 1024), 3000, 2500, 40, 1000, 20, -1.0, -1.0, 200.0, 0.02),
}


def test_morels_presets_stay_what_they_were_taken_from():
    def read(preset, robot):
        path = preset_files.preset_file("morel", preset, robot, "")
        lines = [line for line in path.read_text().splitlines() if line.startswith("--")]
        return merged(parse(stages_of("morel"), lines))

    found = read("authors", "hopper")
    expected = MOREL_FOR_ALL | MOREL_AUTHORS
    assert {name: found[name] for name in expected} == expected
    names = (
        "dynamics_hidden dynamics_epochs iterations paths_per_member horizon cg_iterations "
        "init_log_std min_log_std halt_offset baseline_velocity_scale"
    )
    for robot, values in MOREL_PAPER_ROBOTS.items():
        found = read("paper", robot)
        expected = MOREL_FOR_ALL | MOREL_PAPER | dict(zip(names.split(), values, strict=True))
        expected["policy_velocity_scale"] = expected["baseline_velocity_scale"]
        assert {name: found[name] for name in expected} == expected, robot


@pytest.mark.parametrize("path", PRESETS, ids=PRESET_NAMES)
def test_each_line_has_its_source_above(path):
    lines = path.read_text().splitlines()
    assert len(lines) % 2 == 0
    for comment, line in zip(lines[::2], lines[1::2]):
        assert re.fullmatch(r"# .*\w{3}.*", comment), comment
        assert re.fullmatch(r"--\w+=[^\s#]+", line), line
    names = [line.split("=")[0] for line in lines[1::2]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", PRESETS, ids=PRESET_NAMES)
def test_preset_holds_differences_only(path):
    stages = stages_of(path.parts[-3])
    default = merged(parse(stages, []))
    lines = [line for line in path.read_text().splitlines() if line.startswith("--")]
    same = [line for line in lines if merged(parse(stages, [line])) == default]
    assert not same


def test_a_users_flag_wins_over_the_preset():
    preset = "--beta=10"  # flags/presets/morel/tuned/hopper.flags
    assert preset in (ROOT / "flags/presets/morel/tuned/hopper.flags").read_text()
    tuned = ["--env=hopper", "--preset=tuned"]
    for words, beta in ((tuned, 10.0), (["--beta=7", *tuned], 7.0)):
        expanded = preset_files.expand(["prog", *words], "morel", tasks.names(), "hopper")
        assert merged(parse(config.STAGES, expanded[1:]))["beta"] == beta


def expanded_file(words, default_env="hopper", family="morel"):
    """Which preset's file is put in front, as preset/robot; None without one."""
    expanded = preset_files.expand(["prog", *words], family, [*tasks.names(), "mine"], default_env)
    if expanded == ["prog", *words]:
        return None
    assert expanded[0] == "prog" and expanded[2:] == words
    return "/".join(pathlib.Path(expanded[1].split("=")[1]).with_suffix("").parts[-2:])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "tuned/hopper"),  # data that are made here
        (["--dataset=medium-ours"], "tuned/hopper"),
        (["--dataset=medium-sac"], None),  # nothing was chosen on such data
        (["--dataset=medium-replay-sac", "--env=ant"], "default/ant"),
        (["--dataset=mine.hdf5"], None),  # hopper's default preset has nothing of its own
        (["--env=ant"], "tuned/ant"),
        (["--env=ant", "--preset=rules"], "default/ant"),
        (["--preset=rules"], None),
        (["-env=ant"], "tuned/ant"),
        (["--env", "ant", "--dataset=mine.hdf5"], "default/ant"),
        (["--env=ant", "--env=walker2d"], "tuned/walker2d"),
        (["--preset=paper", "--env=halfcheetah"], "paper/halfcheetah"),
        (["--environment=ant"], "tuned/hopper"),
        (["--env=mine"], None),  # a registered task without a preset of its own
        (["--env=unknown"], None),  # the task registry will say so
    ],
)
def test_the_preset_follows_env_and_preset(words, expected):
    assert expanded_file(words) == expected


def test_a_mistyped_robot_beside_a_preset_is_recognised():
    with pytest.raises(UserError, match="got 'quick'; did you mean --env=hopper\\?$"):
        preset_files.expand(
            ["train", "--env=hoper", "--preset=quick"], "morel", ("hopper",), "hopper"
        )


def test_the_preset_follows_env_in_a_file_of_flags(tmp_path):
    (tmp_path / "mine.flags").write_text("# a user's own\n--env=ant\n")
    assert expanded_file([f"--flagfile={tmp_path / 'mine.flags'}"]) == "tuned/ant"


def test_a_binary_without_presets_takes_none():
    assert expanded_file(["--env=ant"], family=None) is None


def test_a_task_without_presets_is_refused_one():
    words = ["--env=examples/tank.py:TANK", "--preset=paper"]
    assert expanded_file(words[:1]) is None
    with pytest.raises(
        UserError, match="^--preset: expected default for --env=.*TANK, got 'paper'"
    ):
        expanded_file(words)


@pytest.mark.parametrize("words", [["--preset=papre"], ["--preset=paper", "--env=mine"]])
def test_unknown_preset_lists_the_known_ones(words):
    with pytest.raises(UserError) as error:
        expanded_file(words)
    message = str(error.value)
    assert words[0].split("=")[1] in message and "\n" not in message
    for path in PRESETS:
        if path.parts[-3] == "morel":
            assert f"{path.parent.name} ({path.stem})" in message


# --- the help page ---


def squeezed(text):
    """Without white space: the page may break lines anywhere."""
    return "".join(str(text).split())


def test_help_groups_by_stage_and_names_defaults(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = definitions.help_text("\nusage: toy\n", STAGES[:6])
    assert text.startswith("usage: toy\n")
    position = 0
    for stage in STAGES[:6]:
        title = stage.__doc__.splitlines()[0]
        start = text.index(f"{title}\n{'-' * len(title)}\n", position)
        position = text.index("\n\n", start)
        _, *blocks = re.split(r"^  --(?=\w+$)", text[start:position], flags=re.MULTILINE)
        fields = dataclasses.fields(stage)
        assert [block.split("\n")[0] for block in blocks] == [field.name for field in fields]
        for field, block in zip(fields, blocks):
            default, meta, block = field.default, field.metadata, squeezed(block)
            shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
            assert squeezed(meta["help"]) in block
            assert squeezed(f"Default: {'none' if shown in (None, '') else shown}.") in block
            assert not meta["source"] or squeezed(f"[{meta['source']}]") in block
            assert all(repr(choice) in block for choice in meta["choices"] or ())
    assert max(map(len, text.splitlines())) <= 100


def test_every_knob_has_help():
    for stage in STAGES:
        for field in dataclasses.fields(stage):
            assert len(field.metadata["help"]) > 4 and field.metadata["help"].endswith("."), field


def run_python(*words, **options):
    """A Python of its own in the project's folder, with what it prints."""
    words = [sys.executable, *words]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, **options)


def test_help_of_a_binary():
    run = subprocess.run(
        [sys.executable, "-m", "morel_tf.train", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "100"},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("usage: python -m morel_tf.train")
    for stage in config.STAGES:
        assert f"\n{stage.__doc__.splitlines()[0]}\n---" in run.stdout
    assert "--halt_offset" in run.stdout and "Default: 50.0." in run.stdout


def test_help_needs_no_tensorflow():
    """A command's module, its flags and its help load within a fraction of a second."""
    names = [
        *(f"morel_tf.{n}" for n in ("train", "train_behavior", "evaluate", "inspect", "export")),
        *(f"mopp_tf.{n}" for n in ("train", "evaluate", "inspect", "export")),
        *(f"offline_tf.{n}" for n in ("collect", "predict", "serve", "report", "results")),
        *(f"offline_tf.datasets.{n}" for n in ("doctor", "convert")),
        "offline_tf.doctor_environment",
    ]
    code = f"import sys, {', '.join(names)}; sys.exit('tensorflow' in sys.modules)"
    run = run_python("-c", code)
    assert run.returncode == 0, run.stderr


def test_repeated_flags_add_up_and_the_common_flags_exclude_each_other():
    found = parse([InspectConfig], ["--workdir=r", "--against=a", "--against=b,c"])[0]
    assert found.against == ("a", "b,c")
    with pytest.raises(UserError, match="--quiet, --verbose"):
        parse([schema.CommonConfig], ["--quiet", "--verbose"])


@pytest.mark.parametrize("words, levels", [([], "WI"), (["--quiet"], "W"), (["--verbose"], "WID")])
def test_quiet_and_verbose_choose_what_is_printed(words, levels):
    code = (
        "from absl import logging; from flags import schema\n"
        "def main():\n"
        "  logging.warning('W'); logging.info('I'); logging.debug('D')\n"
        "schema.run(main, configs=[], usage='usage')"
    )
    run = run_python("-c", code, *words)
    assert run.returncode == 0 and "".join(run.stderr.split()) == levels


def test_max_hours_ends_any_command(tmp_path):
    code = (
        "import time; from flags import schema\n"
        "def main():\n  while True: time.sleep(0.01)\n"
        "schema.run(main, configs=[], usage='usage')"
    )
    run = run_python("-c", code, "--max_hours=0.00001", timeout=60)
    assert run.returncode == 75 and run.stderr.startswith("--max_hours are over"), run.stderr


def test_a_dry_run_refuses_to_read_what_is_not_there():
    words = ["--export=nowhere", "--dry_run", "--input=README.md", "--output=o.csv"]
    run = run_python("-m", "offline_tf.predict", *words)
    assert run.returncode == 2 and run.stderr.startswith("error: --")


def test_lines_are_printed_wherever_the_project_lies(tmp_path):
    folder = tmp_path / "tensorflow" / "matplotlib"
    folder.mkdir(parents=True)
    code = "from absl import logging; from flags import schema\ndef main(): logging.info('said')\n"
    (folder / "say.py").write_text(code + "schema.run(main, configs=[], usage='usage')\n")
    run = subprocess.run(
        [sys.executable, str(folder / "say.py")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert run.stderr.strip() == "said"


@pytest.mark.parametrize("argv", [["--sead=1"], ["more"], ["--seed=many"]])
def test_a_bad_command_line_ends_in_one_line_and_status_2(argv, monkeypatch, capsys):
    def parse_only(body, flags_parser):
        flags_parser(["binary", *argv])

    monkeypatch.setattr(schema.app, "run", parse_only)
    values = schema.flags.FlagValues()
    definitions.define(config.RunConfig, values)
    monkeypatch.setattr(schema.flags, "FLAGS", values)
    with pytest.raises(SystemExit) as end:
        schema.run(lambda: None, configs=[], usage="usage")
    assert end.value.code == 2
    found = capsys.readouterr()
    assert not found.out and found.err.startswith("error: ") and found.err.count("\n") == 1


@pytest.mark.parametrize("words", [["--dataset", "x" * 300], ["--dataset=README.md/x.hdf5"]])
def test_what_a_path_refuses_ends_in_one_line_and_status_2(words):
    code = (
        "import pathlib, sys; from flags import schema\n"
        "from offline_tf.config.knobs import knob; import dataclasses\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Given:\n  dataset: str = knob('', 'x')\n"
        "schema.run(lambda given: pathlib.Path(given.dataset).open(), configs=[Given], usage='usage')"
    )
    run = run_python("-c", code, *words)
    assert run.returncode == 2 and run.stderr.startswith("error: ") and run.stderr.count("\n") == 1
    assert "choose another path" in run.stderr


def test_bad_input_of_a_binary_ends_in_one_line_and_status_2(tmp_path):
    (tmp_path / "damaged.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    run = subprocess.run(
        [sys.executable, "-m", "offline_tf.datasets.doctor", "--dataset=damaged.hdf5"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert run.returncode == 2 and not run.stdout
    ours = [
        line for line in run.stderr.splitlines() if not re.match(r"[IWE]\d{4} |WARNING: All", line)
    ]
    assert len(ours) == 1 and ours[0].startswith("error: "), run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.hdf5"]
