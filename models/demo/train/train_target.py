"""Train the target network: BF16 at a constant rate, then two decays from the same state, BF16 and quantisation-aware.

    train_target.py DATA OUT --stable SECONDS --decay SECONDS [--resume FILE] [--length T] [--batch N] [--lr LR]

Starts before the tokens exist: it compiles first and then waits for DATA/train.npy. Writes OUT/target.safetensors (float32
masters of the quantisation-aware network), OUT/resume.safetensors (the state before the decay, small enough to carry on from)
and OUT/target.json (losses).
"""

import argparse
import copy
import json
import math
import os
import time

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import optim
from config import TARGET
from model import Net


def pack_resume(net, path):
    """Masters in bfloat16, the experts as bytes with a scale each row: close enough to train on from."""
    out = {}
    for n, p in net.state_dict().items():
        if p.dim() == 3:
            s = p.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
            out[n + ".scale"] = s.bfloat16()
            out[n] = torch.round(p / s.bfloat16().float()).clamp(-127, 127).to(torch.int8)
        else:
            out[n] = p if n == "bias" else p.bfloat16()
    save_file({n: t.contiguous().cpu() for n, t in out.items()}, path)


def unpack_resume(net, path):
    t = load_file(path)
    net.load_state_dict({n: (p.float() * t[n + ".scale"].float() if n + ".scale" in t else p.float())
                         for n, p in t.items() if not n.endswith(".scale")})


class Batches:
    """Windows of the token stream at random places; the same seed gives the same windows."""

    def __init__(self, tokens, length, batch, device, seed):
        self.tokens, self.length, self.batch = tokens, length, batch
        self.gen = torch.Generator(device=device).manual_seed(seed)
        self.steps = torch.arange(length + 1, device=device)

    def next(self):
        at = torch.randint(len(self.tokens) - self.length - 1, (self.batch,), generator=self.gen, device=self.tokens.device)
        return self.tokens[at[:, None] + self.steps].long()


