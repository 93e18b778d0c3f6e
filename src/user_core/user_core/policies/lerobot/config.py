"""Settings of the policy ``lerobot``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from user_core.config import Config, setting
from user_core.errors import ConfigError

#: Statistics that settle from what is learned from.
FROM_DATA = "data"


def without_folders(value: Any) -> Any:
    """Settings without the places of files of this machine: at another they lie elsewhere, and what they are is said
    by the hash of the weights."""
    if isinstance(value, Mapping):
        return {name: without_folders(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(one) for one in value]
    if isinstance(value, str) and value.startswith(("/", "~", "./", "../")):
        return "a folder of this machine"
    return value


#: Seed of the noise of deterministic actions.
STILL = 0


class AdapterConfig(Config):
    """Low-rank matrices that are trained beside frozen weights (LoRA, Hu et al. 2021)."""

    rank: int = setting(
        0, doc="Rank of the matrices; 0: none, the weights themselves are trained.", ge=0, le=4096
    )
    alpha: float = setting(16.0, doc="They count alpha / rank times.", gt=0)
    dropout: float = setting(0.0, doc="Share of their inputs that training leaves out.", ge=0, lt=1)
    targets: tuple[str, ...] = setting(
        (),
        doc="Linear layers that get them, by how their names end, as [q_proj, v_proj]; empty: all.",
    )
    whole: tuple[str, ...] = setting(
        (), doc="Parts of the policy that are trained as a whole, as [model.action_out_proj]."
    )

    def validate(self) -> None:
        if not self.rank and (self.targets or self.whole):
            raise ConfigError(
                "rank", got=0, expected="at least 1, with targets or whole",
                hint="Without a rank there are no adapters, and all weights are trained",
            )  # fmt: skip


class LeRobotConfig(Config):
    """Which of LeRobot's policies, with which settings of its own, and what it sees of our robot."""

    #: Where files lie, and which words are said: the weights are named by their hash.
    NOT_IN_HASH: ClassVar[tuple[str, ...]] = (
        "checkpoint", "statistics", "device", "instruction", "instructions",
    )  # fmt: skip

    type: str = setting(
        "",
        doc="LeRobot's name of the policy (act, diffusion, smolvla, pi0, ...); of a checkpoint what it must be, "
        "or empty.",
    )
    checkpoint: str = setting(
        "",
        doc="Folder with LeRobot's config.json and model.safetensors, or a name on the Hugging Face hub, to begin "
        "with; empty for first weights at random.",
    )
    checkpoint_hash: str = setting(
        "",
        doc="SHA-256 of its model.safetensors; another one is refused. Versions of what is trained on a base are "
        "refused at a robot whose base is another in any case.",
    )
    revision: str = setting(
        "",
        doc="Revision on the hub: a commit, branch or tag.",
        counts_as="",  # the weights are named by their hash
    )
    strict: bool = setting(
        True,
        doc="Whether every weight must be in the checkpoint, and no others, as LeRobot's class wants them.",
    )
    config: dict[str, Any] = setting(
        factory=dict,
        doc="Settings of LeRobot's own configuration class, for instance chunk_size; they win over the checkpoint's.",
        counts_as=without_folders,
    )
    processors: dict[str, Any] = setting(
        factory=dict,
        doc="Settings of single steps of its pre- and postprocessors, for instance "
        "{tokenizer_processor: {tokenizer_name: /models/tokenizer}}.",
        counts_as=without_folders,
    )
    modules: tuple[str, ...] = setting(
        (),
        doc="Modules to import that register policies. Installed packages lerobot_policy_* need not be named.",
    )
    mapping: dict[str, Any] = setting(
        factory=dict,
        doc="What its inputs are at this robot: name of a feature to an observation, or to a list of them that are "
        "joined; an empty one leaves a camera out. What is not named is found by its name.",
    )
    scale: dict[str, Any] = setting(
        factory=dict,
        doc="Numbers of a feature of its in one of ours: 57.29578 for degrees, 100 for a gripper in percent; one "
        "for all elements, or one for each. The feature of actions is called action.",
    )
    resize_images: bool = setting(
        False,
        doc="Whether images of another size than it was trained with are brought to that size.",
    )
    statistics: str = setting(
        "",
        doc="Statistics that it normalises with: a LeRobot data set or its stats.json, or `data` to let them settle "
        "from what is learned from. Empty: the checkpoint's; `data` without a checkpoint.",
    )
    statistics_calls: int = setting(
        20,
        doc="Calls of the learner's update that settle statistics from data; then they stay.",
        ge=1,
    )
    adapter: AdapterConfig = setting(
        factory=AdapterConfig,
        doc="Train small matrices beside the weights of the checkpoint; only they are kept and sent.",
    )
    instruction: str = setting(
        "",
        doc="The task in words, for policies that read, where the actor is given none (actor.instruction).",
    )
    instructions: dict[str, str] = setting(
        factory=dict,
        doc="The tasks in words, by their names, for policies that read and learn several; what a task is called is "
        "said by its robot.",
    )
    device: str = setting("cpu", doc="torch device that acts: cpu, cuda, cuda:1.")
    seed: int = setting(0, doc="Seed of first weights and of the noise of actions.", ge=0)

    def validate(self) -> None:
        if not self.type and not self.checkpoint:
            raise ConfigError(
                "policy lerobot", got="neither type nor checkpoint",
                expected="type: act (a new policy), or checkpoint: a folder or a name on the hub",
            )  # fmt: skip
