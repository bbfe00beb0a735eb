"""How loops are compiled, and what the machine can do that numba does not name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from llvmlite import ir
from numba import config, njit
from numba.core import cgutils, types
from numba.extending import intrinsic

Int: TypeAlias = int | np.integer[Any]
"""A row, a position or a count in compiled code."""

Function = TypeVar("Function", bound=Callable[..., Any])
untyped_njit: Any = njit
"""numba's own annotations do not know all options."""
get_or_insert_function: Any = cgutils.get_or_insert_function
raw_memmove: Any = cgutils.raw_memmove


SECOND_LEVEL = 2
"""Which cache memory is asked into: the second level, whose queue of requests is longer than the first's. Zen 4, random rows of
256 bytes: 16 M a second into the first level, 25 M into the second."""


def cache_folder(base: str) -> str:
    """Return where code compiled from exactly these sources is kept: below *base*, else beside them or in the user's cache.

    numba compiles anew when a function's own file has changed, and knows nothing of the files it takes other functions from.
    """
    here = Path(__file__).parent
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(here.glob("*.py")))).hexdigest()[:16]
    user = Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))  # noqa: PTH111 (no home: no error)
    folder = Path(base) if base else here / "__pycache__" if os.access(here, os.W_OK) else user / "factorstream"
    return str(folder / f"compiled-{digest}")


cast(Any, config).CACHE_DIR = cache_folder(cast(Any, config).CACHE_DIR)


def compiled(function: Function) -> Function:
    """Compile *function* at its first call, once a machine (`cache_folder`); it runs without the interpreter's lock."""
    return cast(Function, untyped_njit(cache=True, nogil=True, error_model="numpy")(function))


BARE = {"error_model": "numpy", "_nrt": False, "no_cfunc_wrapper": True}
"""Options of code that counts no references: faster where arrays are passed around, but nothing may allocate."""

INNER = {**BARE, "no_cpython_wrapper": True}
"""The same for code that only compiled code calls, which takes a quarter less time to compile. From Python it crashes."""


def bare(function: Function) -> Function:
    """Compile as `compiled` does, with the options `BARE`."""
    return cast(Function, untyped_njit(cache=True, nogil=True, **BARE)(function))


def inner(function: Function) -> Function:
    """Compile *function* for calls from `bare` functions."""
    return cast(Function, untyped_njit(**INNER)(function))


def inlined(function: Function) -> Function:
    """Compile *function* into the `bare` function that calls it: a call copies some 60 bytes for each array that is passed."""
    return cast(Function, untyped_njit(forceinline=True, **INNER)(function))


def plain(value: int) -> int:
    """Return *value* as a constant of which numba knows the type alone: functions are compiled once more for each literal."""
    return cast(int, np.int64(value))


def _address(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    """Return the address of ``array[at]`` as a byte pointer; *array* is contiguous, or strided and one-dimensional."""
    made = context.make_array(array_type)(context, builder, array)
    byte_pointer = ir.IntType(8).as_pointer()
    if array_type.is_contig:
        return builder.bitcast(builder.gep(made.data, [at]), byte_pointer)
    return builder.gep(builder.bitcast(made.data, byte_pointer), [builder.mul(at, builder.extract_value(made.strides, 0))])


def _prefetch(_: Any, array: Any, at: Any) -> Any:
    """Ask for the cache line of ``array[at]``; *at* may lie outside, and counts all numbers where there are more dimensions."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = ir.IntType(32)
        declared = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), number, number, number])
        function = get_or_insert_function(builder.module, declared, "llvm.prefetch.p0")
        address = _address(context, builder, signature.args[0], *arguments)
        builder.call(function, [address, number(0), number(SECOND_LEVEL), number(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def _move(_: Any, array: Any, to: Any, at: Any, n: Any) -> Any:
    """Do ``array[to : to + n] = array[at : at + n]``; the two may overlap. *array* is one-dimensional and contiguous."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, to, at, n = arguments
        kind = signature.args[0]
        item_bytes = context.get_abi_sizeof(context.get_data_type(kind.dtype))
        target, source = (_address(context, builder, kind, array, place) for place in (to, at))
        raw_memmove(builder, target, source, n, item_bytes)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, types.intp), generate


