import base64
import io
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
import tensorflow as tf
import toys

from benchmarks.fuzz import torch_files
from offline_tf import collect, tasks
from offline_tf.datasets.formats import d4rl
from offline_tf.policies import foreign
from offline_tf.types import UserError

HOPPER = tasks.get("hopper")
S, A = HOPPER.state_dim, HOPPER.action_dim


def _weights(names, sizes, seed=0):
    generator = np.random.default_rng(seed)
    found = {}
    for name, (inputs, outputs) in zip(names, sizes, strict=True):
        found[f"{name}.weight"] = generator.normal(size=(outputs, inputs)) / np.sqrt(inputs)
        found[f"{name}.bias"] = generator.normal(size=outputs)
    return found


PPO = _weights(
    [
        "mlp_extractor.policy_net.0",
        "mlp_extractor.policy_net.2",
        "mlp_extractor.value_net.0",
        "action_net",
        "value_net",
    ],
    [(S, 8), (8, 5), (S, 8), (5, A), (5, 1)],
) | {"log_std": np.array([-1.0, 0.0, 0.5])}
SAC = _weights(
    ["actor.latent_pi.0", "actor.latent_pi.2", "actor.mu", "actor.log_std", "critic.qf0.0"],
    [(S, 8), (8, 5), (5, A), (5, A), (S + A, 4)],
)
TD3 = _weights(["actor.mu.0", "actor.mu.2", "actor_target.mu.0"], [(S, 8), (8, A), (S, 8)])
STATES = np.random.default_rng(5).normal(size=(400, S)).astype(np.float32)


def _mlp(weights, names, activation):
    x = STATES.astype(np.float64)
    for i, name in enumerate(names):
        x = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        if i < len(names) - 1:
            x = activation(x)
    return x


def relu(x):
    return np.maximum(x, 0)


def act(policy, stochastic):
    return policy.act(STATES, np.random.default_rng(1), stochastic)


def test_ppo_is_a_tanh_network_with_constant_noise(tmp_path):
    found = foreign.read_sb3(torch_files.write_sb3(tmp_path / "p.zip", PPO), HOPPER)
    names = ["mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2", "action_net"]
    mean = _mlp(PPO, names, np.tanh)
    np.testing.assert_allclose(act(found, False), mean, atol=1e-5)
    noise = act(found, True) - mean
    np.testing.assert_allclose(noise.std(axis=0), np.exp(PPO["log_std"]), rtol=0.1)
    np.testing.assert_allclose(noise.mean(axis=0), 0.0, atol=0.25)


def test_the_activation_that_the_file_names_is_used(tmp_path):
    path = torch_files.write_sb3(
        tmp_path / "p.zip",
        PPO,
        policy_kwargs={"activation_fn": "<class 'torch.nn.modules.activation.ReLU'>"},
    )
    names = ["mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2", "action_net"]
    found = foreign.read_sb3(path, HOPPER)
    np.testing.assert_allclose(act(found, False), _mlp(PPO, names, relu), atol=1e-5)


def test_sac_is_squashed_with_noise_of_the_state(tmp_path):
    found = foreign.read_sb3(torch_files.write_sb3(tmp_path / "p.zip", SAC), HOPPER)
    hidden = ["actor.latent_pi.0", "actor.latent_pi.2"]
    mean, log_std = (_mlp(SAC, [*hidden, last], relu) for last in ("actor.mu", "actor.log_std"))
    np.testing.assert_allclose(act(found, False), np.tanh(mean), atol=1e-5)
    noise = np.random.default_rng(1).standard_normal(mean.shape, dtype=np.float32)
    expected = np.tanh(mean + np.exp(np.clip(log_std, -20, 2)) * noise)
    np.testing.assert_allclose(act(found, True), expected, atol=1e-4)


