"""Vectors of one number for each of the calibrator's terms, in float64: what recursive least squares is made of.

Functions as in `simd`, for arrays whose rows are `N_TERMS` long. A row is several registers: LLVM takes a longer vector that is
carried from turn to turn apart into numbers, and puts it together again, at each turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import types

from factorstream.worker.kernels.simd import Emit, Value, emitted
from factorstream.worker.kernels.terms import N_TERMS

LANES = 8
"""Terms in a register; a row is a whole number of them."""
AT_ONCE = 2
"""Rows whose sums do not wait for each other."""

_DOUBLE, _I32, _I64 = ir.DoubleType(), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_DOUBLE, LANES)
_ZERO = ir.Constant(_VECTOR, [0.0] * LANES)
_N_PARTS = N_TERMS // LANES

Parts = list[Any]
"""A row: one vector after another."""


class EmitTerms(Emit):
    """An LLVM builder that speaks of rows."""

    def load_row(self, address: Value) -> Parts:
        return [self.builder.load(place, align=8) for place in self._places(address)]

    def store_row(self, row: Parts, address: Value) -> None:
        for part, place in zip(row, self._places(address), strict=True):
            self.builder.store(part, place, align=8)

    def _places(self, address: Value) -> list[Value]:
        builder = self.builder
        parts = [builder.gep(address, [_I64(LANES * k)]) for k in range(_N_PARTS)]
        return [builder.bitcast(part, _VECTOR.as_pointer()) for part in parts]

    def splat(self, scalar: Value) -> Value:
        first = self.builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), scalar, _I32(0))
        return self.builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES))

    def multiply_add(self, x: Value, y: Value, z: Value) -> Value:
        return self.call(f"llvm.fmuladd.v{LANES}f64", _VECTOR, x, y, z)

    def add_scaled_row(self, sums: Parts, scale: Value, row: Parts) -> Parts:
        """Return *sums* and *row* times *scale*, a scalar."""
        scales = self.splat(scale)
        return [self.multiply_add(scales, part, total) for part, total in zip(row, sums, strict=True)]

    def sum(self, vector: Value) -> Value:
        """Return the sum of the lanes, added as a tree."""
        width = LANES
        while width > 1:
            width //= 2
            turned = ir.Constant(ir.VectorType(_I32, LANES), [(lane + width) % LANES for lane in range(LANES)])
            vector = self.builder.fadd(vector, self.builder.shuffle_vector(vector, vector, turned))
        return self.builder.extract_element(vector, _I32(0))


@emitted
def dot_terms(typing: Any, x: Any, y: Any) -> Any:
    """Return ``x @ y``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit, total = EmitTerms(context, builder), _ZERO
        rows = [emit.load_row(emit.at(kind, array, _I64(0))) for kind, array in zip(signature.args, args, strict=True)]
        for one, other in zip(*rows, strict=True):
            total = emit.multiply_add(one, other, total)
        return emit.sum(total)

    return types.float64(x, y), codegen


@emitted
def weigh_rows(typing: Any, matrix: Any, weights: Any, out: Any) -> Any:
    """``out[:] = weights @ matrix``; *out* is another array."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = EmitTerms(context, builder)
        first, scales, target = (emit.at(kind, array, _I64(0)) for kind, array in zip(signature.args, args, strict=True))

        def add(r: Value, sums: Sequence[Value]) -> Sequence[Value]:
            added = []
            for k in range(AT_ONCE):
                at = builder.add(r, _I64(k))
                row = emit.load_row(builder.gep(first, [builder.mul(at, _I64(N_TERMS))]))
                before = list(sums[k * _N_PARTS : (k + 1) * _N_PARTS])
                added += emit.add_scaled_row(before, builder.load(builder.gep(scales, [at])), row)
            return added

        sums = emit.loop(_I64(N_TERMS), AT_ONCE, [_ZERO] * (AT_ONCE * _N_PARTS), add)
        emit.store_row([builder.fadd(*pair) for pair in zip(sums[:_N_PARTS], sums[_N_PARTS:], strict=True)], target)
        return context.get_dummy_value()

    return types.void(matrix, weights, out), codegen


@emitted
def take_square(typing: Any, matrix: Any, x: Any) -> Any:
    """``matrix -= x xᵀ``; the same bits for (r, k) and (k, r)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = EmitTerms(context, builder)
        first, factors = (emit.at(kind, array, _I64(0)) for kind, array in zip(signature.args, args, strict=True))
        minus = [builder.fneg(part) for part in emit.load_row(factors)]

        def take(r: Value, _: Sequence[Value]) -> Sequence[Value]:
            address = builder.gep(first, [builder.mul(r, _I64(N_TERMS))])
            emit.store_row(emit.add_scaled_row(emit.load_row(address), builder.load(builder.gep(factors, [r])), minus), address)
            return []

        emit.loop(_I64(N_TERMS), 1, [], take)
        return context.get_dummy_value()

    return types.void(matrix, x), codegen
