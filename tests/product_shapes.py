"""The products of a train step from the model's sizes alone, without any compiled program: a second count of FLOPs.

Shapes: n tokens on one device, d width, h hidden units, q and k widths of all query heads and key-value heads together.
"""

# Products of the forward pass that the backward pass computes again, by remat policy, as names of `_products`.
COMPUTED_AGAIN = {
    "none": (),
    "save_dots": (),
    "save_qkv_attention": ("output", "gate", "up"),
    "save_attention": ("query", "key", "value", "output", "gate", "up"),
    "full": ("query", "key", "value", "output", "gate", "up"),
}


def products_of_a_layer(layer, embed):
    """Multiplications of one token with each matrix of a layer; of experts, with those that a router chooses."""
    attention, mlp = layer.attention, layer.feed_forward
    q, k = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
    times = getattr(mlp, "experts_per_token", 1)
    found = {"query": embed * q, "key": embed * k, "value": embed * k, "output": q * embed}
    found |= {"up": times * embed * mlp.hidden, "down": times * mlp.hidden * embed}
    return found | ({"gate": times * embed * mlp.hidden} if mlp.gated else {})


def executed_flops(experiment, devices, *, backward_products=5, rotations=0):
    """FLOPs of all matrix products of a step on one device, for a causal language model with rotary positions.

    Args:
      experiment: whose layers are all alike.
      devices: among which the work is shared evenly.
      backward_products: of attention, 5 in one kernel and 7 in two.
      rotations: products [n, heads · e] × [e, e] with which queries and keys are rotated, in a layer.
    """
    model, data, remat = experiment.model, experiment.data, experiment.parallelism.remat
    layer, tokens = model.decoder.layer, data.batch_size * data.sequence_length / devices
    each = products_of_a_layer(layer, model.embed)
    in_a_layer = 3 * sum(each.values()) + sum(each.get(name, 0) for name in COMPUTED_AGAIN[remat])
    a = layer.attention
    forward_kernels = 2 if remat == "full" else 1
    pairs = a.heads * a.head_dim * data.sequence_length / 2  # a causal mask leaves half
    in_a_layer += (2 * forward_kernels + backward_products) * pairs
    in_a_layer += rotations * (a.heads + a.kv_heads) * a.head_dim * a.head_dim
    head = 3 * model.vocab_size * model.embed
    return 2 * tokens * (model.decoder.layers * in_a_layer + head)
