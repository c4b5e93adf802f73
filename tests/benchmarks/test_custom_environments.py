"""The benchmark of users' environments runs, every candidate of it."""

from benchmarks.custom_environments import CustomBenchmark, main


def test_it_prints_every_candidate(capsys):
    names = ("Pendulum-v1", "CartPole-v1")
    main(CustomBenchmark(environments=names, worlds=2, workers=(), steps=1, rounds=2, seconds=0.0))
    printed = capsys.readouterr().out
    for name in (*names, "SyncVectorEnv", "MetaRL, in process"):
        assert name in printed
