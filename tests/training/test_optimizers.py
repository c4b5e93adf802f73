"""Outer optimisers and schedules of torch, by name and from Python, resumed to the bit."""

import copy
from functools import partial

import pytest
import torch
from torch.optim import lr_scheduler

from metarl.adaptation import MAML, GradientLearner, MetaSGD
from metarl.errors import CheckpointError, SettingsError
from metarl.models import MLP
from metarl.runs.checkpoints import Checkpoints
from metarl.tasks import Sine
from metarl.training import OuterLoop, TrainingSettings
from metarl.training.meta_step import MetaStep
from metarl.training.optimizers import OPTIMIZERS
from metarl.training.proximal import ProximalSettings
from metarl.training.rates import outer_rate


def learner():
    generator = torch.Generator().manual_seed(0)
    return GradientLearner(MetaSGD(MLP((1, 8, 1), generator), generator))


def trained(step, made, steps=4, first=0):
    for i in range(first, first + steps):
        generator = torch.Generator().manual_seed(i)
        step(made.collect(Sine().sample(3, generator), generator, i), i)
    return [p.detach().clone() for p in made.parameters()]


def by_hand(optimizer_of, scheduler_of=None, steps=4):
    """Trains with a plain torch loop; returns the parameters and the rates."""
    made = learner()
    optimizer = optimizer_of(made)
    scheduler = scheduler_of(optimizer) if scheduler_of else None
    rates = []
    for i in range(steps):
        generator = torch.Generator().manual_seed(i)
        inputs = made.collect(Sine().sample(3, generator), generator, i)
        optimizer.zero_grad()
        loss = made(inputs).losses.mean()
        loss.backward()
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(loss.item())
        elif scheduler:
            scheduler.step()
    return [p.detach().clone() for p in made.parameters()], rates


def check_equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if n != "muon"])
def test_every_optimiser_of_torch_by_name(name):
    made = learner()
    ours = trained(MetaStep(made, TrainingSettings(optimizer=name, outer_lr=1e-4)), made)
    theirs, _ = by_hand(lambda m: OPTIMIZERS[name](m.parameters(), lr=1e-4))
    check_equal(ours, theirs)


class Waves(torch.nn.Module):
    """Has complex weights next to real ones."""

    def __init__(self):
        super().__init__()
        self.mixing = torch.nn.Parameter(torch.randn(1, 4, dtype=torch.complex64))
        self.head = torch.nn.Linear(4, 1)

    def forward(self, x):
        return self.head((x.to(self.mixing.dtype) @ self.mixing).abs())


