"""Muon for stacks of matrices, AdamW for the rest, one learning-rate factor for both."""

import torch


def orthogonalise(g, steps=5):
    """Newton-Schulz in bfloat16 on [n, rows, columns], rows <= columns."""
    x = g.bfloat16() if g.is_cuda else g.float()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return x.float()


class Muon:
    """Momentum, then the nearest orthogonal matrix, scaled to the RMS of an AdamW update. A parameter of three dimensions is a stack."""

    def __init__(self, params, lr, momentum=0.95, decay=0.1):
        self.lr, self.momentum, self.decay = lr, momentum, decay
        self.groups = {}
        for p in params:
            r, c = p.shape[-2:]
            self.groups.setdefault((min(r, c), max(r, c)), []).append(p)
        self.buffers = {}

    @torch.no_grad()
    def step(self, factor):
        lr = self.lr * factor
        for (r, c), params in self.groups.items():
            grads = []
            for p in params:
                g = p.grad.reshape(-1, *p.shape[-2:])
                grads.append(g.mT if p.shape[-2] > p.shape[-1] else g)
            g = torch.cat(grads)
            buf = self.buffers.setdefault((r, c), torch.zeros_like(g))
            buf.lerp_(g, 1 - self.momentum)
            u = orthogonalise(g.lerp(buf, self.momentum)) * (0.2 * c ** 0.5)
            at = 0
            for p in params:
                n = p.numel() // (r * c)
                part = u[at:at + n]
                at += n
                part = part.mT if p.shape[-2] > p.shape[-1] else part
                p.mul_(1 - lr * self.decay).add_(part.reshape(p.shape), alpha=-lr)

    def state(self):
        return {k: v.clone() for k, v in self.buffers.items()}

    def load(self, state):
        self.buffers = {k: v.clone() for k, v in state.items()}


class Adam:
    def __init__(self, groups, betas=(0.9, 0.95), decay=0.01):
        """groups: [(params, learning rate)]"""
        self.base = [lr for _, lr in groups]
        self.opt = torch.optim.AdamW([{"params": list(p), "lr": lr} for p, lr in groups], betas=betas, weight_decay=decay,
                                     fused=groups[0][0][0].is_cuda)

    def step(self, factor):
        for g, lr in zip(self.opt.param_groups, self.base):
            g["lr"] = lr * factor
        self.opt.step()
