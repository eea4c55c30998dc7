import io
import pickle
import pickletools

import numpy as np
import pytest

from offline_tf.numerics import pickled_arrays


class Reader(pickle.Unpickler):
    def find_class(self, module_name, global_name):
        return pickled_arrays.STAND_INS[module_name, global_name]


def read(content):
    return pickled_arrays.resolved(Reader(io.BytesIO(content)).load())


GENERATOR = np.random.default_rng(0)
ARRAYS = [
    GENERATOR.normal(size=(3, 4)),
    np.asfortranarray(GENERATOR.normal(size=(3, 4)).astype(np.float32)),
    GENERATOR.normal(size=(0, 4)),
    np.array(2.5),
    np.array([True, False]),
    np.arange(5, dtype=">i2"),
    np.arange(5, dtype=np.uint64),
    np.array(["ab", "c"]),
    np.array([b"ab", b"c"]),
    np.arange(12.0).reshape(3, 4)[:, ::2],
]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_arrays_come_back_as_numpy_would_read_them(array, protocol):
    found = read(pickle.dumps(array, protocol))
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype and found.shape == array.shape


def test_numbers_and_arrays_within_containers_come_back():
    one = np.arange(3)
    content = {"a": [one, (one, np.float32(1.5))], "b": np.array([{"c": one}, None], object)}
    found = read(pickle.dumps(content, 4))
    np.testing.assert_array_equal(found["a"][1][0], one)
    assert found["a"][1][1] == 1.5 and found["b"][1] is None
    assert found["a"][0] is found["a"][1][0] is found["b"][0]["c"]


def test_containers_that_hold_each_other_many_times_are_gone_through_once():
    content = [np.zeros(1)]
    for _ in range(60):
        content = [content, content]
    found = read(pickle.dumps(content, 4))
    assert found[0] is found[1]


def test_a_container_that_holds_itself_is_refused():
    content = []
    content.append(content)
    with pytest.raises(RecursionError):
        read(pickle.dumps(content, 4))


# What the fuzzer found to end the process when numpy itself took it: the opcode PROTO in place of NONE
# leaves out an entry of a dtype's state.
def states_of_a_dtype():
    content = pickle.dumps(np.dtype("f8"), 4)
    end = content.index(b"t\x94b")
    for place, (_, _, at) in enumerate(pickletools.genops(content)):
        if content[at : at + 1] in (b"N", b"K", b"J") and at < end:
            yield pytest.param(content[:at] + b"\x80\x04" + content[at + 2 :], id=f"opcode {place}")


@pytest.mark.parametrize("content", states_of_a_dtype())
def test_a_dtype_with_another_state_is_refused(content):
    with pytest.raises((pickle.UnpicklingError, ValueError, EOFError, IndexError)):
        read(content)


def state(shape=(2,), kind="f8", contents=b"\0" * 16, version=1):
    return (version, shape, pickled_arrays.Dtype(kind), False, contents)


@pytest.mark.parametrize(
    "broken",
    [
        (),
        None,
        state()[:4],
        state(shape=(3,)),
        state(shape=(2**62,)),
        state(shape=(2**40, 2**40)),
        state(shape=(-1,)),
        state(shape=(2.0,)),
        state(shape=[2]),
        state(contents=None),
        state(contents=[1.0, 2.0]),
        state(kind="O", contents=b"\0" * 16),
        state(kind="O", contents=[1]),
        (1, (2,), np.dtype("f8"), False, b"\0" * 16),
    ],
)
def test_contents_that_do_not_fit_are_refused(broken):
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        pickled_arrays.PickledArray().__setstate__(broken)


@pytest.mark.parametrize("name", ["M8[ns]", "V8", "f8,f8", "c16", "U100000000", None, 3])
def test_types_that_are_no_numbers_are_refused(name):
    with pytest.raises((pickle.UnpicklingError, TypeError)):
        pickled_arrays.Dtype(name)
