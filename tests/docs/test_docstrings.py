"""Every public class, function and method has a docstring, or inherits one."""

import importlib
import inspect
import pkgutil

import metarl_envs
import pytest

import metarl

EXTRAS = (
    "metarl.sim.warp.physics", "metarl.sim.warp.kernels", "metarl.sim.warp.loading",
    "metarl.deploy.export.policies", "metarl.deploy.export.onnx_functions",
)  # fmt: skip
MODULES = [
    module.name
    for package in (metarl, metarl_envs)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if module.name not in EXTRAS
]


def public(holder, module):
    """Yields the public classes, functions and methods that a module or class defines."""
    for name, value in vars(holder).items():
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        if isinstance(value, property):
            value = value.fget
        is_ours = getattr(value, "__module__", None) == module
        if not name.startswith("_") and is_ours and (inspect.isclass(value) or callable(value)):
            yield name, value
            if inspect.isclass(value):
                yield from ((f"{name}.{n}", v) for n, v in public(value, module))


@pytest.mark.parametrize("name", MODULES)
def test_what_is_public_is_documented(name):
    module = importlib.import_module(name)
    assert module.__doc__
    missing = []
    for path, value in public(module, name):
        holder, _, attribute = path.rpartition(".")
        if holder:
            value = getattr(getattr(module, holder.split(".")[0]), attribute, value)
        if not inspect.getdoc(value):
            missing.append(path)
    assert not missing
