"""Train the drafter on text that the exported target wrote itself.

    train_drafter.py DATA OUT CHECKPOINT_DIR --generate SECONDS --train SECONDS [--resume FILE]

Prompts from the training text are continued by the exported target, greedily and at a temperature. Then blocks open at random
anchors: slot 0 holds the real token, the others the mask, the context is the target's tapped streams before the anchor, and
the label of slot j is the target's own choice at anchor + j - 1. A slot counts only while the text so far in the block is what
the target would choose, since verification ends at the first difference.
"""

import argparse
import json
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import decode
import export
import optim
from config import DRAFTER, EOS, TARGET
from model import Net, rms, rope, rope_table


class Draft(nn.Module):
    def __init__(self, cfg=DRAFTER, target=TARGET):
        super().__init__()
        H, std = target.hidden, target.hidden ** -0.5

        def matrix(rows, cols, scale=1.0):
            return nn.Parameter(torch.randn(rows, cols) * cols ** -0.5 * scale)

        self.fc = matrix(H, H * len(cfg.taps))
        self.hidden_norm, self.norm = nn.Parameter(torch.ones(H)), nn.Parameter(torch.ones(H))
        self.mask = nn.Parameter(torch.randn(H) * std)
        self.layers = nn.ModuleList()
        for _ in range(cfg.layers):
            self.layers.append(nn.ParameterDict({
                "input_layernorm": nn.Parameter(torch.ones(H)), "post_attention_layernorm": nn.Parameter(torch.ones(H)),
                "self_attn/q_proj": matrix(cfg.heads * cfg.dim, H), "self_attn/k_proj": matrix(cfg.kv * cfg.dim, H),
                "self_attn/v_proj": matrix(cfg.kv * cfg.dim, H), "self_attn/o_proj": matrix(H, cfg.heads * cfg.dim, 0.3),
                "self_attn/q_norm": nn.Parameter(torch.ones(cfg.dim)), "self_attn/k_norm": nn.Parameter(torch.ones(cfg.dim)),
                "self_attn/attention_sink_bias": nn.Parameter(torch.zeros(cfg.heads)),
                "mlp/gate_proj": matrix(cfg.inner, H), "mlp/up_proj": matrix(cfg.inner, H),
                "mlp/down_proj": matrix(H, cfg.inner, 0.3)}))

    def published(self):
        """Tensors under the names of the checkpoint."""
        out = {"fc.weight": self.fc, "hidden_norm.weight": self.hidden_norm, "norm.weight": self.norm, "mask_embedding": self.mask}
        for i, layer in enumerate(self.layers):
            for n, p in layer.items():
                n = n.replace("/", ".")
                out[f"layers.{i}.{n}" + ("" if n.endswith("bias") else ".weight")] = p
        return out

    def load_published(self, tensors):
        with torch.no_grad():
            for n, p in self.published().items():
                p.copy_(tensors[n].float())


