"""Vectors of float32 in compiled loops: what numba's own vectoriser does not find, written in LLVM's terms.

Every function here is an `intrinsic`: it is called from `njit` code and becomes a few instructions there. Arrays are flat and
C-contiguous, positions are element offsets (int64). The order of additions is fixed by these loops alone, so the same numbers
give the same bits wherever a row lies and however many threads run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, cast

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from factorstream.worker.kernels.compiled import LANES, SECOND_LEVEL

BLOCK = 4
"""Rows and columns that `factor_block` keeps in registers."""

_FLOAT = ir.FloatType()
_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_ZERO, _ONES = (ir.Constant(_VECTOR, [number] * LANES) for number in (0.0, 1.0))
_LANE_NUMBERS = ir.Constant(ir.VectorType(_I32, LANES), list(range(LANES)))

HAS_MASKS = bool(binding.get_host_cpu_features().get("avx512f"))
"""Whether masked stores are instructions. AVX2's take tens of them each on some processors."""

STRIP = LANES if HAS_MASKS else 4
"""Rows of a tile whose sums fit into the registers: 32 of AVX-512, 16 half as wide of AVX2."""

_loops = itertools.count()

Value = Any
"""An LLVM value (llvmlite ships no types)."""


def emitted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make *function*, which returns a signature and a code generator, callable in compiled code."""
    return cast(Callable[..., Any], intrinsic(function))


class Emit:
    """An LLVM builder that speaks of float32 vectors."""

    def __init__(self, context: Any, builder: Any) -> None:
        self.context, self.builder = context, builder
        self.n_left: Value = None
        """How many lanes the mask of a last vector lets through (`vectors`)."""

    def at(self, array_type: Any, array: Value, offset: Value) -> Value:
        """Return the address of ``array[offset]``."""
        return self.builder.gep(self.context.make_array(array_type)(self.context, self.builder, array).data, [offset])

    def load(self, address: Value, mask: Value = None) -> Value:
        """Load `LANES` floats; those that *mask* leaves out are not touched, and 0."""
        address = self.builder.bitcast(address, _VECTOR.as_pointer())
        if mask is None:
            return self.builder.load(address, align=4)
        return self.call(f"llvm.masked.load.v{LANES}f32.p0", _VECTOR, address, _I32(4), mask, _ZERO)

    def store(self, vector: Value, address: Value, mask: Value = None) -> None:
        """Store `LANES` floats, or those that *mask*, one of `vectors`, lets through; others are not touched."""
        address = self.builder.bitcast(address, _VECTOR.as_pointer())
        if mask is None:
            self.builder.store(vector, address, align=4)
        elif HAS_MASKS:
            self.call(f"llvm.masked.store.v{LANES}f32.p0", ir.VoidType(), vector, address, _I32(4), mask)
        else:
            self._store_first(vector, address, self.n_left)

    def _store_first(self, vector: Value, address: Value, n: Value) -> None:
        """Store the first *n* lanes, fewer than all, in pieces of 8, 4, 2 and 1."""
        builder, size = self.builder, LANES // 2
        address = builder.bitcast(address, _FLOAT.as_pointer())
        while size:
            before = builder.block
            with builder.if_then(builder.icmp_signed("!=", builder.and_(n, _I32(size)), _I32(0))):
                lanes = ir.Constant(ir.VectorType(_I32, size), list(range(size)))
                piece = builder.shuffle_vector(vector, vector, lanes)
                builder.store(piece, builder.bitcast(address, piece.type.as_pointer()), align=4)
                rest = self.shuffle(vector, vector, [(lane + size) % LANES for lane in range(LANES)])
                following, inside = builder.gep(address, [_I64(size)]), builder.block
            vector = self.merge((before, vector), (inside, rest))
            address = self.merge((before, address), (inside, following))
            size //= 2

    def splat(self, scalar: Value) -> Value:
        first = self.builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), scalar, _I32(0))
        return self.shuffle(first, first, [0] * LANES)

    def lane_is(self, position: Value, first: Value) -> Value:
        """Return the mask of the lane that holds *position*, where the first lane holds *first*."""
        return self.builder.icmp_signed("==", _LANE_NUMBERS, self._in_lanes(position, first))

    def lanes_from(self, position: Value, first: Value) -> Value:
        """Return the mask of the lanes that hold *position* or what comes after."""
        return self.builder.icmp_signed(">=", _LANE_NUMBERS, self._in_lanes(position, first))

    def _in_lanes(self, position: Value, first: Value) -> Value:
        builder = self.builder
        lane = builder.trunc(builder.sub(position, first), _I32)
        lanes = builder.insert_element(ir.Constant(_LANE_NUMBERS.type, ir.Undefined), lane, _I32(0))
        return builder.shuffle_vector(lanes, lanes, ir.Constant(_LANE_NUMBERS.type, [0] * LANES))

    def shuffle(self, x: Value, y: Value, lanes: Sequence[int]) -> Value:
        return self.builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(_I32, LANES), list(lanes)))

    def call(self, name: str, result: Any, *args: Value) -> Value:
        declared = ir.FunctionType(result, [arg.type for arg in args])
        function = cast(Any, cgutils).get_or_insert_function(self.builder.module, declared, name)
        return self.builder.call(function, args)

    def multiply_add(self, x: Value, y: Value, z: Value) -> Value:
        """Return x y + z, fused where the machine can."""
        return self.call(f"llvm.fmuladd.v{LANES}f32", _VECTOR, x, y, z)

    def minus_product(self, z: Value, x: Value, y: Value) -> Value:
        """Return z − x y."""
        return self.multiply_add(self.builder.fneg(x), y, z)

    def blend(self, a: Value, x: Value, b: Value, y: Value) -> Value:
        """Return a x + b y."""
        return self.multiply_add(a, x, self.builder.fmul(b, y))

    def vectors(
        self, n: Value, carried: Sequence[Value], body: Callable[[Value, Sequence[Value], Value], Sequence[Value]]
    ) -> list[Value]:
        """Run *body* on each vector of *n* floats: its place, what is carried, and the mask of the last if it is not full."""
        builder = self.builder
        whole = builder.and_(n, _I64(-LANES))
        carried = self.loop(whole, LANES, carried, lambda position, entering: body(position, entering, None))
        before = builder.block
        with builder.if_then(builder.icmp_signed("<", whole, n)):
            left = builder.trunc(builder.sub(n, whole), _I32)
            self.n_left = left
            first = builder.insert_element(ir.Constant(_LANE_NUMBERS.type, ir.Undefined), left, _I32(0))
            limit = builder.shuffle_vector(first, first, ir.Constant(_LANE_NUMBERS.type, [0] * LANES))
            results = body(whole, carried, builder.icmp_signed("<", _LANE_NUMBERS, limit))
            inside = builder.block
        return [self.merge((before, value), (inside, result)) for value, result in zip(carried, results, strict=True)]

    def not_unrolled(self) -> Value:
        """Return what tells LLVM to leave a loop rolled: rows are a few vectors, and copies only take time to compile."""
        module = self.builder.module
        loop = module.add_metadata([module.add_metadata(["llvm.loop.unroll.disable"]), _I32(next(_loops))])
        loop.operands = (loop, loop.operands[0])  # a loop's name is a node that names itself
        return loop

    def merge(self, *arriving: tuple[Any, Value]) -> Value:
        """Return the value that came with the block control came from."""
        phi = self.builder.phi(arriving[0][1].type)
        for block, value in arriving:
            phi.add_incoming(value, block)
        return phi

    def all_zero(self, vector: Value) -> Value:
        unequal = self.builder.fcmp_unordered("une", vector, _ZERO)
        return self.builder.icmp_unsigned("==", self.builder.bitcast(unequal, _I16), _I16(0))

    def sum(self, vector: Value) -> Value:
        """Return the sum of the lanes, added as a tree."""
        width = LANES
        while width > 1:
            width //= 2
            upper = self.shuffle(vector, vector, [(lane + width) % LANES for lane in range(LANES)])
            vector = self.builder.fadd(vector, upper)
        return self.builder.extract_element(vector, _I32(0))

    def loop(
        self, stop: Value, step: int, carried: Sequence[Value], body: Callable[[Value, Sequence[Value]], Sequence[Value]]
    ) -> list[Value]:
        """Run *body* for 0, step, 2 step … < *stop*, its results carried from turn to turn; return the last."""
        builder = self.builder
        before, inside, after = builder.block, builder.append_basic_block("turn"), builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed(">", stop, _I64(0)), inside, after)
        builder.position_at_end(inside)
        position = builder.phi(_I64)
        position.add_incoming(_I64(0), before)
        entering = [builder.phi(value.type) for value in carried]
        results = body(position, entering)
        following = builder.add(position, _I64(step))
        position.add_incoming(following, builder.block)
        for phi, value, result in zip(entering, carried, results, strict=True):
            phi.add_incoming(value, before)
            phi.add_incoming(result, builder.block)
        last = builder.block
        again = builder.cbranch(builder.icmp_signed("<", following, stop), inside, after)
        again.set_metadata("llvm.loop", self.not_unrolled())
        builder.position_at_end(after)
        return [self.merge((before, value), (last, result)) for value, result in zip(carried, results, strict=True)]


@emitted
def ask_for(typing: Any, array: Any, at: Any, n: Any) -> Any:
    """Ask for the cache lines of ``array[at:at + n]``, n > 0, which are needed soon (`compiled.SECOND_LEVEL`)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        first = emit.at(signature.args[0], args[0], args[1])

        def line(k: Value, _: Sequence[Value]) -> Sequence[Value]:
            address = builder.bitcast(builder.gep(first, [k]), ir.IntType(8).as_pointer())
            emit.call("llvm.prefetch.p0", ir.VoidType(), address, _I32(0), _I32(SECOND_LEVEL), _I32(1))
            return []

        emit.loop(args[2], LANES, [], line)
        line(builder.sub(args[2], _I64(1)), [])  # a row that begins inside a line ends inside one more
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), codegen