@pytest.mark.parametrize("name", ["adam", "adagrad", "sgd"])
def test_complex_weights_are_trained(name):
    torch.manual_seed(0)
    made = GradientLearner(MAML(Waves(), 0.01))
    plain = copy.deepcopy(made)
    settings = TrainingSettings(optimizer=name, outer_lr=0.01, max_grad_norm=0.1)
    ours = trained(MetaStep(made, settings), made, 1)
    optimizer = OPTIMIZERS[name](plain.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    inputs = plain.collect(Sine().sample(3, generator), generator, 0)
    plain(inputs).losses.mean().backward()
    torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
    optimizer.step()
    check_equal(ours, [p.detach() for p in plain.parameters()])


def test_groups_and_weight_decay_of_the_settings():
    settings = TrainingSettings(
        optimizer="adamw", outer_lr=0.01, weight_decay=0.3, no_decay=("*.bias", "rule.*"),
        rate_factors=("rule.*=0.1",), optimizer_options=("betas=(0.8,0.9)",),
    )  # fmt: skip
    made = learner()
    ours = trained(MetaStep(made, settings), made)

    def groups(m):
        named = dict(m.named_parameters())
        rule = [p for n, p in named.items() if n.startswith("rule.")]
        bias = [p for n, p in named.items() if n.endswith(".bias") and not n.startswith("rule.")]
        rest = [p for n, p in named.items() if n.endswith(".weight") and not n.startswith("rule.")]
        return torch.optim.AdamW(
            [
                {"params": rest},
                {"params": bias, "weight_decay": 0.0},
                {"params": rule, "lr": 0.001, "weight_decay": 0.0},
            ],
            lr=0.01, weight_decay=0.3, betas=(0.8, 0.9),
        )  # fmt: skip

    check_equal(ours, by_hand(groups)[0])


@pytest.mark.parametrize(
    ("settings", "decay"),
    [({}, 0.0), ({"weight_decay": 0.3}, 0.3), ({"optimizer_options": ("weight_decay=0.2",)}, 0.2)],
)
def test_the_decay_is_that_of_the_settings_and_not_the_default_of_the_class(settings, decay):
    step = MetaStep(learner(), TrainingSettings(optimizer="adamw", **settings))
    assert [group["weight_decay"] for group in step.optimizer.param_groups] == [decay]
    if decay:
        step = MetaStep(
            learner(), TrainingSettings(optimizer="adamw", no_decay=("*.bias",), **settings)
        )
        decays = sorted(group["weight_decay"] for group in step.optimizer.param_groups)
        assert decays == [0.0, decay]


@pytest.mark.parametrize("instance", [False, True])
def test_an_optimiser_from_python(instance):
    made = learner()
    given = partial(torch.optim.RMSprop, lr=0.02, momentum=0.5)
    optimizer = given(made.parameters()) if instance else given
    step = MetaStep(made, TrainingSettings(schedule="linear", iterations=8, warmup=2), optimizer)
    ours = trained(step, made)
    factors = [0.5, 7 / 8, 6 / 8, 5 / 8]  # the schedule scales the optimiser's own rate
    theirs, rates = by_hand(
        lambda m: given(m.parameters()),
        lambda o: lr_scheduler.LambdaLR(o, lambda i: factors[min(i, 3)]),
    )
    check_equal(ours, theirs)
    assert [step.rate(i) for i in range(4)] == pytest.approx(rates)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("StepLR", {"step_size": 2}),
        ("OneCycleLR", {"max_lr": 0.1, "total_steps": 10}),
        ("CosineAnnealingWarmRestarts", {"T_0": 3}),
        ("MultiStepLR", {"milestones": [1, 3]}),
        ("ReduceLROnPlateau", {"patience": 0, "threshold": 0.5}),
    ],
)
def test_a_schedule_of_torch_by_name(name, options):
    texts = tuple(f"{k}={v!r}" for k, v in options.items())
    settings = TrainingSettings(4, schedule=name, schedule_options=texts, outer_lr=0.01)
    made = learner()
    step = MetaStep(made, settings)
    ours = []
    for i in range(4):
        after = trained(step, made, 1, i)
        ours.append(step.rate(i))
    theirs, rates = by_hand(
        lambda m: torch.optim.Adam(m.parameters(), lr=0.01),
        lambda o: getattr(lr_scheduler, name)(o, **options),
    )
    check_equal(after, theirs)
    assert ours == pytest.approx(rates)


def adamw_with_restarts(folder, iterations, resume=None):
    return OuterLoop(
        learner(), Sine(),
        TrainingSettings(
            iterations=iterations, meta_batch_size=3, eval_every=0, checkpoint_every=3,
            device="cpu", threads=1,
        ),
        folder,
        optimizer=partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
        scheduler=lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
        resume=resume,
    )  # fmt: skip


def by_settings(folder, iterations, resume=None):
    settings = TrainingSettings(
        iterations=iterations, meta_batch_size=3, eval_every=0, checkpoint_every=3, device="cpu",
        threads=1, optimizer="adamw", weight_decay=0.1, no_decay=("rule.*",),
        rate_factors=("rule.*=0.5",), schedule="MultiStepLR",
        schedule_options=("milestones=[2,5]",),
    )  # fmt: skip
    return OuterLoop(learner(), Sine(), settings, folder, resume=resume)


