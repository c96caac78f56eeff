"""The checkpoint's number formats as differentiable rounding, and as codes.

mxfp4: E2M1 codes with one power-of-two scale for each 32 input columns. fp8: e4m3 with one float32 scale a block of
rows x columns. Each rounding passes gradients straight through.
"""

import torch

FP8_MAX = 448.0


def e2m1(x):
    """Round to the nearest of 0, .5, 1, 1.5, 2, 3, 4, 6 and their negatives, ties to the even code."""
    a = x.abs().clamp(max=6.0)
    step = torch.where(a < 2, 0.5, torch.where(a < 4, 1.0, 2.0))
    return torch.copysign(torch.round(a / step) * step, x)


def mxfp4_scale(blocks):
    """The biased exponent [..., 1] of each block: of the two that may fit, the one that loses less."""
    amax = blocks.abs().amax(-1, keepdim=True)
    low = ((amax.view(torch.int32) >> 23) - 2).clamp(1, 253)
    errors = []
    for u in (low, low + 1):
        s = exponent(u)
        errors.append((e2m1(blocks / s) * s - blocks).square().sum(-1, keepdim=True))
    return torch.where(errors[1] < errors[0], low + 1, low)


def exponent(u):
    """2 ** (u - 127) for 1 <= u <= 254."""
    return (u << 23).view(torch.float32)


def mxfp4(w, size=32):
    """w [..., columns] as the format holds it, float32."""
    blocks = w.float().reshape(*w.shape[:-1], -1, size)
    s = exponent(mxfp4_scale(blocks))
    return (e2m1(blocks / s) * s).reshape(w.shape)


def mxfp4_codes(w, size=32):
    """(bytes [rows, columns / 2], low nibble = even column; scales [rows, columns / 32])."""
    blocks = w.float().reshape(*w.shape[:-1], -1, size)
    u = mxfp4_scale(blocks)
    q = e2m1(blocks / exponent(u)).reshape(w.shape)
    grid = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], device=w.device)
    code = torch.searchsorted(grid, q.abs().contiguous()).to(torch.uint8) + 8 * torch.signbit(q).to(torch.uint8)
    return (code[..., 0::2] | (code[..., 1::2] << 4)).contiguous(), u.squeeze(-1).to(torch.uint8).contiguous()


def fp8_blocks(w, chunks, block):
    """w [rows, columns], its rows in `chunks` equal parts tiled one by one -> [chunks, br, block, bc, block], zero padded."""
    rows, cols = w.shape[0] // chunks, w.shape[1]
    x = w.float().reshape(chunks, rows, cols)
    x = torch.nn.functional.pad(x, (0, -cols % block, 0, -rows % block))
    return x.reshape(chunks, x.shape[1] // block, block, x.shape[2] // block, block)


def fp8_scale(x):
    return (x.abs().amax((2, 4), keepdim=True) / FP8_MAX).clamp(min=1e-12)


def fp8(w, chunks, block):
    """w as the format holds it, float32."""
    x = fp8_blocks(w, chunks, block)
    s = fp8_scale(x)
    y = ((x / s).to(torch.float8_e4m3fn).float() * s).flatten(3, 4).flatten(1, 2)
    return y[:, :w.shape[0] // chunks, :w.shape[1]].reshape(w.shape)


def fp8_codes(w, chunks, block):
    """(codes [rows, columns], scale_inv [chunks * blocks of rows, blocks of columns])."""
    x = fp8_blocks(w, chunks, block)
    s = fp8_scale(x)
    q = (x / s).flatten(3, 4).flatten(1, 2)[:, :w.shape[0] // chunks, :w.shape[1]].reshape(w.shape)
    return q.to(torch.float8_e4m3fn), s.flatten(0, 1).reshape(-1, s.shape[3]).contiguous()


def straight_through(w, rounded):
    return w + (rounded - w).detach()
