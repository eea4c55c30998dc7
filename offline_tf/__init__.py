"""What any offline reinforcement-learning algorithm in TensorFlow needs; imports nothing heavy."""

import contextlib
import importlib
import os

# float32 means that on GPUs too, in every process of a run: TF32, NVIDIA's libraries' default under
# TensorFlow, has 10 bits of mantissa and would blur what members of an ensemble disagree about.
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")

# numpy's products take one thread. Else they wake as many as there are cores, which then wait in a busy
# loop for the next product and take the cores from MuJoCo and TensorFlow; and sums would be made in
# another order on another number of cores. Read when numpy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# The renderer of mujoco_py and TensorFlow bring one LLVM each: loaded after TensorFlow, mujoco_py
# makes the process crash at its end.
if "MUJOCO_PY_MUJOCO_PATH" in os.environ:
    with contextlib.suppress(Exception):  # whoever asks for it is told what is wrong
        importlib.import_module("mujoco_py")
