"""Read an exported checkpoint and decode with it, alone or with the drafter.

Shares no code with the training side: the files are parsed, the codes decoded and the layers computed here once more, from
config.json and the tensors, so that a mistake of the export shows as a difference.
"""

import json
import struct

import numpy as np
import torch
import torch.nn.functional as F

E2M1 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def e4m3_table():
    out = np.zeros(256, np.float32)
    for c in range(256):
        e, m = c >> 3 & 15, c & 7
        v = m / 8 * 2.0 ** -6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7)
        out[c] = float("nan") if c & 127 == 127 else (-v if c & 128 else v)
    return out


def read_file(path):
    """{name: (dtype, shape, bytes)} of a safetensors file."""
    data = open(path, "rb").read()
    n = struct.unpack_from("<Q", data)[0]
    out = {}
    for name, t in json.loads(data[8:8 + n]).items():
        if name != "__metadata__":
            a, b = t["data_offsets"]
            out[name] = (t["dtype"], t["shape"], np.frombuffer(data, np.uint8, b - a, 8 + n + a))
    return out


def plain(t):
    """A tensor without scales as float32 (U8 and I32 as they are)."""
    dtype, shape, raw = t
    if dtype == "BF16":
        a = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    elif dtype == "F32":
        a = raw.view("<f4").copy()
    elif dtype == "F8_E4M3":
        a = e4m3_table()[raw]
    else:
        a = {"U8": raw, "I32": raw.view("<i4")}[dtype].copy()
    return torch.from_numpy(a.reshape(shape))


