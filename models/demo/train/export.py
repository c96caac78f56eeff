"""Write the checkpoint folder: the target in two shards, and the drafter with its mask embedding.

    export.py OUT CHECKPOINT_DIR        from OUT/target.safetensors and OUT/tokenizer.json
"""

import json
import os
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file

import quant as Q
from config import DRAFTER, EOS, MASK, TARGET

FACTOR = 0.334  # int(head dim * factor) dims rotate


def target_config(cfg=TARGET):
    return {
        "architectures": ["MiMoV2ForCausalLM"],
        "model_type": "mimo_v2",
        "add_full_attention_sink_bias": False,
        "add_swa_attention_sink_bias": True,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attention_projection_layout": "fused_qkv",
        "attention_value_scale": cfg.value_scale,
        "dtype": "bfloat16",
        "eos_token_id": EOS,
        "head_dim": cfg.qk,
        "hidden_act": "silu",
        "hidden_size": cfg.hidden,
        "hybrid_layer_pattern": list(cfg.pattern),
        "intermediate_size": cfg.dense_inner,
        "layernorm_epsilon": cfg.eps,
        "max_position_embeddings": cfg.context,
        "moe_intermediate_size": cfg.inner,
        "moe_layer_freq": [0] + [1] * (cfg.layers - 1),
        "moe_router_dtype": "float32",
        "n_group": 1,
        "n_routed_experts": cfg.experts,
        "n_shared_experts": None,
        "norm_topk_prob": True,
        "num_attention_heads": cfg.heads,
        "num_experts_per_tok": cfg.top,
        "num_hidden_layers": cfg.layers,
        "num_key_value_heads": cfg.kv_full,
        "partial_rotary_factor": FACTOR,
        "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [cfg.fp8_block] * 2,
                                "store_dtype": "mxfp4", "mxfp4_block_size": 32},
        "rope_theta": cfg.theta_full,
        "routed_scaling_factor": None,
        "scoring_func": "sigmoid",
        "sliding_window": cfg.window,
        "sliding_window_size": cfg.window,
        "swa_head_dim": cfg.qk,
        "swa_num_attention_heads": cfg.heads,
        "swa_num_key_value_heads": cfg.kv_window,
        "swa_rope_theta": cfg.theta_window,
        "swa_v_head_dim": cfg.v,
        "tie_word_embeddings": False,
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "v_head_dim": cfg.v,
        "vocab_size": cfg.vocab,
    }


def drafter_config(cfg=DRAFTER, target=TARGET):
    return {
        "architectures": ["DFlashDraftModel"],
        "model_type": "qwen3",
        "add_swa_attention_sink_bias": True,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "block_size": cfg.block,
        "dflash_config": {"attention_sink_bias": True, "attention_value_scale": cfg.value_scale, "block_size": cfg.block,
                          "mask_token_id": MASK, "target_layer_ids": list(cfg.taps), "use_swa": True,
                          "swa_window_size": cfg.window},
        "head_dim": cfg.dim,
        "hidden_act": "silu",
        "hidden_size": target.hidden,
        "intermediate_size": cfg.inner,
        "is_causal": False,
        "layer_types": ["sliding_attention"] * cfg.layers,
        "max_position_embeddings": target.context,
        "num_attention_heads": cfg.heads,
        "num_hidden_layers": cfg.layers,
        "num_key_value_heads": cfg.kv,
        "num_target_layers": target.layers,
        "partial_rotary_factor": FACTOR,
        "rms_norm_eps": cfg.eps,
        "rope_theta": cfg.theta,
        "sliding_window": cfg.window,
        "target_hidden_size": target.hidden,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_sliding_window": True,
        "v_head_dim": cfg.dim,
        "vocab_size": target.vocab,
    }


def target_tensors(state, cfg=TARGET):
    """Checkpoint tensors, in layer order, from the float32 masters."""
    def bf16(t):
        return t.to(torch.bfloat16).contiguous()

    out = {"model.embed_tokens.weight": bf16(state["embed"])}
    for i in range(cfg.layers):
        b = {n: state[f"blocks.{i}.{n}"] for n in ("norm1", "norm2", "qkv", "o", "gate", "up", "down")}
        base = f"model.layers.{i}."
        out[base + "input_layernorm.weight"] = bf16(b["norm1"])
        out[base + "post_attention_layernorm.weight"] = bf16(b["norm2"])
        name = base + "self_attn.qkv_proj.weight"
        out[name], out[name + "_scale_inv"] = Q.fp8_codes(b["qkv"], cfg.chunks, cfg.fp8_block)
        out[base + "self_attn.o_proj.weight"] = bf16(b["o"])
        if cfg.pattern[i]:
            out[base + "self_attn.attention_sink_bias"] = bf16(state[f"blocks.{i}.sink"])
        if i == 0:
            for n in ("gate", "up", "down"):
                name = f"{base}mlp.{n}_proj.weight"
                out[name], out[name + "_scale_inv"] = Q.fp8_codes(b[n], 1, cfg.fp8_block)
            continue
        out[base + "mlp.gate.weight"] = state[f"blocks.{i}.router"].float().contiguous()
        out[base + "mlp.gate.e_score_correction_bias"] = state["bias"][i].float().contiguous()
        for e in range(cfg.experts):
            for n in ("gate", "up", "down"):
                name = f"{base}mlp.experts.{e}.{n}_proj.weight"
                out[name], out[name + "_scale"] = Q.mxfp4_codes(b[n][e])
    out["model.norm.weight"] = bf16(state["norm"])
    out["lm_head.weight"] = bf16(state["head"])
    return out


def write_json(path, value):
    with open(path, "w") as f:
        json.dump(value, f, indent=2)
        f.write("\n")


def write_target(state, tokenizer, folder, shards=2):
    os.makedirs(folder, exist_ok=True)
    tensors = target_tensors(state)
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    parts, size = [{}], 0
    for name, t in tensors.items():
        if size >= total / shards and len(parts) < shards:
            parts.append({})
            size = 0
        parts[-1][name] = t
        size += t.numel() * t.element_size()
    index = {}
    for i, part in enumerate(parts):
        file = f"model-{i + 1:05}-of-{len(parts):05}.safetensors"
        save_file(part, f"{folder}/{file}", metadata={"format": "pt"})
        index.update({name: file for name in part})
    write_json(f"{folder}/model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))})
    write_json(f"{folder}/config.json", target_config())
    write_json(f"{folder}/generation_config.json", {"do_sample": False, "eos_token_id": EOS})
    shutil.copyfile(tokenizer, f"{folder}/tokenizer.json")


def write_drafter(tensors, folder):
    """tensors: already under their published names."""
    os.makedirs(f"{folder}/dflash", exist_ok=True)
    save_file({n: t.detach().to(torch.bfloat16).contiguous().cpu() for n, t in tensors.items()},
              f"{folder}/dflash/model.safetensors", metadata={"format": "pt"})
    write_json(f"{folder}/dflash/config.json", drafter_config())


if __name__ == "__main__":
    write_target(load_file(f"{sys.argv[1]}/target.safetensors"), f"{sys.argv[1]}/tokenizer.json", sys.argv[2])