@emitted
def take_number(typing: Any, counter: Any) -> Any:
    """Return ``counter[0]`` and add one to it, as one step for all threads."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        address = Emit(context, builder).at(signature.args[0], args[0], _I64(0))
        return builder.atomic_rmw("add", address, _I64(1), "monotonic")

    return types.int64(counter), codegen


@emitted
def dot(typing: Any, x: Any, x_at: Any, y: Any, y_at: Any, n: Any) -> Any:
    """Return ``x[x_at:x_at + n] @ y[y_at:y_at + n]``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        p, q = emit.at(signature.args[0], args[0], args[1]), emit.at(signature.args[2], args[2], args[3])

        def add(k: Value, carried: Sequence[Value], mask: Value) -> Sequence[Value]:
            return [emit.multiply_add(emit.load(builder.gep(p, [k]), mask), emit.load(builder.gep(q, [k]), mask), carried[0])]

        return emit.sum(emit.vectors(args[4], [_ZERO], add)[0])

    return types.float32(x, types.int64, y, types.int64, types.int64), codegen


@emitted
def dot_and_norms(typing: Any, x: Any, x_at: Any, y: Any, y_at: Any, n: Any) -> Any:
    """Return ``x·y``, ``x·x`` and ``y·y`` of ``x[x_at:x_at + n]`` and ``y[y_at:y_at + n]``, read once."""
    returned = cast(Any, types).UniTuple(types.float32, 3)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        p, q = emit.at(signature.args[0], args[0], args[1]), emit.at(signature.args[2], args[2], args[3])

        def add(k: Value, sums: Sequence[Value], mask: Value) -> Sequence[Value]:
            x, y = emit.load(builder.gep(p, [k]), mask), emit.load(builder.gep(q, [k]), mask)
            return [emit.multiply_add(*pair, total) for pair, total in zip(((x, y), (x, x), (y, y)), sums, strict=True)]

        sums = [emit.sum(total) for total in emit.vectors(args[4], [_ZERO] * 3, add)]
        return context.make_tuple(builder, returned, sums)

    return returned(x, types.int64, y, types.int64, types.int64), codegen