def block_losses(draft, taps, tokens, choice, anchors, embed, head, gamma, cfg):
    """Loss, and the mean acceptance length that these blocks would see; taps [B, T, .], choice [B, T] the target's next tokens."""
    B, T = tokens.shape
    A, n, heads, kv, dim = anchors.shape[1], cfg.block, cfg.heads, cfg.kv, cfg.dim
    slot = torch.arange(n, device=tokens.device)
    position = (anchors[..., None] + slot).reshape(B, A * n)
    bf = torch.bfloat16

    def near(w):
        return w.to(bf)

    c = rms((taps.to(bf) @ near(draft.fc).t()).float(), draft.hidden_norm, cfg.eps).to(bf)
    x = draft.mask.float().to(bf).float().expand(B, A, n, -1)
    x = torch.where(slot[:, None] == 0, F.embedding(tokens.gather(1, anchors), embed)[:, :, None], x).reshape(B, A * n, -1)
    cq, sq = rope_table(position, cfg.rotary, cfg.theta)
    ck, sk = rope_table(torch.arange(T, device=tokens.device), cfg.rotary, cfg.theta)
    j = torch.arange(T, device=tokens.device)
    seen = (j < anchors.repeat_interleave(n, 1)[..., None]) & (j >= position[..., None] - (cfg.window - 1))
    for p in draft.layers:
        h = rms(x, p["input_layernorm"], cfg.eps).to(bf)

        def keys(s, cos, sin):
            k = (s @ near(p["self_attn/k_proj"]).t()).unflatten(-1, (kv, dim))
            v = (s @ near(p["self_attn/v_proj"]).t()).unflatten(-1, (kv, dim)) * cfg.value_scale
            return rope(rms(k.float(), p["self_attn/k_norm"], cfg.eps), cos, sin).to(bf), v

        q = (h @ near(p["self_attn/q_proj"]).t()).unflatten(-1, (heads, dim))
        q = rope(rms(q.float(), p["self_attn/q_norm"], cfg.eps), cq, sq).to(bf)
        q = q.reshape(B, A * n, kv, heads // kv, dim)
        kc, vc = keys(c, ck, sk)
        kb, vb = keys(h, cq, sq)
        kb, vb = kb.reshape(B, A, n, kv, dim), vb.reshape(B, A, n, kv, dim)
        s1 = torch.einsum("bqkgd,bskd->bkgqs", q, kc).float() * dim ** -0.5
        s1 = s1.masked_fill(~seen[:, None, None], float("-inf"))
        s2 = torch.einsum("bankgd,bamkd->bkganm", q.reshape(B, A, n, kv, -1, dim), kb).float() * dim ** -0.5
        s2 = s2.reshape(B, kv, heads // kv, A * n, n)
        sink = p["self_attn/attention_sink_bias"].reshape(1, kv, -1, 1, 1)
        m = torch.maximum(torch.maximum(s1.amax(-1, keepdim=True), s2.amax(-1, keepdim=True)), sink).detach()
        e1, e2 = torch.exp(s1 - m), torch.exp(s2 - m)
        total = e1.sum(-1, keepdim=True) + e2.sum(-1, keepdim=True) + torch.exp(sink - m)
        p1, p2 = (e1 / total).to(bf), (e2 / total).to(bf)
        o = torch.einsum("bkgqs,bskd->bqkgd", p1, vc)
        o = o + torch.einsum("bkganm,bamkd->bankgd", p2.reshape(B, kv, -1, A, n, n), vb).reshape(o.shape)
        x = x + (o.flatten(2) @ near(p["self_attn/o_proj"]).t()).float()
        h = rms(x, p["post_attention_layernorm"], cfg.eps).to(bf)
        x = x + ((F.silu(h @ near(p["mlp/gate_proj"]).t()) * (h @ near(p["mlp/up_proj"]).t())) @ near(p["mlp/down_proj"]).t()).float()
    x = rms(x.reshape(B, A, n, -1)[:, :, 1:], draft.norm, cfg.eps).to(bf)
    logits = (x @ head.t()).float()
    at = position.reshape(B, A, n)
    label = choice.gather(1, at[..., :-1].flatten(1)).reshape(B, A, n - 1)
    real = tokens.gather(1, at[..., 1:].flatten(1)).reshape(B, A, n - 1)
    valid = torch.cat((torch.ones_like(label[..., :1]), (real == label)[..., :-1].long().cumprod(-1)), -1)
    ce = F.cross_entropy(logits.flatten(0, 2), label.flatten(), reduction="none").reshape(label.shape)
    if gamma > 0:
        weight = torch.exp(-(slot[1:] - 1) / gamma).expand_as(ce)
    else:  # D-PACE: the chance, smoothed, that the block is still alive at this slot, summed over the slots it leads to
        alive = (0.5 * torch.exp(-ce.detach()) + 0.5).cumprod(-1)
        weight = alive.flip(-1).cumsum(-1).flip(-1)
    weight = weight * valid
    right = ((logits.argmax(-1) == label) & (valid > 0)).long().cumprod(-1)
    whole = valid[..., -1].float()  # blocks that tell the acceptance: those the target would have written
    length = ((1 + right.sum(-1)) * whole).sum() / whole.sum().clamp(min=1)
    return (ce * weight).sum() / weight.sum(), length


@torch.no_grad()
def write_texts(target, tokens, starts, length, batch, seconds, seed=7):
    """Sequences [n, length] of prompts from the training text and the target's continuations; half begin at a file's beginning."""
    gen = torch.Generator(device=tokens.device).manual_seed(seed)
    t0, out = time.time(), []
    target.reset(batch, length)
    while not out or time.time() - t0 + (time.time() - t0) / len(out) < seconds:
        prompt = [32, 64, 96, 128][len(out) % 4]
        prompt = min(prompt, length // 2)
        temperature = [0.0, 0.0, 0.8, 0.0, 1.0][len(out) % 5]
        a = starts[torch.randint(len(starts), (batch // 2,), generator=gen, device=tokens.device)]
        b = torch.randint(len(tokens) - length, (batch - batch // 2,), generator=gen, device=tokens.device)
        at = torch.cat((a, b)).clamp(max=len(tokens) - length - 1)
        text = tokens[at[:, None] + torch.arange(prompt, device=tokens.device)].long()
        start = torch.zeros(batch, dtype=torch.long, device=tokens.device)
        last = torch.full_like(start, prompt - 1)
        logits, _ = target.step(text, start, span=prompt, last=last)
        columns, start = [text], start + prompt
        for i in range(length - prompt):
            if temperature:
                noise = torch.rand(logits.shape[0], logits.shape[2], generator=gen, device=tokens.device).clamp(1e-20, 1 - 1e-7)
                token = (logits[:, -1] / temperature - torch.log(-torch.log(noise))).argmax(-1)
            else:
                token = logits[:, -1].argmax(-1)
            columns.append(token[:, None])
            if i < length - prompt - 1:
                logits, _ = target.step(token[:, None], start, span=min(length, -(-(prompt + i + 1) // 64) * 64))
                start = start + 1
        out.append(torch.cat(columns, 1).to(torch.int16))
    return torch.cat(out), time.time() - t0


def main():
    p = argparse.ArgumentParser()
    p.add_argument("data"), p.add_argument("out"), p.add_argument("folder")
    p.add_argument("--generate", type=float, default=40)
    p.add_argument("--train", type=float, default=100)
    p.add_argument("--resume")
    p.add_argument("--wait", help="compile first, then wait until this file exists")
    p.add_argument("--length", type=int, default=384)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--anchors", type=int, default=32)
    p.add_argument("--texts", type=int, default=2048)
    p.add_argument("--corpus", type=float, default=0.25, help="share of the corpus's own text in a batch")
    p.add_argument("--gamma", type=float, default=4.0, help="0: D-PACE")
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--seed", type=int, default=3)
    args = p.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fast = device == "cuda" and not os.environ.get("NO_COMPILE")
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    net = Net(TARGET, compiled=fast).to(device).requires_grad_(False)
    draft = Draft().to(device)
    losses = torch.compile(block_losses, dynamic=False) if fast else block_losses
    gen = torch.Generator(device=device).manual_seed(args.seed)

    @torch.no_grad()
    def look(seq, weights, head):
        """The target's choice at each position and its tapped streams."""
        x, _, kept = net.trunk(seq, weights, DRAFTER.taps)
        return net._choice(x, net.norm, head), torch.cat(kept, -1).to(torch.bfloat16)

    def some_anchors():
        return torch.randint(1, args.length - DRAFTER.block, (args.batch, args.anchors), generator=gen, device=device)

    # Compile on noise first, so that this may begin while the target still trains.
    t0 = time.time()
    with torch.no_grad():
        weights = net.weights(quant=True)
    seq = torch.randint(TARGET.vocab, (args.batch, args.length), device=device)
    head = net.head.to(torch.bfloat16)
    choice, taps = look(seq, weights, head)
    losses(draft, taps, seq, choice, some_anchors(), net.embed, head, args.gamma, DRAFTER)[0].backward()
    draft.zero_grad(set_to_none=True)
    print(f"compiled in {time.time() - t0:.0f} s", flush=True)
    while args.wait and not os.path.exists(args.wait):
        time.sleep(0.5)

    raw = np.load(f"{args.data}/train.npy")
    starts = torch.from_numpy(np.flatnonzero(raw == EOS) + 1).to(device)
    tokens = torch.from_numpy(raw.astype(np.int16)).to(device)
    net.load_state_dict(load_file(f"{args.out}/target.safetensors"))
    net.embed.data = net.embed.data.bfloat16().float()
    with torch.no_grad():
        weights = net.weights(quant=True)
    head, embed = net.head.to(torch.bfloat16), net.embed
    engine = decode.Target(args.folder, device, torch.bfloat16 if device == "cuda" else torch.float32)
    texts, took = write_texts(engine, tokens, starts, args.length, args.texts, args.generate)
    report = {"written_sequences": len(texts), "length": args.length, "seconds_writing": round(took, 1), "gamma": args.gamma,
              "lr": args.lr, "resumed": bool(args.resume), "corpus_share": args.corpus}
    print(f"the target wrote {len(texts)} sequences of {args.length} in {took:.0f} s", flush=True)
    del engine
    if args.resume:
        draft.load_published({n: t.to(device) for n, t in load_file(args.resume).items()})
    two, one = [], []
    for _, q in draft.named_parameters():
        (two if q.dim() == 2 else one).append(q)
    muon, adam = optim.Muon(two, args.lr, decay=0.1), optim.Adam([(one, args.lr)])
    own = round(args.batch * (1 - args.corpus))
    steps = torch.arange(args.length, device=device)
    begun = time.time()
    n, smooth = 0, None
    while (t := (time.time() - begun) / args.train) < 1:
        a = texts[torch.randint(len(texts), (own,), generator=gen, device=device)]
        b = tokens[torch.randint(len(tokens) - args.length, (args.batch - own,), generator=gen, device=device)[:, None] + steps]
        seq = torch.cat((a, b)).long()
        choice, taps = look(seq, weights, head)
        loss, length = losses(draft, taps, seq, choice, some_anchors(), embed, head, args.gamma, DRAFTER)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(draft.parameters(), 1.0)
        factor = min(1.0, (n + 1) / 100) * max(0.02, 0.5 * (1 + math.cos(math.pi * t)))
        muon.step(factor)
        adam.step(factor)
        draft.zero_grad(set_to_none=True)
        now = torch.stack((loss.detach(), length.detach().float()))
        smooth = now if smooth is None else torch.lerp(now, smooth, 0.97)
        n += 1
        if n % 10 == 0 and device == "cuda":
            torch.cuda.synchronize()
        if n % 250 == 0:
            print(f"drafter: step {n}, {time.time() - begun:.0f} s, loss {smooth[0].item():.4f}, "
                  f"acceptance on training text {smooth[1].item():.3f}", flush=True)
    report.update(steps=n, blocks_a_step=args.batch * args.anchors, seconds=round(time.time() - begun, 1),
                  loss=round(smooth[0].item(), 4), acceptance_training_text=round(smooth[1].item(), 3))
    export.write_drafter(draft.published(), args.folder)
    with open(f"{args.out}/drafter.json", "w") as f:
        json.dump(report, f, indent=1)
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
