import os
import re
import sys
import warnings
from importlib.metadata import EntryPoint

import numpy as np
import pytest

from metarl import registry as registries
from metarl.errors import (
    DataError,
    DuplicateNameError,
    MetarlError,
    SettingsError,
    TaskError,
    UnknownNameError,
)
from metarl.registry import PluginRegistry, Registry, check_choice, did_you_mean


@pytest.fixture
def registry():
    registry = Registry[int]("algorithm")
    registry.register("reptile", 1)
    registry.register("MAML", 2)
    return registry


def test_values_are_found_by_name_in_the_order_of_registration(registry):
    assert registry.get("MAML") == 2
    assert registry.names() == ["reptile", "MAML"]
    assert registry.register("fomaml", 3) == 3
    assert registry.names() == ["reptile", "MAML", "fomaml"]


def test_a_duplicate_is_refused_and_changes_nothing(registry):
    with pytest.raises(DuplicateNameError, match="algorithm 'MAML' is registered already"):
        registry.register("MAML", 3)
    assert registry.get("MAML") == 2


def test_an_unknown_name_is_told_with_the_nearest_and_all_known(registry):
    with pytest.raises(UnknownNameError) as error:
        registry.get("mamll")
    expected = "Unknown algorithm 'mamll'. Did you mean 'MAML'? Known: reptile, MAML."
    assert str(error.value) == expected
    assert isinstance(error.value, MetarlError)


def test_nothing_is_suggested_for_a_name_that_is_like_none(registry):
    with pytest.raises(UnknownNameError, match=r"'xyz'\. Known"):
        registry.get("xyz")


def test_an_empty_registry_says_so():
    with pytest.raises(UnknownNameError, match="Known: none"):
        Registry[int]("algorithm").get("maml")


def test_suggestions_ignore_case_and_take_any_iterable():
    assert did_you_mean("OMNIGLOTT", ["sine", "Omniglot"]) == " Did you mean 'Omniglot'?"
    assert did_you_mean("sinus", (n for n in ("sine", "Omniglot"))) == " Did you mean 'sine'?"
    assert did_you_mean("sine", []) == ""
    assert did_you_mean(7, ["sine"]) == ""  # pyright: ignore[reportArgumentType]


# What other packages offer

OFFERED = {
    "Pi": "math:pi",
    "Broken": "no_such_package.module:Thing",
    "Zero": "math:nothing_such",
    "Tau": "math:tau",
}


@pytest.fixture
def plugins(monkeypatch):
    """A registry of numbers, to which installed packages offer `OFFERED`."""
    looked_up = []

    def entry_points(group):
        looked_up.append(group)
        return [EntryPoint(name, value, group) for name, value in OFFERED.items()]

    monkeypatch.setattr(registries, "entry_points", entry_points)
    plugins = PluginRegistry[float]("number", "numbers")
    plugins.looked_up = looked_up
    return plugins


def test_what_is_no_choice_is_refused_with_all_of_them():
    check_choice("loss", "ratio", ("ratio", "dice"))
    message = r"Unknown loss 'rato'\. Did you mean 'ratio'\? Known: ratio, dice\."
    with pytest.raises(SettingsError, match=message):
        check_choice("loss", "rato", ("ratio", "dice"))
    with pytest.raises(DataError, match=r"Unknown loss 'dic'\. .* Known: dice\."):
        check_choice("loss", "dic", (name for name in ("dice",)), DataError)


def test_plugins_are_imported_when_they_are_looked_up(plugins):
    plugins.register("One", 1.0)
    assert plugins.looked_up == []
    assert plugins.names() == ["One", "Broken", "Pi", "Tau", "Zero"]  # none is imported
    assert plugins.get("Tau") == pytest.approx(6.283, abs=1e-3)
    assert plugins.get("Tau") == plugins.get("Tau")
    assert plugins.looked_up == ["numbers"]
    assert plugins.source("Tau") == "math:tau" and plugins.source("One") is None


@pytest.mark.parametrize("name", ["Broken", "Zero"])
def test_a_plugin_that_cannot_be_imported_says_why(plugins, name):
    message = rf"'{name}' \({OFFERED[name]}\) cannot be imported: \w+Error: .*Repair"
    with pytest.raises(UnknownNameError, match=message):
        plugins.get(name)


def test_a_plugin_cannot_take_a_name_that_is_taken(plugins):
    plugins.register("Pi", 3.0)
    with pytest.warns(RuntimeWarning, match=r"'Pi' \(math:pi\) was left out: the name is taken"):
        assert plugins.get("Pi") == 3.0


def test_an_unknown_name_gets_a_suggestion_among_plugins_too(plugins):
    with pytest.raises(UnknownNameError, match=r"Did you mean 'Tau'\? Known: Broken, Pi, Tau"):
        plugins.get("tauu")


def test_module_and_name_need_no_registration(plugins):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plugins.get("math:e") == pytest.approx(2.718, abs=1e-3)
    assert plugins.looked_up == []
    for name in ("math:nothing_such", "no_such_package:x", "math:", ":e", ".math:e", "a\0b:e"):
        with pytest.raises(
            UnknownNameError, match=rf"the number {re.escape(repr(name))}.*module:N"
        ):
            plugins.get(name)


def test_modules_in_the_folder_where_a_command_is_run_are_found(plugins, tmp_path, monkeypatch):
    (tmp_path / "numbers_of_mine.py").write_text("seven = 7")
    (tmp_path / "unfinished.py").write_text("def f(:")
    (tmp_path / "mistaken.py").write_text("import metarl.errors as e; raise e.TaskError('mine')")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", os.getcwd())])
    monkeypatch.chdir(tmp_path)
    assert plugins.get("numbers_of_mine:seven") == 7
    with pytest.raises(TaskError, match="mine"):
        plugins.get("mistaken:seven")
    with pytest.raises(UnknownNameError, match=r"'unfinished:f': .*unfinished\.py, line 1"):
        plugins.get("unfinished:f")


@pytest.mark.parametrize("value", [np.array([]), np.array(["a", "b"]), ["a"], None, 3])
def test_what_is_no_text_is_no_choice(value):
    with pytest.raises(SettingsError, match=r"Unknown kind .*Known: a, b"):
        check_choice("kind", value, ("a", "b"))


def test_a_warning_raised_as_an_error_leaves_no_half_of_the_plugins(plugins):
    """The first look-up of a process must not decide what the later ones find."""
    plugins.register("Pi", 3.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="left out"):
            plugins.names()
    with pytest.warns(RuntimeWarning, match="left out"):
        assert plugins.names() == ["Pi", "Broken", "Tau", "Zero"]
