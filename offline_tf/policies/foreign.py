"""Policies of other libraries, to make data with: SavedModels, and Stable-Baselines3's zip files.

A zip file of PPO, A2C, SAC, TD3 or DDPG with an MLP is read without torch and without running anything
in it: its weights are a pickle that may name tensors and nothing else. One that was trained under
VecNormalize sees its observations as it did then. `save_mlp` keeps what acts in such a file, a tenth of
its size, as an npz.
"""

from __future__ import annotations

import base64
import io
import json
import math
import pathlib
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from offline_tf.numerics import pickle_sizes, pickled_arrays
from offline_tf.numerics.size_limits import check_size
from offline_tf.policies import foreign_normalizer
from offline_tf.policies import gaussian as policy_file
from offline_tf.policies.foreign_normalizer import Normalizer
from offline_tf.run_folder import files
from offline_tf.types import Array, TaskSpec, UserError

_STORAGES = {"FloatStorage": np.float32, "DoubleStorage": np.float64, "LongStorage": np.int64}
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0.0),
    "ELU": lambda x: np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0))),
    "LeakyReLU": lambda x: np.where(x > 0.0, x, 0.01 * x),
}
_Layers = list[tuple[Array, Array]]


class ForeignPolicy(Protocol):
    """A policy whose density is not known."""

    def act(self, observations: Array, generator: np.random.Generator, stochastic: bool) -> Array:
        """[B, S] -> [B, A] actions, not clipped to the bounds."""
        ...


def load(
    path: pathlib.Path, task: TaskSpec, normalizer: pathlib.Path | None = None
) -> tuple[policy_file.NumpyPolicy | ForeignPolicy, dict[str, Any]]:
    """Reads a weight file of ours or of `save_mlp`, a zip file of SB3, or the folder of a SavedModel.

    Args:
      path: of the policy.
      task: dimensions and bounds.
      normalizer: VecNormalize's file, of a zip file; None: see `foreign_normalizer.beside`.

    Returns:
      The policy, and what its file says of itself.

    Raises:
      UserError: it is none of these, is damaged, or does not fit the task.
    """
    if normalizer is not None and path.suffix != ".zip":
        raise UserError(
            f"--policy_normalizer: expected a zip file of Stable-Baselines3 for --policy, got {path}"
        )
    if path.is_dir():
        return SavedModelPolicy(path, task), {}
    if path.suffix == ".zip":
        return read_sb3(path, task, normalizer), {}
    if is_mlp(path):
        return read_mlp(path, task)
    policy, about = policy_file.load(path)
    widths = len(policy.units.input_scale), len(policy.log_std)
    if widths != (task.state_dim, task.action_dim):
        raise UserError(
            f"policy: {path} takes {widths[0]} observations and gives {widths[1]} actions, "
            f"--env={task.name} has {task.state_dim} and {task.action_dim}"
        )
    return policy, about


class SavedModelPolicy:
    """The signature serving_default {observation [B, S]} -> {action [B, A]}; always deterministic."""

    def __init__(self, path: pathlib.Path, task: TaskSpec) -> None:
        """Loads it and acts once.

        Raises:
          UserError: there is no such signature, or it does not fit the task.
        """
        try:
            self._model = tf.saved_model.load(str(path))  # signatures die with their model
            self._call = self._model.signatures["serving_default"]
            shape = self._call(observation=tf.zeros([1, task.state_dim]))["action"].shape
        except Exception as error:  # TensorFlow raises many kinds
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"--policy: expected a SavedModel in {path} whose signature serving_default maps "
                f"observation [B, {task.state_dim}] to action: {reason}"
            ) from None
        if tuple(shape) != (1, task.action_dim):
            raise UserError(
                f"--policy: {path} yields actions {tuple(shape[1:])}, --env={task.name} takes "
                f"{task.action_dim}"
            )

    def act(self, observations: Array, generator: np.random.Generator, stochastic: bool) -> Array:
        """See `ForeignPolicy`."""
        del generator, stochastic
        return self._call(observation=tf.constant(observations, tf.float32))["action"].numpy()


