"""`metarl adapt`: adapts a run to a new task: an environment, a log, a table or images."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from metarl.commands.options import Run
from metarl.errors import SettingsError

if TYPE_CHECKING:
    from metarl.deploy.adapting.control import Adapted

WEIGHTS = "adapted.safetensors"
PLAIN: Any = {"markup": False, "highlight": False, "soft_wrap": True}
"""How lines are printed that contain paths."""


def adapt(
    run: Run,
    env: str | None = None,
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    data: Path | None = None,
    images: Path | None = None,
    target: str = "target",
    support: int | None = None,
    episodes: int = 20,
    adapt_every: int | None = None,
    test_episodes: int = 20,
    steps: int | None = None,
    behaviour: Literal["start", "adapted"] | None = None,
    most_likely: bool = False,
    seed: int = 0,
    runs: Path = Path("runs"),
    trust: bool = False,
    out: Path = Path("adapted"),
    video: Path | None = None,
) -> None:
    """Adapts a run's learner to your environment, log, table or images, and measures it.

    Prints the mean before and after with 95 % intervals and the environment time that it took, and
    writes the adapted weights and TensorBoard's events into a folder. In Python: `metarl.load`.

    Args:
        run: A run folder, whose newest valid checkpoint is used; `RUN/best`, that of the best
            value on validation tasks; a checkpoint; or `latest`.
        env: An environment of gymnasium, such as CartPole-v1; `module:Name-v1` imports the module.
        set: An attribute or keyword argument of the environment, name=value; repeat the option for
            each.
        data: For policies: logged trajectories, .parquet, .csv or .npz. For the others: a table,
            .parquet or .csv, whose other columns are the inputs.
        images: A folder with a folder of images for each class.
        target: The column of the targets in a table; of several, one of them.
        support: Rows, or images of each class, to adapt on; the others measure. By default half of
            them, in a table those of each class.
        episodes: Episodes to adapt from.
        adapt_every: Adapts after every so many episodes; by default as in training, or after all.
        test_episodes: Episodes that measure the return before the adaptation, and as many after it.
        steps: Adaptation steps: on a table or on images, by default as in training; of a policy on
            a log or every time in an environment, by default 1.
        behaviour: Who acted in a log without log_probs: the trained start, or an adapted policy.
        most_likely: Measures most likely actions in place of sampled ones.
        seed: Seed of resets, sampled actions and choices.
        runs: Folder of the run folders, for `latest`.
        trust: For runs without learner.json: imports code that their settings name.
        out: Folder for the adapted weights and TensorBoard's events.
        video: File for a film (.gif, or .mp4 with the extra "video") of an episode before and one
            after. The environment must render pictures.
    """
    asked = _Asked(
        env, set, data, images, target, support, episodes, adapt_every, test_episodes, steps,
        behaviour, most_likely, seed, video,
    )  # fmt: skip
    asked.check()
    import metarl
    from metarl.deploy.adapting.files import check_writable
    from metarl.runs.run_folder import CHECKPOINTS
    from metarl.runs.run_search import run_path

    if (out / CHECKPOINTS).is_dir():
        raise SettingsError(
            f"Expected `out` to be no run folder, whose curves stay those of training; got {out}."
        )
    run = run_path(run, runs)
    adapter: Any = metarl.load(run, seed=seed, runs=runs, trust=trust)
    check_writable(out)  # before a robot moves for a result that would be lost
    if data is not None:
        adapter = _for_table(adapter, seed)
    _report(adapter, _adapted(adapter, asked), run, out, video)


@dataclass(frozen=True)
class _Asked:
    """What to adapt to and how; the names are those of the options of `metarl adapt`."""

    env: str | None
    set: tuple[str, ...]
    data: Path | None
    images: Path | None
    target: str
    support: int | None
    episodes: int
    adapt_every: int | None
    test_episodes: int
    steps: int | None
    behaviour: Literal["start", "adapted"] | None
    most_likely: bool
    seed: int
    video: Path | None

    @property
    def policy_steps(self) -> int:
        """Adaptation steps of a policy on the same data."""
        return 1 if self.steps is None else self.steps

    def check(self) -> None:
        """Raises SettingsError unless there is one thing to adapt to."""
        if sum(choice is not None for choice in (self.env, self.data, self.images)) != 1:
            raise SettingsError("Expected one of --env, --data and --images, to adapt to.")
        if self.set and self.env is None:
            raise SettingsError("Expected --env with --set, whose attributes it sets.")
        if self.video is not None and self.env is None:
            raise SettingsError("Expected --env with --video, which films an episode of it.")
        if self.env is None and (self.adapt_every is not None or self.most_likely):
            raise SettingsError("Expected --env with --adapt-every and --most-likely.")
        if self.behaviour is not None and self.data is None:
            raise SettingsError("Expected --data with --behaviour, which says who acted in a log.")
        if self.video is not None:
            from metarl.plots.film import check_film

            check_film(self.video)


def _for_table(adapter: Any, seed: int) -> Any:
    """Returns an adapter that takes a table in its own units, where training standardised it."""
    from metarl.deploy.adapters.supervised_adapter import SupervisedAdapter

    if not isinstance(adapter, SupervisedAdapter) or "scaling" not in adapter.origin.ranges:
        return adapter
    return SupervisedAdapter(adapter.learner, adapter.origin, seed, standardise=True)


def _adapted(adapter: Any, asked: _Asked) -> Adapted:
    """Adapts a policy or a supervised learner."""
    from metarl.deploy.adapters.control_adapter import ControlAdapter
    from metarl.deploy.adapters.supervised_adapter import SupervisedAdapter
    from metarl.deploy.adapting.control import adapt_on_log

    if isinstance(adapter, SupervisedAdapter):
        return _on_examples(adapter, asked)
    if not isinstance(adapter, ControlAdapter):
        raise SettingsError(
            "Expected a run, got an exported adaptation: adapt the run that it was exported from, "
            "or use the export in Python, metarl.load(folder)."
        )
    if asked.images is not None:
        raise SettingsError("Expected --env or --data for a policy, got --images.")
    if asked.support is not None:
        raise SettingsError("Expected no --support for a policy: it adapts on whole logs.")
    if asked.steps is not None and adapter.learner.plays_trials:
        raise SettingsError("Expected no --steps for a policy with a memory: acting is adapting.")
    if asked.env is not None:
        return _in_environment(adapter, asked.env, asked)
    assert asked.data is not None
    return adapt_on_log(adapter, asked.data, asked.behaviour, asked.policy_steps)


def _in_environment(adapter: Any, env: str, asked: _Asked) -> Adapted:
    from metarl.deploy.adapting.control import adapt_in
    from metarl.deploy.robot.changed_env import changed_env, parsed_values

    films = asked.video is not None
    made = changed_env(env, parsed_values(asked.set), "rgb_array" if films else None)
    counts = asked.episodes, asked.adapt_every, asked.test_episodes, asked.seed
    explore = False if asked.most_likely else None
    try:
        return adapt_in(
            adapter, made, *counts, film=films, explore=explore, steps=asked.policy_steps
        )
    finally:
        made.close()


def _on_examples(adapter: Any, asked: _Asked) -> Adapted:
    from metarl.deploy.adapting.supervised import adapt_on_images, adapt_on_table

    if asked.env is not None:
        raise SettingsError("Expected --data or --images for a supervised learner, got --env.")
    if asked.behaviour is not None:
        raise SettingsError("Expected --behaviour for logs of a policy; this run is supervised.")
    steps = adapter.steps if asked.steps is None else asked.steps
    if asked.images is not None:
        return adapt_on_images(adapter, asked.images, asked.support, steps, asked.seed)
    assert asked.data is not None
    return adapt_on_table(adapter, asked.data, asked.target, asked.support, steps, asked.seed)


def _report(adapter: Any, found: Adapted, run: Path, out: Path, video: Path | None) -> None:
    """Prints the result, and writes weights, events and the film."""
    from metarl.console import OutputConsole, short_path
    from metarl.deploy.adapting.control import curve_plot, result_table
    from metarl.deploy.adapting.files import save_events

    console = OutputConsole()
    if len(found.before):
        console.print_whole(result_table(f"Adapted: {short_path(run)}", found))
    if len(found.curve) > 1:
        console.print(curve_plot(found.curve, found.metric, console.width))
    for note in found.notes:
        console.print(note, **PLAIN)
    save_events(found, out)
    try:
        adapter.save(out / WEIGHTS)
        console.print("Adapted weights:", str(out / WEIGHTS), **PLAIN)
    except SettingsError as error:
        console.print(f"No weights: {error}", **PLAIN)
    if video is not None and found.frames:
        from metarl.plots.film import Film, save_film

        save_film(Film("adapted", found.frames, 30.0), video)
        console.print("Film:", str(video), **PLAIN)
    if len(found.before):
        console.print(f"The curve: tensorboard --logdir {shlex.quote(str(out))}", **PLAIN)