class Checkpoint:
    def __init__(self, folder):
        self.config = json.load(open(f"{folder}/config.json"))
        self.end = json.load(open(f"{folder}/generation_config.json"))["eos_token_id"]
        index = json.load(open(f"{folder}/model.safetensors.index.json"))["weight_map"]
        files = {f: read_file(f"{folder}/{f}") for f in sorted(set(index.values()))}
        self.raw = {name: files[f][name] for name, f in index.items()}
        assert sum(map(len, files.values())) == len(index)

    def plain(self, name):
        return plain(self.raw[name])

    def fp8(self, name, chunks=1):
        """Dequantised; the scale grid is tiled inside each chunk of rows."""
        w, s = self.plain(name), self.plain(name + "_scale_inv")
        assert self.raw[name][0] == "F8_E4M3" and self.raw[name + "_scale_inv"][0] == "F32"
        block = self.config["quantization_config"]["weight_block_size"][0]
        rows = w.shape[0] // chunks
        per = -(-rows // block)
        assert s.shape == (chunks * per, -(-w.shape[1] // block)), (name, s.shape)
        row = torch.arange(w.shape[0])
        grid = (row // rows) * per + row % rows // block
        return w * s[grid][:, torch.arange(w.shape[1]) // block]

    def mxfp4(self, name):
        (d0, (rows, half), raw), (d1, (_, n), scale) = self.raw[name], self.raw[name + "_scale"]
        assert d0 == d1 == "U8" and n * 16 == half
        raw, scale = raw.reshape(rows, half), scale.reshape(rows, n)
        w = np.empty((rows, 2 * half), np.float32)
        w[:, 0::2], w[:, 1::2] = E2M1[raw & 15], E2M1[raw >> 4]
        return torch.from_numpy(w * np.repeat(np.exp2(scale.astype(np.float32) - 127), 32, 1))


def norm(x, w, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * w


def rotate(x, position, dims, theta):
    """x [B, n, heads, d] at position [B, n]."""
    inv = theta ** (-torch.arange(0, dims, 2, device=x.device, dtype=torch.float64) / dims)
    a = (position.double()[..., None] * inv).to(torch.float64)[:, :, None]
    c, s = a.cos().to(x.dtype), a.sin().to(x.dtype)
    u, v = x[..., :dims // 2], x[..., dims // 2:dims]
    return torch.cat((u * c - v * s, v * c + u * s, x[..., dims:]), -1)


def attend(q, k, v, seen, scale, sink=None):
    """q [B, n, heads, d], k and v [B, s, kv, .], seen [B, n, s]."""
    B, n, heads, d = q.shape
    kv = k.shape[2]
    q = q.reshape(B, n, kv, heads // kv, d)
    s = torch.einsum("bnkgd,bskd->bkgns", q, k).float() * scale
    s = s.masked_fill(~seen[:, None, None], float("-inf"))
    if sink is not None:
        s = torch.cat((s, sink.float().reshape(1, kv, -1, 1, 1).expand(B, -1, -1, n, 1)), -1)
    p = torch.softmax(s, -1)
    if sink is not None:
        p = p[..., :-1]
    return torch.einsum("bkgns,bskd->bnkgd", p.to(v.dtype), v).reshape(B, n, -1)


class Target:
    """Batched decoding with a cache; sequences may stand at different positions."""

    def __init__(self, folder, device="cpu", dtype=torch.float32):
        ck = Checkpoint(folder)
        c = self.c = ck.config
        self.end = ck.end
        self.device, self.dtype = device, dtype

        def put(t, exact=False):
            return t.to(device=device, dtype=torch.float32 if exact else dtype)

        chunks = c["num_key_value_heads"]
        self.embed, self.head = put(ck.plain("model.embed_tokens.weight"), True), put(ck.plain("lm_head.weight"))
        self.norm = put(ck.plain("model.norm.weight"), True)
        self.layers = []
        for i, window in enumerate(c["hybrid_layer_pattern"]):
            b, pre = f"model.layers.{i}.", "swa_" if window else ""
            heads, kv = c[pre + "num_attention_heads"], c[pre + "num_key_value_heads"]
            dk, dv = c[pre + "head_dim"], c[pre + "v_head_dim"]
            qkv = ck.fp8(b + "self_attn.qkv_proj.weight", chunks)
            parts = qkv.reshape(chunks, -1, qkv.shape[1]).split((heads // chunks * dk, kv // chunks * dk, kv // chunks * dv), 1)
            w = {"q": put(parts[0].flatten(0, 1)), "k": put(parts[1].flatten(0, 1)), "v": put(parts[2].flatten(0, 1)),
                 "o": put(ck.plain(b + "self_attn.o_proj.weight")), "heads": heads, "kv": kv, "dk": dk, "dv": dv,
                 "window": c["sliding_window"] if window else None, "theta": c[pre + "rope_theta"],
                 "rotary": int(dk * c["partial_rotary_factor"]),
                 "norm1": put(ck.plain(b + "input_layernorm.weight"), True),
                 "norm2": put(ck.plain(b + "post_attention_layernorm.weight"), True)}
            w["sink"] = put(ck.plain(b + "self_attn.attention_sink_bias"), True) if window else None
            if c["moe_layer_freq"][i]:
                w["router"] = put(ck.plain(b + "mlp.gate.weight"), True)
                w["bias"] = put(ck.plain(b + "mlp.gate.e_score_correction_bias"), True)
                experts = [[ck.mxfp4(f"{b}mlp.experts.{e}.{n}_proj.weight") for e in range(c["n_routed_experts"])]
                           for n in ("gate", "up", "down")]
                w["gate"], w["up"] = put(torch.cat(experts[0])), put(torch.cat(experts[1]))
                w["down"] = put(torch.cat(experts[2], 1))
            else:
                for n in ("gate", "up", "down"):
                    w[n] = put(ck.fp8(f"{b}mlp.{n}_proj.weight"))
            self.layers.append(w)

    def reset(self, batch, length):
        self.length = length
        self.cache = [(torch.zeros(batch, length, w["kv"], w["dk"], device=self.device, dtype=self.dtype),
                       torch.zeros(batch, length, w["kv"], w["dv"], device=self.device, dtype=self.dtype)) for w in self.layers]

    def experts(self, h, w):
        """All experts at once, those not chosen weighted by zero."""
        c = self.c
        p = torch.sigmoid(h.float() @ w["router"].t())
        pick = torch.sort(p + w["bias"], dim=-1, descending=True, stable=True).indices[..., :c["num_experts_per_tok"]]
        chosen = torch.zeros_like(p).scatter_(-1, pick, 1.0)
        weight = p * chosen / ((p * chosen).sum(-1, keepdim=True) + 1e-20)
        h = h.to(self.dtype)
        a = (F.silu(h @ w["gate"].t()) * (h @ w["up"].t())).unflatten(-1, (c["n_routed_experts"], -1))
        return (a * weight[..., None].to(a.dtype)).flatten(-2) @ w["down"].t()

    @torch.no_grad()
    def step(self, tokens, start, taps=(), span=None, last=None):
        """tokens [B, n] at positions start [B].. ; logits [B, n, vocab] (of row `last` [B] alone if given) and taps [B, n, .]."""
        c = self.c
        eps = c["layernorm_epsilon"]
        B, n = tokens.shape
        span = span or self.length
        position = start[:, None] + torch.arange(n, device=self.device)
        row = torch.arange(B, device=self.device)[:, None]
        x, kept = self.embed[tokens], []
        for i, w in enumerate(self.layers):
            h = norm(x, w["norm1"], eps).to(self.dtype)
            q = rotate((h @ w["q"].t()).reshape(B, n, w["heads"], -1), position, w["rotary"], w["theta"])
            k = rotate((h @ w["k"].t()).reshape(B, n, w["kv"], -1), position, w["rotary"], w["theta"])
            v = (h @ w["v"].t()).reshape(B, n, w["kv"], -1) * c["attention_value_scale"]
            K, V = self.cache[i]
            K[row, position], V[row, position] = k.to(self.dtype), v.to(self.dtype)
            j = torch.arange(span, device=self.device)
            seen = j <= position[..., None]
            if w["window"]:
                seen &= j > position[..., None] - w["window"]
            o = attend(q, K[:, :span], V[:, :span], seen, w["dk"] ** -0.5, w["sink"])
            x = x + (o @ w["o"].t()).float()
            h = norm(x, w["norm2"], eps)
            if "router" in w:
                x = x + self.experts(h, w).float()
            else:
                h = h.to(self.dtype)
                x = x + ((F.silu(h @ w["gate"].t()) * (h @ w["up"].t())) @ w["down"].t()).float()
            if i in taps:
                kept.append(x)
        if last is not None:
            x = x[row[:, 0], last][:, None]
        logits = (norm(x, self.norm, eps).to(self.dtype) @ self.head.t()).float()
        return logits, torch.cat(kept, -1) if kept else None


class Drafter:
    def __init__(self, folder, target):
        self.target = target
        self.c = json.load(open(f"{folder}/dflash/config.json"))
        device, dtype = target.device, target.dtype
        t = {n: plain(x).to(device) for n, x in read_file(f"{folder}/dflash/model.safetensors").items()}
        self.w = {n: x if x.dim() == 1 else x.to(dtype) for n, x in t.items()}
        self.taps = tuple(self.c["dflash_config"]["target_layer_ids"])
        self.scale = self.c["dflash_config"]["attention_value_scale"]
        self.rotary = int(self.c["head_dim"] * self.c["partial_rotary_factor"])
        self.block = self.c["block_size"]

    def reset(self, batch, length):
        c = self.c
        self.cache = [tuple(torch.zeros(batch, length, c["num_key_value_heads"], c["head_dim"], device=self.target.device,
                                        dtype=self.target.dtype) for _ in "kv") for _ in range(c["num_hidden_layers"])]

    def key_value(self, i, h, position):
        c, w, p = self.c, self.w, f"layers.{i}.self_attn."
        k = (h @ w[p + "k_proj.weight"].t()).unflatten(-1, (c["num_key_value_heads"], -1))
        k = norm(k.float(), w[p + "k_norm.weight"], c["rms_norm_eps"])
        k = rotate(k, position, self.rotary, c["rope_theta"]).to(self.target.dtype)
        v = (h @ w[p + "v_proj.weight"].t()).unflatten(-1, (c["num_key_value_heads"], -1)) * self.scale
        return k, v

    @torch.no_grad()
    def context(self, taps, start):
        """Keys and values of every layer for rows [B, n] of tapped streams at positions start.."""
        w = self.w
        c = norm((taps.to(self.target.dtype) @ w["fc.weight"].t()).float(), w["hidden_norm.weight"], self.c["rms_norm_eps"])
        c = c.to(self.target.dtype)
        position = start[:, None] + torch.arange(taps.shape[1], device=taps.device)
        row = torch.arange(taps.shape[0], device=taps.device)[:, None]
        for i, (K, V) in enumerate(self.cache):
            K[row, position], V[row, position] = self.key_value(i, c, position)

    @torch.no_grad()
    def draft(self, anchor, start):
        """The block - 1 tokens after anchor [B], which stands at position start [B]."""
        c, w, dtype = self.c, self.w, self.target.dtype
        B, n = anchor.shape[0], self.block
        x = w["mask_embedding"].float().expand(B, n, -1).clone()
        x[:, 0] = self.target.embed[anchor]
        slot = torch.arange(n, device=anchor.device)
        position = start[:, None] + slot
        j = torch.arange(self.cache[0][0].shape[1], device=anchor.device)
        past = (j < start[:, None, None]) & (j >= position[..., None] - (c["sliding_window"] - 1))
        seen = torch.cat((past, torch.ones(B, n, n, dtype=torch.bool, device=anchor.device)), -1)
        for i, (K, V) in enumerate(self.cache):
            p = f"layers.{i}."
            h = norm(x, w[p + "input_layernorm.weight"], c["rms_norm_eps"]).to(dtype)
            q = (h @ w[p + "self_attn.q_proj.weight"].t()).unflatten(-1, (c["num_attention_heads"], -1))
            q = rotate(norm(q.float(), w[p + "self_attn.q_norm.weight"], c["rms_norm_eps"]), position, self.rotary, c["rope_theta"])
            k, v = self.key_value(i, h, position)
            o = attend(q.to(dtype), torch.cat((K, k), 1), torch.cat((V, v), 1), seen, c["head_dim"] ** -0.5,
                       w[p + "self_attn.attention_sink_bias"])
            x = x + (o @ w[p + "self_attn.o_proj.weight"].t()).float()
            h = norm(x, w[p + "post_attention_layernorm.weight"], c["rms_norm_eps"]).to(dtype)
            a = F.silu(h @ w[p + "mlp.gate_proj.weight"].t()) * (h @ w[p + "mlp.up_proj.weight"].t())
            x = x + (a @ w[p + "mlp.down_proj.weight"].t()).float()
        h = norm(x[:, 1:], w["norm.weight"], c["rms_norm_eps"]).to(dtype)
        return (h @ self.target.head.t()).argmax(-1)


def pad(prompts, device):
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    out = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
    for i, p in enumerate(prompts):
        out[i, :len(p)] = torch.tensor(p)
    return out.to(device), lengths


@torch.no_grad()
def greedy(target, prompts, count):
    """Plain greedy decoding: [(ids, smallest gap between the two best logits)], cut after the first end token."""
    tokens, start = pad(prompts, target.device)
    target.reset(len(prompts), tokens.shape[1] + count)
    logits, _ = target.step(tokens, torch.zeros_like(start), last=start - 1)
    out, gaps = [], []
    for _ in range(count):
        best = logits[:, -1].topk(2).values
        gaps.append(best[:, 0] - best[:, 1])
        out.append(logits[:, -1].argmax(-1))
        logits, _ = target.step(out[-1][:, None], start)
        start = start + 1
    out, gaps = torch.stack(out, 1).tolist(), torch.stack(gaps, 1).tolist()
    result = []
    for ids, gap in zip(out, gaps):
        n = ids.index(target.end) + 1 if target.end in ids else count
        result.append((ids[:n], min(gap[:n])))
    return result


def choose(logits, temperature):
    """The best token, or one drawn at the temperature, of each row."""
    if not temperature:
        return logits.argmax(-1)
    noise = torch.rand_like(logits).clamp(1e-20, 1 - 1e-7)
    return (logits / temperature - torch.log(-torch.log(noise))).argmax(-1)


@torch.no_grad()
def dflash(target, drafter, prompts, count, temperature=0.0):
    """Decoding with drafts: [(ids, tokens emitted in each round, drafted ids of each round)].

    A round's number is before any cut at count.
    """
    tokens, start = pad(prompts, target.device)
    n, length = drafter.block, tokens.shape[1] + count + 2 * drafter.block
    target.reset(len(prompts), length)
    drafter.reset(len(prompts), length)
    logits, taps = target.step(tokens, torch.zeros_like(start), drafter.taps, last=start - 1)
    drafter.context(taps, torch.zeros_like(start))
    anchor = choose(logits[:, -1], temperature)
    out, rounds, drafted = [[a] for a in anchor.tolist()], [[] for _ in prompts], [[] for _ in prompts]
    live = [o[-1] != target.end for o in out]
    while any(live):
        drafts = drafter.draft(anchor, start)
        logits, taps = target.step(torch.cat((anchor[:, None], drafts), 1), start, drafter.taps)
        drafter.context(taps, start)
        choice = choose(logits, temperature)
        proposed = drafts.tolist()
        accepted = (drafts == choice[:, :-1]).long().cumprod(1).sum(1)
        for b, (a, y) in enumerate(zip(accepted.tolist(), choice.tolist())):
            if not live[b]:
                continue
            emitted = y[:a + 1]
            if target.end in emitted:
                emitted = emitted[:emitted.index(target.end) + 1]
            out[b] += emitted
            rounds[b].append(len(emitted))
            drafted[b].append(proposed[b])
            live[b] = target.end not in emitted and len(out[b]) < count
        move = torch.tensor(live, device=start.device)
        anchor = torch.where(move, choice.gather(1, accepted[:, None])[:, 0], anchor)
        start = torch.where(move, start + accepted + 1, start)
    return [(o[:count], r, d) for o, r, d in zip(out, rounds, drafted)]
