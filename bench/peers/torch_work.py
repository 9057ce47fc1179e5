"""Floating-point work of PyTorch, by the names that bench/kernels uses."""
import itertools

import torch
import torch.nn.functional as F


def uniform(*shape, grad=False):
    return (torch.rand(*shape) * 2 - 1).requires_grad_(grad)


def in_turn(count, make):
    """Several of the same kind, given out in turn."""
    things = itertools.cycle([make() for _ in range(count)])
    return lambda: next(things)


def way_back(y, inputs):
    """The way back alone: the graph is recorded once and walked again and again."""
    gradient = uniform(*y.shape)
    return lambda: torch.autograd.grad(y, inputs, gradient, retain_graph=True)


def matmul(m, n, k, form, dtype):
    dtype = getattr(torch, dtype)
    a = uniform(k, m).to(dtype).t() if form == "TN" else uniform(m, k).to(dtype)
    b = uniform(n, k).to(dtype).t() if form == "NT" else uniform(k, n).to(dtype)
    return lambda: torch.mm(a, b)


def linear(m, n, k, copies, dtype):
    dtype = getattr(torch, dtype)
    x, weight = uniform(m, k).to(dtype), in_turn(copies, lambda: uniform(n, k).to(dtype))
    return lambda: F.linear(x, weight())


