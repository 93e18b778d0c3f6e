"""Parameters of acting."""

from __future__ import annotations

from typing import Any, Literal

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.plugins import PluginChoice


class ArbiterConfig(Config):
    """When a person drives instead of the policy."""

    max_age_s: float = setting(
        0.25, doc="Age from which a command of the person does not count.", unit="s", gt=0
    )
    hold_s: float = setting(
        0.5,
        doc="How long the person must not have driven before the policy drives again; the robot "
        "is held still meanwhile.",
        unit="s",
        ge=0,
    )
    min_takeover_s: float = setting(
        0.0, doc="An intervention lasts at least this long.", unit="s", ge=0
    )


class ExplorationConfig(Config):
    """How the actor acts before the policy has learned anything, and how much is left to chance afterwards."""

    random_steps: int = setting(0, doc="The first steps of this actor's outbox are random.", ge=0)
    kind: Literal["uniform", "smooth"] = setting(
        "uniform", doc="uniform: each action by itself; smooth: each resembles the one before."
    )
    correlation: float = setting(
        0.9, doc="Correlation of a smooth action with the one before.", ge=0, lt=1
    )
    before_first_version: Literal["wait", "random", "initial"] = setting(
        "random",
        doc="While no version has come: wait for one, act randomly, or use the policy's first "
        "weights.",
    )
    deterministic: bool = setting(
        False,
        doc="The policy acts without chance also while it collects, as in evaluations: where what is learned from is "
        "a person's corrections, who would otherwise correct chance, too.",
    )
    seed: int = setting(
        -1,
        doc="Seed of random actions and, with the actor's name, of its policy's noise, unless "
        "that has a seed of its own; -1: another one each time. An actor that goes on after a "
        "restart does not repeat itself.",
        ge=-1,
    )


class ChunksConfig(Config):
    """How chunks of several actions are carried out."""

    execution: Literal["sequential", "ensemble", "real_time"] = setting(
        "sequential",
        doc="sequential: replan_every rows of a chunk, then the next; ensemble: each action is a weighted mean "
        "of what all chunks planned for its step (Zhao et al. 2023); real_time: the next chunk is made "
        "meanwhile, and goes on from the rows that will be over by then (Black et al. 2025).",
    )
    inference: Literal["inline", "thread"] = setting(
        "inline",
        doc="inline: the control loop waits for the policy; thread: it does not, and a chunk takes over once "
        "it is there. Not for a robot whose time passes by commands.",
    )
    delay_steps: int = setting(
        0,
        doc="inline: steps from asking a policy to its chunk taking over, so that a simulation can show what a "
        "slow one costs; thread, and a policy elsewhere: the delay that is expected of the first chunk.",
        ge=0,
        le=256,
    )
    ensemble_decay: float = setting(
        0.01,
        doc="Of weights in an ensemble: exp(-decay) from one chunk to the next, newer one.",
        ge=0,
    )


class EvaluationConfig(Config):
    """Deterministic episodes that show how good the policy is."""

    every: int = setting(0, doc="Evaluate after this many other episodes; 0: never.", ge=0)
    episodes: int = setting(1, doc="Evaluation episodes at a time.", ge=1)
    attempts: int = setting(
        3,
        doc="An evaluation episode that is aborted (a person took over, the robot was stopped) is tried again. After so "
        "many in a row the round is given up, and collecting goes on until the next; 0: never. In mode evaluation, "
        "never.",
        ge=0,
    )
    seed: int = setting(
        -1,
        doc="Evaluation episodes start from this seed on, the same ones every time; -1: as they "
        "come.",
        ge=-1,
    )


class ProofConfig(Config):
    """What a policy must show, with a person present, before it acts without one."""

    episodes: int = setting(
        0,
        doc="Evaluation episodes at the beginning, for which a person says go; 0: none. They begin from "
        "evaluation.seed on.",
        ge=0,
        le=1000,
    )
    success: float = setting(
        0.8,
        doc="Share of them that must succeed; else the robot waits for go again, collects as many "
        "episodes beside a person, and is evaluated anew.",
        gt=0,
        le=1,
    )


