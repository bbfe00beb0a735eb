"""Vectors of one number for each of the calibrator's terms, in float64: what recursive least squares is made of.

Functions as in `simd`, for arrays whose rows are `N_TERMS` long; LLVM makes registers of one such vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import types

from factorstream.worker.kernels.simd import Emit, Value, emitted
from factorstream.worker.kernels.terms import N_TERMS

_DOUBLE, _I32, _I64 = ir.DoubleType(), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_DOUBLE, N_TERMS)
_ZERO = ir.Constant(_VECTOR, [0.0] * N_TERMS)


class EmitTerms(Emit):
    """An LLVM builder that speaks of these vectors."""

    def load(self, address: Value, mask: Value = None) -> Value:
        return self.builder.load(self.builder.bitcast(address, _VECTOR.as_pointer()), align=8)

    def store(self, vector: Value, address: Value, mask: Value = None) -> None:
        self.builder.store(vector, self.builder.bitcast(address, _VECTOR.as_pointer()), align=8)

    def splat(self, scalar: Value) -> Value:
        first = self.builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), scalar, _I32(0))
        return self.builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_I32, N_TERMS), [0] * N_TERMS))

    def multiply_add(self, x: Value, y: Value, z: Value) -> Value:
        return self.call(f"llvm.fmuladd.v{N_TERMS}f64", _VECTOR, x, y, z)

    def sum(self, vector: Value) -> Value:
        """Return the sum of the elements, added as a tree."""
        builder = self.builder
        parts = [builder.extract_element(vector, _I32(k)) for k in range(N_TERMS)]
        while len(parts) > 1:
            half = (len(parts) + 1) // 2
            added = [builder.fadd(a, b) for a, b in zip(parts[: len(parts) - half], parts[half:], strict=True)]
            parts = added + parts[len(added) : half]
        return parts[0]


@emitted
def dot_terms(typing: Any, x: Any, y: Any) -> Any:
    """Return ``x @ y``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = EmitTerms(context, builder)
        p, q = (emit.load(emit.at(kind, array, _I64(0))) for kind, array in zip(signature.args, args, strict=True))
        return emit.sum(builder.fmul(p, q))

    return types.float64(x, y), codegen


@emitted
def weigh_rows(typing: Any, matrix: Any, weights: Any, out: Any) -> Any:
    """``out[:] = weights @ matrix``; *out* is another array."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = EmitTerms(context, builder)
        first, scales, target = (emit.at(kind, array, _I64(0)) for kind, array in zip(signature.args, args, strict=True))

        def add(r: Value, sums: Sequence[Value]) -> Sequence[Value]:
            row = emit.load(builder.gep(first, [builder.mul(r, _I64(N_TERMS))]))
            return [emit.multiply_add(emit.splat(builder.load(builder.gep(scales, [r]))), row, sums[0])]

        emit.store(emit.loop(_I64(N_TERMS), 1, [_ZERO], add)[0], target)
        return context.get_dummy_value()

    return types.void(matrix, weights, out), codegen


@emitted
def take_square(typing: Any, matrix: Any, x: Any) -> Any:
    """``matrix -= x xᵀ``; the same bits for (r, k) and (k, r)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = EmitTerms(context, builder)
        first, factors = (emit.at(kind, array, _I64(0)) for kind, array in zip(signature.args, args, strict=True))
        minus = builder.fneg(emit.load(factors))

        def take(r: Value, _: Sequence[Value]) -> Sequence[Value]:
            address = builder.gep(first, [builder.mul(r, _I64(N_TERMS))])
            scale = emit.splat(builder.load(builder.gep(factors, [r])))
            emit.store(emit.multiply_add(minus, scale, emit.load(address)), address)
            return []

        emit.loop(_I64(N_TERMS), 1, [], take)
        return context.get_dummy_value()

    return types.void(matrix, x), codegen
