"""What keeps policies of LeRobot from being recorded as CUDA graphs, done in another way with the same result. Imports
torch.

A graph is the same operations on a GPU each time: words become tokens before it, noise that LeRobot draws on the host
is given to it, and what looks at tensors of a host is done once. What a host gives besides is noted
(:func:`user_core.policies.cuda_graphs.rehearsed`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

#: Names that LeRobot's preprocessors give to tokens, (B, L), and to which of them are there.
_TOKENS, _MASK = "observation.language.tokens", "observation.language.attention_mask"
#: Tokens are filled up to a multiple of this, so that instructions of other lengths have the same shape.
_WORDS = 16
#: What LeRobot draws on the host: times of flow matching, (B,).
_TIMES = "drawn.times"


def make_recordable(policy: nn.Module) -> None:
    """Let a policy do without the host what it can, and train nothing that its loss does not reach; in place."""
    for module in policy.modules():
        if type(module).__name__ == "SmolVLMVisionTransformer":
            module.__class__ = _of_whole_images(type(module))
        if type(module).__name__ == "PaliGemmaWithExpertModel":
            for part in _unreached(module):
                for parameter in part.parameters():
                    parameter.requires_grad_(False)


def _unreached(model: Any) -> Iterator[nn.Module]:
    """Of pi0 and pi0.5: heads for words, and what comes behind the last keys and values of the language model, the only
    ones that actions look at. A quarter of all parameters."""
    language = model.paligemma.model.language_model
    last = language.layers[-1]
    yield from (last.self_attn.o_proj, last.post_attention_layernorm, last.mlp, language.norm)
    yield model.gemma_expert.lm_head
    head = model.paligemma.lm_head
    if head.weight is not language.embed_tokens.weight:
        yield head


def padded_words(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch of which tokens, if there are any, are filled up with some that do not count. LeRobot fills them up to
    the longest of a batch, or to a length that is always the same."""
    found = dict(batch)
    if _TOKENS in found and _MASK in found:
        lacking = -found[_TOKENS].shape[1] % _WORDS
        found[_TOKENS] = pad(found[_TOKENS], (0, lacking))
        found[_MASK] = pad(found[_MASK], (0, lacking))
    return found


def has_words(batch: Mapping[str, Tensor]) -> bool:
    """Whether a preprocessor has made tokens."""
    return _TOKENS in batch


def drawn_by_host(policy: Any, rows: int, device: torch.device) -> dict[str, Tensor]:
    """What a loss of LeRobot would draw on the host for this many rows, from torch's generator as it is now; by
    name."""
    draw = getattr(getattr(policy, "model", None), "sample_time", None)
    return {} if draw is None else {_TIMES: draw(rows, device)}


@contextmanager
def given_by_host(policy: Any, batch: dict[str, Any]) -> Iterator[None]:
    """Within this a loss of LeRobot finds what was drawn before in its batch, and draws it where it is not there."""
    times = batch.pop(_TIMES, None)
    if times is None:
        yield
        return
    model = policy.model
    own = model.__dict__.get("sample_time")  # of somebody who has replaced the class's
    model.sample_time = lambda *_: times
    try:
        yield
    finally:
        del model.sample_time
        if own is not None:
            model.sample_time = own


#: Types of policies whose ``sample_actions`` takes its noise from who asks, and LeRobot's real-time chunking as they are
#: written: their answers are tensors made of tensors.
_GIVEN_NOISE = ("pi0", "pi05", "smolvla")


def takes_noise(policy: Any) -> bool:
    """Whether a policy of LeRobot can be given the noise that a chunk is made of, and what it goes on from, for each
    row."""
    return policy.config.type in _GIVEN_NOISE and hasattr(policy.model, "sample_noise")


def noise_for(policy: Any, rows: int, device: torch.device) -> Tensor:
    """What a policy that takes noise would draw itself for this many rows."""
    theirs = policy.config
    drawn: Tensor = policy.model.sample_noise(
        (rows, theirs.chunk_size, theirs.max_action_dim), device
    )
    return drawn