def test_td3_is_squashed_into_the_bounds_without_noise(tmp_path):
    path = torch_files.write_sb3(tmp_path / "p.zip", TD3, policy_kwargs=None)
    task = toys.dataclasses.replace(HOPPER, action_high=np.full(A, 3.0, np.float32))
    found = foreign.read_sb3(path, task)
    expected = 1.0 + 2.0 * np.tanh(_mlp(TD3, ["actor.mu.0", "actor.mu.2"], relu))
    np.testing.assert_allclose(act(found, False), expected, atol=1e-5)
    np.testing.assert_array_equal(act(found, True), act(found, False))


def _broken(kind, path):
    if kind == "absent":
        return path
    if kind == "no zip":
        path.write_bytes(b"not a zip")
    elif kind == "other weights":
        torch_files.write_sb3(path, {"q_net.0.weight": np.zeros((2, S))})
    elif kind == "other width":
        torch_files.write_sb3(path, _weights(["actor.mu.0"], [(S + 1, A)]))
    elif kind == "extractor":
        torch_files.write_sb3(path, PPO | {"features_extractor.linear.weight": np.zeros((S, S))})
    elif kind == "discrete":
        space = {":type:": "<class 'gymnasium.spaces.discrete.Discrete'>"}
        torch_files.write_sb3(path, PPO, action_space=space)
    elif kind == "other bounds":
        torch_files.write_sb3(
            path, TD3, action_space={"low": "[-1. -1. -1.]", "high": "[2. 2. 2.]"}
        )
    elif kind == "use_sde":
        torch_files.write_sb3(path, PPO, use_sde=True)
    elif kind == "activation":
        torch_files.write_sb3(path, PPO, policy_kwargs={"activation_fn": "<class 'x.Mish'>"})
    else:
        with zipfile.ZipFile(path, "w") as file, io.BytesIO() as inner:
            with zipfile.ZipFile(inner, "w") as tensors:
                code = b"cos\nsystem\n(S'touch " + str(path).encode() + b".ran'\ntR."
                tensors.writestr("archive/data.pkl", code)
            file.writestr("data", "{}")
            file.writestr("policy.pth", inner.getvalue())
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("absent", "found none"),
        ("no zip", "no zip file"),
        ("other weights", "PPO, A2C, SAC, TD3 or DDPG"),
        ("other width", "observations of width 12"),
        ("extractor", "a features extractor of its own"),
        ("discrete", "Discrete.*expected continuous"),
        ("other bounds", r"high \[2. 2. 2.\], --env=hopper has"),
        ("use_sde", "use_sde"),
        ("activation", "Mish"),
        ("code", "os.system"),
    ],
)
def test_what_cannot_be_read_is_one_line_and_runs_nothing(tmp_path, kind, words):
    path = _broken(kind, tmp_path / "p.zip")
    with pytest.raises(UserError, match=words) as caught:
        foreign.read_sb3(path, HOPPER)
    assert "\n" not in str(caught.value)
    assert not path.with_name("p.zip.ran").exists()


def test_a_tensor_beyond_its_storage_is_refused():
    with pytest.raises(pickle.UnpicklingError, match="beyond"):
        foreign._rebuild(np.zeros(6, np.float32), 1, (2, 3), (3, 1))
    with pytest.raises(pickle.UnpicklingError, match="none"):
        foreign._rebuild(np.zeros(6, np.float32), -1, (2, 3), (3, 1))
    view = foreign._rebuild(np.arange(8, dtype=np.float32), 2, (2, 3), (1, 2))
    np.testing.assert_array_equal(view, [[2, 4, 6], [3, 5, 7]])


class _Half(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, S], tf.float32, "observation")])
    def act(self, observation):
        return {"action": 0.5 * observation[:, :A]}