@emitted
def add_scaled(typing: Any, y: Any, y_at: Any, scale: Any, x: Any, x_at: Any, n: Any) -> Any:
    """``y[y_at:y_at + n] += scale * x[x_at:x_at + n]``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        p, q = emit.at(signature.args[0], args[0], args[1]), emit.at(signature.args[3], args[3], args[4])
        factor = emit.splat(args[2])

        def add(k: Value, _: Sequence[Value], mask: Value) -> Sequence[Value]:
            address = builder.gep(p, [k])
            emit.store(emit.multiply_add(factor, emit.load(builder.gep(q, [k]), mask), emit.load(address, mask)), address, mask)
            return []

        emit.vectors(args[5], [], add)
        return context.get_dummy_value()

    return types.void(y, types.int64, types.float32, x, types.int64, types.int64), codegen


@emitted
def add_scaled_vector(typing: Any, y: Any, y_at: Any, scale: Any, x: Any, x_at: Any) -> Any:
    """Do what `add_scaled` does for n = `LANES`, without a loop."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        p, q = emit.at(signature.args[0], args[0], args[1]), emit.at(signature.args[3], args[3], args[4])
        emit.store(emit.multiply_add(emit.splat(args[2]), emit.load(q), emit.load(p)), p)
        return context.get_dummy_value()

    return types.void(y, types.int64, types.float32, x, types.int64), codegen


@emitted
def add_first(typing: Any, y: Any, y_at: Any, scale: Any, x: Any, x_at: Any, n: Any) -> Any:
    """``y[y_at:y_at + n] += scale * x[x_at:x_at + n]``; y has room for ``padded(n)``: what is behind n is written as it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        p, q = emit.at(signature.args[0], args[0], args[1]), emit.at(signature.args[3], args[3], args[4])
        factor = emit.splat(args[2])

        def add(k: Value, _: Sequence[Value], mask: Value) -> Sequence[Value]:
            address = builder.gep(p, [k])
            emit.store(emit.multiply_add(factor, emit.load(builder.gep(q, [k]), mask), emit.load(address)), address)
            return []

        emit.vectors(args[5], [], add)
        return context.get_dummy_value()

    return types.void(y, types.int64, types.float32, x, types.int64, types.int64), codegen


@emitted
def add_blend(typing: Any, y: Any, a: Any, x: Any, x_at: Any, n: Any, b: Any, z: Any, z_at: Any, m: Any) -> Any:
    """``y[:n] += a * x[x_at:x_at + n]`` and ``y[:m] += b * z[z_at:z_at + m]`` at once, n ≤ m.

    y has room for ``padded(m)``: what is behind m is written as it was.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        to, p, q = (
            emit.at(signature.args[0], args[0], _I64(0)),
            *(emit.at(signature.args[k], args[k], args[k + 1]) for k in (2, 6)),
        )
        a, b = emit.splat(args[1]), emit.splat(args[5])

        def add(k: Value, _: Sequence[Value], mask: Value) -> Sequence[Value]:
            address = builder.gep(to, [k])
            own = emit.load(builder.gep(p, [k]), builder.not_(emit.lanes_from(args[4], k)))
            total = emit.blend(a, own, b, emit.load(builder.gep(q, [k]), mask))
            emit.store(builder.fadd(emit.load(address), total), address)
            return []

        emit.vectors(args[8], [], add)
        return context.get_dummy_value()

    places = types.int64, types.int64
    return types.void(y, types.float32, x, *places, types.float32, z, *places), codegen


@emitted
def all_finite(typing: Any, x: Any, x_at: Any, n: Any) -> Any:
    """Return whether ``x[x_at:x_at + n]`` is finite throughout."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        first = emit.at(signature.args[0], args[0], args[1])

        def check(k: Value, carried: Sequence[Value], mask: Value) -> Sequence[Value]:
            return [emit.multiply_add(emit.load(builder.gep(first, [k]), mask), _ZERO, carried[0])]  # ∞ · 0 and NaN · 0 are NaN

        return emit.all_zero(emit.vectors(args[2], [_ZERO], check)[0])

    return types.boolean(x, types.int64, types.int64), codegen


@emitted
def can_step(typing: Any, x: Any, x_at: Any, y: Any, y_at: Any, n: Any, keep: Any, step: Any) -> Any:
    """Return whether ``keep x + step y`` is finite throughout."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        p, q = emit.at(signature.args[0], args[0], args[1]), emit.at(signature.args[2], args[2], args[3])
        keep, step = emit.splat(args[5]), emit.splat(args[6])

        def check(k: Value, carried: Sequence[Value], mask: Value) -> Sequence[Value]:
            new = emit.blend(keep, emit.load(builder.gep(p, [k]), mask), step, emit.load(builder.gep(q, [k]), mask))
            return [emit.multiply_add(new, _ZERO, carried[0])]  # ∞ · 0 and NaN · 0 are NaN, and stay

        return emit.all_zero(emit.vectors(args[4], [_ZERO], check)[0])

    return types.boolean(x, types.int64, y, types.int64, types.int64, types.float32, types.float32), codegen


