"""PyTorch's side of bench/worker.ts: one line of JSON in, one out. Work that is not known is answered with 'unknown'."""
import json
import resource
import sys
import time

import torch
import torch.nn.functional as F

import torch_gpt


def uniform(*shape, grad=False):
    return (torch.rand(*shape) * 2 - 1).requires_grad_(grad)


def matmul(m, n, k, form):
    a = uniform(k, m).t() if form == "TN" else uniform(m, k)
    b = uniform(n, k).t() if form == "NT" else uniform(k, n)
    return lambda: torch.mm(a, b)


def attention(batch, heads, time, width, backward):
    q, k, v = (uniform(batch, heads, time, width, grad=backward) for _ in range(3))
    gradient = uniform(batch, heads, time, width)

    def once():
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        if backward:
            torch.autograd.grad(y, (q, k, v), gradient)

    return once


def rows(kind, rows, width):
    x, weight, bias = uniform(rows, width), uniform(width), uniform(width)
    return {
        "softmax": lambda: torch.softmax(x, -1),
        "layerNorm": lambda: F.layer_norm(x, (width,), weight, bias),
        "rmsNorm": lambda: F.rms_norm(x, (width,), weight, 1e-6),
        "gelu": lambda: F.gelu(x),
    }[kind]


def add(shape):
    a, b = uniform(*shape), uniform(*shape)
    return lambda: torch.add(a, b)


def cross_entropy(rows, classes, backward):
    x, target = uniform(rows, classes, grad=backward), torch.randint(0, classes, (rows,))

    def once():
        loss = F.cross_entropy(x, target)
        if backward:
            torch.autograd.grad(loss, x)

    return once


def adamw(size):
    p = uniform(size, grad=True)
    p.grad = uniform(size)
    return torch.optim.AdamW([p], lr=1e-3, fused=True).step


WORK = {
    "matmul": matmul,
    "attention": attention,
    "rows": rows,
    "add": add,
    "crossEntropy": cross_entropy,
    "adamw": adamw,
    "train": torch_gpt.training_step,
    "prefill": torch_gpt.prefill,
    "decode": torch_gpt.decode,
}


def setup(request):
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    make = WORK.get(request["op"])
    return make(**request["args"]) if make else None


def run(once, n, grad):
    with torch.set_grad_enabled(grad):
        begun = time.perf_counter()
        for _ in range(n):
            once()
        return time.perf_counter() - begun


def main():
    once, grad = None, False
    for line in sys.stdin:
        request = json.loads(line)
        reply = {"ok": True}
        try:
            if request["do"] == "hello":
                reply["versions"] = {"torch": torch.__version__}
            elif request["do"] == "setup":
                once = setup(request)
                grad = request["op"] == "train" or bool(request["args"].get("backward"))
                if once is None:
                    reply = {"ok": False, "reason": "unknown"}
            elif request["do"] == "run":
                reply["seconds"] = run(once, request["n"], grad)
            elif request["do"] == "drop":
                once = None
            elif request["do"] == "peak":
                reply["bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        except Exception as error:  # the other side reports it beside the row
            reply = {"ok": False, "reason": repr(error)}
        print(json.dumps(reply), flush=True)


main()
