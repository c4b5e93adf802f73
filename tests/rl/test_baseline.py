import pytest
import torch

from metarl.rl.baseline import LARGEST, PROJECTIONS, LinearBaseline
from metarl.trees import take_tasks

TASKS, EPISODES, STEPS, SIZE = 3, 20, 100, 2


@pytest.fixture
def observations(generator):
    return torch.randn(TASKS, EPISODES, STEPS, SIZE, generator=generator)


@pytest.fixture
def returns(observations):
    """Returns that are linear in the features, with weights of each task's own."""
    time = torch.arange(STEPS) / 100
    slopes = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-4.0, 0.0]]).view(TASKS, 1, 1, SIZE)
    squares = torch.tensor([0.3, -0.7, 2.0]).view(TASKS, 1, 1)
    trend = 5 - 3 * time + 2 * time.square() - time**3
    return (observations * slopes).sum(3) + squares * observations.square().sum(3) + trend


@pytest.fixture
def mask():
    """Episodes of several lengths."""
    lengths = torch.linspace(5, STEPS, EPISODES).long()
    return (torch.arange(STEPS) < lengths.unsqueeze(1)).float().expand(TASKS, -1, -1)


def errors(baseline, observations, returns, mask):
    return ((baseline.values(observations) - returns).abs() * mask).amax()


def test_recovers_returns_that_are_linear_in_its_features(observations, returns, mask):
    baseline = LinearBaseline.fit(observations, returns, mask)
    assert errors(baseline, observations, returns, torch.ones(())) < 2e-4  # unseen steps too
    values = baseline.values(observations)
    assert values.dtype == torch.float32
    assert baseline.weights.dtype == torch.float64
    assert baseline.weights.shape == (TASKS, 2 * SIZE + 4)


def test_batches_fit_as_one_task_after_the_other(observations, returns, mask):
    together = LinearBaseline.fit(observations, returns, mask)
    for t in range(TASKS):
        parts = take_tasks((observations, returns, mask), t, t + 1)
        alone = LinearBaseline.fit(*parts)
        torch.testing.assert_close(alone.weights, together.weights[t : t + 1])


def test_fits_as_least_squares_with_a_ridge(observations, returns, mask, generator):
    noisy = returns + torch.randn(returns.shape, generator=generator)
    got = LinearBaseline.fit(observations, noisy, mask).weights[0]
    o = observations[0].double()
    time = (torch.arange(STEPS, dtype=torch.double) / 100).expand(EPISODES, STEPS).unsqueeze(2)
    features = torch.cat((o, o**2, time, time**2, time**3, torch.ones_like(time)), 2)
    valid = mask[0] > 0
    x, y = features[valid], noisy[0].double()[valid]
    ridge = torch.sqrt(torch.tensor(1e-5, dtype=torch.double)) * torch.eye(x.shape[1])
    x, y = torch.cat((x, ridge)), torch.cat((y, torch.zeros(x.shape[1], dtype=torch.double)))
    torch.testing.assert_close(got, torch.linalg.lstsq(x, y.unsqueeze(1)).solution.squeeze(1))


def test_what_stands_after_the_end_counts_for_nothing(observations, returns, mask):
    expected = LinearBaseline.fit(observations, returns, mask).weights
    for garbage in (1e9, torch.inf, torch.nan):
        dirty = torch.where(mask > 0, returns, garbage)
        seen = torch.where(mask.unsqueeze(3) > 0, observations, garbage)
        torch.testing.assert_close(LinearBaseline.fit(seen, dirty, mask).weights, expected)
    torch.testing.assert_close(
        LinearBaseline.fit(observations, returns, mask > 0).weights, expected
    )


def test_predicts_the_end_of_an_episode_from_its_step(observations, returns):
    baseline = LinearBaseline.fit(observations, returns, torch.ones(TASKS, EPISODES, STEPS))
    tail = baseline.values(observations[:, :, 60:], first_step=60)
    torch.testing.assert_close(tail, baseline.values(observations)[:, :, 60:])


def make_hard(observations, kind):
    """Observations whose features depend on each other, or nearly."""
    hard = observations.clone()
    if kind == "constant":
        hard[:] = 3.0
    elif kind == "collinear":
        hard[..., 1] = hard[..., 0]
    elif kind == "nearly collinear":
        hard[..., 1] = hard[..., 0] * (1 + 1e-7)
    elif kind == "drifted":
        hard += torch.linspace(0, 1000, STEPS).view(-1, 1)  # leaves the clip at once
    elif kind == "offset":
        hard[..., 0] = 9.9 + 1e-6 * hard[..., 0]
    elif kind == "zero":
        hard[:] = 0
    elif kind == "infinite":
        hard[..., 0] = torch.inf
    return hard


KINDS = ["constant", "collinear", "nearly collinear", "drifted", "offset", "zero", "infinite"]


@pytest.mark.parametrize("kind", KINDS)
def test_survives_features_that_depend_on_each_other(kind, observations, mask):
    hard = make_hard(observations, kind)
    time = torch.arange(STEPS) / 100
    returns = (5 - 3 * time).expand(TASKS, EPISODES, STEPS)
    baseline = LinearBaseline.fit(hard, returns, mask)
    assert errors(baseline, hard, returns, mask) < 1e-3


def test_many_steps_of_nearly_equal_observations_leave_it_definite(generator):
    # Sums of squares against which a ridge of 1e-5 is rounding: the plain solve fails here.
    noise = 1e-7 * torch.randn(1, 20, 5000, 30, generator=generator)
    observations = 20 * torch.randn(1, 20, 5000, 1, generator=generator) * (1 + noise)
    returns = observations[..., 0].clamp(-10, 10)
    mask = torch.ones(1, 20, 5000)
    baseline = LinearBaseline.fit(observations, returns, mask)
    assert errors(baseline, observations, returns, mask) < 1e-3


def test_a_single_step_is_enough(observations, returns):
    mask = torch.zeros(TASKS, EPISODES, STEPS)
    mask[:, 0, 0] = 1
    baseline = LinearBaseline.fit(observations, returns, mask)
    assert errors(baseline, observations, returns, mask) < 1e-3


def test_large_observations_are_fitted_by_their_random_projections(generator):
    """A picture of 24 x 24 shows where a spot is; the return is a function of the place."""
    places = torch.randint(12, (TASKS, EPISODES, 30), generator=generator)
    pictures = torch.full((TASKS, EPISODES, 30, 24, 24), 0.1)
    columns = torch.arange(24) // 2
    spot = (columns == places.unsqueeze(-1)).float()
    pictures[..., 8:16, :] += 0.9 * spot.unsqueeze(-2)
    returns = -(places - 5.5).abs()
    mask = torch.ones(TASKS, EPISODES, 30)
    baseline = LinearBaseline.fit(pictures.flatten(3), returns, mask)
    assert baseline.weights.shape == (TASKS, 2 * PROJECTIONS + 4)
    assert errors(baseline, pictures.flatten(3), returns, mask) < 0.01
    double = LinearBaseline.fit(pictures.flatten(3).double(), returns.double(), mask)
    torch.testing.assert_close(double.weights, baseline.weights, rtol=1e-2, atol=1e-2)
    small = LinearBaseline.fit(pictures.flatten(3)[..., :LARGEST], returns, mask)
    assert small.weights.shape == (TASKS, 2 * LARGEST + 4)
