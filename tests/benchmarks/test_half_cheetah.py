"""The benchmark on the half cheetah: it runs, and every candidate does the same work."""

import pytest

from benchmarks.half_cheetah import HalfCheetahBenchmark, HeavyCheetah, main
from benchmarks.parts import PARTS
from metarl.sim import check_family, make_vec


def test_it_prints_every_candidate(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(HalfCheetahBenchmark(worlds=(2,), steps=1, rounds=2, seconds=0.0))
    printed = capsys.readouterr().out
    for name in ("SyncVectorEnv", "physics", "MetaRL", "MetaRL, own models", "steps a second"):
        assert name in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_other_vector_environments_and_a_meta_iteration(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"steps": 1, "rounds": 2, "seconds": 0.0}
    main(HalfCheetahBenchmark(worlds=(2,), others=True, iteration=True, tasks=2, **settings))
    printed = capsys.readouterr().out
    for name in ("AsyncVectorEnv", "SubprocVecEnv", *(part for part, *_ in PARTS)):
        assert name in printed


def test_heavy_cheetahs_have_masses_of_their_own():
    family = HeavyCheetah()
    check_family(family)
    env = make_vec(family, 2, device="cpu")
    masses = [env.batch.get_model(i).body_mass.sum() for i in range(2)]
    share = 0.5 + env.get_tasks()["velocity"] / 2
    assert abs(masses[0] / share[0] - masses[1] / share[1]) < 1e-4