@emitted
def step_pair(
    typing: Any, x: Any, x_at: Any, y: Any, y_at: Any, n: Any, x_keep: Any, x_step: Any, y_keep: Any, y_step: Any
) -> Any:
    """``x, y ← x_keep x + x_step y, y_keep y + y_step x``, both from the old values."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        p, q = emit.at(signature.args[0], args[0], args[1]), emit.at(signature.args[2], args[2], args[3])
        x_keep, x_step, y_keep, y_step = (emit.splat(scalar) for scalar in args[5:])

        def step(k: Value, _: Sequence[Value], mask: Value) -> Sequence[Value]:
            to_x, to_y = builder.gep(p, [k]), builder.gep(q, [k])
            old_x, old_y = emit.load(to_x, mask), emit.load(to_y, mask)
            emit.store(emit.blend(x_keep, old_x, x_step, old_y), to_x, mask)
            emit.store(emit.blend(y_keep, old_y, y_step, old_x), to_y, mask)
            return []

        emit.vectors(args[4], [], step)
        return context.get_dummy_value()

    scalars = (types.float32,) * 4
    return types.void(x, types.int64, y, types.int64, types.int64, *scalars), codegen


@emitted
def copy_padded(typing: Any, x: Any, x_at: Any, n: Any, y: Any, y_at: Any) -> Any:
    """``y[y_at:y_at + padded(n)] = x[x_at:x_at + n]`` and zeros after it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        p, q = emit.at(signature.args[0], args[0], args[1]), emit.at(signature.args[3], args[3], args[4])

        def copy(k: Value, _: Sequence[Value], mask: Value) -> Sequence[Value]:
            emit.store(emit.load(builder.gep(p, [k]), mask), builder.gep(q, [k]))
            return []

        emit.vectors(args[2], [], copy)
        return context.get_dummy_value()

    return types.void(x, types.int64, types.int64, y, types.int64), codegen


@emitted
def copy_raised(typing: Any, x: Any, x_at: Any, n: Any, first: Any, y: Any, y_at: Any) -> Any:
    """``y[y_at:y_at + padded(n)] = x[x_at:x_at + n]`` and zeros after it, with *first* added to y[y_at]."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        p, q = emit.at(signature.args[0], args[0], args[1]), emit.at(signature.args[4], args[4], args[5])
        raised = emit.splat(args[3])

        def copy(k: Value, _: Sequence[Value], mask: Value) -> Sequence[Value]:
            given = emit.load(builder.gep(p, [k]), mask)
            emit.store(builder.select(emit.lane_is(_I64(0), k), builder.fadd(given, raised), given), builder.gep(q, [k]))
            return []

        emit.vectors(args[2], [], copy)
        return context.get_dummy_value()

    return types.void(x, types.int64, types.int64, types.float32, y, types.int64), codegen


@emitted
def copy_scaled(typing: Any, x: Any, x_at: Any, scale: Any, n: Any, y: Any, y_at: Any) -> Any:
    """``y[y_at:y_at + padded(n)] = scale * x[x_at:x_at + n]`` and zeros after it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        p, q = emit.at(signature.args[0], args[0], args[1]), emit.at(signature.args[4], args[4], args[5])
        factor = emit.splat(args[2])

        def copy(k: Value, _: Sequence[Value], mask: Value) -> Sequence[Value]:
            emit.store(builder.fmul(factor, emit.load(builder.gep(p, [k]), mask)), builder.gep(q, [k]))
            return []

        emit.vectors(args[3], [], copy)
        return context.get_dummy_value()

    return types.void(x, types.int64, types.float32, types.int64, y, types.int64), codegen


@emitted
def copy_bordered(typing: Any, x: Any, x_at: Any, n: Any, first: Any, second: Any, y: Any, y_at: Any) -> Any:
    """``y[y_at:y_at + padded(n + 2)] = [*x[x_at:x_at + n], first, second]`` and zeros after it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        p, q = emit.at(signature.args[0], args[0], args[1]), emit.at(signature.args[5], args[5], args[6])
        n, behind = args[2], builder.add(args[2], _I64(1))
        first, second = emit.splat(args[3]), emit.splat(args[4])

        def copy(k: Value, _: Sequence[Value]) -> Sequence[Value]:
            given = emit.load(builder.gep(p, [k]), builder.not_(emit.lanes_from(n, k)))
            given = builder.select(emit.lane_is(n, k), first, given)
            emit.store(builder.select(emit.lane_is(behind, k), second, given), builder.gep(q, [k]))
            return []

        emit.loop(builder.add(n, _I64(2)), LANES, [], copy)
        return context.get_dummy_value()

    return types.void(x, types.int64, types.int64, types.float32, types.float32, y, types.int64), codegen


@emitted
def copy(typing: Any, x: Any, x_at: Any, n: Any, y: Any, y_at: Any) -> Any:
    """``y[y_at:y_at + n] = x[x_at:x_at + n]``; the two do not overlap."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        p, q = emit.at(signature.args[0], args[0], args[1]), emit.at(signature.args[3], args[3], args[4])

        def copy_vector(k: Value, _: Sequence[Value], mask: Value) -> Sequence[Value]:
            emit.store(emit.load(builder.gep(p, [k]), mask), builder.gep(q, [k]), mask)
            return []

        emit.vectors(args[2], [], copy_vector)
        return context.get_dummy_value()

    return types.void(x, types.int64, types.int64, y, types.int64), codegen


