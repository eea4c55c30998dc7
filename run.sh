#!/usr/bin/env bash
# ./run.sh COMMAND [flags]; without a command it lists them. Makes .venv once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# Command, module (- for none), what it does, for the list and for the call; # begins a group.
commands() {
  cat <<'TABLE'
# Learn
train               morel_tf.train                 MOReL: data, models, policy, export; --env=hopper --preset=quick
mopp                mopp_tf.train                  MOPP: models, planner, export; --algorithm=mbop for MBOP
tune                morel_tf.tune                  other settings of a run, ranked without a simulator
mopp-tune           mopp_tf.tune                   the same for MOPP
behavior            morel_tf.train_behavior        a behaviour policy, trained in the simulator
# Look
tensorboard         -                              all runs under runs/, or in a FOLDER
report              offline_tf.report              a run, or several, as one HTML file
render              offline_tf.render              a film of the controller
evaluate            morel_tf.evaluate              measures a finished run again
mopp-evaluate       mopp_tf.evaluate               the same for MOPP; other knobs with --planner=
what-if             offline_tf.what_if             what would follow from actions that nobody tried
inspect             morel_tf.inspect               what the models know: errors, calibration, detector
mopp-inspect        mopp_tf.inspect                the same for MOPP
# Check data
doctor              offline_tf.datasets.doctor     what is in a data set, and what is wrong with it
describe            offline_tf.datasets.describe   a first plant.toml from a table with time stamps
convert             offline_tf.datasets.convert    any format to D4RL's or Minari's
collect             offline_tf.collect             makes data in the simulator, with a policy of yours too
# Deploy
export              morel_tf.export                exports a run again, LiteRT files too
mopp-export         mopp_tf.export                 the same for MOPP
predict             offline_tf.predict             actions for a file of observations
serve               offline_tf.serve               an export over HTTP on localhost:8501
# Many runs
study               offline_tf.study               the runs of a STUDY.toml, here, on a Ray cluster or Slurm
campaign            benchmarks.campaign            a list of trainings into its record; papers: those of the papers' tables
python              -                              runs a script in .venv
repro               offline_tf.repro               makes a run again and says where it differs, if it does
results             offline_tf.results             writes the tables of results from records
# Develop
doctor-environment  offline_tf.doctor_environment  versions, devices, memory, and what is wrong
test                -                              formatting, types, the pages, fast tests
check               -                              the same without the tests
docs                -                              the pages on localhost:8000; --strict builds site/
original-test       -                              tests with gym, d4rl, mujoco-py on Python 3.10
original            -                              runs a MODULE there, for --simulator=mujoco_py
TABLE
}

list_commands() {
  local name module words
  echo "usage: ./run.sh COMMAND [flags]; ./run.sh COMMAND --help prints the flags"
  while read -r name module words; do
    if [ "$name" = "#" ]; then
      printf '\n%s\n' "$module${words:+ $words}"
    else
      printf '  %-20s%s\n' "$name" "$words"
    fi
  done < <(commands)
  printf '\nPYTHON=python3.12 ./run.sh ... chooses the interpreter.\n'
}

# Prints the module of a command; fails if there is no such command.
module_of() {
  commands | awk -v name="$1" '$1 == name && name != "#" { print $2; found = 1 } END { exit !found }'
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3 python; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
        >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  echo "error: expected Python 3.11, 3.12 or 3.13 on the PATH, found none; install one, or set PYTHON" >&2
  return 1
}

# The stamp holds what was installed, so that a changed pin or another Python installs again.
install() {
  local requirements=$1 stamp=.venv/$1.stamp python wanted
  if [ ! -x .venv/bin/python ] || [ -e .venv/unfinished ]; then
    python=$(find_python)
    echo "making .venv with $python" >&2
    rm -rf .venv && mkdir .venv && touch .venv/unfinished
    "$python" -m venv .venv
    rm .venv/unfinished
  fi
  wanted=$(cat requirements.txt "$requirements" pyproject.toml | cksum)
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "installing $requirements" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
    echo "$wanted" >"$stamp"
  fi
}

