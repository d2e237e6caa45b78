"""Small matrix products in vector registers, callable from compiled code without Python.

C[m, n] (+)= sum_k A[m, k] B[k, n] for the MLPs' few columns: a block of C stays in registers while
k runs. Matrices lie in flat float32 arrays, each given by its first entry and the steps from row to
row and, for A, from column to column, in entries. Rows of B and C are contiguous and as wide as
`padded` says, so that no column is left over. A product is kept as it is, cut at zero (ReLU), kept
where another matrix of C's shape is positive (ReLU's gradient), or added to C.
"""

from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from nerfcore.compiled import EXACT
from nerfcore.encoding.lanes import cpu_has

_WIDE = cpu_has("avx512f")
LANES = 16 if _WIDE else 8
BLOCK_ROWS = 6
_MOST_VECTORS = 4 if _WIDE else 2
KEEP, RELU, MASK, ADD = range(4)

_F32, _I64 = ir.FloatType(), ir.IntType(64)
_VECTOR = ir.VectorType(_F32, LANES)
_FAST = ("contract",)  # products may be fused with sums; what is not a number stays so


def padded(columns: int) -> int:
    """Columns of memory that a matrix of so many columns takes."""
    return -(-columns // LANES) * LANES


def _place(builder: Any, memory: Any, index: Any, kind: ir.Type) -> Any:
    return builder.bitcast(builder.gep(memory, [index]), kind.as_pointer())


def _read(builder: Any, memory: Any, index: Any, kind: ir.Type) -> Any:
    value = builder.load(_place(builder, memory, index, kind))
    value.align = 4
    return value


def _every(builder: Any, value: Any) -> Any:
    order = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    one = builder.insert_element(
        ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
    )
    return builder.shuffle_vector(one, one, order)


def _finished(builder: Any, mode: Any, total: Any, c: Any, mask: Any, index: Any) -> Any:
    """A block's sums as the mode wants them; what is not a number stays so."""

    def is_mode(wanted: int) -> Any:
        return builder.icmp_signed("==", mode, ir.Constant(_I64, wanted))

    zeros = ir.Constant(_VECTOR, [0.0] * LANES)
    old = builder.select(is_mode(ADD), _read(builder, c, index, _VECTOR), zeros)
    shown = builder.select(is_mode(MASK), _read(builder, mask, index, _VECTOR), total)
    kept = builder.fadd(total, old, flags=_FAST)
    cut = builder.select(builder.fcmp_unordered(">", shown, zeros), total, zeros)
    return builder.select(builder.or_(is_mode(MASK), is_mode(RELU)), cut, kept)


def _sums(
    builder: Any, rows: int, columns: list[Any], a: Any, a_at: Any, a_row: Any, a_column: Any,
    b: Any, b_at: Any, b_row: Any, inner: Any,
) -> list[list[Any]]:  # fmt: skip
    """The products' sums over k, a vector for each row and strip of columns."""
    zeros = ir.Constant(_VECTOR, [0.0] * LANES)
    places = [[cgutils.alloca_once_value(builder, zeros) for _ in columns] for _ in range(rows)]
    lines = [builder.add(a_at, builder.mul(a_row, ir.Constant(_I64, m))) for m in range(rows)]
    with cgutils.for_range(builder, inner) as loop:
        across = builder.mul(loop.index, a_column)
        right = builder.add(b_at, builder.mul(loop.index, b_row))
        rights = [_read(builder, b, builder.add(right, v), _VECTOR) for v in columns]
        for line, own in zip(lines, places, strict=True):
            value = _every(builder, _read(builder, a, builder.add(line, across), _F32))
            for place, other in zip(own, rights, strict=True):
                part = builder.fmul(value, other, flags=_FAST)
                builder.store(builder.fadd(builder.load(place), part, flags=_FAST), place)
    return [[builder.load(place) for place in own] for own in places]


def _block(rows: int, vectors: int) -> Any:
    """One block of C of rows x (vectors * LANES)."""
    columns = [ir.Constant(_I64, LANES * v) for v in range(vectors)]

    def block(typing, mode, a, a_at, a_row, a_column, b, b_at, b_row, c, c_at, c_row, inner, mask):
        def generate(context, builder, signature, arguments):
            (
                mode,
                left,
                a_at,
                a_row,
                a_column,
                right,
                b_at,
                b_row,
                out,
                c_at,
                c_row,
                inner,
                shown,
            ) = (
                context.make_array(kind)(context, builder, value).data
                if isinstance(kind, types.Array)
                else value
                for kind, value in zip(signature.args, arguments, strict=True)
            )
            totals = _sums(
                builder, rows, columns, left, a_at, a_row, a_column, right, b_at, b_row, inner
            )
            for m, line in enumerate(totals):
                down = builder.add(c_at, builder.mul(c_row, ir.Constant(_I64, m)))
                for column, total in zip(columns, line, strict=True):
                    index = builder.add(down, column)
                    value = _finished(builder, mode, total, out, shown, index)
                    builder.store(value, _place(builder, out, index, _VECTOR)).align = 4
            return context.get_dummy_value()

        n = types.int64
        return types.void(n, a, n, n, n, b, n, n, c, n, n, n, mask), generate

    return intrinsic(block)


# Without AVX-512 a block has at most two vectors, and the widest names are never called.
_tall1, _tall2, _tall4 = (_block(BLOCK_ROWS, min(v, _MOST_VECTORS)) for v in (1, 2, 4))
_flat1, _flat2, _flat4 = (_block(1, min(v, _MOST_VECTORS)) for v in (1, 2, 4))


@numba.njit(**EXACT)
def _strip(mode, a, a_at, a_row, a_col, b, b_at, b_row, c, c_at, c_row, rows, inner, vectors, mask):
    """A strip of C, `vectors` wide."""
    whole = rows // BLOCK_ROWS * BLOCK_ROWS
    for m in range(0, whole, BLOCK_ROWS):
        p, q = a_at + m * a_row, c_at + m * c_row
        if vectors == 4:
            _tall4(mode, a, p, a_row, a_col, b, b_at, b_row, c, q, c_row, inner, mask)
        elif vectors == 2:
            _tall2(mode, a, p, a_row, a_col, b, b_at, b_row, c, q, c_row, inner, mask)
        else:
            _tall1(mode, a, p, a_row, a_col, b, b_at, b_row, c, q, c_row, inner, mask)
    for m in range(whole, rows):
        p, q = a_at + m * a_row, c_at + m * c_row
        if vectors == 4:
            _flat4(mode, a, p, a_row, a_col, b, b_at, b_row, c, q, c_row, inner, mask)
        elif vectors == 2:
            _flat2(mode, a, p, a_row, a_col, b, b_at, b_row, c, q, c_row, inner, mask)
        else:
            _flat1(mode, a, p, a_row, a_col, b, b_at, b_row, c, q, c_row, inner, mask)


@numba.njit(**EXACT)
def product(
    mode, a, a_at, a_row, a_column, b, b_at, b_row, c, c_at, c_row, rows, inner, columns, mask
):
    """Write or add a product.

    Args:
        mode: KEEP, RELU, MASK or ADD.
        a, b, c: flat float32 arrays; `_at` an array's first entry, `_row` and `_column` its steps.
        rows, inner, columns: of C; columns a multiple of LANES.
        mask: lies as `c` does, only meant for MASK; give `c` elsewhere.
    """
    n = 0
    while n < columns:
        vectors = _MOST_VECTORS
        while vectors * LANES > columns - n:
            vectors //= 2
        _strip(
            mode, a, a_at, a_row, a_column, b, b_at + n, b_row, c, c_at + n, c_row, rows, inner,
            vectors, mask,
        )  # fmt: skip
        n += vectors * LANES