@emitted
def extend_padded(typing: Any, x: Any, x_at: Any, scale: Any, y: Any, y_at: Any, first: Any, n: Any, z: Any, z_at: Any) -> Any:
    """``z[z_at:z_at + padded(n)] = x[x_at:x_at + n] + scale * y[y_at:y_at + n]`` and zeros after it.

    *first* is added to ``z[z_at]``, too.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        p, q, to = (emit.at(signature.args[line], args[line], args[line + 1]) for line in (0, 3, 7))
        factor, first = emit.splat(args[2]), emit.splat(args[5])

        def extend(k: Value, _: Sequence[Value], mask: Value) -> Sequence[Value]:
            given = emit.multiply_add(factor, emit.load(builder.gep(q, [k]), mask), emit.load(builder.gep(p, [k]), mask))
            given = builder.select(emit.lane_is(_I64(0), k), builder.fadd(given, first), given)
            emit.store(given, builder.gep(to, [k]))
            return []

        emit.vectors(args[6], [], extend)
        return context.get_dummy_value()

    numbers = types.float32, types.int64
    return types.void(x, types.int64, types.float32, y, types.int64, *numbers, z, types.int64), codegen


@emitted
def quadratic_form(typing: Any, x: Any, x_at: Any, n: Any, y: Any) -> Any:
    """Return ``yᵀ X y``; ``x[x_at:]`` is the upper triangle of X, n rows one after another, y ``(n,)``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        n, ys = args[2], emit.at(signature.args[3], args[3], _I64(0))
        start = emit.at(signature.args[0], args[0], args[1])
        two = ir.Constant(_VECTOR, [2.0] * LANES)

        def columns(c: Value, carried: Sequence[Value]) -> Sequence[Value]:
            inside = builder.not_(emit.lanes_from(n, c))

            def add(a: Value, carried: Sequence[Value]) -> Sequence[Value]:
                total, at = carried  # row a begins where `at` is, with column a
                wanted = builder.and_(emit.lanes_from(a, c), inside)
                row = emit.load(builder.gep(start, [builder.add(builder.sub(at, a), c)]), wanted)
                twice = builder.select(emit.lane_is(a, c), row, builder.fmul(two, row))
                total = emit.multiply_add(emit.splat(builder.load(builder.gep(ys, [a]))), twice, total)
                return [total, builder.add(at, builder.sub(n, a))]

            column = emit.loop(n, 1, [_ZERO, _I64(0)], add)[0]
            return [emit.multiply_add(column, emit.load(builder.gep(ys, [c]), inside), carried[0])]

        return emit.sum(emit.loop(n, LANES, [_ZERO], columns)[0])

    return types.float32(x, types.int64, types.int64, y), codegen


@emitted
def substitute_all(typing: Any, x: Any, n: Any, width: Any, inverses: Any, scale: Any, solution: Any, variances: Any) -> Any:
    """Solve n equations that `eliminate_below` has gone through, their right-hand side in column n, and invert their diagonal.

    With M the rows up to their diagonal, y the right-hand side and the pivots' *inverses*: ``solution = Mᵀ (inverses y)`` and
    ``variances = scale Σ_k inverses[k] M[k]²``, both ``padded(n)``.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        _, n, width, _, scale, _, _ = args
        first, inverses, solution, variances = (emit.at(signature.args[line], args[line], _I64(0)) for line in (0, 3, 5, 6))

        def substitute(c: Value, _: Sequence[Value]) -> Sequence[Value]:
            def add(i: Value, sums: Sequence[Value]) -> Sequence[Value]:
                k = builder.add(i, c)  # rows above have nothing in these columns
                row, inverse = builder.gep(first, [builder.mul(k, width)]), builder.load(builder.gep(inverses, [k]))
                below = builder.not_(emit.lanes_from(builder.add(k, _I64(1)), c))
                taken = emit.load(builder.gep(row, [c]), below)
                share = builder.fmul(inverse, builder.load(builder.gep(row, [n])))
                weight = emit.splat(builder.fmul(scale, inverse))
                return [
                    emit.multiply_add(emit.splat(share), taken, sums[0]),
                    emit.multiply_add(weight, builder.fmul(taken, taken), sums[1]),
                ]

            sums = emit.loop(builder.sub(n, c), 1, [_ZERO] * 2, add)
            for total, target in zip(sums, (solution, variances), strict=True):
                emit.store(total, builder.gep(target, [c]))
            return []

        emit.loop(n, LANES, [], substitute)
        return context.get_dummy_value()

    return types.void(x, types.int64, types.int64, inverses, types.float32, solution, variances), codegen


@emitted
def lay_row(typing: Any, x: Any, x_at: Any, a: Any, n: Any, weight: Any, right: Any, y: Any, y_at: Any, width: Any) -> Any:
    """Set row *a* of n equations in *y*: zeros, ``x[x_at:x_at + n - a]`` from column a on, *weight* on its first, then *right*.

    The right-hand side is column n; *width*, a multiple of `LANES`, is larger.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        _, x_at, a, n, weight, right, _, y_at, width = args
        first = emit.at(signature.args[0], args[0], builder.sub(x_at, a))
        row = emit.at(signature.args[6], args[6], y_at)
        weight, right = emit.splat(weight), emit.splat(right)

        def lay(k: Value, _: Sequence[Value]) -> Sequence[Value]:
            from_a, from_n = emit.lanes_from(a, k), emit.lanes_from(n, k)
            inside = builder.and_(from_a, builder.not_(from_n))
            given = emit.load(builder.gep(first, [k]), inside)
            given = builder.select(emit.lane_is(a, k), builder.fadd(given, weight), given)
            emit.store(builder.select(emit.lane_is(n, k), right, given), builder.gep(row, [k]))
            return []

        emit.loop(width, LANES, [], lay)
        return context.get_dummy_value()

    integers = (types.int64,) * 3
    return types.void(x, *integers, types.float32, types.float32, y, types.int64, types.int64), codegen