@pytest.mark.parametrize("loop", [adamw_with_restarts, by_settings])
def test_a_run_resumes_to_the_bit(loop, tmp_path):
    whole, start = loop(tmp_path / "whole", 8), loop(tmp_path / "start", 3)
    whole.run()
    start.run()
    checkpoint = Checkpoints(tmp_path / "start/checkpoints").newest_good()
    resumed = loop(tmp_path / "start", 8, checkpoint)
    resumed.run()
    for a, b in zip(whole.learner.parameters(), resumed.learner.parameters(), strict=True):
        assert torch.equal(a, b)
    assert whole.update.rate(7) == resumed.update.rate(7)
    states = [run.update.state_dict()["scheduler"] for run in (whole, resumed)]
    assert states[0] == states[1]


def test_the_state_of_another_schedule_is_refused(tmp_path):
    adamw_with_restarts(tmp_path / "run", 3).run()
    checkpoint = Checkpoints(tmp_path / "run/checkpoints").newest_good()
    settings = TrainingSettings(iterations=6, device="cpu", optimizer="adamw", weight_decay=0.1)
    with pytest.raises(CheckpointError, match=r"another network, algorithm or optimiser"):
        OuterLoop(learner(), Sine(), settings, tmp_path / "run", resume=checkpoint)


def test_warm_up_rises_to_the_rate():
    settings = TrainingSettings(outer_lr=0.1, warmup=4)
    assert [outer_rate(settings, i) for i in range(5)] == pytest.approx(
        [0.025, 0.05, 0.075, 0.1, 0.1]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adamww"}, "Unknown optimizer 'adamww'.*mean 'adamw'"),
        ({"optimizer": "lbfgs"}, "Unknown optimizer 'lbfgs'"),
        ({"schedule": "steplr"}, "mean 'StepLR'"),
        ({"optimizer_options": ("beta=3",)}, "option of Adam .*mean 'betas'"),
        ({"optimizer_options": ("betas",)}, "option=value"),
        ({"optimizer_options": ("lr=3",)}, "The rate is `outer_lr`"),
        ({"optimizer": "rprop", "weight_decay": 0.1}, "rprop has no weight decay"),
        ({"no_decay": ("*.bias",)}, "`no_decay` excepts"),
        (
            {"weight_decay": 0.1, "optimizer_options": ("weight_decay=0.2",)},
            r"one weight decay, got `weight_decay` 0\.1 and that of `optimizer_options`, 0\.2",
        ),
        ({"rate_factors": ("rule.*",)}, "pattern=factor"),
        ({"rate_factors": ("rule.*=-1",)}, "a factor above 0"),
        ({"schedule_options": ("gamma=0.1",)}, "schedule constant has no options"),
        ({"schedule": "StepLR", "warmup": 3}, "`warmup` belongs to"),
    ],
)
def test_settings_that_are_not_usable_are_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        TrainingSettings(**changes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate_factors": ("rul.*=0.1",)}, "'rul.*' matches no parameter"),
        ({"weight_decay": 0.1, "no_decay": ("*.biass",)}, "matches no parameter to train"),
        ({"optimizer_options": ("betas=3",)}, "torch.optim.Adam cannot be made"),
        ({"schedule": "StepLR"}, "StepLR cannot be made with"),
        ({"schedule": "LambdaLR", "schedule_options": ("lr_lambda=3",)}, "LambdaLR cannot be"),
    ],
)
def test_settings_that_do_not_suit_the_learner_are_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        MetaStep(learner(), TrainingSettings(**settings))


class WithoutRate(torch.optim.Optimizer):
    """An optimiser that chooses its own rate."""

    def __init__(self, named, lr=None):
        super().__init__([p for _, p in named], {} if lr is None else {"lr": lr})

    def step(self, closure=None):
        pass


