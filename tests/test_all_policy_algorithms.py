"""One contract that every algorithm passes on control tasks."""

import pytest
import torch
from metarl_envs.navigation import Navigation2D

from metarl.adaptation import algorithms as s
from metarl.errors import SettingsError, ShapeError
from metarl.evaluation.curves import adaptation_curve
from metarl.rl.policies import policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.problem import ControlProblem
from metarl.rl.settings import PolicyGradientSettings
from metarl.rl.trials.recurrent_learner import RL2Algorithm
from metarl.rl.trials.trial_settings import TrialSettings
from metarl.rl.trials.varibad import VariBADAlgorithm
from metarl.sim import make_family
from metarl.training.meta_step import GradientUpdateSettings
from metarl.training.proximal import ProximalSettings
from metarl.training.settings import TrainingSettings
from metarl.training.trust_region import TrustRegionSettings
from metarl.trees import to_device
from tests.devices import assert_rounding, deterministic_algorithms, on_cuda

BODY = ("network.layers.0.*",)
ALGORITHMS = {
    "maml": s.MAMLAlgorithm(0.5),
    "maml-3-steps": s.MAMLAlgorithm(0.5, steps=3),
    "fomaml": s.MAMLAlgorithm(0.5, first_order=True),
    "metasgd": s.MetaSGDAlgorithm(),
    "mamlplusplus": s.MAMLPlusPlusAlgorithm(0.1, steps=2, multi_step_iterations=5, frozen=()),
    "reptile": s.ReptileAlgorithm(0.01, steps=2, batch_size=None),
    "lstm": s.LSTMMetaLearnerAlgorithm(steps=2),
    "learned-optimizer": s.LearnedOptimizerAlgorithm(steps=2, unroll=2),
    "learned-optimizer-fresh": s.LearnedOptimizerAlgorithm(steps=2, unroll=2, fresh_start=True),
    "pretrained": s.PretrainedAlgorithm(),
    "anil": s.ANILAlgorithm(0.5),
    "boil": s.BOILAlgorithm(0.5),
    "reptile-frozen": s.ReptileAlgorithm(0.01, steps=2, batch_size=None, frozen=BODY),
    "metasgd-frozen": s.MetaSGDAlgorithm(frozen=BODY),
    "lstm-frozen": s.LSTMMetaLearnerAlgorithm(steps=2, frozen=BODY),
    "learned-optimizer-frozen": s.LearnedOptimizerAlgorithm(steps=2, unroll=2, frozen=BODY),
    "rl2": RL2Algorithm(episodes=2, units=6),
    "varibad": VariBADAlgorithm(episodes=2, units=6, latent=2, decoder=(5,)),
    "varibad-observations": VariBADAlgorithm(
        episodes=2,
        units=6,
        latent=2,
        decoder=(5, 4),
        observation_weight=0.5,
        elbo_terms=3,
        decoded_steps=4,
        rl_reaches_encoder=True,
    ),
}
UPDATES = {
    "trpo": TrustRegionSettings(),
    "promp": ProximalSettings(2),
    "adam": GradientUpdateSettings(),
}
WITHOUT_TRUST_REGION = {
    "reptile": "a distance is no objective for it",
    "reptile-frozen": "a distance is no objective for it",
    "rl2": "it is for policies that adapt by gradients",
    "varibad": "it is for policies that adapt by gradients",
    "varibad-observations": "it is for policies that adapt by gradients",
}
FAMILIES = {
    "navigation": lambda: Navigation2D(horizon=5),
    "bandit": lambda: make_family("Bandit-v1"),
}


@pytest.fixture(params=ALGORITHMS)
def name(request):
    return request.param