@emitted
def eliminate_below(typing: Any, x: Any, k: Any, n: Any, inverse: Any, width: Any, shares: Any) -> Any:
    """Take row *k* of n equations, times a share, out of those below, so that column k becomes 0; minus the share goes there.

    *inverse* is that of the pivot, in whose place row k gets 1. Rows have *width*, a multiple of `LANES`; *shares* is scratch,
    ``(width,)``.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        array, k, n, inverse, width, shares = args
        one = ir.Constant(_VECTOR, [1.0] * LANES)
        first, shares = emit.at(signature.args[0], array, _I64(0)), emit.at(signature.args[5], shares, _I64(0))
        row, inverse = builder.gep(first, [builder.mul(k, width)]), emit.splat(inverse)
        below = builder.add(k, _I64(1))

        def share(c: Value, _: Sequence[Value]) -> Sequence[Value]:
            emit.store(builder.fmul(emit.load(builder.gep(row, [c])), inverse), builder.gep(shares, [c]))
            return []

        def chunk(c: Value, _: Sequence[Value]) -> Sequence[Value]:
            pivot, place = emit.lane_is(k, c), builder.gep(row, [c])
            taken = builder.select(pivot, one, emit.load(place))
            emit.store(taken, place)
            kept = builder.not_(pivot)

            def take(i: Value, _: Sequence[Value]) -> Sequence[Value]:
                i = builder.add(i, below)
                address = builder.gep(first, [builder.add(builder.mul(i, width), c)])
                share = emit.splat(builder.load(builder.gep(shares, [i])))
                emit.store(emit.minus_product(emit.load(address, kept), share, taken), address)
                return []

            emit.loop(builder.sub(n, below), 1, [], take)
            return []

        emit.loop(width, LANES, [], share)
        emit.loop(width, LANES, [], chunk)
        return context.get_dummy_value()

    return types.void(x, types.int64, types.int64, types.float32, types.int64, shares), codegen


@emitted
def clear(typing: Any, x: Any, x_at: Any, n: Any) -> Any:
    """``x[x_at:x_at + n] = 0``: numba's own loop, whose places may count from the end, would scatter."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        first = emit.at(signature.args[0], args[0], args[1])

        def store(k: Value, _: Sequence[Value], mask: Value) -> Sequence[Value]:
            emit.store(_ZERO, builder.gep(first, [k]), mask)
            return []

        emit.vectors(args[2], [], store)
        return context.get_dummy_value()

    return types.void(x, types.int64, types.int64), codegen


def _add_tile(height: int) -> Callable[..., Any]:
    def add_tile(typing: Any, packed: Any, n: Any, width: Any, i: Any, j: Any, out: Any, out_at: Any) -> Any:
        """``out[i + a, j + c] += Σ packed[t, i + a] packed[t, j + c]`` over n rows t, for a < height and c < `LANES`.

        *packed* and *out* have rows of *width*; *out*'s first begins at *out_at*. The sums of `STRIP` rows stay in registers.
        """

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
            emit = Emit(context, builder)
            packed, (_, n, width, i, j, _, out_at) = emit.at(signature.args[0], args[0], _I64(0)), args
            left, right = builder.gep(packed, [i]), builder.gep(packed, [j])
            corner = emit.at(signature.args[5], args[5], builder.add(out_at, builder.add(builder.mul(i, width), j)))

            def add(strip: range) -> Callable[[Value, Sequence[Value]], Sequence[Value]]:
                def add_row(t: Value, sums: Sequence[Value]) -> Sequence[Value]:
                    start = builder.mul(t, width)
                    row, first = emit.load(builder.gep(right, [start])), builder.gep(left, [start])
                    factors = [emit.splat(builder.load(builder.gep(first, [_I64(line)]))) for line in strip]
                    return [emit.multiply_add(factor, row, total) for factor, total in zip(factors, sums, strict=True)]

                return add_row

            for top in range(0, height, STRIP):
                strip = range(top, min(top + STRIP, height))
                for line, total in zip(strip, emit.loop(n, 1, [_ZERO] * len(strip), add(strip)), strict=True):
                    address = builder.gep(corner, [builder.mul(_I64(line), width)])
                    emit.store(builder.fadd(emit.load(address), total), address)
            return context.get_dummy_value()

        return types.void(packed, *[types.int64] * 4, out, types.int64), codegen

    return emitted(add_tile)


