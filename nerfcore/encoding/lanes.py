"""Eight points side by side in vector registers: a hash-grid level's corners, look-up and scatter.

The compiler does not vectorise these loops by itself, since it cannot know that tables and outputs
do not overlap; so they are written here in LLVM's vectors, which every CPU's code generator knows
(gathers become scalar loads where the CPU has none). Arrays are flat, float32 or uint32, and given
with a first index. A *tile* is what eight points need: rows u32[64] and weights f32[64], corner c
of point p at 8 c + p; corner c lies at +1 along x, y, z where bit 0, 1, 2 of c is set.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, config, types
from numba.extending import intrinsic

LANES = 8
TILE = 8 * LANES
PRIME_Y, PRIME_Z = 2654435761, 805459861

_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_FLOATS, _INTS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)
_LONGS = ir.VectorType(_I64, LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)
_PAIRS = ir.VectorType(_F32, 2 * LANES)
_PAIR = ir.VectorType(_F32, 2)
_FAST = ("fast",)


def cpu_has(feature: str) -> bool:
    """Whether kernels are compiled for a CPU with this LLVM feature, e.g. "avx512f"."""
    forced = vars(config)["CPU_FEATURES"]
    if forced is not None:
        return f"+{feature}" in forced.split(",")
    return bool(binding.get_host_cpu_features().get(feature))


_ESTIMATES = cpu_has("avx")


def _int(value: int) -> ir.Constant:
    return ir.Constant(_I32, value)


def _order(*indices: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(_I32, len(indices)), list(indices))


def _every(builder: Any, value: Any, kind: ir.VectorType) -> Any:
    """A vector with one value in every lane."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _int(0))
    return builder.shuffle_vector(one, one, _order(*[0] * kind.count))


