"""Tiny checkpoints of every architecture beyond llama, qwen2 and qwen3, with the logits transformers gives them.

    pip install -r requirements.txt
    python tiny_models.py ../../crates/chelsea-model/tests/data/tiny

Made with transformers 5.2.0, torch 2.15.0, gguf 0.19.0, on a CPU.

Each checkpoint is a folder: `config.json` and `model.safetensors` as `save_pretrained` writes them, `model.gguf` as
the `gguf` package's own writer makes it (names of tensors from its own table, metadata and changes of weights as the
published conversion does them), and `logits-N.bin`: for N tokens, little-endian, u32 N, u32 vocabulary, u32[N]
token ids, f32[N][vocabulary] logits of transformers in float32 with eager attention and no cache.

Weights are drawn at random and rounded to float16 first, so that every file holds exactly what transformers
computed with. Windows are 8 tokens and texts are longer, so that most positions lie beyond the window. What GGUF has
no key for (layers of Qwen that slide, dense layers among experts) has no `model.gguf`.
"""

import copy
import json
import pathlib
import shutil
import struct
import sys

import gguf
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

VOCAB = 40
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 39, 0, 2, 3, 8, 4, 6, 26, 4, 33, 8, 32, 7, 9, 5]
COMMON = dict(
    hidden_size=32,
    intermediate_size=48,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    vocab_size=VOCAB,
    max_position_embeddings=64,
    tie_word_embeddings=True,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
# The values of MXFP4's codes.
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])

GPT_OSS = dict(
    intermediate_size=32,
    num_hidden_layers=2,
    num_local_experts=4,
    num_experts_per_tok=2,
    sliding_window=8,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    rope_parameters={
        "rope_type": "yarn",
        "rope_theta": 150000.0,
        "factor": 4.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 16,
    },
)
QWEN3_MOE = dict(
    num_hidden_layers=2,
    num_experts=6,
    num_experts_per_tok=2,
    moe_intermediate_size=16,
    norm_topk_prob=True,
    tie_word_embeddings=False,
)
LONGROPE = dict(
    num_hidden_layers=2,
    head_dim=16,
    hidden_size=32,
    num_attention_heads=2,
    num_key_value_heads=1,
    original_max_position_embeddings=16,
    sliding_window=None,
    tie_word_embeddings=False,
    partial_rotary_factor=0.75,
    rope_parameters={
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
        "short_factor": [1.0, 1.05, 1.1, 1.2, 1.3, 1.5],
        "long_factor": [1.0, 1.5, 2.5, 4.0, 6.0, 8.0],
        "original_max_position_embeddings": 16,
    },
)
# name: (model_type, changes of the configuration, name in GGUF or None, lengths of texts)
MODELS = {
    "mistral": ("mistral", dict(num_hidden_layers=3, sliding_window=8, tie_word_embeddings=False), "LLAMA", [30]),
    "phi3": ("phi3", dict(num_hidden_layers=2, sliding_window=8, tie_word_embeddings=False), "PHI3", [30]),
    "phi3-longrope": ("phi3", LONGROPE, "PHI3", [12, 30]),
    "gemma3": (
        "gemma3_text",
        dict(
            num_hidden_layers=7,
            hidden_size=24,
            intermediate_size=32,
            sliding_window=8,
            query_pre_attn_scalar=8,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        ),
        "GEMMA3",
        [30],
    ),
    "smollm3": ("smollm3", dict(num_hidden_layers=5), "SMOLLM3", [30]),
    "qwen2-sliding": (
        "qwen2",
        dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=8, max_window_layers=1),
        None,
        [30],
    ),
    "qwen3-sliding": (
        "qwen3",
        dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=8, max_window_layers=2),
        None,
        [30],
    ),
    "qwen3moe": ("qwen3_moe", QWEN3_MOE, "QWEN3MOE", [30]),
    "qwen3moe-dense-layer": (
        "qwen3_moe",
        QWEN3_MOE | dict(num_hidden_layers=3, mlp_only_layers=[1], norm_topk_prob=False),
        None,
        [30],
    ),
    "gpt-oss": ("gpt_oss", GPT_OSS, "GPT_OSS", [30]),
    "gpt-oss-mxfp4": ("gpt_oss", GPT_OSS, "GPT_OSS", [30]),
}


