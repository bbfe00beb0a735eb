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
    """Return the address of ``array[at]`` as a byte pointer."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), ir.IntType(8).as_pointer())


def _prefetch(_: Any, array: Any, at: Any) -> Any:
    """Ask for the cache line of ``array[at]``; *at* counts all numbers and may lie outside. *array* is contiguous."""

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


def _count_above(_: Any, array: Any, at: Any, first: Any, value: Any) -> Any:
    """Return how many of the 16 numbers from ``array[at]`` on, none before ``array[first]``, exceed *value*.

    All 16 lie in *array*, which is one-dimensional and contiguous, of int32.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        numbers, begin, least, threshold = arguments
        number, bits = ir.IntType(32), ir.IntType(16)
        vector = ir.VectorType(number, 16)
        zeros, where = ir.Constant(vector, [0] * 16), ir.Constant(vector, list(range(16)))
        address = _address(context, builder, signature.args[0], numbers, begin)
        line = builder.load(builder.bitcast(address, vector.as_pointer()), align=4)

        def everywhere(scalar: Any) -> Any:
            single = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, number(0))
            return builder.shuffle_vector(single, ir.Constant(vector, ir.Undefined), zeros)

        above = builder.icmp_signed(">", line, everywhere(builder.trunc(threshold, number)))
        inside = builder.icmp_signed(">=", where, everywhere(builder.trunc(builder.sub(least, begin), number)))
        mask = builder.bitcast(builder.and_(above, inside), bits)
        function = get_or_insert_function(builder.module, ir.FunctionType(bits, [bits]), "llvm.ctpop.i16")
        return builder.zext(builder.call(function, [mask]), ir.IntType(64))

    return types.int64(array, types.int64, types.int64, types.int64), generate


prefetch: Callable[..., None] = intrinsic(_prefetch)
count_above: Callable[..., int] = intrinsic(_count_above)
move: Callable[..., None] = intrinsic(_move)
move_line: Callable[..., None] = intrinsic(_move_line)
