"""8-bit and 4-bit work of PyTorch, by the names that bench/kernels uses."""
import torch

from torch_work import in_turn, uniform


def matmul_integer(m, n, k, a, b, copies):
    if a != "int8" or b != "int8":
        return None
    x, weight = (torch.randint(-128, 128, shape, dtype=torch.int8) for shape in ((m, k), (k, n)))
    return lambda: torch._int_mm(x, weight)


def packed_weight(n, k):
    scale, zero = torch.full((n,), 0.01, dtype=torch.float64), torch.zeros(n, dtype=torch.int64)
    codes = torch.randint(-127, 128, (n, k), dtype=torch.int8)
    return torch.ops.quantized.linear_prepack(torch._make_per_channel_quantized_tensor(codes, scale, zero, 0), None)


def linear_int8(m, n, k, copies, variant):
    torch.backends.quantized.engine = variant
    x = torch.quantize_per_tensor(uniform(m, k), 0.01, 128, torch.quint8)
    weight = in_turn(copies, lambda: packed_weight(n, k))
    return lambda: torch.ops.quantized.linear(x, weight(), 0.1, 128)


def linear_int8_dynamic(m, n, k, variant):
    torch.backends.quantized.engine = variant
    x, weight = uniform(m, k), packed_weight(n, k)
    return lambda: torch.ops.quantized.linear_dynamic(x, weight)


def weight_only(m, n, k, bits, group, copies, variant):
    x = uniform(m, k).to(torch.bfloat16)
    if bits == 8:
        scale = (torch.rand(n) + 0.1).to(torch.bfloat16)
        codes = in_turn(copies, lambda: torch.randint(-127, 128, (n, k), dtype=torch.int8))
        return lambda: torch.ops.aten._weight_int8pack_mm(x, codes(), scale)
    outputs = (n + 63) // 64 * 64  # its kernel wants whole tiles
    scales = (torch.rand(k // group, outputs, 2) + 0.1).to(torch.bfloat16)
    first = torch.ops.aten._convert_weight_to_int4pack_for_cpu(torch.randint(1, 16, (outputs, k), dtype=torch.int32), 1)
    codes = in_turn(copies, first.clone)
    return lambda: torch.ops.aten._weight_int4pack_mm_for_cpu(x, codes(), group, scales)


def quantize(what, rows, width, variant=None):
    x = uniform(rows, width)
    scale, zero = torch.full((rows,), 0.01, dtype=torch.float64), torch.zeros(rows, dtype=torch.int64)
    if what == "rows" and variant == "scales given":
        return lambda: torch.quantize_per_channel(x, scale, zero, 0, torch.qint8)
    if what == "rows":

        def composed():
            scales = x.abs().amax(1, keepdim=True) / 127
            return (x / scales).round_().to(torch.int8), scales

        return composed
    if what == "whole":
        return lambda: torch.quantize_per_tensor_dynamic(x, torch.quint8, False)
    if what == "dequantize":
        codes = torch.quantize_per_channel(x, scale, zero, 0, torch.qint8)
        return codes.dequantize
    return None


WORK = {
    "matmulInteger": matmul_integer,
    "linearInt8": linear_int8,
    "linearInt8Dynamic": linear_int8_dynamic,
    "weightOnly": weight_only,
    "quantize": quantize,
}
