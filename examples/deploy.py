# %%
"""A trained controller from Python: act, guard, ask the detector, look ahead with the model.

./run.sh python examples/deploy.py runs/morel-hopper-default-seed0 [MOPP_RUN] [STEPS]

The cells (`# %%`) run in Jupyter and VS Code too; set `MOREL` and `MOPP` there. A run folder holds an
export; an export that was copied elsewhere does as well. Only TensorFlow is needed to use one:
`morel_tf.load` is a convenience around `tf.saved_model.load`.
"""

from __future__ import annotations

import sys

import gymnasium
import numpy as np

import mopp_tf
import morel_tf

MOREL = sys.argv[1] if len(sys.argv) > 1 else "runs/morel-hopper-default-seed0"
MOPP = sys.argv[2] if len(sys.argv) > 2 else ""
STEPS = int(sys.argv[3]) if len(sys.argv) > 3 else 1000

# %% A controller in a Gymnasium loop. Hopper-v4 is a heavier robot than the -v2 one of the data (see
# docs/results/physics.md), so expect less than in the run's summary; for the same robot there is
# offline_tf.tasks.environments.make_simulator.
controller = morel_tf.load(MOREL)
environment = gymnasium.make("Hopper-v4")


def episode(act, seed: int) -> float:
    """Runs one episode; returns its return."""
    observation, _ = environment.reset(seed=seed)
    controller.reset()
    total = 0.0
    for _ in range(STEPS):
        observation, reward, terminated, truncated, _ = environment.step(act(observation))
        total += float(reward)
        if terminated or truncated:
            break
    return total


print(f"return in Hopper-v4: {episode(controller.act, seed=0):.0f}")

# %% Guarded: where the data do not support the policy's action, the fallback acts. The answer says so.
used = []


def guarded(observation):
    """Acts, and notes where the fallback did."""
    found = controller.act_guarded(observation)
    used.append(bool(found["fallback_used"]))
    return found["action"]


total = episode(guarded, seed=0)
print(f"guarded: {total:.0f}; the fallback acted in {100 * np.mean(used):.0f} % of the steps")

# %% Ask about many pairs at once: what the data support, and how much the models disagree.
observation, _ = environment.reset(seed=1)
actions = np.random.default_rng(0).uniform(-1, 1, (1000, 3)).astype(np.float32)
observations = np.tile(observation.astype(np.float32), (1000, 1))
known = controller.is_known(observations, actions)
print(f"of 1000 random actions in a start state, the detector knows {100 * known.mean():.0f} %")

# %% The learned model, a step of the pessimistic MDP per call: a look ahead without a simulator.
state = np.repeat(observation[None].astype(np.float32), 4, axis=0)
promised = np.zeros(4)
over = np.zeros(4, bool)
for _ in range(min(STEPS, 100)):
    action = controller.act(state)
    found = controller.call("step", state=state, action=action, member=np.arange(4) % 2)
    promised += np.where(over, 0.0, found["reward"])
    over |= found["terminated"]
    state = found["next_state"]
print(f"over {min(STEPS, 100)} steps the model's members promise {np.round(promised).tolist()}")

# %% MOPP plans at every step; the decision says how many candidates survived pruning.
if MOPP:
    planner = mopp_tf.load(MOPP)
    observation, _ = environment.reset(seed=0)
    planner.reset()
    kept, total = [], 0.0
    for _ in range(min(STEPS, 200)):
        observation, reward, terminated, truncated, _ = environment.step(planner.act(observation))
        kept.append(float(planner.decision["kept_share"]))
        total += float(reward)
        if terminated or truncated:
            break
    print(f"planner: {total:.0f} in {len(kept)} steps, kept {100 * np.mean(kept):.0f} %")
