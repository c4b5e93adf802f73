import pytest

from metarl.errors import DuplicateNameError, MetarlError, UnknownNameError
from metarl.registry import Registry, did_you_mean


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