# The papers' simulators. The wheel of free-mujoco-py is only unpacked: it carries MuJoCo 2.1.0.
install_original() {
  local python=${PYTHON:-python3.10} stamp=.venv-original/stamp wanted
  wanted=$(cksum requirements-original.txt)
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    if [ "$("$python" -c 'import sys; print(sys.version_info[:2] == (3, 10))' 2>/dev/null)" != True ]; then
      echo "error: the original tooling needs Python 3.10, found none; install it, or set PYTHON" >&2
      return 1
    fi
    for tool in gcc patchelf; do
      if ! command -v "$tool" >/dev/null; then
        echo "error: mujoco-py needs $tool to build; Debian: apt install gcc patchelf libgl1-mesa-dev libosmesa6-dev" >&2
        return 1
      fi
    done
    echo "installing requirements-original.txt" >&2
    rm -rf .venv-original
    "$python" -m venv .venv-original
    local pip=".venv-original/bin/python -m pip --disable-pip-version-check"
    $pip install --quiet --upgrade pip setuptools==65.5.0
    $pip install --quiet -r requirements-original.txt
    $pip install --quiet --no-deps d4rl==1.1
    $pip download --quiet --no-deps --dest .venv-original/wheel free-mujoco-py==2.1.6
    .venv-original/bin/python -m zipfile -e .venv-original/wheel/free_mujoco_py-*.whl .venv-original/unpacked
    echo "$wanted" >"$stamp"
  fi
}

original() {
  local library=$PWD/.venv-original/unpacked/mujoco_py/binaries/linux/mujoco210
  MUJOCO_PY_MUJOCO_PATH=$library LD_LIBRARY_PATH=$library/bin:${LD_LIBRARY_PATH:-} \
    D4RL_SUPPRESS_IMPORT_ERROR=1 .venv-original/bin/python "$@"
}

# The pages, built into site/; a link that leads nowhere, or a name of the API that is gone, fails.
build_docs() {
  install requirements-docs.txt
  NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --quiet --strict "$@"
}

command=${1:-help}
[ $# -gt 0 ] && shift
if [ "$command" = help ] || [ "$command" = --help ]; then
  list_commands
  exit
fi
if ! module=$(module_of "$command"); then
  list_commands >&2
  echo "error: expected one of the commands above, got '$command'" >&2
  exit 2
fi

if [ "$command" = original-test ] || [ "$command" = original ]; then
  install_original
  [ "$command" = original ] && { original -m "$@"; exit; }
  original -c "import mujoco_py" >/dev/null # compiles once
  original -m pytest -s tests/original
  .venv-original/bin/python -m pytest -n auto "$@"
  exit
fi
if [ "$command" = test ] || [ "$command" = check ]; then
  install requirements-dev.txt
  .venv/bin/ruff format --check .
  .venv/bin/ruff check .
  .venv/bin/mypy
  build_docs
  [ "$command" = check ] || exec .venv/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder "$@"
  exit 0
fi
if [ "$command" = docs ]; then
  if [ "${1:-}" = --strict ]; then
    build_docs "${@:2}"
    echo "built site/index.html" >&2
    exit 0
  fi
  install requirements-docs.txt
  NO_MKDOCS_2_WARNING=1 exec .venv/bin/python -m mkdocs serve "$@"
fi
case $command in
  serve) install requirements-serve.txt ;;
  *) install requirements.txt ;;
esac
case $command in
  tensorboard)
    start='from offline_tf import quiet_start; quiet_start.run_module("tensorboard.main")'
    exec .venv/bin/python -c "$start" --logdir "${1:-runs}" "${@:2}"
    ;;
  python) exec .venv/bin/python "$@" ;;
  *) exec .venv/bin/python -m "$module" "$@" ;;
esac
