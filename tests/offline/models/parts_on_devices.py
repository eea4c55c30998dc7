"""Roll-outs and decisions on one and several parts of the CPU, and where they are placed; as JSON."""

import json
import sys

import numpy as np
import tensorflow as tf
import toys

from mopp_tf import algorithm
from mopp_tf.config import BehaviorConfig, ModelConfig, PlannerConfig, QConfig
from mopp_tf.config import DynamicsConfig as MoppDynamicsConfig
from mopp_tf.experiment import export_planner
from mopp_tf.models import rows
from mopp_tf.objectives import Objective
from mopp_tf.planning.planner import Planner
from morel_tf.config import DynamicsConfig
from morel_tf.planning import pessimistic_mdp
from offline_tf.models import compilation, devices, gaussian_ensemble
from offline_tf.numerics.standardize import Statistics
from offline_tf.policies.gaussian import GaussianPolicy

_TASK = toys.cart(bound=1.5)


def _statistics(width):
    return Statistics(np.zeros(width, np.float32), np.ones(width, np.float32))


def _where(graph):
    """Numbers of the devices that a graph's products are placed on."""
    placed = {
        node.device.rpartition(":")[2]
        for each in [graph.as_graph_def(), *graph.as_graph_def().library.function]
        for node in getattr(each, "node", None) or each.node_def
        if node.device
    }
    return sorted(placed)


def roll_out():
    """Paths of two groups in a random model, and the devices."""
    config = DynamicsConfig(ensemble_size=2, dynamics_hidden=(16, 16), precision="float32")
    ensemble = gaussian_ensemble.GaussianEnsemble(_TASK, config, _statistics(3), _statistics(2), 0)
    pmdp = toys.pessimistic(_TASK, ensemble, np.inf, horizon=20)
    policy = GaussianPolicy(toys.plain_units(2, 1), (4,), 0.0)
    starts = np.random.default_rng(0).uniform(-1, 1, (6, 2)).astype(np.float32)

    def grouped(first, seed):
        return pessimistic_mdp.roll_out_in_groups(
            pmdp,
            policy=policy,
            starts=first,
            member=tf.constant([0, 1, 0, 1, 0, 1]),
            seed=seed,
            whole=compilation.compiler() == "xla",
        )

    call = compilation.compiled(grouped, in_parts=True)
    inputs = tf.constant(starts), tf.constant([3, 4])
    found = call(*inputs)
    return found.observations.numpy(), _where(call.get_concrete_function(*inputs).graph)


def decision():
    """An action and the candidates' returns, the devices, and those of the exported graph."""
    prepared = algorithm.Prepared(
        rows.RewardScale(0.0, 1.0),
        rows.Normalizer(_statistics(2), _statistics(1), _statistics(3)),
        np.ones(3, np.float32),
    )
    planning = PlannerConfig(population=20, horizon=3, sigma_max=0.25)
    knobs = algorithm.Knobs(
        ModelConfig(encoder_hidden=(8,), latent_dim=4, head_hidden=(8,)),
        MoppDynamicsConfig(dynamics_members=2),
        BehaviorConfig(behavior_members=2),
        QConfig(q_hidden=(8,)),
        planning,
    )
    planner = Planner(
        _TASK,
        models=algorithm.build(_TASK, knobs, prepared),
        knobs=planning,
        limit=1e9,
        objective=Objective(prepared.scale),
    )
    call = compilation.compiled(planner.decide, in_parts=True)
    observation = tf.constant([[0.1, -0.2]])
    inputs = observation, planner.initial_plan(observation), tf.constant([1, 2])
    found = call(*inputs)
    numbers = np.concatenate([found.action.numpy().ravel(), found.returns.numpy().ravel()])
    exported = export_planner.Exported(planner, prepared.scale).signatures()["plan"]
    return numbers, _where(call.get_concrete_function(*inputs).graph), _where(exported.graph)


def main():
    """Prints one line."""
    count, compiler = int(sys.argv[1]), sys.argv[2]
    devices.use_devices(str(count))  # TensorFlow splits the CPU once
    compilation.use_compiler(compiler)
    found = {}
    for kind in (roll_out, decision):
        for number in (1, count):
            devices.use_devices(str(number))
            numbers, *where = kind()
            found[f"{kind.__name__} {number}"] = {"numbers": numbers.tolist(), "where": where}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
