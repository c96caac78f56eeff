"""Sizes of the demo model and of its drafter, shared by every step of the recipe."""

import dataclasses
import os


@dataclasses.dataclass(frozen=True)
class Target:
    hidden: int = 384
    heads: int = 8
    qk: int = 48
    v: int = 32
    rotary: int = 16
    kv_full: int = 2
    kv_window: int = 4
    chunks: int = 2
    pattern: tuple = (0, 1, 1, 0, 1, 0)  # 0 full attention, 1 sliding window
    window: int = 128
    theta_full: float = 1e6
    theta_window: float = 1e4
    value_scale: float = 0.707
    dense_inner: int = 1024
    experts: int = 24
    top: int = 4
    inner: int = 128
    vocab: int = 2048
    context: int = 2048
    eps: float = 1e-5
    fp8_block: int = 128

    @property
    def layers(self):
        return len(self.pattern)

    def kv(self, layer):
        return self.kv_window if self.pattern[layer] else self.kv_full

    def qkv_chunk(self, layer):
        """Rows of Q, K and V in one chunk of the fused projection."""
        kv = self.kv(layer) // self.chunks
        return self.heads // self.chunks * self.qk, kv * self.qk, kv * self.v


@dataclasses.dataclass(frozen=True)
class Drafter:
    layers: int = 2
    heads: int = 8
    kv: int = 2
    dim: int = 48
    rotary: int = 16
    theta: float = 1e4
    window: int = 1024
    block: int = 8
    inner: int = 768
    taps: tuple = (0, 2, 4, 5)
    value_scale: float = 0.707
    eps: float = 1e-5


TARGET, DRAFTER = Target(), Drafter()
if os.environ.get("DEMO_TINY"):  # the same shapes in small, for a smoke test on a CPU
    TARGET = Target(hidden=64, experts=8, inner=32, dense_inner=96, window=16, fp8_block=32, vocab=512)
    DRAFTER = Drafter(inner=64, window=24)

SPECIALS = ["<|endoftext|>", "<|mask|>"] + [f"<|reserved_{i}|>" for i in range(6)]
EOS = TARGET.vocab - len(SPECIALS)
MASK = EOS + 1
