import pytest
import torch
from torch.overrides import TorchFunctionMode

from metarl.rl.conjugate_gradient import conjugate_gradient, solve_by_masks

SIZE = 12


@pytest.fixture
def matrix(generator):
    root = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.double)
    return root @ root.T + torch.eye(SIZE)


@pytest.fixture
def target(generator):
    return torch.randn(SIZE, generator=generator, dtype=torch.double)


class Counted:
    """A matrix that counts its products."""

    def __init__(self, matrix):
        self.matrix = matrix
        self.products = 0

    def __call__(self, vector):
        self.products += 1
        return self.matrix @ vector


def test_solves_a_known_system(matrix, target):
    result = conjugate_gradient(Counted(matrix), target, iterations=3 * SIZE, tolerance=1e-10)
    torch.testing.assert_close(result.solution, torch.linalg.solve(matrix, target))
    assert 0 < result.iterations < 3 * SIZE


@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_the_residual_is_what_the_solution_leaves(matrix, target, iterations):
    result = conjugate_gradient(Counted(matrix), target, iterations)
    torch.testing.assert_close(result.residual, target - matrix @ result.solution)


def test_takes_as_many_steps_as_there_are_eigenvalues(target):
    product = Counted(torch.diag(torch.tensor([1.0, 2.0, 3.0] * 4, dtype=torch.double)))
    result = conjugate_gradient(product, target, tolerance=1e-8)
    assert result.iterations == 3
    assert product.products == 3, "a product after it had converged"


def test_stops_at_the_tolerance_whatever_the_scale(matrix, target):
    results = [
        conjugate_gradient(Counted(matrix), scale * target, 2 * SIZE, tolerance=0.1)
        for scale in (1e-9, 1.0, 1e9)
    ]
    assert len({r.iterations for r in results}) == 1
    residual = matrix @ results[1].solution - target
    assert residual.norm() <= 0.1 * target.norm()
    assert results[1].iterations < SIZE


def test_more_iterations_come_nearer_in_the_norm_of_the_matrix(matrix, target):
    exact = torch.linalg.solve(matrix, target)
    errors = []
    for iterations in range(6):
        result = conjugate_gradient(Counted(matrix), target, iterations)
        assert result.iterations == iterations
        error = result.solution - exact
        errors.append((error @ matrix @ error).item())
    assert errors == sorted(errors, reverse=True)


def test_keeps_what_it_has_where_the_curvature_turns_negative(matrix, target):
    values, vectors = torch.linalg.eigh(matrix)
    values[0] = -0.5
    indefinite = vectors @ torch.diag(values) @ vectors.T
    stopped = conjugate_gradient(Counted(indefinite), target, 5 * SIZE, tolerance=1e-12)
    assert 0 < stopped.iterations < 5 * SIZE
    again = conjugate_gradient(Counted(indefinite), target, stopped.iterations)
    torch.testing.assert_close(stopped.solution, again.solution, rtol=0, atol=0)
    assert target @ stopped.solution > 0


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_nothing_moves_along_a_first_direction_that_is_not_usable(target, value):
    result = conjugate_gradient(lambda v: value * v, target)
    assert result.iterations == 0
    torch.testing.assert_close(result.solution, torch.zeros_like(target), rtol=0, atol=0)


def test_a_product_that_breaks_down_later_leaves_the_steps_before_it(matrix, target):
    product = Counted(matrix)

    def breaking(vector):
        image = product(vector)
        return image * torch.nan if product.products > 2 else image

    result = conjugate_gradient(breaking, target)
    assert result.iterations == 2
    expected = conjugate_gradient(Counted(matrix), target, 2).solution
    torch.testing.assert_close(result.solution, expected, rtol=0, atol=0)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_target_without_a_direction_needs_no_product(matrix, target, value):
    product = Counted(matrix)
    result = conjugate_gradient(product, value * target)
    assert product.products == 0
    assert not result.solution.any()


def broken(matrix, after, value):
    """Products with a matrix, which after some are not what they should be."""
    calls = []

    def product(vector):
        calls.append(vector)
        return matrix @ vector * (value if len(calls) > after else 1.0)

    return product


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tolerance", [1e-5, 0.1, 0.0])
@pytest.mark.parametrize(
    ("after", "value"),
    [(99, 1.0), (0, -1.0), (2, -1.0), (2, float("nan")), (1, float("inf")), (3, 0.0)],
)
def test_masks_give_the_same_result_to_the_bit(matrix, target, after, value, tolerance, dtype):
    matrix, target = matrix.to(dtype), target.to(dtype)
    expected = conjugate_gradient(broken(matrix, after, value), target, 2 * SIZE, tolerance)
    got = solve_by_masks(broken(matrix, after, value), target, 2 * SIZE, tolerance)
    assert torch.equal(got.solution, expected.solution)
    assert torch.equal(got.residual, expected.residual)
    assert int(got.iterations) == expected.iterations


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf"), 1e-30])
def test_masks_take_targets_that_cannot_be_solved(matrix, target, scale):
    matrix, target = matrix.float(), scale * target.float()
    expected = conjugate_gradient(Counted(matrix), target, 5)
    got = solve_by_masks(Counted(matrix), target, 5, 1e-5)
    assert torch.equal(got.solution, expected.solution)
    assert torch.equal(got.residual.isnan(), expected.residual.isnan())
    assert int(got.iterations) == expected.iterations


class Reads(TorchFunctionMode):
    """Refuses what would make the host wait for a GPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Runs an operation unless it reads a number."""
        assert func not in (torch.Tensor.item, torch.Tensor.__bool__, torch.Tensor.tolist), func
        return func(*args, **(kwargs or {}))


def test_masks_read_nothing(matrix, target):
    with Reads():
        solve_by_masks(lambda v: matrix @ v, target, 4, 1e-5)
    with Reads(), pytest.raises(AssertionError, match="__bool__"):
        conjugate_gradient(lambda v: matrix @ v, target, 4)
