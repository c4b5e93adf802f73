"""ONNX functions of operators that torch's exporter does not translate.

The Cholesky factorisation and the solution with it are loops over rows, for a batch of one matrix,
[1, K, K]. Python does not execute the functions marked `script`: onnxscript translates them.
"""

from __future__ import annotations

# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportIndexIssue=false, reportReturnType=false, reportOptionalOperand=false
# pyright: reportMissingImports=false
from typing import Any

from onnxscript import opset18 as op
from onnxscript import script
from onnxscript.onnx_types import DOUBLE


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


def stable_sort(
    values: Any, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Any, Any]:
    """Sorts; equal values stay in their order, as ONNX says of TopK. It is executed."""
    del stable
    count = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
    return op.TopK(values, count, axis=dim, largest=int(descending), sorted=1)
