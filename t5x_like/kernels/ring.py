"""Ring attention: rows shared by devices, each of which keeps its queries while keys and values go round.

Every device has some tokens of a row. Keys and values pass along the ring of the devices, so that after as many turns
as devices each query has met each key, and no device ever holds a whole row (Liu et al. 2023, section 3). Parts of the
softmax are put together by the logarithms of their sums. The backward pass goes round once more, and the gradients of
keys and values travel with them until they are home.

With a causal mask the last device would have all the work. So the row is cut into twice as many chunks as devices, and
device i gets chunks i and 2p − 1 − i for the time of the attention: then every turn has two pairs of chunks to compute
on every device, none of which needs a mask (the order of Grattafiori et al. 2024, section 3.3.2). A window ends the
ring after the turns that it reaches. Pairs whose segments cannot meet are skipped.

Shapes: b batch, t queries of a device, n chunks of a device, c tokens of a chunk, h heads, k key-value heads, e head
width, p devices of the ring.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from t5x_like.kernels import ring_block, splash
from t5x_like.kernels.ring_block import Inputs, TurnOptions, Visibility
from t5x_like.kernels.specification import RESIDUAL, AttentionSpec
from t5x_like.kernels.xla import MASKED
from t5x_like.parallel import layout


class Ring:
    """The backend of rows whose tokens devices share and whose heads they do not."""

    name = "ring"
    heads_first = False
    whole_rows = False

    def supports(self, spec: AttentionSpec) -> str:
        """See `Backend.supports`."""
        setting = layout.current()
        if not setting.cut("length"):
            return "is for rows that devices share"
        if not setting.passes_keys(spec.heads):
            return "is not asked for where devices can share heads (parallelism.strategy=ring asks)"
        if not spec.packed or spec.mask:
            return "takes no mask but that of packed segments"
        if spec.sinks:
            return "has no sinks"
        if spec.value_dim not in (0, spec.head_dim):
            return f"needs values as wide as keys, {spec.head_dim} and not {spec.value_dim}"
        return "has no keys that every segment sees, as a prefix asks for" if spec.prefix else ""

    def prepare(self, spec: AttentionSpec, segment_ids_bt: jax.Array, positions_bt: jax.Array) -> jax.Array:
        """The segments."""
        return segment_ids_bt

    def by_row(self, prepared: jax.Array) -> jax.Array:
        """The segments, which have an axis of rows."""
        return prepared

    def again(self, spec: AttentionSpec, rows: jax.Array) -> jax.Array:
        """The segments of the rows."""
        return rows

    def attend(
        self,
        spec: AttentionSpec,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        prepared: jax.Array,
        bias: jax.Array | None = None,
        sinks_h: jax.Array | None = None,
    ) -> jax.Array:
        """See `Backend.attend`; arrays keep the shards of the residual stream."""
        setting = layout.current()
        tokens = setting.spec(("batch", "length", "act_heads", None))
        keys = setting.spec(("batch", "length", "act_kv", None))
        rows = setting.spec(("batch", "length"))
        biases = setting.spec(("act_heads", "length", None))
        if bias is not None and bias.ndim == 4:
            biases = setting.spec(("batch", "act_heads", "length", None))
        axis = setting.cut("length")
        turn = functools.partial(_local, spec=spec, axis=axis, devices=setting.divisor("length"))
        turn = functools.partial(turn, kernel=_takes_kernel(spec, setting))
        if bias is None:
            return setting.on_each(turn, (tokens, keys, keys, rows), tokens)(q, k, v, prepared)
        return setting.on_each(turn, (tokens, keys, keys, rows, biases), tokens)(q, k, v, prepared, bias)


def _takes_kernel(spec: AttentionSpec, setting: layout.Layout) -> bool:
    chunks = setting.divisor("length") * (2 if _is_balanced(spec) else 1)
    return setting.platform == "tpu" and not spec.bias and spec.queries // chunks % splash.BLOCKS[-1] == 0


def _is_balanced(spec: AttentionSpec) -> bool:
    """Whether a row's chunks are dealt out so that a causal mask leaves every device the same work."""
    return spec.causal and not spec.window and not spec.bias


