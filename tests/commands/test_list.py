from importlib.metadata import EntryPoint

import pytest
import torch

from metarl import registry
from metarl.gymnasium_ids import FAMILY_GROUP
from metarl.lab.installed import EXPERIMENTS
from metarl.lab.lookup import find_experiment
from metarl.lab.machine import REFERENCE_SECONDS, seconds_of_reference
from metarl.registry import PluginRegistry
from metarl.sim import FAMILIES, make_family


def test_everything_there_is_has_its_name_in_the_list(metarl):
    status, printed = metarl("list")
    assert status == 0
    for name in (*FAMILIES.names(), "sine", "ratio", "ReptileAlgorithm"):
        assert name in printed.out, name
    assert "navigation2d" in printed.out and "promp" in printed.out


def test_every_algorithm_stands_beside_its_settings(metarl):
    printed = metarl("list")[1].out
    for kind, algorithm, setting in (
        ("MAMLAlgorithm", "promp", "inner-lr"),
        ("PPOAlgorithm", "ppo", "learning-rate"),
        ("RL2Algorithm", "rl2", "episodes"),
        ("VariBADAlgorithm", "varibad", "latent"),
        ("PrototypicalAlgorithm", "prototypical", "embedding"),
        ("MemoryAugmentedOptions", "mann-strings", "slots"),
        ("UCB1Algorithm", "ucb1", "width"),
    ):
        before, _, after = printed.partition(f"{kind}: ")
        row = "".join([*before.splitlines()[-3:], *after.splitlines()[:3]])
        assert algorithm in row and setting in row, kind


def test_a_terminal_of_80_columns_has_space_for_summaries(metarl):
    printed = metarl("list", columns=80)[1].out
    assert "Ant runs forwards; tasks differ in actuator" in printed


def test_what_cannot_be_imported_does_not_stop_the_others(metarl, monkeypatch):
    entry_points = registry.entry_points

    def with_broken(group):
        broken = [
            ("Broken-v1", "no_such_package:Family"),
            ("Divided-v1", f"{__name__}:divided"),
        ]
        return [*entry_points(group=group), *(EntryPoint(*pair, group) for pair in broken)]

    monkeypatch.setattr(registry, "entry_points", with_broken)
    for families in ("metarl.sim.make.FAMILIES", "metarl.sim.FAMILIES"):
        monkeypatch.setattr(families, PluginRegistry("family", FAMILY_GROUP))
    for experiments in ("metarl.lab.installed.EXPERIMENTS", "metarl.lab.lookup.EXPERIMENTS"):
        monkeypatch.setattr(experiments, PluginRegistry("experiment", "metarl.experiments"))
    status, printed = metarl("list")
    assert status == 0
    assert printed.out.count("ModuleNotFoundError") == 2 and "ZeroDivisionError" in printed.out
    for name in (*FAMILIES.names(), "tabular_mdp"):
        assert name in printed.out, name


def divided():
    """Stands for a plug-in with a mistake."""
    return 1 / 0


def test_it_runs_no_file_of_the_folder_it_is_started_in(metarl, tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    for name in ("mine.py", "experiments/mine.py"):
        (tmp_path / name).write_text("raise SystemExit('executed')")
    monkeypatch.chdir(tmp_path)
    status, printed = metarl("list")
    assert status == 0 and "executed" not in printed.out + printed.err


@pytest.mark.parametrize("columns", [40, 80])
def test_a_narrow_terminal_cuts_no_word(metarl, columns):
    printed = metarl("list", columns=columns)[1].out
    assert "…" not in printed
    for word in (
        "HalfCheetahVelocityRllab-v1",
        "learned-optimizer",
        "doi:10.1109/TSMC.1983.6313077",
    ):
        assert word in printed
    if columns == 80:
        assert max(map(len, printed.splitlines())) <= columns


def test_a_card_has_every_fact_and_source(metarl):
    for name in FAMILIES.names():
        _, printed = metarl("list", "--card", name, columns=300)
        text = "".join(printed.out.split())
        card = make_family(name).card()
        for part in (card.name, card.summary, *(f.what for f in card.lines())):
            assert "".join(part.split()) in text, (name, part)
    assert "[-1,1]" in "".join(metarl("list", "--card", "Navigation2D-v1")[1].out.split())


def test_an_unknown_card_gets_a_suggestion_and_no_traceback(metarl):
    status, printed = metarl("list", "--card", "Bandits-v1")
    assert status == 1
    assert "Did you mean 'Bandit-v1'?" in printed.err and "Traceback" not in printed.err


def test_a_card_of_an_experiment_is_refused_as_one(metarl):
    for name, advice in (("sine", ""), ("navigation2d", "Did you mean 'Navigation2D-v1'?")):
        status, printed = metarl("list", "--card", name, columns=300)
        assert status == 1 and f"'{name}' is an experiment. {advice}" in printed.err
        assert f"`metarl train {name} --help`" in printed.err and "Known:" not in printed.err


def test_experiments_have_their_minutes_on_this_machine(metarl, monkeypatch):
    monkeypatch.setattr("metarl.lab.machine.seconds_of_reference", lambda: 2 * REFERENCE_SECONDS)
    table = metarl("list")[1].out.partition("Experiments: metarl train NAME")[2]
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.strip()}
    for name in ("sine", "half_cheetah"):
        minutes = find_experiment(name).minutes["maml"]
        assert float(rows[name][0]) == pytest.approx(2 * minutes, rel=0.1), name
    assert rows["bandit"][:2] == ["below", "1"]
    assert rows["custom"][0] == "maml,", "unknown, because the family is the user's"
    assert "times 2 for this one" in table


def test_the_reference_computation_is_short_and_leaves_torch_as_it_is():
    threads = torch.get_num_threads()
    assert 0 < seconds_of_reference() < 5
    assert torch.get_num_threads() == threads
    for name in EXPERIMENTS.names():
        experiment = find_experiment(name)
        assert set(experiment.minutes) <= set(experiment.configs), name
