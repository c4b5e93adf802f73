"""The families of docs/suites.md, by the suite: its package, and what builds a family of it."""

import re
from functools import cache
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[3] / "docs" / "suites.md"


@cache
def page_code():
    """Runs the code of the page and returns its names; it builds no environment."""
    names: dict[str, Any] = {"__name__": "suites_page"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile("\n".join(blocks), str(PAGE), "exec"), names)
    return names


FAMILIES = {
    suite: (package, lambda function=function: page_code()[function]())
    for suite, package, function in (
        ("Fetch", "gymnasium_robotics", "fetch"),
        ("Adroit", "gymnasium_robotics", "doors"),
        ("mazes", "gymnasium_robotics", "mazes"),
        ("dm_control", "shimmy", "swingups"),
        ("MiniGrid", "minigrid", "rooms"),
        ("highway-env", "highway_env", "roads"),
        ("Box2D", "Box2D", "landers"),
        ("panda-gym", "panda_gym", "pandas"),
    )
}