def test_optimisers_that_are_not_usable_are_refused(tmp_path):
    made, plain = learner(), TrainingSettings(device="cpu")
    few = list(made.parameters())[:2]
    for optimizer, message in (
        (
            torch.optim.SGD(few, 0.1),
            r"all parameters to train, 8 tensors; it lacks model",
        ),
        (lambda named: torch.optim.SGD([torch.zeros(1)], 0.1), "has 1 others"),
        (lambda named: 3, "makes one of named parameters, got int"),
        (lambda named: torch.optim.LBFGS([p for _, p in named]), "LBFGS evaluates the loss"),
        ("adam", "makes one of named parameters, got str"),
        (torch.optim.Muon, "raises ValueError: Muon only supports.*p for _, p in named"),
        (WithoutRate, "a rate `lr` in each of its parameter groups.*WithoutRate has none"),
    ):
        with pytest.raises(SettingsError, match=message):
            MetaStep(made, plain, optimizer)
    MetaStep(made, plain, partial(WithoutRate, lr=1.0))
    with pytest.raises(SettingsError, match=r"one optimiser.*weight_decay 0\.1"):
        MetaStep(made, TrainingSettings(weight_decay=0.1), torch.optim.AdamW)
    with pytest.raises(SettingsError, match="one schedule"):
        MetaStep(
            made, TrainingSettings(schedule="cosine"), scheduler=lambda o: lr_scheduler.StepLR(o, 1)
        )
    with pytest.raises(SettingsError, match=r"one schedule.*3 iterations of `warmup`"):
        MetaStep(made, TrainingSettings(warmup=3), scheduler=lambda o: lr_scheduler.StepLR(o, 1))
    with pytest.raises(SettingsError, match="or an `update`; got both"):
        OuterLoop(
            made, Sine(), plain, tmp_path, update=MetaStep(made, plain), optimizer=torch.optim.AdamW
        )
    with pytest.raises(SettingsError, match="schedule StepLR counts optimiser steps"):
        settings = TrainingSettings(schedule="StepLR", schedule_options=("step_size=1",))
        ProximalSettings().build(made, settings)