def test_a_saved_model_makes_data(tmp_path):
    model = _Half()
    tf.saved_model.save(model, str(tmp_path / "m"), {"serving_default": model.act})
    path = tmp_path / "made.hdf5"
    collect.main(
        collect.CollectConfig(
            env="hopper", num_steps=300, policy=str(tmp_path / "m"), output=str(path)
        )
    )
    data = d4rl.read(path, S)
    expected = np.clip(0.5 * data.observations[:, :A], -1, 1)
    np.testing.assert_allclose(data.actions, expected, atol=1e-6)
    with pytest.raises(UserError, match="takes 6"):
        foreign.load(tmp_path / "m", tasks.get("walker2d"))
    with pytest.raises(UserError, match="expected a SavedModel"):
        foreign.load(tmp_path, HOPPER)


def test_a_zip_file_makes_data_with_noise_on_top(tmp_path):
    path = torch_files.write_sb3(tmp_path / "p.zip", TD3)
    out = tmp_path / "made.hdf5"
    collect.main(
        collect.CollectConfig(
            env="hopper", exploration="gauss1", num_steps=500, policy=str(path), output=str(out)
        )
    )
    assert len(d4rl.read(out, S)) == 500


@pytest.mark.parametrize("weights", [PPO, SAC, TD3], ids=["ppo", "sac", "td3"])
def test_a_small_file_acts_as_the_zip_file_does(weights, tmp_path):
    zipped = foreign.read_sb3(torch_files.write_sb3(tmp_path / "p.zip", weights), HOPPER)
    foreign.save_mlp(tmp_path / "p.npz", zipped, {"seed": 3})
    small, about = foreign.load(tmp_path / "p.npz", HOPPER)
    assert about == {"seed": 3}
    for stochastic in (False, True):
        np.testing.assert_array_equal(act(small, stochastic), act(zipped, stochastic))


def test_a_small_file_that_does_not_fit_or_is_damaged_ends_in_a_line(tmp_path):
    zipped = foreign.read_sb3(torch_files.write_sb3(tmp_path / "p.zip", TD3), HOPPER)
    path = tmp_path / "p.npz"
    foreign.save_mlp(path, zipped, {})
    with pytest.raises(UserError, match="maps observations of width 11 .* has 17 and 6"):
        foreign.load(path, tasks.get("walker2d"))
    arrays = dict(zipped.arrays(), about="{}")
    del arrays["bias_0"]
    np.savez(path, **arrays)
    with pytest.raises(UserError, match="is no policy that can be read"):
        foreign.load(path, HOPPER)


MEAN, VARIANCE = np.linspace(-1.0, 2.0, S), np.linspace(0.1, 5.0, S)


def vecnormalize(path, monkeypatch, **changes):
    """What VecNormalize.save writes, of what is read."""
    made = {}
    for module, name in (("sb3_running", "RunningMeanStd"), ("sb3_vec", "VecNormalize")):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
        made[name] = type(name, (), {"__module__": module})
        setattr(sys.modules[module], name, made[name])
    statistics, whole = made["RunningMeanStd"](), made["VecNormalize"]()
    state = {"mean": MEAN, "var": VARIANCE, "norm_obs": True, "clip_obs": 3.0, "epsilon": 1e-8}
    state |= changes
    vars(statistics).update(mean=state.pop("mean"), var=state.pop("var"), count=np.float64(7.0))
    vars(whole).update(state, obs_rms=statistics, returns=np.zeros(4))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(whole))
    for module in ("sb3_running", "sb3_vec"):
        monkeypatch.delitem(sys.modules, module)
    return path


@pytest.mark.parametrize("place", ["vecnormalize.pkl", "p/vecnormalize.pkl", "elsewhere/other.pkl"])
def test_a_policy_sees_observations_as_it_did_in_training(tmp_path, monkeypatch, place):
    path = torch_files.write_sb3(tmp_path / "p.zip", PPO, _last_original_obs={":type:": "ndarray"})
    file = vecnormalize(tmp_path / place, monkeypatch)
    found, _ = foreign.load(path, HOPPER, file if place.startswith("elsewhere") else None)
    plain = foreign.read_sb3(torch_files.write_sb3(tmp_path / "q" / "plain.zip", PPO), HOPPER)
    seen = np.clip((STATES - MEAN) / np.sqrt(VARIANCE + 1e-8), -3.0, 3.0).astype(np.float32)
    assert (np.abs(seen) == 3.0).any() and (np.abs(seen) < 3.0).any()
    expected = plain.act(seen, np.random.default_rng(1), False)
    np.testing.assert_allclose(act(found, False), expected, atol=1e-5)
    foreign.save_mlp(tmp_path / "small.npz", found, {})
    np.testing.assert_array_equal(
        act(foreign.load(tmp_path / "small.npz", HOPPER)[0], True), act(found, True)
    )


