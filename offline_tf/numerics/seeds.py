"""Named random streams: the same (seed, name, index) gives the same draws, whatever ran before."""

from __future__ import annotations

import hashlib

import numpy as np
import tensorflow as tf

from offline_tf.types import Tensor


def _digest(seed: int, name: str, index: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{name}/{index}".encode(), digest_size=32).digest()


def generator(seed: int, name: str, index: int = 0) -> np.random.Generator:
    """Returns a numpy generator for the stream `name` at position `index`."""
    words = np.frombuffer(_digest(seed, name, index), np.uint32)
    return np.random.Generator(np.random.PCG64(words.tolist()))


def stateless(seed: int, name: str, index: int = 0) -> Tensor:
    """Returns a [2] int32 seed for tf.random.stateless_* for that stream and position."""
    return tf.constant(np.frombuffer(_digest(seed, name, index)[:8], np.int32))