class MlpPolicy:
    """An MLP of Stable-Baselines3.

    Gaussian (PPO, A2C): mean + std * noise. Squashed (SAC): tanh(mean + std(s) * noise), mapped to the
    bounds. Deterministic (TD3, DDPG): tanh(mean), mapped to the bounds.
    """

    def __init__(
        self,
        hidden: _Layers,
        mean: tuple[Array, Array],
        log_std: Array | tuple[Array, Array] | None,
        activation: str,
        bounds: tuple[Array, Array] | None,
        normalizer: Normalizer | None = None,
    ) -> None:
        """Holds the weights.

        Args:
          hidden: (kernel [I, O], bias [O]) per layer.
          mean: the last layer.
          log_std: [A], or a layer, or None without noise.
          activation: torch's name of that of the hidden layers.
          bounds: low and high [A] that tanh is mapped to; None without tanh.
          normalizer: of observations; None: it sees them as they are.
        """
        self.normalizer = normalizer
        self._hidden = hidden
        self._mean = mean
        self._log_std = log_std
        self._activation = activation
        self._bounds = bounds

    def act(self, observations: Array, generator: np.random.Generator, stochastic: bool) -> Array:
        """See `ForeignPolicy`."""
        x = np.asarray(observations, np.float32)
        if self.normalizer is not None:
            x = self.normalizer.apply(x)
        for kernel, bias in self._hidden:
            x = _ACTIVATIONS[self._activation](x @ kernel + bias)
        action = x @ self._mean[0] + self._mean[1]
        if stochastic and self._log_std is not None:
            log_std = self._log_std
            if isinstance(log_std, tuple):
                log_std = np.clip(x @ log_std[0] + log_std[1], -20.0, 2.0)  # SB3's sac/policies.py
            noise = generator.standard_normal(action.shape, dtype=np.float32)
            action = action + np.exp(log_std) * noise
        if self._bounds is not None:
            low, high = self._bounds
            action = low + 0.5 * (np.tanh(action) + 1.0) * (high - low)
        return action.astype(np.float32)

    @property
    def has_noise(self) -> bool:
        """Whether it can draw its actions."""
        return self._log_std is not None

    @property
    def hidden_widths(self) -> tuple[int, ...]:
        """Widths of its hidden layers."""
        return tuple(len(bias) for _, bias in self._hidden)

    def arrays(self) -> dict[str, Any]:
        """Everything that acts, by name; see `save_mlp`."""
        named: dict[str, Any] = {"activation": self._activation}
        for index, layer in enumerate([*self._hidden, self._mean]):
            named |= {f"kernel_{index}": layer[0], f"bias_{index}": layer[1]}
        if isinstance(self._log_std, tuple):
            named |= {"log_std_kernel": self._log_std[0], "log_std_bias": self._log_std[1]}
        elif self._log_std is not None:
            named["log_std"] = self._log_std
        if self._bounds is not None:
            named |= {"low": self._bounds[0], "high": self._bounds[1]}
        if self.normalizer is not None:
            named |= {f"observation_{k}": v for k, v in self.normalizer._asdict().items()}
        return named


def save_mlp(path: pathlib.Path, policy: MlpPolicy, about: dict[str, Any]) -> None:
    """Writes a policy as a small npz; `about` says where it comes from (JSON types only)."""
    with files.whole(path, ".partial.npz") as partial:
        np.savez_compressed(partial, about=json.dumps(about), **policy.arrays())


def is_mlp(path: pathlib.Path) -> bool:
    """Whether a file is one of `save_mlp`, and none of `gaussian.save`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "activation.npy" in archive.namelist()
    except Exception:  # a damaged archive may raise anything; whoever reads it says what
        return False


def read_mlp(path: pathlib.Path, task: TaskSpec) -> tuple[MlpPolicy, dict[str, Any]]:
    """Reads what `save_mlp` wrote.

    Raises:
      UserError: no such file, damaged, or it does not fit the task.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_size(sum(item.file_size for item in archive.infolist()), str(path), "policy")
        with np.load(path, allow_pickle=False) as file:
            named = {name: file[name] for name in file.files}
        count = sum(name.startswith("kernel_") for name in named)
        *hidden, mean = [(named[f"kernel_{i}"], named[f"bias_{i}"]) for i in range(count)]
        log_std = named.get("log_std")
        if "log_std_kernel" in named:
            log_std = named["log_std_kernel"], named["log_std_bias"]
        bounds = (named["low"], named["high"]) if "low" in named else None
        normalizer = None
        if "observation_mean" in named:
            mean_, variance, epsilon, clip = (
                named[f"observation_{field}"] for field in Normalizer._fields
            )
            normalizer = Normalizer(mean_, variance, float(epsilon), float(clip))
        activation = str(named["activation"])
        _ACTIVATIONS[activation]
        about = json.loads(str(named["about"]))
    except FileNotFoundError:
        raise UserError(f"--policy: expected a policy at {path}, found none") from None
    except UserError:
        raise
    except Exception as error:  # a damaged archive may raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"--policy: {path} is no policy that can be read: {reason}") from None
    _check_widths(hidden, mean, task, path)
    return MlpPolicy(hidden, mean, log_std, activation, bounds, normalizer), about