def test_a_policy_that_was_trained_on_other_observations_is_refused_without_its_file(
    tmp_path, monkeypatch
):
    path = torch_files.write_sb3(tmp_path / "p.zip", PPO, _last_original_obs={":type:": "ndarray"})
    with pytest.raises(UserError, match="under VecNormalize.*--policy_normalizer"):
        foreign.load(path, HOPPER)
    vecnormalize(tmp_path / "vecnormalize.pkl", monkeypatch, norm_obs=False)  # rewards alone
    assert foreign.load(path, HOPPER)[0].normalizer is None
    torch_files.write_sb3(path, PPO, _last_original_obs=None)
    (tmp_path / "vecnormalize.pkl").unlink()
    assert foreign.load(path, HOPPER)[0].normalizer is None
    with pytest.raises(UserError, match="expected a zip file of Stable-Baselines3 for --policy"):
        foreign.load(tmp_path / "p.npz", HOPPER, path)


def _kept(dtype):
    """An array as a zip file of Stable-Baselines3 holds it."""
    content = pickle.dumps(np.zeros((1, S), dtype), pickle.HIGHEST_PROTOCOL)
    return {":type:": "ndarray", ":serialized:": base64.b64encode(content).decode()}


def test_sac_keeps_original_observations_without_vecnormalize_too(tmp_path):
    """VecNormalize makes float32 of what a policy sees; the robots' own observations are float64."""
    path, original = tmp_path / "p.zip", _kept(np.float64)
    torch_files.write_sb3(path, SAC, _last_original_obs=original, _last_obs=_kept(np.float64))
    assert foreign.load(path, HOPPER)[0].normalizer is None
    torch_files.write_sb3(path, SAC, _last_original_obs=original, _last_obs=_kept(np.float32))
    with pytest.raises(UserError, match="under VecNormalize"):
        foreign.load(path, HOPPER)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean": np.zeros(S + 1)}, r"of observations \(12,\), the policy takes \(11,\)"),
        ({"var": np.full(S, np.nan)}, "not finite"),
        ({"clip_obs": 0.0}, "not finite"),
        ({"mean": {"a": MEAN}}, "VecNormalize of plain observations"),
        (None, "VecNormalize of plain observations"),
        (b"", "VecNormalize of plain observations"),
        ("absent", "found none"),
    ],
)
def test_a_normalizer_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, changes, words):
    path, file = torch_files.write_sb3(tmp_path / "p.zip", PPO), tmp_path / "v.pkl"
    if isinstance(changes, dict):
        vecnormalize(file, monkeypatch, **changes)
    elif changes is None:  # code
        file.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    elif changes == b"":
        file.write_bytes(b"no pickle")
    with pytest.raises(UserError, match=words) as caught:
        foreign.load(path, HOPPER, file)
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


def test_an_archive_whose_names_are_no_text_is_no_small_file(tmp_path):
    """Found by benchmarks/fuzz: zipfile raises what its decoder does."""
    path = tmp_path / "policy.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("kernel_ä.npy", b"")
    damaged = path.read_bytes().replace("ä".encode(), b"\xd8\x20")
    path.write_bytes(damaged)
    with pytest.raises(UnicodeDecodeError), zipfile.ZipFile(path) as archive:
        archive.namelist()
    assert not foreign.is_mlp(path)
