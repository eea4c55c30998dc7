import json
import pathlib

import pytest

from benchmarks import ablations

ROOT = pathlib.Path(__file__).parent.parent.parent


def run(seed, value, variant="", nll=-1.0, **changes):
    made = {"dataset": "toy", "seed": seed, "true_return_mean": value, "variant": variant}
    made |= {"dynamics_nll": nll, "behavior_return": 10.0 * seed, "commit": "here"}
    return made | changes


def test_variants_are_compared_on_their_cell_and_on_their_models():
    whole, there = [run(0, 100.0), run(1, 200.0), run(2, 300.0)], {"commit": "there"}
    refitted = [run(1, 260.0, nll=-2.0, **there)]
    variants = [
        run(0, 110.0, "MLP", nll=-1.5),
        run(1, 150.0, "MLP", nll=-0.5),
        run(1, 150.0, "MLP", nll=-0.5, **there),
        run(2, 301.0, "MLP", nll=-1.1, **there),
        run(0, 90.0, "no max-Q"),
        run(1, 210.0, "no max-Q", nll=-2.0, **there),
    ]
    assert ablations.of_parts(whole, refitted, variants) == [
        "MLP: return mean -37, above in 2 of 4, from -110 to +10",
        "MLP: log-likelihood of held-out dynamics, nats: -1.50 to +0.50, above in 2 of 4",
        "MLP, on one machine: return mean -50, above in 1 of 3, from -110 to +10",
        "MLP, on one machine: log-likelihood of held-out dynamics, nats: -1.50 to +0.50, above in 1 "
        "of 3",
        "no max-Q: return mean -30, above in 0 of 2, from -50 to -10",
    ]
    with pytest.raises(ValueError, match="has other models than the whole planner"):
        ablations.of_parts(whole, [], variants)


def test_mbop_is_paired_by_its_data_and_by_its_seed_among_equals():
    whole = [run(0, 100.0), run(2, 130.0, behavior_return=0.0), run(1, 200.0)]
    mbop = [run(0, 90.0), run(2, 150.0, behavior_return=0.0), run(5, 70.0, behavior_return=10.0)]
    assert ablations.of_mbop(whole, [*mbop, run(7, 1.0)]) == [
        "mbop: return mean -40, above in 1 of 3, from -130 to +20; 1 without a pair"
    ]


def test_the_records_can_be_compared():
    folder = ROOT / "results"
    records = [
        json.loads((folder / name).read_text())
        for name in ("mopp-default.json", "tables/mopp-refitted.json", "mopp-ablations.json")
    ]
    whole = [record for record in records[0] if record["algorithm"] == "mopp"]
    assert len(ablations.of_parts(whole, *records[1:])) >= 8