def draw(model: torch.nn.Module, gemma: bool) -> None:
    """Weights that make attention sharp and experts different, rounded to float16."""
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        values = torch.randn(weight.shape, generator=generator)
        if "norm" in name:
            values = values * 0.2 + (0.0 if gemma else 1.0)
        elif name.endswith("bias"):
            values = values * 0.3
        elif "embed_tokens" in name:
            values = values * (0.3 if gemma else 1.0)
        elif "sinks" not in name:
            # The experts of gpt-oss lie as [experts, in, out], all else as [out, in].
            fan_in = weight.shape[-2] if weight.dim() == 3 and "gpt_oss" in type(model).__module__ else weight.shape[-1]
            values = values * 1.5 / fan_in**0.5
        weight.data = values.half().float()


def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """MXFP4 of `[experts, in, out]`: codes `[experts, out, in]`, exponents `[experts, out, in / 32]`, and the values."""
    rows = weight.transpose(1, 2).contiguous()
    blocks = rows.reshape(*rows.shape[:2], -1, 32)
    exponent = torch.floor(torch.log2(blocks.abs().amax(-1))) - 2
    codes = ((blocks / 2.0 ** exponent[..., None])[..., None] - E2M1).abs().argmin(-1)
    values = (E2M1[codes] * 2.0 ** exponent[..., None]).reshape(rows.shape).transpose(1, 2).contiguous()
    return codes, (exponent + 127).to(torch.uint8), values


def write_mxfp4(folder: pathlib.Path, packed: dict) -> None:
    """Puts `_blocks` and `_scales` in the place of the experts' floats, as the published checkpoints have them."""
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    for name, (codes, exponents) in packed.items():
        del tensors[name]
        # Two codes a byte, the earlier one in the low half.
        tensors[f"{name}_blocks"] = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
        tensors[f"{name}_scales"] = exponents
    save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def ggml_mxfp4(codes: torch.Tensor, exponents: torch.Tensor) -> np.ndarray:
    """GGML's blocks: the exponent, then 16 bytes with code `i` in the low and `i + 16` in the high half of byte `i`."""
    halves = (codes[..., :16] | codes[..., 16:] << 4).to(torch.uint8)
    return torch.cat([exponents[..., None], halves], -1).flatten(-2).numpy()


