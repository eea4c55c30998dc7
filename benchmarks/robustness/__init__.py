"""A bench of data sets as people have them: small, mixed, noisy, cut, clipped, and of plants.

python -m benchmarks.robustness --split=development --what=data            makes the data sets
python -m benchmarks.robustness --split=development --seeds=0 --workers=2  baselines, MOReL, MOPP
python -m benchmarks.robustness --what=peers --peers_python=PYTHON --minutes=20
python -m benchmarks.robustness --what=morel --variant=wide --flags="--dynamics_hidden=256,256"
python -m benchmarks.robustness table                                      a table per split

Run it from the repository's folder. What is recorded is not run again; what was stopped goes on.
Data lie in runs/robustness/data, a record per set in results/robustness/.

`data_sets` is the table of sets; half of them are for development, half for reporting. Behaviour
policies come from Stable-Baselines3 (`train_policy`, requirements-policies.txt), so that no set is of
this project's own algorithms. NeoRL-2's data are read from the folder that --neorl2 or $NEORL2_DATA
names.
"""