@dataclasses.dataclass(frozen=True)
class _Call:
    """The static part of a call on one device."""

    spec: AttentionSpec
    axis: tuple[str, ...]
    devices: int
    kernel: bool
    interpret: bool = False

    @property
    def balanced(self) -> bool:
        return _is_balanced(self.spec)

    def block(self, seen: Visibility) -> TurnOptions:
        return TurnOptions(seen, self.spec.soft_cap, self.kernel, self.interpret)

    @property
    def turns(self) -> int:
        """The turns in one direction, the device's own keys among them; a window needs no more than reach it."""
        if not self.spec.window:
            return self.devices
        here = self.spec.queries // self.devices
        return min(self.devices, -(-self.spec.window // here) + 1)


class _Queries(NamedTuple):
    """The queries of a device, [n, b, h, c, e], and their segments, [n, b, c]."""

    q: jax.Array
    ids: jax.Array


class _Keys(NamedTuple):
    """Keys and values of a device, [n, b, k, c, e], and their segments, [n, b, c]: what goes round."""

    k: jax.Array
    v: jax.Array
    ids: jax.Array


def _local(
    q_bthe: jax.Array,
    k_btke: jax.Array,
    v_btke: jax.Array,
    ids_bt: jax.Array,
    bias: jax.Array | None = None,
    *,
    spec: AttentionSpec,
    axis: tuple[str, ...],
    devices: int,
    kernel: bool,
    interpret: bool = False,
) -> jax.Array:
    """Attention of one device's queries, [b, t, h, e], to all keys of their rows."""
    call = _Call(spec, axis, devices, kernel, interpret)
    q_bthe = q_bthe if spec.scale == 1 else q_bthe * spec.scale
    q, k, v = (_deal(call, x.swapaxes(1, 2), 2) for x in (q_bthe, k_btke, v_btke))
    mixed_nbhce = _attend(q, k, v, _deal(call, ids_bt, 1), bias, call)
    return _collect(call, mixed_nbhce).swapaxes(1, 2)


# --- Where the chunks of a row are ------------------------------------------------------------------------------------


def _deal(call: _Call, x: jax.Array, axis: int) -> jax.Array:
    """The chunks of a device with a leading axis: its own tokens, or of two chunks the i-th and the i-th last."""
    if not call.balanced:
        return x[None]
    first, second = jnp.split(x, 2, axis)
    even, odd = _owners(call.devices)
    first, second = jax.lax.ppermute(first, call.axis, even), jax.lax.ppermute(second, call.axis, odd)
    return jnp.stack(_in_order(call, first, second))


def _collect(call: _Call, x_nbhce: jax.Array) -> jax.Array:
    """The inverse of `_deal` for [n, b, h, c, e]: a device's own tokens, [b, h, t, e]."""
    if not call.balanced:
        return x_nbhce[0]
    first, second = _in_order(call, x_nbhce[0], x_nbhce[1])
    even, odd = ([(there, here) for here, there in pairs] for pairs in _owners(call.devices))
    return jnp.concatenate([jax.lax.ppermute(first, call.axis, even), jax.lax.ppermute(second, call.axis, odd)], axis=2)


def _owners(devices: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """To whom a device sends the first and the second half of its tokens: chunks 2i and 2i + 1 of the row."""

    def owner(chunk: int) -> int:
        return min(chunk, 2 * devices - 1 - chunk)

    return [(i, owner(2 * i)) for i in range(devices)], [(i, owner(2 * i + 1)) for i in range(devices)]


def _in_order(call: _Call, first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both, exchanged on devices of odd number, whose earlier chunk of the row is one of odd number."""
    odd = jax.lax.axis_index(call.axis) % 2 == 1
    return jnp.where(odd, second, first), jnp.where(odd, first, second)


# --- The pairs of chunks of a turn ------------------------------------------------------------------------------------


class _Pair(NamedTuple):
    """A pair of chunks: their numbers on the devices that have them, what is seen, and whether any is; None for yes."""

    q: Any
    k: Any
    seen: Visibility
    is_seen: Any = None


def _pairs(call: _Call, turn: Any, device: Any, back: bool = False) -> list[_Pair]:
    """The pairs of a turn, in which a device has the keys of the one `turn` places before it, or with `back` after."""
    causal, window = call.spec.causal, call.spec.window
    own = isinstance(turn, int) and turn == 0
    if call.balanced:
        if own:
            return [
                _Pair(0, 0, Visibility(causal=True)),
                _Pair(1, 0, Visibility()),
                _Pair(1, 1, Visibility(causal=True)),
            ]
        other = jnp.where(device >= turn, 0, 1)  # whose keys are from earlier chunks than the device's first, or not
        return [_Pair(1, 0, Visibility()), _Pair(other, other, Visibility())]
    if own:
        return [_Pair(0, 0, Visibility(causal, window))]
    if window:
        distance = turn * (call.spec.queries // call.devices)
        if back:
            return [_Pair(0, 0, Visibility(window=window, offset=-distance), device + turn < call.devices)]
        return [_Pair(0, 0, Visibility(window=window, offset=distance), device >= turn)]
    return [_Pair(0, 0, Visibility(), device >= turn if causal else None)]


def _source(call: _Call, turn: Any, device: Any, back: bool) -> Any:
    """The device whose keys a device has in a turn."""
    return (device + turn if back else device - turn) % call.devices


def _meet(q_ids_bc: jax.Array, k_ids_bc: jax.Array) -> jax.Array:
    """Whether in any row a segment of the queries can be among those of the keys, by their lowest and highest."""
    return jnp.any((q_ids_bc.max(1) >= k_ids_bc.min(1)) & (k_ids_bc.max(1) >= q_ids_bc.min(1)))


def _of(given: _Queries, keys: _Keys, pair: _Pair, bias: jax.Array | None, source: Any) -> Inputs:
    """The inputs of a pair; of a bias the columns of the keys' device."""
    c = keys.k.shape[3]
    if bias is not None:
        bias = jax.lax.dynamic_slice_in_dim(bias, source * c, c, axis=-1)
    return Inputs(given.q[pair.q], keys.k[pair.k], keys.v[pair.k], given.ids[pair.q], keys.ids[pair.k], bias)


def _when(condition: Any, compute: Callable[[], Any]) -> Any:
    """The arrays of `compute`, or zeros of their shapes where the condition does not hold."""
    shapes = jax.eval_shape(compute)
    return jax.lax.cond(condition, compute, lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))


def _shift(call: _Call, tree: Any, by: int) -> Any:
    """A tree of arrays from the device `by` places before."""
    pairs = [(device, (device + by) % call.devices) for device in range(call.devices)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, call.axis, pairs), tree)


def _round(call: _Call, state: Any, keys: Any, visit: Callable[..., tuple[Any, Any]]) -> Any:
    """Takes keys round the ring: `state, travelling = visit(state, keys, travelling, turn, back)` at every turn.

    What is travelling with the keys starts as None, and `visit` gives it again; it is sent home in the end and summed.
    Keys for the next turn are under way while a turn is computed.
    """
    state, travelling = visit(state, keys, None, 0, False)
    for back in (False, True) if call.spec.window and not call.spec.causal else (False,):
        if call.turns == 1:
            break
        by = -1 if back else 1
        arrived = _shift(call, keys, by)
        moving = jax.tree.map(jnp.zeros_like, travelling)
        if call.spec.window:  # every turn has a mask of its own
            for turn in range(1, call.turns - 1):
                coming = _shift(call, arrived, by)
                state, moving = visit(state, arrived, moving, turn, back)
                arrived, moving = coming, _shift(call, moving, by)
        else:

            def body(turn: Any, carried: Any) -> Any:
                state, arrived, moving = carried
                coming = _shift(call, arrived, 1)
                state, moving = visit(state, arrived, moving, turn, False)
                return state, coming, _shift(call, moving, 1)

            state, arrived, moving = jax.lax.fori_loop(1, call.turns - 1, body, (state, arrived, moving))
        state, moving = visit(state, arrived, moving, call.turns - 1, back)
        home = _shift(call, moving, -by * (call.turns - 1))
        travelling = jax.tree.map(jnp.add, travelling, home)
    return state, travelling


# --- Forward and backward ---------------------------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array, bias: jax.Array | None, call: _Call) -> jax.Array:
    """[n, b, h, c, e] in the dtype of the queries; see `_Queries` and `_Keys` for the arguments."""
    return _forward(q, k, v, ids, bias, call)[0]


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array, bias: jax.Array | None, call: _Call
) -> tuple[jax.Array, Any]:
    given, device = _Queries(q, ids), jax.lax.axis_index(call.axis)

    def visit(state: Any, keys: _Keys, travelling: None, turn: Any, back: bool) -> tuple[Any, None]:
        for pair in _pairs(call, turn, device, back):
            inputs = _of(given, keys, pair, bias, _source(call, turn, device, back))
            mixed, log_sum = state[0][pair.q], state[1][pair.q]

            def added(inputs: Inputs = inputs, pair: _Pair = pair, mixed: Any = mixed, log_sum: Any = log_sum) -> Any:
                return _together(mixed, log_sum, *ring_block.forward(inputs, call.block(pair.seen)))

            is_met = _meet(inputs.q_ids_bt, inputs.k_ids_bs)
            condition = is_met if pair.is_seen is None else is_met & pair.is_seen
            same = functools.partial(lambda mixed, log_sum: (mixed, log_sum), mixed, log_sum)
            mixed, log_sum = jax.lax.cond(condition, added, same)
            state = state[0].at[pair.q].set(mixed), state[1].at[pair.q].set(log_sum)
        return state, None

    nothing = jnp.zeros(q.shape, jnp.float32), jnp.full(q.shape[:-1], 2 * MASKED, jnp.float32)
    (mixed, log_sum), _ = _round(call, nothing, _Keys(k, v, ids), visit)
    mixed = checkpoint_name(mixed.astype(q.dtype), RESIDUAL)
    log_sum = checkpoint_name(log_sum, RESIDUAL)
    return mixed, (q, k, v, ids, bias, mixed, log_sum)


def _together(
    mixed: jax.Array, log_sum: jax.Array, other: jax.Array, other_log_sum: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Two parts of a softmax as one."""
    both = jnp.logaddexp(log_sum, other_log_sum)
    weights = jnp.exp(log_sum - both)[..., None], jnp.exp(other_log_sum - both)[..., None]
    return weights[0] * mixed + weights[1] * other, both


def _backward(call: _Call, kept: Any, grad: jax.Array) -> tuple[Any, ...]:
    q, k, v, ids, bias, mixed, log_sum = kept
    given, device = _Queries(q, ids), jax.lax.axis_index(call.axis)
    grad = grad.astype(q.dtype)

    def visit(state: Any, keys: _Keys, travelling: Any, turn: Any, back: bool) -> tuple[Any, Any]:
        grad_q, grad_bias = state
        zeros = jnp.zeros(k.shape, jnp.float32)
        grad_k, grad_v = (zeros, zeros) if travelling is None else travelling
        for pair in _pairs(call, turn, device, back):
            source = _source(call, turn, device, back)
            inputs = _of(given, keys, pair, bias, source)

            def differentiate(inputs: Inputs = inputs, pair: _Pair = pair) -> Any:
                outside = mixed[pair.q], log_sum[pair.q], grad[pair.q]
                return ring_block.backward(inputs, call.block(pair.seen), *outside)

            is_met = _meet(inputs.q_ids_bt, inputs.k_ids_bs)
            made = _when(is_met if pair.is_seen is None else is_met & pair.is_seen, differentiate)
            grad_q = grad_q.at[pair.q].add(made.q_bhte)
            grad_k, grad_v = grad_k.at[pair.k].add(made.k_bkse), grad_v.at[pair.k].add(made.v_bkse)
            if grad_bias is not None:
                width = made.bias.shape[-1]  # in a window both ways round may come by, of which one sees something
                before = jax.lax.dynamic_slice_in_dim(grad_bias, source * width, width, axis=-1)
                grad_bias = jax.lax.dynamic_update_slice_in_dim(grad_bias, before + made.bias, source * width, axis=-1)
        return (grad_q, grad_bias), (grad_k, grad_v)

    start = jnp.zeros(q.shape, jnp.float32), None if bias is None else jnp.zeros(bias.shape, jnp.float32)
    (grad_q, grad_bias), (grad_k, grad_v) = _round(call, start, _Keys(k, v, ids), visit)
    return (
        *(x.astype(like.dtype) for x, like in ((grad_q, q), (grad_k, k), (grad_v, v))),
        None,
        None if bias is None else grad_bias.astype(bias.dtype),
    )


_attend.defvjp(_forward, _backward)
