"""Many Adam steps on minibatches in one graph; `training_loop` says how many, on which rows."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from offline_tf.models import compilation, devices
from offline_tf.types import Array, Tensor, UserError


class Adam(tf.Module):
    """Adam over tf.Variables through TensorFlow's fused kernel (Kingma & Ba 2015).

    Keras' optimiser gives the same numbers at about half the speed for networks of this size. Its
    epsilon, which MOPP's authors leave as it is, is 1e-7; ours is 1e-8, as in Adam's paper.

    Attributes:
      steps: int64 scalar variable, updates done so far.
      moments: the slots, for checkpoints.
      is_shared: whether the weights lie on each device of `devices.scope`.
    """

    def __init__(
        self,
        weights: Sequence[tf.Variable],
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        decay_biases: bool = True,
    ) -> None:
        """Makes zero slots.

        Args:
          weights: what is fitted.
          epsilon: of Adam.
          weight_decay: factor of an L2 term weight_decay * w added to the gradient.
          decay_biases: whether that term covers weights of rank 1 too.
        """
        super().__init__()
        self._weights = list(weights)
        self._epsilon = epsilon
        self._decay = [
            weight_decay if decay_biases or w.shape.rank != 1 else 0.0 for w in self._weights
        ]
        self.is_shared = any(isinstance(w, tf.distribute.DistributedValues) for w in weights)
        with devices.scope() if self.is_shared else contextlib.nullcontext():
            self.steps = tf.Variable(0, dtype=tf.int64, trainable=False)
            self._first = [tf.Variable(tf.zeros_like(w), trainable=False) for w in weights]
            self._second = [tf.Variable(tf.zeros_like(w), trainable=False) for w in weights]

    @property
    def moments(self) -> list[tf.Variable]:
        """All state that a checkpoint needs."""
        return [self.steps, *self._first, *self._second]

    def count(self) -> Tensor:
        """Counts one more step, for `apply`; [] float32."""
        self.steps.assign_add(1)
        return tf.cast(self.steps.read_value(), tf.float32)

    def apply(
        self, gradients: Sequence[Tensor], learning_rate: Tensor, step: Tensor | None = None
    ) -> None:
        """Takes one step.

        Args:
          gradients: of the weights.
          learning_rate: of the step.
          step: what `count` gave, where it was called before; None: it is called here.
        """
        step = self.count() if step is None else step
        power1, power2 = tf.pow(0.9, step), tf.pow(0.999, step)
        for weight, first, second, gradient, decay in zip(
            self._weights, self._first, self._second, gradients, self._decay, strict=True
        ):
            if decay:
                gradient = gradient + decay * weight
            tf.raw_ops.ResourceApplyAdam(
                var=weight.handle,
                m=first.handle,
                v=second.handle,
                beta1_power=power1,
                beta2_power=power2,
                lr=learning_rate,
                beta1=0.9,
                beta2=0.999,
                epsilon=self._epsilon,
                grad=gradient,
            )


class Fit(tf.Module):
    """Fits weights by minibatch Adam; the loop over minibatches is part of the graph.

    `loss(batches)` receives, per ensemble member, one tuple of minibatch arrays, and returns one
    scalar loss per member, a mean over its rows; members see their own minibatches.

    Where the weights lie on several devices, each computes the gradient of its rows, and the step is
    that of all rows, whatever the number of devices; see `devices`.
    """

    def __init__(
        self,
        weights: Sequence[tf.Variable],
        *,
        loss: Callable[[list[tuple[Tensor, ...]]], list[Tensor]],
        weight_decay: float = 0.0,
        decay_biases: bool = True,
        before_step: Callable[[], None] | None = None,
        same_shapes: bool = True,
    ) -> None:
        """Prepares the optimiser; nothing runs yet.

        Args:
          weights: what is fitted.
          loss: see above.
          weight_decay, decay_biases: see `Adam`.
          before_step: called before each gradient, inside the graph (target networks move here).
          same_shapes: whether nearly all calls of `run` have as many rows and steps; where not, XLA,
            which compiles each shape anew, is not used.
        """
        super().__init__()
        self._weights = list(weights)
        self._loss = loss
        self._before_step = before_step
        self.adam = Adam(self._weights, weight_decay=weight_decay, decay_biases=decay_biases)
        compiled = compilation.compiled if same_shapes else compilation.function
        self._strategy = devices.strategy() if self.adam.is_shared else None
        # XLA knows one device: of several each compiles its own part.
        made = compilation.function if self._strategy else compiled
        self._part = compiled(self._gradients) if self._strategy else self._gradients
        # Arrays have any number of rows; minibatches any number of steps and of rows, of M members.
        self._graph = compilation.ForAnyLength(self._steps, make=made, free={1: (0, 2), 3: ()})

    def run(
        self,
        arrays: tuple[Tensor, ...],
        rows: Tensor,
        learning_rates: Tensor,
        batch_size: int | None = None,
    ) -> Tensor:
        """Runs one Adam step per row of `rows`, all in one graph.

        Args:
          arrays: data columns [N, ...].
          rows: [steps, M, B] int32 row numbers of each minibatch.
          learning_rates: [steps] float32.
          batch_size: rows of a minibatch over all workers; None: B.

        Returns:
          [M] float32 mean losses over these steps.
        """
        whole = tf.constant(batch_size or rows.shape[2], tf.int32)
        return self._graph(arrays, rows, learning_rates, whole)

    def check_finite(self, name: str, losses: Sequence[Array], done: str, rate: str = "") -> None:
        """Checks, before a checkpoint is written, that the fit has not diverged.

        Args:
          name: of the fit.
          losses: [M] of each call since the last check.
          done: how far the fit is, with its unit.
          rate: flag of its learning rate.

        Raises:
          UserError: a loss or a weight is not finite.
        """
        # A fused ReLU hides NaN weights from the loss.
        sound = all(np.isfinite(weight.numpy()).all() for weight in self._weights)
        if sound and np.isfinite(losses).all():
            return
        raise UserError(
            f"{name}: {'the loss is' if sound else 'weights are'} not finite within {done}; look at "
            f"the data with offline_tf.datasets.doctor{f', or lower --{rate}' if rate else ''}"
        )

    def _gradients(self, batches: list[tuple[Tensor, ...]]) -> tuple[list[Tensor], list[Tensor]]:
        """Losses of the members, and the gradient of their sum."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._weights)
            losses = self._loss(batches)
            loss = tf.add_n(losses)
        return losses, tape.gradient(loss, self._weights)

    def _on_each(self, batches: list[tuple[Tensor, ...]], rate: Tensor, whole: Tensor) -> Tensor:
        """One step on all devices of all workers; [M] losses of the whole minibatch.

        Args:
          batches: this worker's rows.
          rate: of the step.
          whole: rows of the minibatch over all workers.
        """
        assert self._strategy is not None
        step = self.adam.count()
        size, own = tf.shape(batches[0][0])[0], len(self._strategy.extended.worker_devices)

        def on_one() -> Tensor:
            context = tf.distribute.get_replica_context()
            device = context.replica_id_in_sync_group % own
            first, last = size * device // own, size * (device + 1) // own
            share = tf.cast(last - first, tf.float32) / tf.cast(whole, tf.float32)
            losses, gradients = self._part(
                [tuple(column[first:last] for column in batch) for batch in batches]
            )
            total = context.all_reduce(
                tf.distribute.ReduceOp.SUM, [share * gradient for gradient in gradients]
            )
            self.adam.apply(total, rate, step)
            return share * tf.stack(losses)

        return self._strategy.reduce(
            tf.distribute.ReduceOp.SUM, self._strategy.run(on_one), axis=None
        )

    def _steps(
        self, arrays: tuple[Tensor, ...], rows: Tensor, learning_rates: Tensor, whole: Tensor
    ) -> Tensor:
        steps, members = tf.shape(rows)[0], rows.shape[1]

        def step(number: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
            if self._before_step is not None:
                self._before_step()
            batches = [tuple(tf.gather(x, rows[number, m]) for x in arrays) for m in range(members)]
            if self._strategy is not None:
                return number + 1, total + self._on_each(batches, learning_rates[number], whole)
            losses, gradients = self._gradients(batches)
            self.adam.apply(gradients, learning_rates[number])
            return number + 1, total + tf.stack(losses)

        first = (0, tf.zeros([members]))
        _, total = tf.while_loop(lambda number, _: number < steps, step, first)
        return total / tf.cast(steps, tf.float32)


def cosine(peak: float, final_share: float, step: Array, total: int) -> Array:
    """Learning rate that falls from `peak` to final_share * peak along half a cosine."""
    progress = np.minimum(np.asarray(step, np.float64) / max(total, 1), 1.0)
    scale = final_share + (1.0 - final_share) * 0.5 * (1.0 + np.cos(math.pi * progress))
    return (peak * scale).astype(np.float32)