def _memory(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    return context.make_array(kind)(context, builder, array).data


def _load(builder: Any, pointer: Any, index: Any, kind: ir.Type) -> Any:
    place = builder.bitcast(builder.gep(pointer, [index]), kind.as_pointer())
    value = builder.load(place)
    value.align = 4
    return value


def _store(builder: Any, value: Any, pointer: Any, index: Any) -> None:
    place = builder.bitcast(builder.gep(pointer, [index]), value.type.as_pointer())
    builder.store(value, place).align = 4


def _cells(builder: Any, points: list[Any], scale: Any) -> tuple[list[Any], list[Any]]:
    """Integer cells and fractions of three coordinates."""
    factor = _every(builder, scale, _FLOATS)
    half = ir.Constant(_FLOATS, [0.5] * LANES)
    placed = [builder.fadd(builder.fmul(x, factor), half) for x in points]
    cells = [builder.fptosi(p, _INTS) for p in placed]
    pairs = zip(placed, cells, strict=True)
    return cells, [builder.fsub(p, builder.sitofp(i, _FLOATS)) for p, i in pairs]


def _weights(builder: Any, fractions: list[Any]) -> list[Any]:
    """Trilinear weights of the eight corners."""
    one = ir.Constant(_FLOATS, [1.0] * LANES)
    sides = [(builder.fsub(one, f), f) for f in fractions]
    flat = [builder.fmul(sides[0][c & 1], sides[1][c >> 1], flags=_FAST) for c in range(4)]
    return [builder.fmul(flat[c & 3], sides[2][c >> 2], flags=_FAST) for c in range(8)]


def _dense_rows(builder: Any, cells: list[Any], resolution: Any, size: Any) -> list[Any]:
    """(x + y r + z r^2) mod size for points in the unit cube; any row of the level outside it."""
    r, limit = _every(builder, resolution, _INTS), _every(builder, size, _INTS)
    plane = builder.mul(r, r)
    low = builder.add(cells[0], builder.mul(cells[1], r))
    low = builder.add(low, builder.mul(cells[2], plane))
    steps = (ir.Constant(_INTS, [1] * LANES), r, plane)
    rows = []
    for c in range(8):
        row = low
        for axis, step in enumerate(steps):
            row = builder.add(row, step) if c >> axis & 1 else row
        inside = builder.icmp_unsigned("<", row, limit)
        row = builder.select(inside, row, builder.sub(row, limit))
        inside = builder.icmp_unsigned("<", row, limit)
        rows.append(builder.select(inside, row, builder.sub(limit, steps[0])))
    return rows


def _hashed_rows(builder: Any, cells: list[Any], size: Any) -> list[Any]:
    """(x ^ y PRIME_Y ^ z PRIME_Z) mod size, a power of two."""
    mask = _every(builder, builder.sub(size, _int(1)), _INTS)
    sides = []
    for cell, prime in zip(cells, (1, PRIME_Y, PRIME_Z), strict=True):
        factor = ir.Constant(_INTS, [prime] * LANES)
        low = builder.mul(cell, factor)
        sides.append((low, builder.add(low, factor)))
    flat = [builder.xor(sides[1][c & 1], sides[2][c >> 1]) for c in range(4)]
    return [builder.and_(builder.xor(sides[0][c & 1], flat[c >> 1]), mask) for c in range(8)]


def _corners(
    context: Any, builder: Any, kinds: Any, arguments: Any, dense: bool
) -> tuple[list[Any], list[Any]]:
    """Rows and weights of the points xs, ys, zs [at .. at + 8]; arguments as in `tile_dense`."""
    lines = [_memory(context, builder, kinds[i], arguments[i]) for i in range(3)]
    at, scale, resolution, size = arguments[3:7]
    points = [_load(builder, line, at, _FLOATS) for line in lines]
    cells, fractions = _cells(builder, points, scale)
    if dense:
        rows = _dense_rows(builder, cells, resolution, size)
    else:
        rows = _hashed_rows(builder, cells, size)
    return rows, _weights(builder, fractions)


def _tile(dense: bool) -> Callable[..., Any]:
    def tile(typing, xs, ys, zs, at, scale, resolution, size, rows, weights):
        def generate(context, builder, signature, arguments):
            kinds = signature.args
            found = _corners(context, builder, kinds, arguments, dense)
            for values, i in zip(found, (7, 8), strict=True):
                line = _memory(context, builder, kinds[i], arguments[i])
                for c, value in enumerate(values):
                    _store(builder, value, line, ir.Constant(_I64, c * LANES))
            return context.get_dummy_value()

        lines = (xs, ys, zs)
        numbers = (types.int64, types.float32, types.uint32, types.uint32)
        return types.void(*lines, *numbers, rows, weights), generate

    return intrinsic(tile)


def _gather_pairs(builder: Any, base: Any, rows: Any) -> Any:
    """The two features of eight rows, f32[16]."""
    pointers = ir.VectorType(_F32.as_pointer(), LANES)
    kind = ir.FunctionType(_LONGS, [pointers, _I32, _MASK, _LONGS])
    gather = cgutils.get_or_insert_function(
        builder.module, kind, f"llvm.masked.gather.v{LANES}i64.v{LANES}p0"
    )
    shift = ir.Constant(_LONGS, [3] * LANES)
    places = builder.add(builder.shl(builder.zext(rows, _LONGS), shift), base)
    everywhere, nothing = ir.Constant(_MASK, [1] * LANES), ir.Constant(_LONGS, ir.Undefined)
    arguments = [builder.inttoptr(places, pointers), _int(4), everywhere, nothing]
    return builder.bitcast(builder.call(gather, arguments), _PAIRS)


def _look_up(dense: bool) -> Callable[..., Any]:
    twice = _order(*[i // 2 for i in range(2 * LANES)])

    def look_up(typing, xs, ys, zs, at, scale, resolution, size, table, first, second):
        def generate(context, builder, signature, arguments):
            kinds = signature.args
            found = _corners(context, builder, kinds, arguments, dense)
            memory = _memory(context, builder, kinds[7], arguments[7])
            base = _every(builder, builder.ptrtoint(memory, _I64), _LONGS)
            total = ir.Constant(_PAIRS, [0.0] * (2 * LANES))
            for rows, weights in zip(*found, strict=True):
                both = builder.shuffle_vector(weights, weights, twice)
                part = builder.fmul(_gather_pairs(builder, base, rows), both, flags=_FAST)
                total = builder.fadd(total, part, flags=_FAST)
            for feature, i in enumerate((8, 9)):
                own = _order(*[2 * lane + feature for lane in range(LANES)])
                line = _memory(context, builder, kinds[i], arguments[i])
                value = builder.shuffle_vector(total, total, own)
                _store(builder, value, line, arguments[3])
            return context.get_dummy_value()

        lines = (xs, ys, zs)
        numbers = (types.int64, types.float32, types.uint32, types.uint32)
        return types.void(*lines, *numbers, table, first, second), generate

    return intrinsic(look_up)


# tile_*(xs, ys, zs, at, scale, resolution, size, rows, weights): fill the tile of eight points.
tile_dense, tile_hashed = _tile(True), _tile(False)
# look_up_*(xs, ys, zs, at, scale, resolution, size, table, first, second): write both features of
# points at .. at + 8 of a table with two features a row.
look_up_dense, look_up_hashed = _look_up(True), _look_up(False)


def _add_pair(typing, table, rows, weights, lane, first, second):
    """Add a tile point's weights times (first, second) to the table's rows of two features."""

    def generate(context, builder, signature, arguments):
        lines = [_memory(context, builder, signature.args[i], arguments[i]) for i in range(3)]
        pairs = builder.bitcast(lines[0], _PAIR.as_pointer())
        grad = builder.insert_element(ir.Constant(_PAIR, ir.Undefined), arguments[4], _int(0))
        grad = builder.insert_element(grad, arguments[5], _int(1))
        for c in range(8):
            at = builder.add(arguments[3], ir.Constant(_I64, c * LANES))
            row = builder.zext(_load(builder, lines[1], at, _I32), _I64)
            weight = _every(builder, _load(builder, lines[2], at, _F32), _PAIR)
            place = builder.gep(pairs, [row])
            old = builder.load(place)
            old.align = 4
            part = builder.fmul(weight, grad, flags=_FAST)
            builder.store(builder.fadd(old, part, flags=_FAST), place).align = 4
        return context.get_dummy_value()

    return types.void(table, rows, weights, types.int64, types.float32, types.float32), generate


def _floats_at(typing, address, count):
    """The memory at an address as an array f32[count]; it must outlive the array."""

    def generate(context, builder, signature, arguments):
        kind = signature.return_type
        array = context.make_array(kind)(context, builder)
        size = context.get_constant(types.intp, 4)
        context.populate_array(
            array,
            data=builder.inttoptr(arguments[0], array.data.type),
            shape=[arguments[1]],
            strides=[size],
            itemsize=size,
            meminfo=None,
        )
        return array._getvalue()

    return types.Array(types.float32, 1, "C")(types.int64, types.int64), generate


def _inverse_root(builder: Any, square: Any) -> Any:
    """1 / sqrt(x), within a few units of the last place where the CPU only estimates it."""
    if not _ESTIMATES:
        kind = ir.FunctionType(_FLOATS, [_FLOATS])
        root = cgutils.get_or_insert_function(builder.module, kind, f"llvm.sqrt.v{LANES}f32")
        one = ir.Constant(_FLOATS, [1.0] * LANES)
        return builder.fdiv(one, builder.call(root, [square]))
    kind = ir.FunctionType(_FLOATS, [_FLOATS])
    estimate = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx.rsqrt.ps.256")
    first = builder.call(estimate, [square])
    half, rest = (ir.Constant(_FLOATS, [x] * LANES) for x in (-0.5, 1.5))
    error = builder.fmul(builder.fmul(square, half), builder.fmul(first, first))
    return builder.fmul(first, builder.fadd(error, rest))


def _adam_eight(typing, grad, value, first, second, at, rate, correction, numbers):
    """Adam on eight entries: those without gradient keep value and moments, the rest lose it.

    Args:
        grad, value, first, second: f32[N]; at: first entry.
        numbers: (beta1, beta2, epsilon), float32.
    """

    def generate(context, builder, signature, arguments):
        b = builder
        lines = [_memory(context, b, signature.args[i], arguments[i]) for i in range(4)]
        at, rate, correction = arguments[4:7]
        beta1, beta2, epsilon = (
            _every(b, n, _FLOATS) for n in cgutils.unpack_tuple(b, arguments[7], 3)
        )
        g, value, first, second = (_load(b, line, at, _FLOATS) for line in lines)
        zero, one = (ir.Constant(_FLOATS, [v] * LANES) for v in (0.0, 1.0))
        seen = b.fcmp_unordered("!=", g, zero)
        # b m + (1 - b) g, as Kingma and Ba write it
        m = b.fadd(b.fmul(beta1, first), b.fmul(b.fsub(one, beta1), g), flags=_FAST)
        squared = b.fmul(b.fmul(b.fsub(one, beta2), g), g)
        v = b.fadd(b.fmul(beta2, second), squared, flags=_FAST)
        square = b.fmul(v, _every(b, correction, _FLOATS))
        floor = b.fmul(epsilon, epsilon)
        square = b.select(b.fcmp_ordered(">", square, floor), square, floor)
        change = b.fmul(b.fmul(_every(b, rate, _FLOATS), m), _inverse_root(b, square))
        _store(b, zero, lines[0], at)
        _store(b, b.select(seen, b.fsub(value, change), value), lines[1], at)
        _store(b, b.select(seen, m, first), lines[2], at)
        _store(b, b.select(seen, v, second), lines[3], at)
        return context.get_dummy_value()

    rates = (types.float32, types.float32)
    triple = types.UniTuple(types.float32, 3)
    return types.void(grad, value, first, second, types.int64, *rates, triple), generate


def _prefetch(typing, array, at):
    """Ask for the line of cache of an entry that will be written."""

    def generate(context, builder, signature, arguments):
        memory = _memory(context, builder, signature.args[0], arguments[0])
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        place = builder.bitcast(builder.gep(memory, [arguments[1]]), byte)
        builder.call(ask, [place, _int(1), _int(3), _int(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


add_pair: Any = intrinsic(_add_pair)
prefetch: Any = intrinsic(_prefetch)
floats_at: Any = intrinsic(_floats_at)
adam_eight: Any = intrinsic(_adam_eight)
