"""What planning says when something goes wrong: each fault is told once, and only if it lasts."""

import pytest

from morel_tf.planning.watch import FAULTS, Watch

SOUND = {
    "halt_share": 0.1,
    "halt_step": 300.0,
    "pmdp_return": 1000.0,
    "return_spread": 50.0,
    "cg_residual": 0.1,
    "step_share": 1.0,
}
SHOWN = {
    "all_halt": ({"halt_share": 1.0, "halt_step": 2.0}, "--cut_share"),
    "constant_returns": ({"halt_share": 0.0, "return_spread": 1e-5}, "the task's reward"),
    "conjugate_gradients": ({"cg_residual": 0.95}, "--cg_damping"),
    "short_steps": ({"step_share": 0.05}, "--kl_per_update"),
}


def test_every_fault_is_shown_here():
    assert set(SHOWN) == {fault.name for fault in FAULTS}


@pytest.mark.parametrize("name", SHOWN)
def test_a_fault_that_lasts_is_told_once(name):
    changes, says = SHOWN[name]
    watch = Watch()
    told = [watch.look(SOUND | changes) for _ in range(4)]
    assert not any(told)
    (words,) = watch.look(SOUND | changes)
    assert says in words
    assert not any(watch.look(SOUND | changes) for _ in range(20))


@pytest.mark.parametrize("name", SHOWN)
def test_a_fault_that_comes_and_goes_is_not_told(name):
    changes, _ = SHOWN[name]
    watch = Watch()
    assert not any(watch.look(SOUND | (changes if n % 5 else {})) for n in range(50))


def test_all_paths_may_halt_late():
    watch = Watch()
    late = SOUND | {"halt_share": 1.0, "halt_step": 400.0}
    assert not any(watch.look(late) for _ in range(50))
