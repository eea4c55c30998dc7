"""tf.function as this project uses it."""

from __future__ import annotations

import functools

import tensorflow as tf

# Without AutoGraph: nothing of ours branches on a tensor, and converting its Python takes seconds of
# every process. Where a graph loops or branches, say tf.while_loop and tf.cond.
function = functools.partial(tf.function, autograph=False)