def _move_line(_: Any, array: Any, to: Any, at: Any) -> Any:
    """Move 64 bytes from ``array[at]`` on to ``array[to]``: in two instructions, where `move` is a call and several branches."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, *places = arguments
        line = ir.VectorType(ir.IntType(8), 64).as_pointer()
        target, source = (builder.bitcast(_address(context, builder, signature.args[0], array, place), line) for place in places)
        builder.store(builder.load(source, align=1), target, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp), generate


LANES = 16
"""Numbers in a vector: one AVX-512 register, two of AVX2, four of NEON; LLVM splits what the machine does not have."""


def _line(context: Any, builder: Any, kind: Any, numbers: Any, at: Any) -> Any:
    """Return the 16 numbers from ``numbers[at]`` on."""
    vector = ir.VectorType(ir.IntType(32), LANES)
    return builder.load(builder.bitcast(_address(context, builder, kind, numbers, at), vector.as_pointer()), align=4)


def _everywhere(builder: Any, number: Any) -> Any:
    """Return 16 times the 64-bit *number*, shortened."""
    single = builder.insert_element(
        ir.Constant(ir.VectorType(ir.IntType(32), LANES), ir.Undefined), builder.trunc(number, ir.IntType(32)), ir.IntType(32)(0)
    )
    return builder.shuffle_vector(single, single, ir.Constant(single.type, [0] * LANES))


def _lanes(builder: Any, relation: str, number: Any) -> Any:
    """Return which of 0 … 15 stand in *relation* to *number*."""
    where = ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(range(LANES)))
    return builder.icmp_signed(relation, where, _everywhere(builder, number))


def _count_above(_: Any, array: Any, at: Any, first: Any, value: Any) -> Any:
    """Return how many of the 16 numbers from ``array[at]`` on, none before ``array[first]``, exceed *value*.

    All 16 lie in *array*, which is one-dimensional and contiguous, of int32.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        numbers, begin, least, threshold = arguments
        bits = ir.IntType(LANES)
        line = _line(context, builder, signature.args[0], numbers, begin)
        above = builder.icmp_signed(">", line, _everywhere(builder, threshold))
        mask = builder.bitcast(builder.and_(above, _lanes(builder, ">=", builder.sub(least, begin))), bits)
        function = get_or_insert_function(builder.module, ir.FunctionType(bits, [bits]), "llvm.ctpop.i16")
        return builder.zext(builder.call(function, [mask]), ir.IntType(64))

    return types.int64(array, types.int64, types.int64, types.int64), generate


def _find_among(_: Any, array: Any, at: Any, first: Any, stop: Any, value: Any) -> Any:
    """Return which of the 16 numbers from ``array[at]`` on is *value*, the first of 0 … 15, or 16 if none is.

    Those before ``array[first]`` and those from ``array[stop]`` on do not count. All 16 lie in *array*, or in the page that it
    ends in; it is one-dimensional and contiguous, of int32.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        numbers, begin, least, end, wanted = arguments
        line = _line(context, builder, signature.args[0], numbers, begin)
        equal = builder.icmp_signed("==", line, _everywhere(builder, wanted))
        inside = builder.and_(_lanes(builder, ">=", builder.sub(least, begin)), _lanes(builder, "<", builder.sub(end, begin)))
        mask = builder.bitcast(builder.and_(equal, inside), ir.IntType(LANES))
        wide, flag = ir.IntType(32), ir.IntType(1)
        function = get_or_insert_function(builder.module, ir.FunctionType(wide, [wide, flag]), "llvm.cttz.i32")
        marked = builder.or_(builder.zext(mask, wide), wide(1 << LANES))
        return builder.zext(builder.call(function, [marked, flag(1)]), ir.IntType(64))

    return types.int64(array, types.int64, types.int64, types.int64, types.int64), generate


def _natural(_: Any, value: Any) -> Any:
    """Return *value*, of which the caller promises that it is not negative.

    numba takes a negative index from the end of an array; after the promise the compiler leaves that question out. A promise
    broken reads or writes before the array.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (value,) = arguments
        builder.assume(builder.icmp_signed(">=", value, value.type(0)))
        return value

    return types.int64(types.int64), generate


prefetch: Callable[..., None] = intrinsic(_prefetch)
natural: Callable[..., np.int64] = intrinsic(_natural)
count_above: Callable[..., int] = intrinsic(_count_above)
find_among: Callable[..., int] = intrinsic(_find_among)
move: Callable[..., None] = intrinsic(_move)
move_line: Callable[..., None] = intrinsic(_move_line)
