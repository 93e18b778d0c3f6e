"""Configuration of sampling: what is drawn, in which proportions, within how much memory."""

from __future__ import annotations

from typing import Literal

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.plugins import PluginChoice
from user_core.types import ActedBy, EpisodeSource


class Stratum(Config):
    """A part of every batch, drawn uniformly, with replacement, from the steps that fit."""

    share: float = setting(
        1.0, doc="The share of a batch, in proportion to the shares of the others.", gt=0
    )
    sources: tuple[EpisodeSource, ...] = setting(
        (EpisodeSource.ONLINE, EpisodeSource.DEMONSTRATION),
        doc="Episodes of these sources. Evaluation is kept out of training unless named.",
        min_length=1,
    )
    acted_by: tuple[ActedBy, ...] = setting(
        (),
        doc="Steps decided by one of these, for instance human interventions; empty for all. A padded window "
        "ends where somebody else decided. Of a stratum of human and script alone, all counts as demonstrated.",
    )
    before_steps: int = setting(
        0,
        doc="Padded windows of `acted_by` begin also up to this many steps before it began to decide; what others decided "
        "there is part of the window, and does not count (extras['mask']). A policy that goes on from given rows "
        "(prefix_rows) so learns what to do after rows that were its own: as many as these.",
        ge=0,
        le=1023,
        late=True,
    )
    newest_steps: int = setting(
        0,
        doc="Only this many steps, those that arrived last; 0 for all. Where several episodes "
        "arrive at once, to within one episode.",
        ge=0,
    )

    def validate(self) -> None:
        if self.before_steps and not self.acted_by:
            raise ConfigError(
                "before_steps", got=f"{self.before_steps}, and no acted_by",
                expected="acted_by: who decided the steps before which windows begin",
            )  # fmt: skip


#: Half demonstrations, half what the robots did themselves (Ball et al. 2023, RLPD).
HALF_DEMONSTRATIONS = (
    Stratum(sources=(EpisodeSource.ONLINE,)),
    Stratum(sources=(EpisodeSource.DEMONSTRATION,)),
)


class HindsightConfig(Config):
    """Steps drawn with a goal that their episode reached later (Andrychowicz et al. 2017)."""

    strategy: Literal["none", "future"] = setting(
        "none",
        doc="future: of each k + 1 drawn steps, k get a goal that was achieved later in their episode.",
    )
    k: int = setting(4, doc="Steps with another goal for each that keeps its own.", ge=1, le=1000)
    achieved: str = setting("achieved_goal", doc="Observation that shows what was reached.")
    achieved_elements: tuple[int, ...] = setting(
        (),
        doc="Elements of it that are the goal, for instance [0, 1, 2] of tcp_pose; empty: all.",
        ge=0,
    )
    desired: str = setting("desired_goal", doc="Observation that shows the goal.")
    differences: tuple[str, ...] = setting(
        (),
        doc="Observations that show desired minus achieved, for instance tool_to_goal: they are "
        "computed anew. Others that depend on the goal must be ignored by the policy.",
    )
    goal_reward: PluginChoice = setting(
        PluginChoice(plugin="goal_distance"), doc="What a state is worth for a goal."
    )

    @property
    def enabled(self) -> bool:
        """Whether any goal is replaced."""
        return self.strategy != "none"


class BalanceConfig(Config):
    """How the steps of several robots share a stratum."""

    by: Literal["steps", "robots"] = setting(
        "steps",
        doc="steps: every step is drawn equally often, so that a robot counts by what it has collected. robots: "
        "each robot has its share of each stratum, however fast it collects.",
    )
    strength: float = setting(
        1.0,
        doc="1: all robots have equal shares; 0: shares in proportion to their steps; between: in proportion to "
        "their steps to the power of 1 - strength.",
        ge=0,
        le=1,
    )
    most: float = setting(
        10.0,
        doc="No step is drawn more than this many times as often as it would be by `steps`: the first few of a robot "
        "that has just joined must not fill its share.",
        ge=1,
    )


class TakeoversConfig(Config):
    """What becomes of the steps of the policy that led to a takeover by a person."""

    before_steps: int = setting(
        0,
        doc="This many steps before each takeover count as having led to it; 0: none. A person needs about "
        "half a second to react.",
        ge=0,
        le=10_000,
    )
    weight: float = setting(
        1.0,
        doc="How often such a step is drawn beside another of its stratum: 1 as often, 0 never. Not of windows that begin "
        "there for what a person did then (strata, before_steps).",
        ge=0,
        le=1,
    )
    reward: float | None = setting(
        None,
        doc="Reward that each of them gets, for instance -1, whatever was recorded; null: it keeps its own.",
    )