def build(name, family, seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    chosen = ALGORITHMS[name]
    settings = PolicyGradientSettings(**{"trajectories": 3, **settings})
    if isinstance(chosen, TrialSettings):
        return chosen.build(ControlProblem(family, generator, settings, (6,))), generator
    policy = policy_for(family, generator, hidden=(6,), activation="tanh")
    return PolicyLearner(chosen.adaptation(policy, generator), family, settings), generator


@pytest.fixture
def deterministic_cuda():
    """Deterministic algorithms on CUDA, for one test."""
    with deterministic_algorithms():
        yield


def train(name, where="navigation", update="adam", iterations=2, chunk=None):
    family = FAMILIES[where]()
    learner, generator = build(name, family)
    learner.task_chunk_size = chunk
    rate = {} if update == "trpo" else {"outer_lr": 0.01}
    training = TrainingSettings(**rate, task_chunk_size=chunk)
    outer = UPDATES[update].build(learner, training)
    results = []
    for i in range(iterations):
        inputs = learner.collect(family.sample(4, generator), generator, i)
        results.append(outer(inputs, i))
        learner.after_update(results[-1].carry)
    return learner, results


@pytest.mark.parametrize("where", FAMILIES)
def test_it_trains_what_it_has(name, where):
    before = {n: p.clone() for n, p in build(name, FAMILIES[where]())[0].state_dict().items()}
    learner, results = train(name, where)
    assert all(r.finite and r.losses.shape == (4,) for r in results)
    moved = [n for n, p in learner.named_parameters() if not torch.equal(p, before[n])]
    trained = [n for n, p in learner.named_parameters() if p.requires_grad]
    assert moved == trained


@pytest.mark.parametrize("update", ["trpo", "promp"])
def test_every_outer_update_serves_it(name, update):
    if name in WITHOUT_TRUST_REGION and update == "trpo":
        pytest.skip(f"a trust region is refused: {WITHOUT_TRUST_REGION[name]}")
    _, results = train(name, update=update)
    assert all(r.finite for r in results)


def test_the_same_seed_gives_the_same_weights(name):
    first, second = (train(name)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_chunks_change_nothing_but_memory(name):
    whole, parts = train(name, iterations=1)[1], train(name, iterations=1, chunk=2)[1]
    torch.testing.assert_close(whole[0].losses, parts[0].losses, rtol=1e-3, atol=1e-4)


def test_it_is_judged_by_returns_after_every_step(name):
    family = FAMILIES["navigation"]()
    learner, generator = build(name, family)
    before = {n: p.clone() for n, p in learner.state_dict().items()}
    curve = adaptation_curve(learner, family, num_tasks=5, steps=3, generator=generator)
    assert not curve.transductive
    assert curve.metric == "return"
    assert curve.values.shape == (4, 5)
    assert (curve.values < 0).all()
    assert not curve.values.requires_grad
    assert all(torch.equal(p, before[n]) for n, p in learner.state_dict().items())


@pytest.mark.parametrize("update", ["trpo", "promp", "adam"])
def test_parameters_that_require_no_gradient_are_left_by_both_loops(name, update):
    if name in WITHOUT_TRUST_REGION and update == "trpo":
        pytest.skip(f"a trust region is refused: {WITHOUT_TRUST_REGION[name]}")
    family = FAMILIES["navigation"]()
    options = ALGORITHMS[name]
    if isinstance(options, TrialSettings):
        pytest.skip("it has no inner loop")
    generator = torch.Generator().manual_seed(0)
    policy = policy_for(family, generator, hidden=(6,), activation="tanh")
    frozen = {n: p.requires_grad_(False) for n, p in policy.named_parameters() if ".0." in n}
    before = {n: p.clone() for n, p in frozen.items()}
    learner = PolicyLearner(
        options.adaptation(policy, generator), family, PolicyGradientSettings(trajectories=3)
    )
    rate = {} if update == "trpo" else {"outer_lr": 0.01}
    outer = UPDATES[update].build(learner, TrainingSettings(**rate))
    inputs = learner.collect(family.sample(4, generator), generator, 0)
    assert outer(inputs, 0).finite
    params, _ = learner.adapted(family.sample(2, generator), 2, generator)
    for n, p in frozen.items():
        assert torch.equal(p, before[n]), n
        assert torch.equal(params[n], p.expand_as(params[n])), n
    rest = [p for n, p in params.items() if n not in frozen]
    assert any(not torch.equal(p[0], p[1]) for p in rest), "the rest adapts"


def test_worlds_refuse_other_types_than_float32(name):
    family = FAMILIES["navigation"]()
    learner, generator = build(name, family)
    tasks = family.sample(2, generator)
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(SettingsError, match=r"default type is torch\.float64"):
            learner.collect(tasks, generator, 0)
    finally:
        torch.set_default_dtype(torch.float32)
    with pytest.raises(ShapeError, match=r"float32.*got torch.float64.*\.float\(\)"):
        learner.double().collect(tasks, generator, 0)


# On a GPU


def updated_on(name, update, device):
    """One outer update, on a device, with inputs that the CPU has collected."""
    family = FAMILIES["navigation"]()
    learner, generator = build(name, family)
    inputs = learner.collect(family.sample(4, generator), generator, 0)
    learner.to(device)
    rate = {} if update == "trpo" else {"outer_lr": 0.01}
    result = UPDATES[update].build(learner, TrainingSettings(**rate))(to_device(inputs, device), 0)
    return learner, [result]


@pytest.mark.gpu
@pytest.mark.parametrize("update", UPDATES)
def test_an_iteration_on_cuda_is_the_cpus_up_to_rounding(name, update):
    if name in WITHOUT_TRUST_REGION and update == "trpo":
        pytest.skip(f"a trust region is refused: {WITHOUT_TRUST_REGION[name]}")
    runs = [updated_on(name, update, d) for d in (torch.device("cpu"), on_cuda())]
    assert_rounding(*runs, gradients=update != "promp")  # its last gradient is after a step


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation")
@pytest.mark.parametrize("where", FAMILIES)
def test_the_same_seed_on_cuda_gives_the_same_weights(name, where, deterministic_cuda):
    runs = []
    for _ in range(2):
        family = FAMILIES[where]()
        learner, _ = build(name, family)
        learner.to(on_cuda())
        generator = torch.Generator(on_cuda()).manual_seed(1)
        outer = UPDATES["adam"].build(learner, TrainingSettings(outer_lr=0.01))
        for i in range(2):
            inputs = learner.collect(family.sample(4, generator), generator, i)
            learner.after_update(outer(inputs, i).carry)
        runs.append(learner.state_dict())
    assert all(torch.equal(runs[0][n], runs[1][n]) for n in runs[0])
