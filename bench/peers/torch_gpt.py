"""The model of og.GPT in PyTorch: pre-norm blocks, exact GELU, learnt positions, tied embeddings, SDPA. Eager; training goes through
torch.compile where OG_TORCH_COMPILE is set."""
import os

import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, heads, width):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.o = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, cache, past):
        b, t, c = x.shape
        q, k, v = (z.view(b, t, self.heads, c // self.heads).transpose(1, 2) for z in self.qkv(self.norm1(x)).split(c, 2))
        if cache is not None:
            keys, values = cache
            keys[:, :, past : past + t], values[:, :, past : past + t] = k, v
            k, v = keys[:, :, : past + t], values[:, :, : past + t]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=t > 1)
        x = x + self.o(y.transpose(1, 2).reshape(b, t, c))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self, layers, heads, width, context, vocab):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(heads, width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.cache_shape = (1, heads, context, width // heads)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, 0, 0.02)

    def make_caches(self):
        return [(torch.zeros(self.cache_shape), torch.zeros(self.cache_shape)) for _ in self.blocks]

    def forward(self, ids, caches=None, past=0, last_only=False):
        x = self.tokens(ids) + self.positions.weight[past : past + ids.shape[1]]
        for i, block in enumerate(self.blocks):
            x = block(x, caches[i] if caches else None, past)
        return F.linear(self.norm(x[:, -1:] if last_only else x), self.tokens.weight)


def training_step(layers, heads, width, context, batch, vocab):
    return steps(GPT(layers, heads, width, context, vocab), batch, context, vocab)


def steps(model, batch, context, vocab):
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    x, y = torch.randint(0, vocab, (batch, context)), torch.randint(0, vocab, (batch, context))

    def loss_of(x, y):
        return F.cross_entropy(model(x).view(-1, vocab), y.view(-1))

    if os.environ.get("OG_TORCH_COMPILE"):
        loss_of = torch.compile(loss_of)

    def once():
        loss = loss_of(x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return once


class Apart(nn.Module):
    """q, k and v out of three layers, so that adapters can stand on two of them."""

    def __init__(self, width):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x):
        return torch.cat((self.q(x), self.k(x), self.v(x)), 2)


def adapting_step(batch, rank, scheme=None, **geometry):
    """A training step of PEFT's LoRA on q and v."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        return None
    if scheme is not None:
        return None

    model = GPT(**geometry)
    for block in model.blocks:
        block.qkv = Apart(geometry["width"])
    model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["q", "v"]))
    return steps(model, batch, geometry["context"], geometry["vocab"])


def prefill(layers, heads, width, context, vocab, prompt):
    model = GPT(layers, heads, width, context, vocab).eval()
    caches, ids = model.make_caches(), torch.randint(0, vocab, (1, prompt))
    return lambda: model(ids, caches, 0, last_only=True).argmax(-1).item()


def decode(layers, heads, width, context, vocab, prompt, tokens):
    model = GPT(layers, heads, width, context, vocab).eval()
    caches, ids = model.make_caches(), torch.randint(0, vocab, (1, prompt))
    with torch.no_grad():
        first = model(ids, caches, 0, last_only=True).argmax(-1)

    def once():
        token = first
        for i in range(tokens):
            token = model(token, caches, prompt + i, last_only=True).argmax(-1)
            token.item()

    return once
