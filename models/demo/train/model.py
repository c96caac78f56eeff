"""The demo model's target network, in the form that trains fast.

Matrices are float32 masters; `weights` turns them into what a forward pass multiplies with (bfloat16, rounded to the
checkpoint's formats first when quant is set). The residual stream stays float32. The experts are evaluated densely and
masked by their gates: at this size that beats sorting tokens.
"""

import torch
import torch.nn.functional as F
from torch import nn

import quant as Q
from config import TARGET


def rms(x, w, eps=TARGET.eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * w


def rope_table(positions, rotary, theta):
    inv = theta ** (-torch.arange(0, rotary, 2, device=positions.device, dtype=torch.float64) / rotary)
    angle = positions.double()[..., None] * inv
    return angle.cos().float(), angle.sin().float()


def rope(x, cos, sin):
    """x [..., tokens, heads, dim]; the first 2 * cos.shape[-1] dims rotate, in pairs (i, i + half)."""
    half = cos.shape[-1]
    c, s = cos[..., None, :].to(x.dtype), sin[..., None, :].to(x.dtype)
    a, b, rest = x[..., :half], x[..., half:2 * half], x[..., 2 * half:]
    return torch.cat((a * c - b * s, b * c + a * s, rest), -1)


def split_qkv(y, layer, cfg=TARGET):
    """Fused rows [..., chunks * (Q | K | V)] -> heads q, k, v, in head order."""
    nq, nk, nv = cfg.qkv_chunk(layer)
    y = y.unflatten(-1, (cfg.chunks, nq + nk + nv))
    q, k, v = y.split((nq, nk, nv), -1)
    return (q.reshape(*y.shape[:-2], cfg.heads, cfg.qk), k.reshape(*y.shape[:-2], -1, cfg.qk),
            v.reshape(*y.shape[:-2], -1, cfg.v))


def attend_full(q, k, v, scale):
    """Causal attention, q [B, T, heads, d]."""
    g = q.shape[2] // k.shape[2]
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    k, v = k.repeat_interleave(g, 1), v.repeat_interleave(g, 1)
    dim = v.shape[-1]
    v = F.pad(v, (0, q.shape[-1] - dim))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)[..., :dim].transpose(1, 2)


def attend_window(q, k, v, sink, scale, window):
    """Sliding window with a sink, by blocks of `window` queries against the block's own keys and the block before."""
    B, T, H, d = q.shape
    kv, n = k.shape[2], T // window
    g = H // kv

    def with_previous(x):
        x = x.reshape(B, n, window, kv, -1)
        return torch.cat((F.pad(x, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1], x), 2)

    k, v = with_previous(k), with_previous(v)
    s = torch.einsum("bnqkgd,bnskd->bnkgqs", q.reshape(B, n, window, kv, g, d), k).float() * scale
    i = torch.arange(window, device=q.device)[:, None]
    j = torch.arange(2 * window, device=q.device)[None, :]
    seen = (j > i) & (j <= i + window)
    seen = seen[None] & ((torch.arange(n, device=q.device)[:, None, None] > 0) | (j >= window))
    s = s.masked_fill(~seen[:, None, None], float("-inf"))
    b = sink.float().reshape(1, 1, kv, g, 1, 1)
    m = torch.maximum(s.amax(-1, keepdim=True), b).detach()
    e = torch.exp(s - m)
    p = e / (e.sum(-1, keepdim=True) + torch.exp(b - m))
    o = torch.einsum("bnkgqs,bnskd->bnqkgd", p.to(v.dtype), v)
    return o.reshape(B, T, H, -1)


def route(x, gate, bias, top):
    """Weights [tokens, experts], zero where not chosen, and the choice as a mask; ties go to the lowest index."""
    with torch.autocast(x.device.type, enabled=False):
        p = torch.sigmoid(x.float() @ gate.float().t())
    score = (p + bias).detach()
    a, b = score[..., :, None], score[..., None, :]
    n = torch.arange(score.shape[-1], device=x.device)
    before = (b > a) | ((b == a) & (n[None, :] < n[:, None]))
    mask = (before.sum(-1) < top).float()
    w = p * mask
    return w / (w.sum(-1, keepdim=True) + 1e-20), mask


def attention(x, w, kind, layer, cos, sin, cfg):
    h = rms(x, w["norm1"]).to(w["qkv"].dtype)
    q, k, v = split_qkv(h @ w["qkv"].t(), layer, cfg)
    q, k = rope(q, cos, sin), rope(k, cos, sin)
    v = v * cfg.value_scale
    scale = cfg.qk ** -0.5
    o = attend_window(q, k, v, w["sink"], scale, cfg.window) if kind else attend_full(q, k, v, scale)
    return x + (o.flatten(2) @ w["o"].t()).float()


def dense_block(x, w, kind, layer, cos, sin, cfg):
    x = attention(x, w, kind, layer, cos, sin, cfg)
    h = rms(x, w["norm2"]).to(w["qkv"].dtype)
    return x + ((F.silu(h @ w["gate"].t()) * (h @ w["up"].t())) @ w["down"].t()).float(), None