add_tile = _add_tile(LANES)
add_half_tile = _add_tile(LANES // 2)
"""The same for half as many rows."""


@emitted
def add_border(typing: Any, packed: Any, weights: Any, n: Any, width: Any, j: Any, out: Any, out_at: Any) -> Any:
    """``out[0, j + c] += Σ weights[t] packed[t, j + c]``, ``out[1, j + c] += Σ packed[t, j + c]``; shapes as in `add_tile`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        _, _, n, width, j, _, out_at = args
        first, weights = emit.at(signature.args[0], args[0], j), emit.at(signature.args[1], args[1], _I64(0))

        def add(t: Value, sums: Sequence[Value]) -> Sequence[Value]:
            row = emit.load(builder.gep(first, [builder.mul(t, width)]))
            weight = emit.splat(builder.load(builder.gep(weights, [t])))
            return [emit.multiply_add(weight, row, sums[0]), builder.fadd(row, sums[1])]

        for line, total in enumerate(emit.loop(n, 1, [_ZERO] * 2, add)):
            place = builder.add(out_at, builder.add(builder.mul(_I64(line), width), j))
            address = emit.at(signature.args[5], args[5], place)
            emit.store(builder.fadd(emit.load(address), total), address)
        return context.get_dummy_value()

    return types.void(packed, weights, *[types.int64] * 3, out, types.int64), codegen


def _row_addresses(emit: Emit, signature: Any, packed: Value, at: Value, width: Value) -> list[Value]:
    """Return where each of `LANES` rows of *width* floats begins, the first at ``packed[at]``."""
    builder, first = emit.builder, emit.at(signature.args[0], packed, at)
    return [builder.gep(first, [builder.mul(width, _I64(row))]) for row in range(LANES)]


@emitted
def dot_rows(typing: Any, packed: Any, at: Any, width: Any, x: Any, x_at: Any, start: Any, y: Any, y_at: Any) -> Any:
    """``y[y_at + t] = start + packed[at + t width:at + (t + 1) width] @ x[x_at:x_at + width]`` for t < `LANES`.

    *width* is a multiple of `LANES`. The vectors of sums are added up all at once: halves of two become one, four times.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        rows, q = _row_addresses(emit, signature, *args[:3]), emit.at(signature.args[3], args[3], args[4])

        def add(k: Value, sums: Sequence[Value]) -> Sequence[Value]:
            factor = emit.load(builder.gep(q, [k]))
            return [
                emit.multiply_add(emit.load(builder.gep(row, [k])), factor, total) for row, total in zip(rows, sums, strict=True)
            ]

        sums = emit.loop(args[2], LANES, [_ZERO] * LANES, add)
        while len(sums) > 1:
            half = len(sums) // 2
            low = [lane // half // 2 * 2 * half + lane // half % 2 * LANES + lane % half for lane in range(LANES)]
            high = [lane + half for lane in low]
            pairs = zip(sums[:half], sums[half:], strict=True)
            sums = [builder.fadd(emit.shuffle(a, b, low), emit.shuffle(a, b, high)) for a, b in pairs]
        emit.store(builder.fadd(sums[0], emit.splat(args[5])), emit.at(signature.args[6], args[6], args[7]))
        return context.get_dummy_value()

    integers = types.int64, types.int64
    return types.void(packed, *integers, x, types.int64, types.float32, y, types.int64), codegen


def _add_rows(squares: bool) -> Callable[..., Any]:
    def add_rows(typing: Any, packed: Any, at: Any, width: Any, weights: Any, w_at: Any, out: Any, squared: Any) -> Any:
        """``out[:width] += Σ weights[w_at + t] row t`` over rows t as in `dot_rows`, and ``squared[:width] += Σ (row t)²``."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
            emit = Emit(context, builder)
            rows, first = _row_addresses(emit, signature, *args[:3]), emit.at(signature.args[3], args[3], args[4])
            factors = [emit.splat(builder.load(builder.gep(first, [_I64(row)]))) for row in range(LANES)]
            targets = [emit.at(signature.args[line], args[line], _I64(0)) for line in ((5, 6) if squares else (5,))]

            def add(k: Value, _: Sequence[Value]) -> Sequence[Value]:
                vectors = [emit.load(builder.gep(row, [k])) for row in rows]
                for target, scales in zip(targets, (factors, vectors), strict=False):
                    partial = [_ZERO] * BLOCK  # several short chains of additions instead of a long one
                    for row, (scale, vector) in enumerate(zip(scales, vectors, strict=True)):
                        partial[row % BLOCK] = emit.multiply_add(scale, vector, partial[row % BLOCK])
                    total = builder.fadd(builder.fadd(partial[0], partial[1]), builder.fadd(partial[2], partial[3]))
                    address = builder.gep(target, [k])
                    emit.store(builder.fadd(emit.load(address), total), address)
                return []

            emit.loop(args[2], LANES, [], add)
            return context.get_dummy_value()

        return types.void(packed, types.int64, types.int64, weights, types.int64, out, squared), codegen

    return emitted(add_rows)


add_rows_and_squares = _add_rows(squares=True)
add_rows = _add_rows(squares=False)
"""The same without the squares; what is given for them is left alone."""


@emitted
def invert(typing: Any, x: Any, shift: Any, n: Any) -> Any:
    """``x[k] = 1 / (x[k] + shift)``, k < *n*, a multiple of `LANES`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        first, shift = emit.at(signature.args[0], args[0], _I64(0)), emit.splat(args[1])

        def divide(k: Value, _: Sequence[Value]) -> Sequence[Value]:
            address = builder.gep(first, [k])
            emit.store(builder.fdiv(_ONES, builder.fadd(emit.load(address), shift)), address)
            return []

        emit.loop(args[2], LANES, [], divide)
        return context.get_dummy_value()

    return types.void(x, types.float32, types.int64), codegen


@emitted
def weighted_square(typing: Any, x: Any, weights: Any, n: Any) -> Any:
    """Return ``Σ weights[k] x[k]²``, k < *n*."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        p, w = (emit.at(signature.args[line], args[line], _I64(0)) for line in (0, 1))

        def add(k: Value, carried: Sequence[Value], mask: Value) -> Sequence[Value]:
            value = emit.load(builder.gep(p, [k]), mask)
            return [emit.multiply_add(builder.fmul(emit.load(builder.gep(w, [k]), mask), value), value, carried[0])]

        return emit.sum(emit.vectors(args[2], [_ZERO], add)[0])

    return types.float32(x, weights, types.int64), codegen


@emitted
def blend_weighted(typing: Any, y: Any, keep: Any, weights: Any, x: Any, n: Any) -> Any:
    """``y[k] = keep y[k] + weights[k] x[k]``, k < *n*."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        y, w, x = (emit.at(signature.args[line], args[line], _I64(0)) for line in (0, 2, 3))
        keep = emit.splat(args[1])

        def step(k: Value, _: Sequence[Value], mask: Value) -> Sequence[Value]:
            address = builder.gep(y, [k])
            weight, value = emit.load(builder.gep(w, [k]), mask), emit.load(builder.gep(x, [k]), mask)
            emit.store(emit.blend(keep, emit.load(address, mask), weight, value), address, mask)
            return []

        emit.vectors(args[4], [], step)
        return context.get_dummy_value()

    return types.void(y, types.float32, weights, x, types.int64), codegen


@emitted
def transpose_tile(typing: Any, x: Any, x_at: Any, x_width: Any, y: Any, y_at: Any, y_width: Any) -> Any:
    """``y[c, r] = x[r, c]`` for r, c < `LANES`, in registers: pairs of rows are interleaved, four times."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        p, q = emit.at(signature.args[0], args[0], args[1]), emit.at(signature.args[3], args[3], args[4])
        rows = [emit.load(builder.gep(p, [builder.mul(_I64(r), args[2])])) for r in range(LANES)]
        half = LANES // 2
        low, high = ([side * half + lane // 2 + lane % 2 * LANES for lane in range(LANES)] for side in (0, 1))
        for _ in range(LANES.bit_length() - 1):
            rows = [emit.shuffle(rows[r // 2], rows[r // 2 + half], high if r % 2 else low) for r in range(LANES)]
        for c, column in enumerate(rows):
            emit.store(column, builder.gep(q, [builder.mul(_I64(c), args[5])]))
        return context.get_dummy_value()

    return types.void(x, types.int64, types.int64, y, types.int64, types.int64), codegen


class Lanes:
    """Lower triangles of `LANES` matrices at once: element (r, c) of all lies at ``(r (r + 1) / 2 + c) * LANES``."""

    def __init__(self, emit: Emit, array_type: Any, array: Value) -> None:
        self.emit, self.first = emit, emit.at(array_type, array, _I64(0))

    def row(self, r: Value) -> Value:
        builder = self.emit.builder
        twice = builder.mul(r, builder.add(r, _I64(1)))
        return builder.gep(self.first, [builder.mul(twice, _I64(LANES // 2))])

    def address(self, row: Value, c: Value) -> Value:
        return self.emit.builder.gep(row, [self.emit.builder.mul(c, _I64(LANES))])

    def load(self, row: Value, c: Value) -> Value:
        return self.emit.load(self.address(row, c))


def _factor_block(height: int) -> Callable[..., Any]:
    def factor(typing: Any, matrix: Any, i: Any, j: Any) -> Any:
        """Finish the Cholesky factor in rows i … and columns j … j + `BLOCK` − 1, all above and left of it being done.

        The diagonal holds inverses. ``L[r, c] = (A[r, c] − Σ_{p < c} L[r, p] L[c, p]) / L[c, c]``
        """

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
            emit = Emit(context, builder)
            lanes, (_, i, j) = Lanes(emit, signature.args[0], args[0]), args
            columns = [builder.add(j, _I64(c)) for c in range(BLOCK)]
            below = [lanes.row(builder.add(i, _I64(r))) for r in range(height)]
            above = [lanes.row(column) for column in columns]

            def subtract(p: Value, block: Sequence[Value]) -> Sequence[Value]:
                x, y = [builder.fneg(lanes.load(row, p)) for row in below], [lanes.load(row, p) for row in above]
                return [emit.multiply_add(x[at // BLOCK], y[at % BLOCK], value) for at, value in enumerate(block)]

            block = emit.loop(j, 1, [lanes.load(row, column) for row in below for column in columns], subtract)
            for r, row in enumerate(below):
                values = list(block[r * BLOCK : (r + 1) * BLOCK])
                for c in range(BLOCK):
                    for p in range(c):
                        values[c] = emit.minus_product(values[c], values[p], lanes.load(above[c], columns[p]))
                    values[c] = builder.fmul(values[c], lanes.load(above[c], columns[c]))
                    emit.store(values[c], lanes.address(row, columns[c]))
            return context.get_dummy_value()

        return types.void(matrix, types.int64, types.int64), codegen

    return emitted(factor)


factor_block = _factor_block(BLOCK)
factor_border = _factor_block(2)
"""The same for two rows: right-hand sides below the matrix, which forward substitution finishes like rows of the factor."""


@emitted
def factor_diagonal(typing: Any, matrix: Any, i: Any) -> Any:
    """Finish the Cholesky factor in rows and columns i … i + `BLOCK` − 1, all left of it being done; the diagonal as inverses."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        lanes = Lanes(emit, signature.args[0], args[0])
        columns = [builder.add(args[1], _I64(c)) for c in range(BLOCK)]
        rows = [lanes.row(column) for column in columns]
        places = [(r, c) for r in range(BLOCK) for c in range(r + 1)]

        def subtract(p: Value, block: Sequence[Value]) -> Sequence[Value]:
            x = [lanes.load(row, p) for row in rows]
            return [emit.minus_product(value, x[r], x[c]) for (r, c), value in zip(places, block, strict=True)]

        block = emit.loop(args[1], 1, [lanes.load(rows[r], columns[c]) for r, c in places], subtract)
        at = dict(zip(places, block, strict=True))
        for c in range(BLOCK):
            root = emit.call(f"llvm.sqrt.v{LANES}f32", _VECTOR, at[c, c])
            at[c, c] = builder.fdiv(_ONES, root)
            for r in range(c + 1, BLOCK):
                at[r, c] = builder.fmul(at[r, c], at[c, c])
                for p in range(c + 1, r + 1):
                    at[r, p] = emit.minus_product(at[r, p], at[r, c], at[p, c])
        for (r, c), value in at.items():
            emit.store(value, lanes.address(rows[r], columns[c]))
        return context.get_dummy_value()

    return types.void(matrix, types.int64), codegen


@emitted
def substitute_up(typing: Any, matrix: Any, p: Any, x: Any) -> Any:
    """Finish unknown p of ``Lᵀ x = x`` in every lane, and take it out of those before it: ``x[i] −= L[p, i] x[p]``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit = Emit(context, builder)
        lanes = Lanes(emit, signature.args[0], args[0])
        row, first = lanes.row(args[1]), emit.at(signature.args[2], args[2], _I64(0))
        address = lanes.address(first, args[1])
        solved = builder.fmul(emit.load(address), lanes.load(row, args[1]))
        emit.store(solved, address)

        def take_out(i: Value, _: Sequence[Value]) -> Sequence[Value]:
            place = lanes.address(first, i)
            emit.store(emit.minus_product(emit.load(place), lanes.load(row, i), solved), place)
            return []

        emit.loop(args[1], 1, [], take_out)
        return context.get_dummy_value()

    return types.void(matrix, types.int64, x), codegen