def sparse_linear(m, n, k, layout, zeros, side, variant):
    x, weight = uniform(k, m), uniform(n, k)
    if variant == "dense":
        rows = uniform(m, k)
        return lambda: F.linear(rows, weight)
    if variant == "csr":
        csr = (weight * (torch.rand(n, k) >= zeros)).to_sparse_csr()
        return lambda: torch.mm(csr, x)
    kept = (torch.rand(n // side, 1, k // side, 1) >= zeros).expand(-1, side, -1, side).reshape(n, k)
    bsr = (weight * kept).to_sparse_bsr((side, side))
    return lambda: torch.mm(bsr, x)


def attention(batch, heads, kvHeads, time, width, backward, window, softCap):
    q = uniform(batch, heads, time, width, grad=backward)
    k, v = (uniform(batch, kvHeads, time, width, grad=backward) for _ in range(2))
    gradient = uniform(batch, heads, time, width)
    query, key = torch.arange(time)[:, None], torch.arange(time)
    seen = key <= query
    if window is not None:
        seen &= key > query - window

    def once():
        if softCap is not None:  # no fused form
            scores = q @ k.transpose(-1, -2) * width**-0.5
            scores = (softCap * torch.tanh(scores / softCap)).masked_fill_(~seen, -torch.inf)
            y = torch.softmax(scores, -1) @ v
        elif window is not None:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=kvHeads != heads)
        if backward:
            torch.autograd.grad(y, (q, k, v), gradient)

    return once


def attention_decode(heads, kvHeads, keys, width, copies):
    q = uniform(1, heads, 1, width)
    cache = in_turn(copies, lambda: (uniform(1, kvHeads, keys, width), uniform(1, kvHeads, keys, width)))

    def once():
        k, v = cache()
        F.scaled_dot_product_attention(q, k, v, enable_gqa=kvHeads != heads)

    return once


def rope(batch, heads, time, width):
    x, cos, sin = uniform(batch, heads, time, width), uniform(time, width), uniform(time, width)

    def once():  # as Hugging Face's models compose it
        half = torch.cat((-x[..., width // 2 :], x[..., : width // 2]), -1)
        return x * cos + half * sin

    return once


def rows(kind, rows, width):
    x, weight, bias = uniform(rows, width), uniform(width), uniform(width)
    other = uniform(rows, width)
    if kind.endswith(" backward"):
        for tensor in (x, weight, bias):
            tensor.requires_grad_()
    forward = {
        "softmax": lambda: torch.softmax(x, -1),
        "logSoftmax": lambda: torch.log_softmax(x, -1),
        "exp": lambda: torch.exp(x),
        "layerNorm": lambda: F.layer_norm(x, (width,), weight, bias),
        "rmsNorm": lambda: F.rms_norm(x, (width,), weight, 1e-6),
        "addLayerNorm": lambda: F.layer_norm(x + other, (width,), weight, bias),
        "gelu": lambda: F.gelu(x),
        "gelu tanh": lambda: F.gelu(x, approximate="tanh"),
        "swiglu": lambda: F.silu(x) * other,
    }[kind.removesuffix(" backward")]
    if not kind.endswith(" backward"):
        return forward
    inputs = {"layerNorm": (x, weight, bias), "rmsNorm": (x, weight)}.get(kind.removesuffix(" backward"), (x,))
    return way_back(forward(), inputs)


def add(shape):
    a, b = uniform(*shape), uniform(*shape)
    return lambda: torch.add(a, b)


def matrix(kind, rows, width):
    x = uniform(rows, width)
    return {
        "transpose": lambda: x.t().contiguous(),
        "cast": lambda: x.to(torch.bfloat16),
        "sumRows": lambda: x.sum(-1),
        "sumColumns": lambda: x.sum(0),
        "argmax": lambda: x.argmax(-1),
        "topk": lambda: x.topk(50),
        "cumsum": lambda: x.cumsum(-1),
    }[kind]


def cross_entropy(rows, classes, backward):
    x, target = uniform(rows, classes, grad=backward), torch.randint(0, classes, (rows,))

    def once():
        loss = F.cross_entropy(x, target)
        if backward:
            torch.autograd.grad(loss, x)

    return once


def linear_cross_entropy(rows, width, classes, backward):
    hidden, weight = uniform(rows, width, grad=backward), uniform(classes, width, grad=backward)
    target = torch.randint(0, classes, (rows,))
    return lambda: torch.autograd.grad(F.cross_entropy(F.linear(hidden, weight), target), (hidden, weight))


def adamw(size, variant):
    p = uniform(size, grad=True)
    p.grad = uniform(size)
    options = {"fused": True} if variant == "fused" else {}
    return torch.optim.AdamW([p], lr=1e-3, **options).step


def grad_norm(count, size):
    grads = [uniform(size) for _ in range(count)]
    return lambda: torch.nn.utils.get_total_norm(grads)


def embedding(tokens, vocab, width, backward):
    table, ids = uniform(vocab, width, grad=backward), torch.randint(0, vocab, (tokens,))
    if not backward:
        return lambda: F.embedding(ids, table)
    return way_back(F.embedding(ids, table), (table,))


def conv(axes, window, length, stride, padding, groups, backward, **channels):
    x = uniform(1, channels["from"], *[length] * axes, grad=backward)
    weight = uniform(channels["to"], channels["from"] // groups, *[window] * axes, grad=backward)
    bias = uniform(channels["to"], grad=backward)
    run = F.conv1d if axes == 1 else F.conv2d
    if backward:
        return way_back(run(x, weight, bias, stride, padding, 1, groups), (x, weight, bias))
    return lambda: run(x, weight, bias, stride, padding, 1, groups)


def rfft(rows, n):
    x = uniform(rows, n)
    return lambda: torch.fft.rfft(x)


def log_mel(samples):
    x, window, filters = uniform(samples), torch.hann_window(400), torch.rand(80, 201)

    def once():  # as OpenAI's Whisper composes it
        power = torch.stft(x, 400, 160, window=window, return_complex=True)[..., :-1].abs() ** 2
        decades = torch.clamp(filters @ power, min=1e-10).log10()
        return (torch.maximum(decades, decades.max() - 8.0) + 4.0) / 4.0

    return once


WORK = {
    "matmul": matmul,
    "linear": linear,
    "sparseLinear": sparse_linear,
    "attention": attention,
    "attentionDecode": attention_decode,
    "rope": rope,
    "rows": rows,
    "add": add,
    "matrix": matrix,
    "crossEntropy": cross_entropy,
    "linearCrossEntropy": linear_cross_entropy,
    "adamw": adamw,
    "gradNorm": grad_norm,
    "embedding": embedding,
    "conv": conv,
    "rfft": rfft,
    "logMel": log_mel,
}