def expert_block(x, w, kind, layer, cos, sin, cfg):
    x = attention(x, w, kind, layer, cos, sin, cfg)
    n = rms(x, w["norm2"])
    weight, mask = route(n, w["router"], w["bias"], cfg.top)
    h = n.to(w["qkv"].dtype)
    a = F.silu(h @ w["gate"].t()) * (h @ w["up"].t())
    a = a.unflatten(-1, (cfg.experts, cfg.inner)) * weight.to(a.dtype)[..., None]
    return x + (a.flatten(-2) @ w["down"].t()).float(), mask.sum((0, 1))


def head_loss(x, norm, head, labels):
    logits = rms(x, norm).to(head.dtype) @ head.t()
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())


def head_choice(x, norm, head):
    return (rms(x, norm).to(head.dtype) @ head.t()).argmax(-1)


def round_experts(gate, up, down):
    """[E, I, H], [E, I, H], [E, H, I] -> rounded, gate and up [E * I, H], down [H, E * I], bfloat16."""
    return [Q.straight_through(w, Q.mxfp4(w)) for w in (gate, up, down)]


def round_fp8(w, chunks, block):
    return Q.straight_through(w, Q.fp8(w, chunks, block))


class Net(nn.Module):
    def __init__(self, cfg=TARGET, compiled=False):
        super().__init__()
        self.cfg = cfg
        H, std = cfg.hidden, cfg.hidden ** -0.5

        def matrix(*shape, scale=1.0):
            return nn.Parameter(torch.randn(*shape) * std * scale)

        self.embed = nn.Parameter(torch.randn(cfg.vocab, H) * 0.1)
        self.head = matrix(cfg.vocab, H, scale=0.5)
        self.norm = nn.Parameter(torch.ones(H))
        self.blocks = nn.ModuleList()
        for i in range(cfg.layers):
            b = nn.ParameterDict()
            b["norm1"], b["norm2"] = nn.Parameter(torch.ones(H)), nn.Parameter(torch.ones(H))
            b["qkv"] = matrix(cfg.chunks * sum(cfg.qkv_chunk(i)), H, scale=0.7)
            b["o"] = matrix(H, cfg.heads * cfg.v, scale=0.3)
            if cfg.pattern[i]:
                b["sink"] = nn.Parameter(torch.zeros(cfg.heads))
            if i == 0:
                b["gate"], b["up"] = matrix(cfg.dense_inner, H), matrix(cfg.dense_inner, H)
                b["down"] = matrix(H, cfg.dense_inner, scale=0.2)
            else:
                b["router"] = matrix(cfg.experts, H, scale=0.5)
                b["gate"], b["up"] = matrix(cfg.experts, cfg.inner, H), matrix(cfg.experts, cfg.inner, H)
                b["down"] = matrix(cfg.experts, H, cfg.inner, scale=0.5)
            self.blocks.append(b)
        self.register_buffer("bias", torch.zeros(cfg.layers, cfg.experts))
        wrap = torch.compile if compiled else (lambda f, **_: f)
        self._dense, self._expert = wrap(dense_block, dynamic=False), wrap(expert_block, dynamic=False)
        self._loss, self._choice = wrap(head_loss, dynamic=False), wrap(head_choice, dynamic=False)
        self._mxfp4, self._fp8 = wrap(round_experts, dynamic=False), wrap(round_fp8, dynamic=False)

    def weights(self, quant=False, dtype=torch.bfloat16):
        """What a forward pass multiplies with, one dict a layer."""
        cfg, out = self.cfg, []
        for i, b in enumerate(self.blocks):
            w = dict(b.items())
            if quant:
                w["qkv"] = self._fp8(w["qkv"], cfg.chunks, cfg.fp8_block)
                if i == 0:
                    for n in ("gate", "up", "down"):
                        w[n] = self._fp8(w[n], 1, cfg.fp8_block)
                else:
                    w["gate"], w["up"], w["down"] = self._mxfp4(w["gate"], w["up"], w["down"])
            if i:
                w["gate"], w["up"] = w["gate"].flatten(0, 1), w["up"].flatten(0, 1)
                w["down"] = w["down"].permute(1, 0, 2).flatten(1)
                w["bias"] = self.bias[i]
            for n in ("qkv", "o", "gate", "up", "down"):
                w[n] = w[n].to(dtype)
            out.append(w)
        return out

    def trunk(self, tokens, weights, taps=()):
        """The residual stream after the last layer, each layer's tokens per expert, and the tapped streams."""
        cfg = self.cfg
        x = F.embedding(tokens, self.embed)
        position = torch.arange(tokens.shape[1], device=tokens.device)
        tables = [rope_table(position, cfg.rotary, t) for t in (cfg.theta_full, cfg.theta_window)]
        counts, kept = [], []
        for i, w in enumerate(weights):
            run = self._dense if i == 0 else self._expert
            # Layers of one kind share a compiled block: its layer argument is the first of that kind.
            kind = cfg.pattern[i]
            x, n = run(x, w, kind, cfg.pattern.index(kind), *tables[kind], cfg)
            counts.append(n)
            if i in taps:
                kept.append(x)
        return x, counts, kept

    def loss(self, tokens, quant=False, weights=None):
        x, counts, _ = self.trunk(tokens[:, :-1], weights or self.weights(quant))
        return self._loss(x, self.norm, self.head.to(torch.bfloat16), tokens[:, 1:]), counts

    @torch.no_grad()
    def balance(self, counts, rate):
        """Move the selection bias toward experts that were chosen less than their share."""
        for i, n in enumerate(counts):
            if n is not None:
                self.bias[i] += rate * torch.sign(n.mean() - n)
