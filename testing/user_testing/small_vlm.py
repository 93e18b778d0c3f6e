"""The smallest vision-language models that LeRobot's SmolVLA and EVO1 take: random weights, a vocabulary of a sentence;
and a pi0 of two layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


@contextmanager
def tiny_pi0() -> Iterator[None]:
    """Within this LeRobot makes pi0 with two narrow layers of each kind, for a CPU; only its table of words is as long
    as ever."""
    modeling = pytest.importorskip("lerobot.policies.pi0.modeling_pi0")
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
