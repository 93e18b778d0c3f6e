"""The smallest models of vision and language that LeRobot's policies take: random weights, a vocabulary of a sentence;
and a pi0 of two layers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_SPECIAL = {
    "fake_image_token": "<fake_token_around_image>", "image_token": "<image>", "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
}  # fmt: skip
#: Settings of SmolVLA for it.
SETTINGS: dict[str, Any] = {
    "load_vlm_weights": False, "num_vlm_layers": 2, "num_steps": 3, "expert_width_multiplier": 0.5,
    "resize_imgs_with_padding": [64, 64], "max_state_dim": 8, "max_action_dim": 8, "tokenizer_max_length": 16,
    "chunk_size": 8, "n_action_steps": 8,
}  # fmt: skip


#: Settings of EVO1 for its own.
_EVO1: dict[str, Any] = {
    "image_resolution": [56, 56], "vlm_num_layers": 2, "vlm_dtype": "float32", "use_flash_attn": False, "max_views": 1,
    "max_text_length": 64, "embed_dim": 32, "hidden_dim": 32, "state_hidden_dim": 32, "num_heads": 2, "num_layers": 1,
    "num_inference_timesteps": 3, "chunk_size": 8, "n_action_steps": 8, "max_state_dim": 8, "max_action_dim": 8,
    "enable_gradient_checkpointing": False, "use_amp": False,
}  # fmt: skip
_OF_INTERNVL = {
    "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
}  # fmt: skip


def make_tokenizer(
    folder: Path,
    words: tuple[str, ...] = ("reach", "the", "target"),
    special: dict[str, str] = _SPECIAL,
) -> list[str]:
    """Write a tokenizer of whole words, as Transformers reads it; return its vocabulary."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    known = ["<pad>", "<unk>", "<s>", "</s>", *special.values(), *words]
    model = tokenizers.models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>",
        eos_token="</s>", extra_special_tokens=special,
    )  # fmt: skip
    fast.save_pretrained(folder)
    return known


def make_small_vlm(folder: Path, **sizes: Any) -> dict[str, Any]:
    """Write its configuration and tokenizer, as Transformers reads them; return settings of SmolVLA that use it.

    Args:
        folder: Where to.
        sizes: ``text``, ``sight`` and ``scale_factor`` in place of the smallest ones.
    """
    transformers = pytest.importorskip("transformers")
    words = make_tokenizer(folder)
    text = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": len(words),
        "pad_token_id": 0, "max_position_embeddings": 512, **sizes.get("text", {}),
    }  # fmt: skip
    sight = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 64, "patch_size": 16, **sizes.get("sight", {}),
    }  # fmt: skip
    transformers.SmolVLMConfig(
        text_config=text, vision_config=sight, image_token_id=words.index("<image>"),
        scale_factor=sizes.get("scale_factor", 2), pad_token_id=0,
    ).save_pretrained(folder)  # fmt: skip
    fast = transformers.AutoTokenizer.from_pretrained(folder)
    images, videos = transformers.SmolVLMImageProcessor(), transformers.SmolVLMVideoProcessor()
    transformers.SmolVLMProcessor(images, fast, videos).save_pretrained(folder)
    return {**SETTINGS, "vlm_model_name": str(folder)}


def make_small_internvl(folder: Path) -> dict[str, Any]:
    """Write an InternVL with random weights, as Transformers reads it; return settings of EVO1 that use it."""
    transformers = pytest.importorskip("transformers")
    prompt = ("Image", "-", "1", "2", "3", ":", "reach", "the", "target")
    words = make_tokenizer(folder, prompt, _OF_INTERNVL)
    common = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    text = {
        **common, "model_type": "qwen2", "num_hidden_layers": 2, "num_key_value_heads": 1, "vocab_size": len(words),
        "max_position_embeddings": 512,
    }  # fmt: skip
    sight = {**common, "num_hidden_layers": 1, "image_size": [56, 56], "patch_size": [14, 14]}
    config = transformers.InternVLConfig(
        vision_config=sight, text_config=text, image_token_id=words.index("<IMG_CONTEXT>"), image_seq_length=4,
        downsample_ratio=0.5,
    )  # fmt: skip
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    return {**_EVO1, "vlm_model_name": str(folder)}


