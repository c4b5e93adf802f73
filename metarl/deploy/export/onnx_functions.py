"""ONNX functions of operators that torch's exporter does not translate.

The Cholesky factorisation and the solution with it are loops over rows, for a batch of one matrix,
[1, K, K]; so is the inverse, for any batch. Python does not execute the functions marked `script`:
onnxscript translates them.
"""

from __future__ import annotations

# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportIndexIssue=false, reportReturnType=false, reportOptionalOperand=false
# pyright: reportMissingImports=false
from typing import Any

from onnxscript import opset18 as op
from onnxscript import script
from onnxscript.onnx_types import DOUBLE, FLOAT


@script()
def cholesky(matrix: DOUBLE) -> DOUBLE:
    """Returns the lower factor L [1, K, K] of a positive definite matrix A = L L^T."""
    first = op.Constant(value_ints=[0])
    second = op.Constant(value_ints=[1])
    rest = op.Squeeze(matrix, first)
    size = op.Squeeze(op.Shape(rest, start=0, end=1))
    one = op.Constant(value_int=1)
    index = op.Range(op.Constant(value_int=0), size, one)
    lower = rest - rest
    for j in range(size):
        row = op.Gather(rest, j, axis=0)
        own = op.Cast(op.Equal(index, j), to=DOUBLE.dtype)
        below = op.Cast(op.GreaterOrEqual(index, j), to=DOUBLE.dtype)
        # l_j = A_j / sqrt(A_jj) from the diagonal on;  A <- A - l_j l_j^T
        column = below * row / op.Sqrt(op.Gather(row, j, axis=0))
        down = op.Unsqueeze(column, second)
        rest = rest - down * op.Unsqueeze(column, first)
        lower = lower + down * op.Unsqueeze(own, first)
    return op.Unsqueeze(lower, first)


def cholesky_ex(matrix: Any, upper: bool = False, check_errors: bool = False) -> tuple[Any, Any]:
    """Returns the lower factor, and 0 for success; it is executed, as a call of the above."""
    del upper, check_errors
    return cholesky(matrix), op.Constant(value_ints=[0])


@script()
def substitution(right: DOUBLE, factor: DOUBLE) -> DOUBLE:
    """Solves L L^T x = b for the lower factor L [1, K, K] and b [1, K, 1]."""
    first = op.Constant(value_ints=[0])
    both = op.Constant(value_ints=[0, 2])
    lower = op.Squeeze(factor, first)
    rest = op.Squeeze(right, both)
    size = op.Squeeze(op.Shape(rest, start=0, end=1))
    one = op.Constant(value_int=1)
    index = op.Range(op.Constant(value_int=0), size, one)
    half = rest - rest
    for j in range(size):  # L y = b, from the first row on
        column = op.Gather(lower, j, axis=1)
        value = op.Gather(rest, j, axis=0) / op.Gather(column, j, axis=0)
        half = half + op.Cast(op.Equal(index, j), to=DOUBLE.dtype) * value
        rest = rest - column * value
    rest = half
    solution = half - half
    for k in range(size):  # L^T x = y, from the last row on
        i = size - one - k
        row = op.Gather(lower, i, axis=0)
        value = op.Gather(rest, i, axis=0) / op.Gather(row, i, axis=0)
        solution = solution + op.Cast(op.Equal(index, i), to=DOUBLE.dtype) * value
        rest = rest - row * value
    return op.Unsqueeze(solution, both)


def cholesky_solve(right: Any, factor: Any, upper: bool = False) -> Any:
    """Solves A x = b for the lower factor of A; it is executed, as a call of the above."""
    del upper
    return substitution(right, factor)


@script()
def gauss_jordan(matrices: FLOAT) -> FLOAT:
    """Returns the inverses of matrices [..., K, K], with partial pivoting."""
    last = op.Constant(value_ints=[-1])
    second = op.Constant(value_ints=[-2])
    size = op.Squeeze(op.Shape(matrices, start=-1))
    index = op.Range(op.Constant(value_int=0), size, op.Constant(value_int=1))
    identity = op.CastLike(op.Equal(op.Unsqueeze(index, last), index), matrices)
    rest = matrices
    inverse = op.Expand(identity, op.Shape(matrices))
    for j in range(size):
        # The row p with the largest pivot from row j on changes places with row j.
        own = op.CastLike(op.Equal(index, j), matrices)
        below = op.CastLike(op.GreaterOrEqual(index, j), matrices)
        sizes = below * (op.Abs(op.Gather(rest, j, axis=-1)) + 1.0)
        largest = op.ArgMax(sizes, axis=-1, keepdims=1)
        chosen = op.CastLike(op.Equal(index, largest), matrices)
        swap = op.Unsqueeze(own - chosen, last)
        pick = op.Unsqueeze(chosen, second)
        row = op.Gather(rest, j, axis=-2)
        other = op.Gather(inverse, j, axis=-2)
        best = op.Squeeze(op.MatMul(pick, rest), second)
        best_other = op.Squeeze(op.MatMul(pick, inverse), second)
        rest = rest + swap * op.Unsqueeze(best - row, second)
        inverse = inverse + swap * op.Unsqueeze(best_other - other, second)
        # A <- A - (A e_j - e_j) (e_j^T A / A_jj), which makes column j of A that of the identity
        pivot = op.Unsqueeze(op.Gather(best, j, axis=-1), last)
        column = op.Unsqueeze(op.Gather(rest, j, axis=-1) - own, last)
        rest = rest - column * op.Unsqueeze(best / pivot, second)
        inverse = inverse - column * op.Unsqueeze(best_other / pivot, second)
    return inverse


def inv_ex(matrices: Any, check_errors: bool = False) -> tuple[Any, Any]:
    """Returns the inverses, and 0 for success; it is executed, as a call of the above."""
    del check_errors
    return gauss_jordan(matrices), op.Constant(value_ints=[0])


def stable_sort(
    values: Any, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Any, Any]:
    """Sorts; equal values stay in their order, as ONNX says of TopK. It is executed."""
    del stable
    count = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
    return op.TopK(values, count, axis=dim, largest=int(descending), sorted=1)