class ByEpoch:
    """A scheduler that is stepped with a number, as those of timm."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self, epoch, metric=None):
        pass

    def state_dict(self):
        return {}


def test_schedulers_that_are_not_usable_are_refused():
    made, settings = learner(), TrainingSettings(iterations=5, device="cpu")
    other = torch.optim.SGD([torch.zeros(1)], 0.1)

    def one_cycle(steps):
        return lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=steps)

    for scheduler, message in (
        (lr_scheduler.CosineAnnealingLR, "optimiser alone, and raises TypeError.*T_max"),
        (lambda o: None, "a function that returns NoneType"),
        (lambda o: lr_scheduler.StepLR(other, 1), "a StepLR of another one"),
        (lr_scheduler.StepLR(other, 1), "a StepLR of another one"),
        (one_cycle(4), "ends after 4 steps, and the run has 5 iterations"),
        (ByEpoch, "ByEpoch.step requires epoch"),
        (partial(lr_scheduler.ReduceLROnPlateau, mode="max"), "mean loss.*Use mode=.min"),
    ):
        with pytest.raises(SettingsError, match=message):
            MetaStep(made, settings, scheduler=scheduler)
    MetaStep(made, settings, scheduler=one_cycle(5))
    named = {"schedule": "OneCycleLR", "schedule_options": ("max_lr=0.1", "total_steps=4")}
    with pytest.raises(SettingsError, match="total_steps=5"):
        MetaStep(made, TrainingSettings(iterations=5, device="cpu", **named))


def test_a_checkpoint_of_a_gpu_is_resumed_on_the_cpu():
    made = learner()
    step = MetaStep(made, TrainingSettings(optimizer="rmsprop", outer_lr=0.25))
    trained(step, made, 1)
    state = step.state_dict()
    for group in state["param_groups"]:
        group["capturable"] = True  # as on a GPU; refused on the CPU
    step.load_state_dict(state)
    assert step.optimizer.param_groups[0]["capturable"] is False
    trained(step, made, 1, 1)


@pytest.mark.parametrize(
    ("schedule", "option", "message"),
    [
        ("StepLR", "step_size=0", r"StepLR\.step\(\) raises ZeroDivisionError"),
        ("CosineAnnealingLR", "T_max=0", r"CosineAnnealingLR\.step\(\) raises ZeroDivisionError"),
        ("ExponentialLR", "gamma='a'", r"ExponentialLR\.step\(\) raises TypeError"),
        ("ExponentialLR", "gamma=-0.5", r"at least 0, got -0\.0005 from ExponentialLR"),
        ("ExponentialLR", "gamma=1e400", "got inf from ExponentialLR at iteration 1"),
    ],
)
def test_schedulers_whose_options_give_no_rate_are_refused(schedule, option, message):
    made = learner()
    settings = TrainingSettings(schedule=schedule, schedule_options=(option,))
    with pytest.raises(SettingsError, match=message):
        trained(MetaStep(made, settings), made)


def test_a_scheduler_of_a_given_optimiser_may_be_given_itself():
    made = learner()
    optimizer = torch.optim.SGD(made.parameters(), lr=1e-4)
    scheduler = lr_scheduler.StepLR(optimizer, 2, gamma=0.1)
    ours = trained(MetaStep(made, TrainingSettings(), optimizer, scheduler), made)
    theirs, _ = by_hand(
        lambda m: torch.optim.SGD(m.parameters(), lr=1e-4),
        lambda o: lr_scheduler.StepLR(o, 2, gamma=0.1),
    )
    check_equal(ours, theirs)


class Sharpness(torch.optim.Optimizer):
    """Needs a closure, and does not say so in its signature."""

    def __init__(self, named, lr=0.1):
        super().__init__(named, {"lr": lr})

    def step(self, closure=None):
        assert closure is not None, "requires a closure"


def test_errors_of_a_step_are_explained():
    made = learner()
    with pytest.raises(SettingsError, match=r"Sharpness.step\(\) raises AssertionError.*closure"):
        trained(MetaStep(made, TrainingSettings(), Sharpness), made)


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free SGD (Defazio et al. 2024, equations 3 to 5): y for gradients, x for use."""

    beta = 0.9

    def __init__(self, named, lr=1e-4):
        super().__init__(named, {"lr": lr, "at_y": False, "k": 0})

    @torch.no_grad()
    def move(self, to_y):
        for group in self.param_groups:
            if group["at_y"] != to_y:
                for p in group["params"]:
                    z = self.state[p].setdefault("z", p.clone())
                    # y = (1 - beta) z + beta x
                    p.lerp_(z, 1 - self.beta if to_y else 1 - 1 / self.beta)
            group["at_y"] = to_y

    def train(self):
        self.move(True)

    def eval(self):
        self.move(False)

    @torch.no_grad()
    def step(self, closure=None):
        self.move(False)
        for group in self.param_groups:
            group["k"] += 1
            for p in group["params"]:
                z = self.state[p]["z"].sub_(group["lr"] * p.grad)
                p.lerp_(z, 1 / group["k"])
        self.move(True)


def test_optimisers_with_modes_leave_the_weights_that_are_used():
    made = learner()
    step = MetaStep(made, TrainingSettings(), ScheduleFree)
    ours = trained(step, made)
    x = [p.detach().clone() for p in learner().parameters()]
    z = [p.clone() for p in x]
    plain = learner()
    for i in range(4):
        with torch.no_grad():
            for p, a, b in zip(plain.parameters(), x, z, strict=True):
                p.copy_(0.1 * b + 0.9 * a)
        generator = torch.Generator().manual_seed(i)
        inputs = plain.collect(Sine().sample(3, generator), generator, i)
        grads = torch.autograd.grad(plain(inputs).losses.mean(), list(plain.parameters()))
        z = [b - 1e-4 * g for b, g in zip(z, grads, strict=True)]
        x = [a.lerp(b, 1 / (i + 1)) for a, b in zip(x, z, strict=True)]
    check_equal(ours, x)
    assert not step.optimizer.param_groups[0]["at_y"]


def test_optimisers_with_modes_are_refused_for_rollouts():
    made = learner()
    made.environment_steps = 0
    with pytest.raises(SettingsError, match="ScheduleFree takes gradients at other weights"):
        MetaStep(made, TrainingSettings(), ScheduleFree)
