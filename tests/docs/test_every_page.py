"""Every page is in the index, and every block of code is run, parsed, or marked with a reason."""

import re
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from metarl.commands import main
from tests.docs.pages import DOCS, NOTEBOOKS, PAGES, ROOT, Block, blocks, name, python_blocks
from tests.docs.test_links import LINK, text

TESTS = Path(__file__).resolve().parents[1]
RUN_ELSEWHERE = {  # with what surrounds them: files, commands, fewer iterations
    "algorithms.md": "docs/test_algorithms.py",
    "control.md": "docs/test_control.py",
    "deploy.md": "docs/test_deploy.py",
    "export.md": "docs/test_export.py",
    "families.md": "docs/test_families.py",
    "meta_gradients.md": "docs/test_meta_gradients.py",
    "other_libraries.md": "commands/test_export_docs.py",
    "your_data.md": "docs/test_your_data.py",
    "your_model.md": "docs/test_your_model.py",
    "your_robot.md": "docs/test_your_robot.py",
}
OTHERS = {name(p) for p in PAGES} - RUN_ELSEWHERE.keys()
HERE = [p for p in PAGES if name(p) in OTHERS and python_blocks(p)]
COMMANDS = (
    "docker", "export", "make", "metarl", "pip", "python", "tensorboard", "torchrun", "sbatch",
    "srun", "uv",
)  # fmt: skip
TEXT = ("text", "toml", "json", "yaml", "xml", "math", "{toctree}")
INDEX = (DOCS / "index.md").read_text(encoding="utf-8")


def few(code):
    """The code with fewer iterations."""
    return re.sub(r"(iterations|eval_every)=[1-9]\d*", r"\1=2", code)


@pytest.mark.parametrize("page", HERE, ids=name)
def test_the_code_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for code in python_blocks(page):
        exec(compile(few(code), str(page), "exec"), names)


@pytest.mark.parametrize("page", RUN_ELSEWHERE)
def test_the_code_of_other_pages_is_run_by_their_tests(page):
    assert python_blocks(DOCS / page)
    test = (TESTS / RUN_ELSEWHERE[page]).read_text(encoding="utf-8")
    assert page in test and ("exec(" in test or "write_text(" in test)


def unexplained(block: Block) -> str | None:
    """What a block is that is neither run, nor commands, nor marked; None if it is one of these."""
    if block.reason is not None or block.language in ("python", *TEXT):
        return None
    if block.language not in ("", "sh"):
        return f"a block in {block.language}"
    lines = re.sub(r"\\\n\s*", " ", block.text).splitlines()
    for line in filter(str.strip, lines):
        words = [w for w in line.split() if not re.match(r"[A-Z_]+=", w)]
        known = not words or words[0].startswith("#") or words[0] in COMMANDS
        if not known:
            return line
    return None


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_is_not_run_has_a_reason(page):
    assert [u for b in blocks(page) if (u := unexplained(b))] == []


def test_a_block_without_a_reason_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Text\n\n    metarl list\n\n<!-- not run: needs a robot -->\n```python\nrobot()\n```\n\n"
        "    robot()\n\n```c\nint i;\n```\n"
    )
    found = list(blocks(page))
    assert [unexplained(block) for block in found] == [None, None, "robot()", "a block in c"]
    assert [block.reason for block in found] == [None, "needs a robot", None, None]
    assert python_blocks(page) == []


def metarl_commands():
    """The lines of `metarl` commands in the indented blocks of all pages: command and the rest."""
    for page in PAGES:
        for block in blocks(page):
            if block.language in ("", "sh"):
                for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
                    line = re.sub(r"\s#.*", "", line)
                    if match := re.match(r"\s*(?:[A-Z_]+=\S+ )*metarl ([a-z-]+)(.*)", line):
                        yield match.groups()


@pytest.mark.parametrize("command", sorted({command for command, _ in metarl_commands()}))
def test_its_commands_and_their_options_exist(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["metarl", command, "--help"])
    with suppress(SystemExit):
        main()
    shown = capsys.readouterr().out
    assert f"metarl {command}" in shown
    if command not in ("train", "tune"):  # which have those of the experiment too
        rests = [rest for name, rest in metarl_commands() if name == command]
        used = {option for rest in rests for option in re.findall(r"(?<=\s)--[\w.-]+", rest)}
        assert used <= set(re.findall(r"--[\w.-]+", shown))


def toctree():
    """The pages of the index's toctrees, some of which have titles: `Policies <control>`."""
    for tree in re.findall(r"```\{toctree\}\n(.*?)```", INDEX, re.DOTALL):
        for line in tree.splitlines():
            if line and not line.startswith(":"):
                yield line.partition("<")[2].rstrip(">") or line


def test_the_index_holds_every_page():
    pages = {name(p).removesuffix(".md") for p in PAGES} - {"index"}
    pages |= {f"notebooks/{path.stem}" for path in NOTEBOOKS}
    entries = list(toctree())
    assert len(entries) == len(set(entries))
    assert set(entries) == pages | {"api/index"}, "add new pages to a toctree of docs/index.md"
    linked = {link.partition("#")[0] for link in LINK.findall(text(DOCS / "index.md"))}
    listed = {re.sub(r"\.(md|ipynb)$", "", link) for link in linked}
    assert listed == pages, "add new pages to the list of docs/index.md"


def test_the_readme_links_the_index():
    assert "](docs/index.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