class ActorLoopConfig(Config):
    """Parameters of :class:`~user_actor.loop.ActorLoop`."""

    mode: Literal["online", "demonstration", "evaluation"] = setting(
        "online",
        doc="online: the policy acts, a person may take over; demonstration: only the person "
        "acts; evaluation: only the policy acts, deterministically.",
    )
    start: Literal["at_once", "operator"] = setting(
        "at_once",
        doc="When the robot begins to move: as soon as everything is ready, or once a person has "
        "said go (service ~/go, `user go`); after an emergency stop, a restart of the actor, or "
        "an absence of the robot of more than go_lapses_s, go must be said again.",
    )
    go_lapses_s: float = setting(
        60.0, doc="Absence of the robot after which a person must say go again.", unit="s", gt=0
    )
    max_episodes: int = setting(0, doc="End after this many episodes; 0: never.", ge=0)
    period_s: float = setting(
        0.0,
        doc="Control period; 0: what the robot is meant for, and in lockstep as fast as it goes.",
        unit="s",
        ge=0,
    )
    max_backlog_steps: float = setting(
        0.0,
        doc="A robot in lockstep waits while the learner is behind by more environment steps "
        "than this, or is not heard; 0: it never waits. A robot in real time never does.",
        ge=0,
    )
    max_episode_steps: int = setting(
        0,
        doc="Steps after which an episode is truncated; 0: never. Changed while it runs: from the next "
        "episode on.",
        ge=0,
        read_only=False,
    )
    max_episode_s: float = setting(
        0.0,
        doc="Time after which an episode is truncated; 0: never. Changed while it runs: from the next "
        "episode on.",
        unit="s",
        ge=0,
        read_only=False,
    )
    replan_every: int = setting(
        0,
        doc="Rows of a policy's action chunk that are executed before the next is made; 0: all of them. Of a policy "
        "elsewhere or in a thread: steps from one observation that is asked about to the next; 0: each is.",
        ge=0,
    )
    chunks: ChunksConfig = setting(
        factory=ChunksConfig, doc="How a policy's action chunks are carried out."
    )
    failure_terminates: bool = setting(
        True, doc="A label `failure` means that no value lies beyond, rather than a mere cut."
    )
    max_observation_age_s: float = setting(
        0.5, doc="A robot without a newer observation for this long is lost.", unit="s", gt=0
    )
    answer_timeout_s: float = setting(
        2.0, doc="A lockstep robot that does not answer in this time is asked again.",
        unit="s", gt=0,
    )  # fmt: skip
    answer_attempts: int = setting(3, doc="How often it is asked before it counts as lost.", ge=1)
    reset_timeout_s: float = setting(60.0, doc="Longest reset of the robot.", unit="s", gt=0)
    retry_s: float = setting(
        1.0, doc="Pause after a reset or an episode that failed.", unit="s", ge=0
    )
    verdict_s: float = setting(
        0.0,
        doc="An episode that ended without a verdict waits this long for a person's key of success or "
        "failure; 0: not at all.",
        unit="s",
        ge=0,
    )
    equal_failures: int = setting(
        6,
        doc="Episodes in a row that failed equally, in a way that does not pass by itself, after "
        "which the process ends with the reason; 0: never.",
        ge=0,
    )
    seed: int = setting(
        -1, doc="Seed of the first reset, one more for each; -1: none is given.", ge=-1
    )
    arbiter: ArbiterConfig = setting(
        factory=ArbiterConfig, doc="When a person drives instead of the policy."
    )
    exploration: ExplorationConfig = setting(
        factory=ExplorationConfig, doc="How to act before the policy has learned anything."
    )
    evaluation: EvaluationConfig = setting(
        factory=EvaluationConfig, doc="Deterministic episodes that show how good the policy is."
    )

    proof: ProofConfig = setting(
        factory=ProofConfig,
        doc="What the policy must show, with a person present, before it acts without one.",
    )

    def validate(self) -> None:
        if self.mode != "online" and self.proof.episodes:
            raise ConfigError(
                "proof.episodes", got=self.proof.episodes, expected=f"0 in mode {self.mode!r}"
            )
        if self.mode != "online" and self.evaluation.every:
            raise ConfigError(
                "evaluation.every", got=self.evaluation.every, expected=f"0 in mode {self.mode!r}"
            )


class FallbackConfig(Config):
    """A policy on the robot's host that acts while the one on another host does not answer."""

    weights: str = setting(
        "",
        doc="versions: the learner's newest, which are then pulled as where the policy acts here; a policy file "
        "(policy.safetensors of a training or run); empty: nobody acts, and the robot holds.",
    )
    plugin: str = setting(
        "",
        doc="The policy plugin of a policy file, where it is another than the actor's `policy`, for instance a smaller "
        "one; empty: that one, with its parameters.",
    )
    params: dict[str, Any] = setting(factory=dict, doc="Parameters of `plugin`.")
    after_s: float = setting(
        0.3,
        doc="It takes over when the other host has not answered for this long and nothing planned is left. Where that is "
        "longer than the hal's safety.watchdog_s, the robot is stopped before, and the next episode is its.",
        unit="s",
        gt=0,
    )
    back_after_s: float = setting(
        2.0,
        doc="The other host acts again when it has answered for this long without such a gap.",
        unit="s",
        ge=0,
    )

    def validate(self) -> None:
        if self.plugin and self.weights in ("", "versions"):
            raise ConfigError(
                "remote.fallback.plugin", got=f"weights: {self.weights or 'none'}",
                expected="a policy file: versions are those of the actor's own policy",
            )  # fmt: skip

    def choice(self, own: PluginChoice) -> PluginChoice:
        """The policy of a policy file, where the actor's own is this."""
        return PluginChoice(plugin=self.plugin, params=self.params) if self.plugin else own


class RemoteConfig(Config):
    """A policy on another host."""

    enabled: bool = setting(
        False, doc="The policy acts on another host, in inference_node; its chunks are played here."
    )
    coding: str = setting(
        "zstd",
        doc="How images travel there: zstd (without loss), jpegQ or webpQ (quality Q); empty: as "
        "they are. What is recorded stays as it was taken.",
    )
    in_flight: int = setting(
        3,
        doc="Observations that may be under way. More than one uses a link with a long round trip; "
        "few keep them from queueing on a slow one.",
        ge=1,
        le=32,
    )
    lost_after_s: float = setting(
        1.0,
        doc="An observation that was not answered by then counts as lost: another may be under way "
        "instead. A late answer is still used. Where another waits for room it counts as lost sooner, a period "
        "after the longest of the last ten round trips and a tenth of it.",
        unit="s",
        gt=0,
    )
    max_chunk_s: float = setting(
        2.0,
        doc="Rows of an answer beyond this are not played; no longer than the hal's "
        "safety.max_chunk_s, which refuses such chunks.",
        unit="s",
        gt=0,
    )
    silence_s: float = setting(
        2.0,
        doc="Without an answer for this long the other host counts as away, and no episode begins.",
        unit="s",
        gt=0,
    )
    probe_s: float = setting(
        0.5,
        doc="Time between two observations that are sent while the other host is away.",
        unit="s",
        gt=0,
    )
    fallback: FallbackConfig = setting(
        factory=FallbackConfig, doc="What acts here while the other host does not answer."
    )
