"""Commands run quickly: a process has loaded the libraries once and forks for each command.

As a program it reads lines of JSON {"words", "cwd", "environment"} and answers each with a line
{"status", "out", "err"}. `Commands` starts it and asks.
"""

import importlib
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
_MODULES = (
    "morel_tf.behavior_policy.training",
    "offline_tf.export.batch_prediction",
    "offline_tf.reports.html_page",
)
_SECONDS = 60  # after which a command is ended


class Ended(NamedTuple):
    """How a command ended: its exit status (negative: the signal) and what it printed."""

    status: int
    out: str
    err: str


class Commands:
    """Runs commands, each in a process of its own."""

    def __init__(self):
        """Starts the process that forks."""
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
        )

    def run(self, words, cwd=ROOT, **environment):
        """Runs python -m WORDS; returns an Ended.

        Args:
          words: module and flags.
          cwd: where it runs.
          environment: variables that are set.
        """
        asked = {"words": list(map(str, words)), "cwd": str(cwd), "environment": environment}
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        return Ended(**json.loads(self._server.stdout.readline()))

    def close(self):
        """Ends the process."""
        self._server.stdin.close()
        self._server.wait()


def _be(words, cwd, environment):
    """Becomes the command; never returns."""
    status = 1
    signal.alarm(_SECONDS)
    try:
        os.chdir(cwd)
        os.environ.update(environment)
        module, *flags = words
        sys.argv = [module, *flags]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _answer(words, cwd, environment):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            _be(words, cwd, environment)
        _, waited = os.waitpid(child, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return {"status": os.waitstatus_to_exitcode(waited), "out": texts[0], "err": texts[1]}


def main():
    """Loads what commands need and forks for each."""
    sys.path.insert(0, str(ROOT))
    for name in ("mopp_tf.experiment.recipe", "morel_tf.experiment.recipe", *_MODULES):
        importlib.import_module(name)

    for line in sys.stdin:
        print(json.dumps(_answer(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