class SamplerConfig(Config):
    """How batches are drawn from replay stores."""

    strata: tuple[Stratum, ...] = setting(
        (Stratum(),),
        doc="Parts of a batch; the part of one that has nothing goes to the others.",
        min_length=1,
    )
    balance: BalanceConfig = setting(
        factory=BalanceConfig, doc="How robots that collect for one learner share each stratum."
    )
    takeovers: TakeoversConfig = setting(
        factory=TakeoversConfig, doc="What becomes of steps that led to a takeover by a person."
    )
    n_step: int = setting(1, doc="Rewards summed up per transition at most.", ge=1, le=1024)
    gamma: float = setting(0.99, doc="Discount per step.", ge=0, le=1)
    window: int = setting(
        0, doc="Steps per window for chunked policies; 0 for transitions.", ge=0, le=1024
    )
    pad_windows: bool = setting(
        False,
        doc="Also draw windows that the end of their episode cuts short; extras['mask'] tells.",
    )
    observation_history: int = setting(
        1,
        doc="Observations that the policy sees at once, as its own setting says; each array of a batch is then "
        "(B, N, ...), oldest first, and an episode begins with its first observation N times.",
        ge=1,
        le=32,
    )
    hindsight: HindsightConfig = setting(
        factory=HindsightConfig, doc="Goals that were reached later, for goal environments."
    )
    memory_bytes: int = setting(
        0,
        doc="Memory for rows and batches. Stores that are larger are sampled from a "
        "cache. 0 for half of what is free at the start.",
        unit="B",
        ge=0,
    )
    read_bytes_per_s: float = setting(
        200e6, doc="Rate at which the sample cache may be renewed from disk.", unit="B/s", gt=0
    )
    draws_per_load: float = setting(
        1.0,
        doc="How often a row is drawn, on average, before its place in memory goes to another; "
        "more reads less, and makes batches more alike for a while.",
        gt=0,
    )
    max_draws_per_load: float = setting(
        0.0,
        doc="Sampling waits for the disk rather than draw rows more often than this, on average, "
        "before they are exchanged; 0: it never waits.",
        ge=0,
    )
    refresh_period_s: float = setting(
        1.0,
        doc="Time between looks for new rows; 0: only when `refresh` is called.",
        unit="s",
        ge=0,
    )
    prefetch: int = setting(2, doc="Batches prepared ahead; 0 for none.", ge=0, le=64)
    prefetch_above_bytes: int = setting(
        256 * 1024,
        doc="Smaller batches are not prepared ahead: to hand them from thread to thread takes "
        "longer than to gather them.",
        unit="B",
        ge=0,
    )
    keep: int = setting(
        2, doc="Batches that may be drawn after one before its memory is used again.", ge=1, le=64
    )
    workers: int = setting(1, doc="Threads that gather batches ahead.", ge=1, le=16)
    output: Literal["numpy", "torch", "pinned"] = setting(
        "numpy", doc="Arrays, tensors on the CPU, or tensors in page-locked memory for a GPU."
    )
    seed: int = setting(0, doc="Seed of the draws; give each reader of a store its own.", ge=0)

    def validate(self) -> None:
        """Raise ConfigError where settings contradict each other."""
        if 0 < self.max_draws_per_load < self.draws_per_load:
            raise ConfigError(
                "max_draws_per_load",
                got=self.max_draws_per_load,
                expected=f"0, or at least draws_per_load, {self.draws_per_load}",
            )
        for number, stratum in enumerate(self.strata):
            if stratum.before_steps and not (
                self.pad_windows and stratum.before_steps < self.window
            ):
                raise ConfigError(
                    f"strata[{number}].before_steps",
                    got=f"{stratum.before_steps}, window {self.window}, pad_windows {self.pad_windows}",
                    expected="padded windows of more steps than that: one at least must count",
                )
        if self.observation_history > 1 and self.hindsight.enabled:
            raise ConfigError(
                "observation_history and hindsight",
                got=f"{self.observation_history} observations at once, and other goals",
                expected="one observation where goals are replaced",
            )
        if self.window and self.n_step > 1:
            raise ConfigError(
                "window and n_step",
                got=f"window {self.window}, n_step {self.n_step}",
                expected="n_step 1 with windows: their rewards come one by one, (B, T)",
            )

    @property
    def horizon(self) -> int:
        """Rows that are needed after a drawn one, where there are this many."""
        return self.window or self.n_step

    @property
    def past(self) -> int:
        """Rows that are needed before a drawn one."""
        return self.observation_history - 1

    @property
    def required(self) -> int:
        """Rows that must follow a row for it to be drawn."""
        return self.window if self.window and not self.pad_windows else 1


class History(Config):
    """An older store to sample from as well."""

    path: str = setting(doc="Directory of the store. It is not written to.", min_length=1)
    source: EpisodeSource | None = setting(
        None, doc="Treat all its episodes as of this source; empty to keep what they are."
    )
    edits: str = setting(
        "",
        doc="File of the edits to honour, where the store cannot be written; empty: the store's own.",
    )