def interleave(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a half-split rotary layout to the one in which the two of a pair lie beside each other."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def gguf_tensors(config, state: dict, packed: dict):
    """Names of transformers and what the conversion makes of the weights: `(name, array, raw type)`."""
    experts: dict[str, dict[int, torch.Tensor]] = {}
    for name, weight in state.items():
        if config.model_type == "gemma3_text" and "norm" in name:
            weight = weight + 1
        if config.model_type in ("mistral", "smollm3") and "q_proj" in name:
            weight = interleave(weight, config.num_attention_heads)
        if config.model_type in ("mistral", "smollm3") and "k_proj" in name:
            weight = interleave(weight, config.num_key_value_heads)
        if ".mlp.experts." in name and config.model_type == "qwen3_moe":
            head, rest = name.split(".experts.")
            number, part = rest.split(".", 1)
            experts.setdefault(f"{head}.experts.{part}", {})[int(number)] = weight
            continue
        if name in packed:
            codes, exponents = packed[name]
            if "gate_up_proj" in name:
                # Gate and up alternate row by row.
                for start, part in ((0, "gate_proj"), (1, "up_proj")):
                    blocks = ggml_mxfp4(codes[:, start::2], exponents[:, start::2])
                    yield name.replace("gate_up_proj", f"{part}.weight"), blocks, gguf.GGMLQuantizationType.MXFP4
            else:
                yield f"{name}.weight", ggml_mxfp4(codes, exponents), gguf.GGMLQuantizationType.MXFP4
            continue
        if "gate_up_proj" in name and config.model_type == "gpt_oss":
            for start, part in ((0, "gate_proj"), (1, "up_proj")):
                if name.endswith("_bias"):
                    yield name.replace("gate_up_proj_bias", f"{part}.bias"), weight[:, start::2].numpy(), None
                else:
                    rows = weight.transpose(1, 2)[:, start::2].contiguous()
                    yield name.replace("gate_up_proj", f"{part}.weight"), rows.numpy(), None
            continue
        if name.endswith("down_proj_bias"):
            name = name.replace("down_proj_bias", "down_proj.bias")
        elif name.endswith("experts.down_proj"):
            name, weight = f"{name}.weight", weight.transpose(1, 2).contiguous()
        elif name.endswith("sinks"):
            name = f"{name}.weight"
        yield name, weight.numpy(), None
    for name, parts in experts.items():
        yield name, torch.stack([parts[i] for i in range(len(parts))]).numpy(), None


def write_gguf(path: pathlib.Path, config, arch_name: str, state: dict, packed: dict) -> None:
    arch = getattr(gguf.MODEL_ARCH, arch_name)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    out = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    out.add_name("tiny")
    out.add_block_count(config.num_hidden_layers)
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_vocab_size(config.vocab_size)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if config.model_type not in ("phi3", "mistral"):
        out.add_key_length(head_dim)
        out.add_value_length(head_dim)
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    out.add_rope_freq_base(rope["rope_theta"])
    match config.model_type:
        case "mistral" | "smollm3":
            out.add_rope_dimension_count(head_dim)
        case "phi3":
            out.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
            out.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
        case "qwen3_moe":
            out.add_expert_count(config.num_local_experts)
            out.add_expert_used_count(config.num_experts_per_tok)
            out.add_expert_feed_forward_length(config.moe_intermediate_size)
        case "gpt_oss":
            out.add_expert_count(config.num_local_experts)
            out.add_expert_used_count(config.num_experts_per_tok)
            out.add_expert_feed_forward_length(config.intermediate_size)
    if getattr(config, "sliding_window", None):
        out.add_sliding_window(config.sliding_window)
    match rope["rope_type"]:
        case "linear":
            out.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            out.add_rope_scaling_factor(rope["factor"])
        case "yarn":
            out.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            out.add_rope_scaling_factor(rope["factor"])
            out.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        case "longrope":
            original = config.original_max_position_embeddings
            stretch = config.max_position_embeddings / original
            out.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(stretch) / np.log(original))))
            for kind, key in (("long", "long_factor"), ("short", "short_factor")):
                out.add_tensor(f"rope_factors_{kind}.weight", np.array(rope[key], dtype=np.float32))
    for name, array, raw in gguf_tensors(config, state, packed):
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found is not None, f"{arch_name} has no tensor {name}"
        if raw is None:
            vector = array.ndim == 1 or "ffn_gate_inp" in found or found.endswith("bias")
            array = array.astype(np.float32 if vector else np.float16)
        out.add_tensor(found, np.ascontiguousarray(array), raw_dtype=raw)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def make(folder: pathlib.Path, name: str) -> None:
    model_type, changes, arch, lengths = MODELS[name]
    config = AutoConfig.for_model(model_type, **copy.deepcopy(COMMON | changes))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    draw(model, model_type == "gemma3_text")
    packed = {}
    if name.endswith("mxfp4"):
        for weight_name, weight in model.named_parameters():
            if weight_name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                codes, exponents, values = quantise(weight.data)
                packed[weight_name] = (codes, exponents)
                weight.data = values
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for length in lengths:
        ids = TOKENS[:length]
        with torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0]
        body = struct.pack(f"<{2 + length}I", length, VOCAB, *ids) + logits.numpy().astype("<f4").tobytes()
        (folder / f"logits-{length}.bin").write_bytes(body)
        top = logits.softmax(-1).amax(-1).mean()
        print(f"{name}: {length} tokens, logits to {logits.abs().max():.2f}, mean top probability {top:.2f}")
    # The weights are numbers of float16: nothing is lost.
    copy.deepcopy(model).half().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    with safe_open(folder / "model.safetensors", "pt") as file:
        state = {tensor: file.get_tensor(tensor).float() for tensor in file.keys()}
    if packed:
        write_mxfp4(folder, packed)
    if arch is not None:
        write_gguf(folder / "model.gguf", config, arch, state, packed)


if __name__ == "__main__":
    for model_name in MODELS:
        make(pathlib.Path(sys.argv[1]) / model_name, model_name)