def make_small_clip(folder: Path) -> dict[str, Any]:
    """Write a CLIP, as Transformers reads it; return settings of the multi-task DiT that use it. The folder's name must
    have ``clip`` in it."""
    transformers = pytest.importorskip("transformers")
    words = make_tokenizer(folder)
    common = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}  # fmt: skip
    text = {
        **common, "vocab_size": len(words), "max_position_embeddings": 16, "bos_token_id": 2, "eos_token_id": 3,
        "pad_token_id": 0,
    }  # fmt: skip
    sight = {**common, "image_size": 32, "patch_size": 16}
    config = transformers.CLIPConfig(text_config=text, vision_config=sight, projection_dim=32)
    transformers.CLIPModel(config).save_pretrained(folder)
    return {
        "vision_encoder_name": str(folder), "text_encoder_name": str(folder), "n_obs_steps": 1, "horizon": 8,
        "n_action_steps": 8, "num_train_timesteps": 10, "hidden_dim": 32, "num_layers": 1, "num_heads": 2,
        "timestep_embed_dim": 16, "image_crop_shape": [32, 32], "image_resize_shape": [32, 32],
        "image_crop_is_random": False, "dropout": 0.0, "do_mask_loss_for_padding": True, "tokenizer_max_length": 16,
    }  # fmt: skip


def make_small_florence(folder: Path) -> dict[str, Any]:
    """Write a tokenizer; return settings of X-VLA, whose Florence-2 is made of its configuration."""
    words = make_tokenizer(folder)
    text = {
        "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": len(words),
        "max_position_embeddings": 128, "dropout": 0.0,
    }  # fmt: skip
    sight = {
        "embed_dim": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 2], "num_groups": [1, 1, 1, 2],
        "projection_dim": 32, "window_size": 2, "max_position_embeddings": 16, "drop_path_rate": 0.0,
    }  # fmt: skip
    return {
        "florence_config": {"text_config": text, "vision_config": sight, "image_token_id": 4},
        "tokenizer_name": str(folder), "tokenizer_max_length": 16, "hidden_size": 32, "depth": 1, "num_heads": 2,
        "num_domains": 2, "len_soft_prompts": 2, "max_len_seq": 64, "action_mode": "auto", "num_denoising_steps": 3,
        "max_state_dim": 8, "max_action_dim": 8, "chunk_size": 8, "n_action_steps": 8,
        "resize_imgs_with_padding": [64, 64],
    }  # fmt: skip


