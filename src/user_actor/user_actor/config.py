"""Parameters of the nodes of this package; readable without ROS."""

from __future__ import annotations

import re
from typing import Literal

from user_actor.inference.config import BatchingConfig
from user_actor.loop.config import ActorLoopConfig, RemoteConfig
from user_actor.outbox.config import OutboxConfig
from user_comm.net.sessions import LOCAL_ENDPOINT, ZenohConfig
from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.plugins import PluginChoice

_TOPIC = re.compile(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)


class LeaseConfig(Config):
    """The lease that an actor asks for."""

    duration_s: float = setting(
        5.0, doc="How long it lasts without renewal; after this time the robot of a dead actor is free.",
        unit="s", gt=0,
    )  # fmt: skip
    preempt: bool = setting(False, doc="Take the robot from its present holder.")
    retry_s: float = setting(1.0, doc="Time between two attempts to get the lease.", unit="s", gt=0)


class ActorConfig(Config):
    """Parameters of actor_node."""

    name: str = setting(
        "",
        doc="Name as a producer of experience, unique in a deployment; empty: the node's full "
        "name, with dots.",
    )
    robot: str = setting("", doc="Name of the robot in what is recorded; empty: its kind.")
    instruction: str = setting(
        "", doc="The task in words, for policies that read; its name comes from the robot."
    )
    hal: str = setting("hal", doc="Name of the node that runs the robot.", min_length=1)
    loop: ActorLoopConfig = setting(
        factory=ActorLoopConfig,
        doc="How the actor acts: mode, limits of episodes, exploration, evaluation.",
    )
    policy: PluginChoice = setting(
        PluginChoice(plugin="tanh_gaussian"), doc="The policy plugin; it must be the learner's."
    )
    remote: RemoteConfig = setting(
        factory=RemoteConfig, doc="Whether the policy acts on another host instead."
    )
    reward: PluginChoice = setting(
        PluginChoice(plugin="task"), doc="The reward plugin that judges each step."
    )
    outbox: OutboxConfig = setting(
        factory=OutboxConfig, doc="The durable outbox, in which steps wait for the store."
    )
    lease: LeaseConfig = setting(factory=LeaseConfig, doc="The lease of the robot.")
    zenoh: ZenohConfig = setting(
        ZenohConfig(connect=(LOCAL_ENDPOINT,)), doc="Where policy versions are pulled from."
    )
    relay: str = setting(
        "",
        doc="Zenoh key under which a relay of the site serves policy versions, for instance "
        "site1/policy; empty: they come from the learner itself.",
    )
    policy_share: float = setting(
        0.5,
        doc="Part of the link's rate that policy versions may take, over time; on a thin link "
        "versions are skipped for it.",
        gt=0,
        le=1,
    )
    status_period_s: float = setting(1.0, doc="Time between two status messages.", unit="s", gt=0)


class InferenceConfig(Config):
    """Parameters of inference_node."""

    robots: tuple[str, ...] = setting(
        (),
        doc="Namespaces of the robots that one policy acts for, as robot0; empty: the one of the node's own namespace.",
    )
    batching: BatchingConfig = setting(
        factory=BatchingConfig,
        doc="How observations of several robots are answered together, and how many robots there is room for.",
    )
    versions: dict[str, str] = setting(
        factory=dict,
        doc="Robots, or names of tasks, that act with the versions of another learner than the others: its topic, as "
        "{robot1: /learner_pour/policy}. The base of versions that are adapters is there once.",
    )
    precision: Literal["float32", "bfloat16"] = setting(
        "float32",
        doc="bfloat16: networks in torch compute with it where torch finds that safe (autocast).",
    )
    compile: bool = setting(
        False,
        doc="Compile what the policy does for most of its time (torch.compile; a C++ compiler is needed), before a version "
        "acts. Where that fails it acts as it is, and a warning says why.",
    )
    cuda_graphs: Literal["auto", "always", "never"] = setting(
        "auto",
        doc="On a GPU, record what the policy does for most of its time as CUDA graphs, one for each size of batch, before a "
        "version acts. Where that cannot be it acts as it is: always warns of it, auto only notes it in the log.",
    )

    policy: PluginChoice = setting(
        PluginChoice(plugin="tanh_gaussian"), doc="The policy plugin; it must be the learner's."
    )
    instruction: str = setting(
        "", doc="The task in words, for policies that read; its name comes from the robot."
    )
    before_first_version: Literal["wait", "initial"] = setting(
        "initial",
        doc="While no version has come: answer nothing, or use the policy's first weights (those "
        "of a model that is not learned here).",
    )
    seed: int = setting(
        -1,
        doc="Seed of the policy's noise, unless the policy has its own; -1: another one each time.",
        ge=-1,
    )
    shares_gpu: bool = setting(
        False,
        doc="The policy acts on a GPU that a learner of this host trains on, or another inference_node uses: a learner with "
        "training.gives_way waits while an answer is due, and so do versions on their way to any of these nodes.",
    )
    local_versions: Literal["auto", "gpu", "memory", "network"] = setting(
        "auto",
        doc="How versions of a learner on this host come: gpu: from its GPU to the policy's, the same or another, for "
        "policies that are filled in place (those of LeRobot, and networks in torch); memory: by a file in memory; network: "
        "as from any host. auto: the first of these that can be. Of learners on other hosts they come by the network.",
    )
    zenoh: ZenohConfig = setting(
        ZenohConfig(connect=(LOCAL_ENDPOINT,)), doc="Where policy versions are pulled from."
    )
    relay: str = setting(
        "", doc="Zenoh key of a relay that serves policy versions; empty: the learner itself."
    )
    policy_share: float = setting(
        1.0, doc="Part of the link's rate that policy versions may take, over time.", gt=0, le=1
    )

    def validate(self) -> None:
        names = [robot.strip("/") for robot in self.robots]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError("robots", got=f"{', '.join(twice)} more than once", expected="each robot once")  # fmt: skip
        for what, named in (("robots", names), ("versions", list(self.versions.values()))):
            for name in named:
                if not _TOPIC.fullmatch(name) or (what == "robots" and name.startswith("/")):
                    raise ConfigError(
                        what, got=repr(name), expected="namespaces, as robot0" if what == "robots" else
                        "topics of learners, as {robot1: /learner_pour/policy}",
                        hint="Names in ROS are of letters, digits and _, do not begin with a digit, and are joined by /",
                    )  # fmt: skip