def read_sb3(
    path: pathlib.Path, task: TaskSpec, normalizer: pathlib.Path | None = None
) -> MlpPolicy:
    """Reads the actor of a Stable-Baselines3 zip file.

    Args:
      path: of the zip file.
      task: dimensions and bounds.
      normalizer: VecNormalize's file; None: see `foreign_normalizer.beside`.

    Raises:
      UserError: no such file, damaged, of a kind that is not read, or it does not fit the task; or it
        was trained under VecNormalize and that file is missing.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_size(sum(item.file_size for item in archive.infolist()), str(path), "policy")
            about = json.loads(archive.read("data"))
            weights = _tensors(archive.read("policy.pth"), str(path))
        policy = _policy(weights, about, task, path)
        policy.normalizer = _normalizer(about, task, path, normalizer)
        return policy
    except FileNotFoundError:
        raise UserError(f"--policy: expected a policy at {path}, found none") from None
    except UserError:
        raise
    except Exception as error:  # a damaged archive may raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"--policy: {path} is no zip file of Stable-Baselines3 that can be read: {reason}"
        ) from None


def _normalizer(
    about: dict[str, Any], task: TaskSpec, path: pathlib.Path, given: pathlib.Path | None
) -> Normalizer | None:
    """What the policy was trained under."""
    file = given or foreign_normalizer.beside(path)
    if file is not None:
        return foreign_normalizer.read(file, task.state_dim)
    if _may_be_normalized(about):
        raise UserError(
            f"--policy: {path} was trained under VecNormalize, and would act on other observations "
            f"than it knows; put its {foreign_normalizer.FILE} beside it, or give --policy_normalizer"
        )
    return None


def _may_be_normalized(about: dict[str, Any]) -> bool:
    """Whether a policy was trained under VecNormalize, or nothing in its file says that it was not.

    Then a zip file keeps original observations beside the policy's own. SAC, TD3 and DDPG always keep
    some; but VecNormalize makes float32 of all observations, so others were not its.
    """
    if about.get("_last_original_obs") is None:
        return False
    try:
        content = base64.b64decode(about["_last_obs"][":serialized:"])
        pickle_sizes.check(content)
        seen = pickled_arrays.resolved(pickled_arrays.DataOnly(io.BytesIO(content)).load())
        return seen.dtype == np.float32
    except Exception:  # a damaged pickle may raise anything
        return True


def _check_spaces(
    about: dict[str, Any], task: TaskSpec, path: pathlib.Path, squashed: bool
) -> None:
    """Raises a UserError where actions were of another kind, or a squashed policy's of other bounds."""
    space = about.get("action_space") or {}
    kind = str(space.get(":type:", "Box"))
    if "Box" not in kind:
        raise UserError(
            f"--policy: {path} chooses among actions ({kind}); expected continuous ones"
        )
    for name, own in (("low", task.action_low), ("high", task.action_high)):
        words = str(space.get(name, "")).strip("[]").split()
        try:
            trained = np.array([float(word) for word in words])
        except ValueError:
            continue
        if squashed and trained.shape == own.shape and not np.allclose(trained, own, rtol=1e-3):
            raise UserError(
                f"--policy: {path} was trained with actions' {name} {space[name]}, --env={task.name} "
                f"has {own.tolist()}"
            )


