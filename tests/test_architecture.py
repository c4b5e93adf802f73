"""The house: imports run one way, without circles, and nothing reaches up."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [
    {"errors", "console", "devices", "registry", "ranges", "extras", "trees", "gymnasium_ids"}
    | {
        "startup",
        "chunks",
        "cuda_graphs",
        "flat_functions",
        "help_texts",
        "ranks",
        "rank_watch",
        "rank_meeting",
        "__init__",
    },
    {"tasks", "models"},
    {"sim", "adaptation"},
    {"learners", "rl"},
    {"evaluation", "sb3"},
    {"plots"},
    {"runs"},
    {"training"},
    {"lab"},
    {"deploy"},
    {"commands"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def modules():
    paths = sorted((ROOT / "metarl").rglob("*.py"))
    return {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in paths}


def imports(path):
    """Yields what a module imports of MetaRL, in functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("metarl"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("metarl"))


def graph():
    known = modules()
    edges = {}
    for name, path in known.items():
        targets = set()
        for target in imports(path):
            while target not in known and f"{target}.__init__" not in known:
                target = target.rpartition(".")[0]
            # A package hands on the names of its modules: an import of it is no dependence.
            targets |= {target} & known.keys()
        edges[name] = targets - {name}
    return edges


def room(module):
    return module.split(".")[1] if "." in module else module


def test_every_room_has_its_floor():
    assert {room(m) for m in modules()} == LEVEL.keys()


def test_no_module_imports_upwards():
    up = [
        f"{source} -> {target}"
        for source, targets in graph().items()
        for target in targets
        if LEVEL[room(target)] > LEVEL[room(source)]
    ]
    assert not up


def test_rooms_and_modules_import_each_other_in_one_direction():
    edges = {s: t for s, t in graph().items() if not s.endswith("__init__")}
    assert not circle(edges)
    rooms = {}
    for source, targets in edges.items():
        rooms.setdefault(room(source), set()).update({room(t) for t in targets} - {room(source)})
    assert not circle(rooms)


def circle(edges):
    """Returns a circle of the graph as a list of names, or None."""
    done = set()

    def visit(node, path):
        if node in path:
            return path[path.index(node) :]
        if node in done:
            return None
        done.add(node)
        found = (visit(target, [*path, node]) for target in sorted(edges.get(node, ())))
        return next(filter(None, found), None)

    return next(filter(None, (visit(node, []) for node in sorted(edges))), None)


def test_circles_are_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) is None
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


@pytest.mark.parametrize("path", modules().values(), ids=modules().keys())
def test_a_module_is_no_longer_than_one_thought(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    assert not re.search(r"^    (learner|algorithm)\w*: Any\b", text, re.MULTILINE)
    assert not re.search(r"(from|import) (metarl_envs|metarl_experiments|tests|benchmarks)", text)


def test_few_places_ask_which_kind_of_learner_it_is():
    asked = [
        f"{name}: {line.strip()}"
        for name, path in modules().items()
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"isinstance\([\w., ]*Learner\b", line)
    ]
    assert len(asked) <= 3, asked