@torch.no_grad()
def held_out_loss(net, tokens, length, quant, batch, limit):
    n = min(len(tokens) // (length + 1), limit)
    windows = tokens[:n * (length + 1)].reshape(n, length + 1).long()
    if n % batch:  # whole batches only: a new shape would compile anew
        windows = windows[torch.arange(-(-n // batch) * batch, device=tokens.device) % n]
    weights, total = net.weights(quant), 0.0
    for part in windows.split(batch):
        total += net.loss(part, weights=weights)[0].item() / (len(windows) // batch)
    return total


class Trainer:
    def __init__(self, net, args):
        self.net, self.args = net, args
        muon, adam = [], {1.0: [], 0.5: []}
        for n, p in net.named_parameters():
            if n.split(".")[-1] in ("qkv", "o", "gate", "up", "down"):
                muon.append(p)
            else:
                adam[0.5 if n == "head" or n.endswith("router") else 1.0].append(p)
        self.muon = optim.Muon(muon, args.lr)
        self.adam = optim.Adam([(p, args.lr * f) for f, p in adam.items()])

    def state(self):
        return copy.deepcopy((self.net.state_dict(), self.muon.state(), self.adam.opt.state_dict()))

    def load(self, state):
        model, muon, adam = copy.deepcopy(state)
        self.net.load_state_dict(model)
        self.muon.load(muon)
        self.adam.opt.load_state_dict(adam)

    def step(self, tokens, factor, quant):
        loss, counts = self.net.loss(tokens, quant)
        loss.backward()
        self.muon.step(factor)
        self.adam.step(factor)
        self.net.zero_grad(set_to_none=True)
        self.net.balance(counts, 2e-3 * factor)
        return loss.detach(), counts


def run(trainer, batches, name, factor, quant=False, seconds=None, steps=None):
    """Steps until the time or the count is reached; factor(progress, step) is the rate's factor. Returns steps and seconds."""
    t0, n, seen = time.time(), 0, 0
    loss = None
    while (n < steps) if steps else (time.time() - t0 < seconds):
        now = trainer.step(batches.next(), factor(n / steps if steps else (time.time() - t0) / seconds, n), quant)
        loss = now[0] if loss is None else torch.lerp(now[0], loss, 0.95)
        n += 1
        seen += batches.batch * batches.length
        if n % 10 == 0 and batches.tokens.is_cuda:
            torch.cuda.synchronize()
        if n % 200 == 0 or n == steps:
            load = max((c.max() / c.mean()).item() for c in now[1] if c is not None)
            dt = time.time() - t0
            print(f"{name}: step {n}, {dt:.0f} s, {seen / dt / 1e6:.2f} M token/s, loss {loss.item():.4f}, "
                  f"busiest expert {load:.2f} of its share", flush=True)
    return n, time.time() - t0


def main():
    p = argparse.ArgumentParser()
    p.add_argument("data"), p.add_argument("out")
    p.add_argument("--stable", type=float, default=120)
    p.add_argument("--decay", type=float, default=40)
    p.add_argument("--resume")
    p.add_argument("--length", type=int, default=1024)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    os.makedirs(args.out, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    t0 = time.time()
    net = Net(TARGET, compiled=device == "cuda" and not os.environ.get("NO_COMPILE")).to(device)
    trainer = Trainer(net, args)
    fake = torch.randint(TARGET.vocab, (args.batch, args.length + 1), device=device)
    for quant in (False, True):
        net.loss(fake, quant)[0].backward()
        net.zero_grad(set_to_none=True)
        with torch.no_grad():
            net.loss(fake, weights=net.weights(quant))
    optim.orthogonalise(torch.randn(2, 8, 16, device=device))
    print(f"compiled after {time.time() - t0:.0f} s", flush=True)
    if args.resume:
        unpack_resume(net, args.resume)
    while not os.path.exists(f"{args.data}/train.npy"):
        time.sleep(0.5)
    tokens = torch.from_numpy(np.load(f"{args.data}/train.npy").astype(np.int16)).to(device)
    held = {k: torch.from_numpy(v.astype(np.int16)).to(device) for k, v in np.load(f"{args.data}/heldout.npz").items() if len(v) > args.length}
    print(f"{len(tokens) / 1e6:.1f} M tokens on the device after {time.time() - t0:.0f} s", flush=True)
    batches = Batches(tokens, args.length, args.batch, device, args.seed)
    report = {"train_tokens": len(tokens), "length": args.length, "tokens_a_step": args.batch * args.length,
              "parameters": sum(p.numel() for p in net.parameters()), "resumed": bool(args.resume),
              "device": torch.cuda.get_device_name() if device == "cuda" else "cpu", "lr": args.lr}

    def losses(name, quant):
        report[name] = {k: round(held_out_loss(net, v, args.length, quant, args.batch, 512), 4) for k, v in held.items()}
        print(f"held-out loss, {name}:", report[name], flush=True)
        if not all(math.isfinite(v) for v in report[name].values()):
            raise SystemExit("the loss is not finite")

    def save_report():
        with open(f"{args.out}/target.json", "w") as f:
            json.dump(report, f, indent=1)

    n, dt = run(trainer, batches, "stable", lambda _, s: min(1.0, (s + 1) / 150), seconds=args.stable)
    report["stable_steps"] = n
    losses("stable_bf16", False)
    pack_resume(net, f"{args.out}/resume.safetensors")
    decay = max(1, int(args.decay * n / dt * 0.95))
    report["decay_steps"] = decay
    before, place = trainer.state(), batches.gen.get_state()

    run(trainer, batches, "decay bf16", lambda t, _: 1 - t, steps=decay)
    losses("bf16", False)
    losses("rounded_after_training", True)
    trainer.load(before)
    batches.gen.set_state(place)
    run(trainer, batches, "decay quantised", lambda t, _: 1 - t, quant=True, steps=decay)
    losses("quantisation_aware", True)
    report["quantisation_aware_over_bf16_percent"] = {
        k: round(100 * (report["quantisation_aware"][k] / report["bf16"][k] - 1), 3) for k in held}
    save_file({n: t.contiguous().cpu() for n, t in net.state_dict().items()}, f"{args.out}/target.safetensors")
    save_report()
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