def _policy(
    weights: dict[str, Array], about: dict[str, Any], task: TaskSpec, path: pathlib.Path
) -> MlpPolicy:
    if about.get("use_sde"):
        raise UserError(f"--policy: {path} draws state-dependent noise (use_sde); not read")

    def layer(name: str) -> tuple[Array, Array]:
        return weights[f"{name}.weight"].T, weights[f"{name}.bias"]

    def layers(prefix: str) -> _Layers:
        numbers = sorted(
            int(name.removeprefix(prefix).split(".")[0])
            for name in weights
            if name.startswith(prefix) and name.endswith(".weight")
        )
        return [layer(f"{prefix}{number}") for number in numbers]

    if any("features_extractor." in name for name in weights):
        raise UserError(f"--policy: {path} has a features extractor of its own; not read")
    bounds = task.action_low, task.action_high
    log_std: Array | tuple[Array, Array] | None
    if "action_net.weight" in weights:
        hidden, default = layers("mlp_extractor.policy_net."), "Tanh"
        mean, log_std, limits = layer("action_net"), weights["log_std"], None
    elif "actor.mu.weight" in weights:
        hidden, default = layers("actor.latent_pi."), "ReLU"
        mean, log_std, limits = layer("actor.mu"), layer("actor.log_std"), bounds
    elif "actor.mu.0.weight" in weights:
        *hidden, mean = layers("actor.mu.")
        default, log_std, limits = "ReLU", None, bounds
    else:
        raise UserError(
            f"--policy: expected PPO, A2C, SAC, TD3 or DDPG with an MLP in {path}, got weights "
            f"{', '.join(sorted(weights)[:4])}"
        )
    torch_class = (about.get("policy_kwargs") or {}).get("activation_fn")
    activation = default if torch_class is None else str(torch_class).rpartition(".")[2].strip("'>")
    if activation not in _ACTIVATIONS:
        raise UserError(
            f"--policy: expected one of the activations {', '.join(_ACTIVATIONS)} in {path}, "
            f"got {activation}"
        )
    _check_widths(hidden, mean, task, path)
    _check_spaces(about, task, path, squashed=limits is not None)
    return MlpPolicy(hidden, mean, log_std, activation, limits)


def _check_widths(
    hidden: _Layers, mean: tuple[Array, Array], task: TaskSpec, path: pathlib.Path
) -> None:
    """Raises a UserError where the layers do not fit the task."""
    widths = (hidden[0] if hidden else mean)[0].shape[0], mean[0].shape[1]
    if widths != (task.state_dim, task.action_dim):
        raise UserError(
            f"--policy: {path} maps observations of width {widths[0]} to actions of width {widths[1]}, "
            f"--env={task.name} has {task.state_dim} and {task.action_dim}"
        )


def _tensors(archive: bytes, source: str) -> dict[str, Array]:
    """Reads torch's file format: a zip with data.pkl and one entry per storage."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        check_size(sum(item.file_size for item in file.infolist()), source, "policy")
        (index,) = (name for name in file.namelist() if name.endswith("data.pkl"))
        folder = index.removesuffix("data.pkl")
        if folder + "byteorder" in file.namelist() and file.read(folder + "byteorder") != b"little":
            raise pickle.UnpicklingError("big-endian tensors")

        def storage(name: str, key: str) -> Array:
            return np.frombuffer(file.read(f"{folder}data/{key}"), _STORAGES[name])

        content = file.read(index)
        pickle_sizes.check(content)
        state_dict = _TensorsOnly(io.BytesIO(content), storage).load()
    if not isinstance(state_dict, dict):
        raise pickle.UnpicklingError("no dictionary of tensors")
    return {str(name): value for name, value in state_dict.items() if isinstance(value, np.ndarray)}


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *autograd_state: Any) -> Array:
    del autograd_state
    if not isinstance(storage, np.ndarray) or min((offset, *size, *stride, 0)) < 0:
        raise pickle.UnpicklingError("a tensor that is none")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) and (last >= len(storage) or math.prod(size) > len(storage)):
        raise pickle.UnpicklingError("a tensor beyond its storage")
    strides = [step * storage.itemsize for step in stride]
    view = np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)
    return view.astype(np.float32)


class _TensorsOnly(pickle.Unpickler):
    """Admits torch's tensors and ordered dictionaries; nothing is imported."""

    def __init__(self, file: io.BytesIO, storage: Callable[[str, str], Array]) -> None:
        super().__init__(file)
        self._storage = storage

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Looks up a name that the pickle refers to."""
        if (module_name, global_name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module_name, global_name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module_name, global_name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *autograd_state: tensor
        if module_name == "torch" and global_name in _STORAGES:
            return global_name
        raise pickle.UnpicklingError(f"it refers to {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> Array:
        """("storage", kind, key, device, length) -> its numbers."""
        return self._storage(pid[1], str(pid[2]))