@contextmanager
def going_on(policy: Any, before: Tensor, weights: Tensor) -> Iterator[None]:
    """Within this a policy that takes noise makes chunks that go on from others, as LeRobot's real-time chunking does.

    That one's weights are numbers of the host, the same for all rows; and it asks for gradients, though what it follows
    is the error itself: its network has been asked before gradients are kept, so that none come through it
    (``RTCProcessor.denoise_step``).

    Args:
        policy: Of LeRobot, its real-time chunking switched on.
        before: What is left of the chunks before, as the network has actions, (B, T, its A); 0 where nothing is.
        weights: How much each row of it counts, (B, T, 1).
    """
    processor = policy.model.rtc_processor
    most = float(processor.rtc_config.max_guidance_weight)
    processor.denoise_step = partial(_guided, before, weights, most)
    try:
        yield
    finally:
        del processor.denoise_step


def _guided(
    before: Tensor, weights: Tensor, most: float, *, x_t: Tensor, time: float,
    original_denoise_step_partial: Callable[[Tensor], Tensor], **_: Any,
) -> Tensor:  # fmt: skip
    velocity = original_denoise_step_partial(x_t)
    error = (before - (x_t - time * velocity)) * weights
    return velocity - _strength(time, most) * error


def _strength(time: float, most: float) -> float:
    """How strongly an error is corrected at a time of the flow, in float32 as LeRobot has it."""
    done, largest = torch.tensor(1 - time, device="cpu"), torch.tensor(most, device="cpu")
    left = (1 - done) ** 2
    inverse = (left + done**2) / left
    strength = torch.nan_to_num((1 - done) / done, posinf=most)
    return float(torch.minimum(torch.nan_to_num(strength * inverse, posinf=most), largest))


def recomputing(policy: Any) -> bool:
    """Let a policy compute again on the way back what it would keep, in LeRobot's own way; whether it has one."""
    enable = getattr(getattr(policy, "model", None), "gradient_checkpointing_enable", None)
    if enable is None:
        return False
    enable()
    return True


_WHOLE: dict[type, type] = {}


def _of_whole_images(kind: type) -> type:
    """A vision transformer of SmolVLM for images without padding, which are all that LeRobot gives it. Its own looks on
    the host, for each batch, which patches there are, and whether that is all of them."""
    if kind in _WHOLE:
        return _WHOLE[kind]

    class WholeImages(kind):  # type: ignore[valid-type,misc]
        def forward(
            self, pixel_values: Tensor, patch_attention_mask: Any = None, **keywords: Any
        ) -> Any:
            if patch_attention_mask is not None or keywords:
                return super().forward(pixel_values, patch_attention_mask, **keywords)
            embeddings = self.embeddings
            patches = embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
            hidden = patches + embeddings.position_embedding(self._places(pixel_values))
            found = self.encoder(inputs_embeds=hidden, attention_mask=None)
            found.last_hidden_state = self.post_layernorm(found.last_hidden_state)
            return found

        def _places(self, pixel_values: Tensor) -> Tensor:
            """Numbers of the patches of an image, (1, P), as its own code has them."""
            shape, kept = pixel_values.shape[1:], self.__dict__.setdefault("_kept_places", {})
            key = (tuple(shape), pixel_values.dtype, pixel_values.device)
            if key not in kept:
                size, found = self.patch_size, list[Tensor]()
                image = torch.zeros(
                    (1, *shape), dtype=pixel_values.dtype, device=pixel_values.device
                )
                whole = torch.ones(
                    (1, shape[1] // size, shape[2] // size), dtype=torch.bool, device=image.device
                )
                hook = self.embeddings.position_embedding.register_forward_pre_hook(
                    lambda _, given: found.append(given[0])
                )
                try:
                    with torch.no_grad():
                        self.embeddings(pixel_values=image, patch_attention_mask=whole)
                finally:
                    hook.remove()
                kept[key] = found[0]
            return kept[key]  # type: ignore[no-any-return]

    WholeImages.__name__, WholeImages.__qualname__ = kind.__name__, kind.__qualname__
    return _WHOLE.setdefault(kind, WholeImages)