#: What is said to Qwen, without what it was trained to hear around it.
_CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
_OF_QWEN = {
    "image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}  # fmt: skip


def make_small_qwen(folder: Path, kind: str) -> dict[str, Any]:
    """Write a Qwen-VL, as Transformers reads it; return settings of the policy ``kind`` that use it: ``eo1`` (Qwen2.5-VL)
    or ``vla_jepa`` (Qwen3-VL)."""
    transformers = pytest.importorskip("transformers")
    words = make_tokenizer(folder, special=_OF_QWEN)
    fast = transformers.AutoTokenizer.from_pretrained(folder)
    ids = {f"{name}_id": words.index(word) for name, word in _OF_QWEN.items()}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    common = {"hidden_size": 32, "intermediate_size": 32}
    text = {
        **common, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "vocab_size": 64, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
        "rope_parameters": rope, "rope_scaling": rope,
    }  # fmt: skip
    sight = {**common, "depth": 1, "num_heads": 2, "out_hidden_size": 32}
    chunk = {"chunk_size": 8, "n_action_steps": 8}
    if kind == "eo1":
        sight |= {"patch_size": 14, "fullatt_block_indexes": [0], "window_size": 56}
        config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=sight, **ids)
        model = transformers.Qwen2_5_VLForConditionalGeneration(config)
        processor = transformers.Qwen2_5_VLProcessor(
            transformers.Qwen2VLImageProcessor(), fast, transformers.Qwen2VLVideoProcessor(), chat_template=_CHAT,
        )  # fmt: skip
        settings = chunk | {
            "vlm_base": str(folder), "image_min_pixels": 56 * 56, "image_max_pixels": 56 * 56, "max_state_dim": 8,
            "max_action_dim": 8, "num_denoise_steps": 3, "dtype": "float32", "supervise_padding_actions": False,
        }  # fmt: skip
    else:
        sight |= {"patch_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
        config = transformers.Qwen3VLConfig(text_config=text, vision_config=sight, **ids)
        model = transformers.Qwen3VLForConditionalGeneration(config)
        images = transformers.Qwen2VLImageProcessor(
            patch_size=16, min_pixels=32 * 32, max_pixels=64 * 64
        )
        processor = transformers.Qwen3VLProcessor(
            images, fast, transformers.Qwen3VLVideoProcessor(), chat_template=_CHAT
        )
        settings = chunk | {
            "qwen_model_name": str(folder), "enable_world_model": False, "action_hidden_size": 32, "action_num_layers": 1,
            "action_num_heads": 2, "action_attention_head_dim": 16, "num_target_vision_tokens": 2,
            "num_embodied_action_tokens_per_instruction": 2, "num_action_tokens_per_timestep": 2,
            "torch_dtype": "float32", "binarize_gripper_action": False, "pre_snap_gripper_action": False,
            "repeated_diffusion_steps": 2, "action_max_seq_len": 64, "action_dropout": 0.0,
        }  # fmt: skip
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return settings


@contextmanager
def two_layers_of_pi0() -> Iterator[None]:
    """Within this LeRobot makes pi0 with two layers of each kind, instead of 18: as wide as ever, and still with the
    whole of what sees images."""
    modeling = pytest.importorskip("lerobot.policies.pi0.modeling_pi0")
    whole = modeling.get_gemma_config

    def shallow(variant: str) -> Any:
        found = whole(variant)
        found.depth = 2
        return found

    modeling.get_gemma_config = shallow
    try:
        yield
    finally:
        modeling.get_gemma_config = whole


#: As many words as PaliGemma has.
_WORDS = 257152


def make_small_fast(folder: Path, rows: int, size: int) -> dict[str, Any]:
    """Write a tokenizer of actions, (rows, size) each, as LeRobot's MolmoAct2 has it in its own files, and one of words;
    return settings of pi0-FAST that use them. Its words are as many as ever: networks at random say any of them."""
    own = pytest.importorskip("lerobot.policies.molmoact2.molmoact2_hf_model.action_tokenizer")
    chunks = [np.random.default_rng(i).uniform(-2, 2, (rows, size)) for i in range(50)]
    fast = own.UniversalActionProcessor.fit(
        chunks, scale=10, vocab_size=512, time_horizon=rows, action_dim=size
    )
    actions, words = folder / "actions", folder / "words"
    for one in (actions, words):
        one.mkdir()
    fast.tokenizer.save_pretrained(actions)
    name = "UniversalActionProcessor"
    about = {
        "processor_class": name, "auto_map": {"AutoProcessor": f"of_actions.{name}"}, "scale": 10, "vocab_size": 512,
        "min_token": fast.min_token, "time_horizon": rows, "action_dim": size,
    }  # fmt: skip
    (actions / "processor_config.json").write_text(json.dumps(about))
    (actions / "of_actions.py").write_text(f"from {own.__name__} import {name}\n")
    known = ("reach", "the", "target", "Task", "State", "Action", ":", ",", ";", "|")
    lacking = _WORDS - len(known) - 5  # of which four are special, and one stands for an image
    make_tokenizer(words, (*known, *(f"w{i}" for i in range(lacking))), {"image_token": "<image>"})
    return {
        "action_tokenizer_name": str(actions), "text_tokenizer_name": str(words), "chunk_size": rows,
        "n_action_steps": rows, "max_action_tokens": 64, "max_decoding_steps": 8, "tokenizer_max_length": 32,
        "fast_skip_tokens": 0, "max_state_dim": 8, "max_action_dim": 8, "validate_action_token_prefix": False,
    }  # fmt: skip


@contextmanager
def tiny_pi0(kind: str = "pi0") -> Iterator[None]:
    """Within this LeRobot makes pi0, or ``pi0_fast``, with two narrow layers of each kind, for a CPU; only its table of
    words is as long as ever."""
    modeling = pytest.importorskip(f"lerobot.policies.{kind}.modeling_{kind}")
    names = ("get_gemma_config", "CONFIG_MAPPING", "PaliGemmaForConditionalGenerationWithPiGemma")
    whole = {name: getattr(modeling, name) for name in names}

    def narrow(variant: str) -> Any:
        found = whole["get_gemma_config"](variant)
        found.width, found.depth, found.mlp_dim, found.num_heads, found.head_dim = 64, 2, 64, 8, 8
        return found

    def settings() -> Any:
        found = whole["CONFIG_MAPPING"]["paligemma"]()
        sight = found.vision_config
        sight.hidden_size, sight.num_hidden_layers, sight.num_attention_heads = 64, 2, 2
        sight.patch_size, found.projection_dim = 28, 64
        return found

    def network(config: Any) -> Any:
        config.vision_config.projection_dim = config.projection_dim = 64
        config.vision_config.intermediate_size = 64
        return whole["PaliGemmaForConditionalGenerationWithPiGemma"](config=config)

    modeling.get_gemma_config = narrow
    modeling.CONFIG_MAPPING = {"gemma": whole["CONFIG_MAPPING"]["gemma"], "paligemma": settings}
    modeling.PaliGemmaForConditionalGenerationWithPiGemma = network
    try:
        yield
    finally:
        for name, one in whole.items():
            setattr(modeling, name, one)
