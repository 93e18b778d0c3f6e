"""A learner: store, sampler, algorithm and training loop, put together from one configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from user_core.config import Config, from_mapping, setting
from user_core.errors import ConfigError, StoreCorrupt
from user_core.interfaces import Algorithm, Policy, PolicySink
from user_core.meaning import MEANINGS, check_accepted
from user_core.plugins import PluginChoice, load
from user_core.policies import policy_made_for
from user_core.reasons import MEANING_ACCEPTED, MEANING_UNKNOWN, Reason
from user_core.specs import RobotSpec, digest
from user_core.types import EpisodeSource
from user_learner.algorithms.common.shardable import SHARD, require_shardable
from user_learner.data.conversion import require_data_of
from user_learner.metrics.writer import SinkWriter
from user_learner.replay.meaning import is_new, require_meaning, write_meaning
from user_learner.replay.reader import StoreReader
from user_learner.sampling.config import History, SamplerConfig
from user_learner.sampling.features import KeptFeatures
from user_learner.sampling.hindsight import check_hindsight
from user_learner.sampling.share import Share
from user_learner.sampling.source import ReplaySource
from user_learner.training.checkpoint import CHECKPOINTS, CheckpointStore, identity_of
from user_learner.training.config import TrainingConfig
from user_learner.training.guard import GuardedSink
from user_learner.training.loop import TrainingLoop, process_group
from user_learner.training.progress import Progress
from user_learner.training.publishing import PolicyFile, Snapshots
from user_learner.training.starting import (
    Started,
    is_untrained,
    started_from,
    take_checkpoint,
    take_policy,
    without_debt,
)

if TYPE_CHECKING:  # with torch
    from user_learner.training.remote_batches import Feeds

T = TypeVar("T")


class DataConfig(Config):
    """What data are learned from."""

    accept_differences: tuple[str, ...] = setting(
        (),
        doc="Differences in meaning between stores and robot that are none, by name: "
        f"{', '.join(MEANINGS)}.",
    )

    def validate(self) -> None:
        check_accepted(self.accept_differences)


class LearnerConfig(Config):
    """What is learned, from what, how, and by how many processes (:mod:`user_learner.ranks`)."""

    directory: Path = setting(doc="Folder for checkpoints, version counter and training curves.")
    store: Path = setting(doc="Replay store that grows meanwhile.")
    history: tuple[History, ...] = setting((), doc="Older stores to sample from as well.")
    demonstrations: str = setting(
        "", doc="Store whose episodes are all taken as demonstrations; empty for none."
    )
    data: DataConfig = setting(factory=DataConfig, doc="What data are learned from.")
    algorithm: PluginChoice = setting(PluginChoice(plugin="rlpd"), doc="The algorithm.")
    policy: PluginChoice = setting(PluginChoice(plugin="tanh_gaussian"), doc="The policy.")
    sampler: SamplerConfig = setting(factory=SamplerConfig, doc="How batches are drawn.")
    training: TrainingConfig = setting(factory=TrainingConfig, doc="The training loop.")
    gpus: int = setting(
        0,
        doc="GPUs of this host that train together, a process on each; 0: one process, on the algorithm's "
        "`device`. `training.batch_size` is that of all together.",
        ge=0,
        le=64,
    )
    ranks: int = setting(
        1, doc="Processes that train together where there are no GPUs.", ge=1, le=64
    )
    hosts: tuple[str, ...] = setting(
        (),
        doc="Other hosts whose processes train with those of this one, by the names that their `learner_ranks` have. "
        "They need neither the store nor the run's folder.",
    )
    meeting: str = setting(
        "", doc="HOST:PORT of this host, where the others find it; needed with `hosts`."
    )
    start_from: str = setting(
        "",
        doc="A run that has learned nothing yet begins with what another has: folder of a training (`user train`) "
        "or of a run, or a policy file. With the same algorithm it goes on from its checkpoint, else from "
        "its policy.",
    )
    start_over: bool = setting(
        False,
        doc="Begin anew in a run whose checkpoints or policy are of another configuration, and set "
        "those aside; without this word such a run is refused.",
    )
    tensorboard: bool = setting(True, doc="Write training curves for TensorBoard.")
    sinks: dict[str, PluginChoice] = setting(
        factory=dict,
        doc="Where the numbers of the training go as well, by a name of one's own: plugins `wandb`, `trackio`, ...",
    )

    def validate(self) -> None:
        if wanted := self.algorithm.params.get(SHARD):
            require_shardable(load("algorithms", self.algorithm.plugin), str(wanted))


def config_hash_of(config: LearnerConfig, spec: RobotSpec) -> str:
    """Hash of what the weights of this learner are made for; actors refuse others."""
    return digest(made_for_of(config, spec))


def made_for_of(config: LearnerConfig, spec: RobotSpec) -> dict[str, Any]:
    """What they are made for, see :func:`~user_core.policies.policy_made_for`."""
    return policy_made_for(config.policy.plugin, config.policy.params, spec)


def _typed(kind: str, choice: PluginChoice) -> Config:
    """The parameters of a plugin, with those that were left out."""
    cls: type[Config] = load(kind, choice.plugin).Config
    return from_mapping(cls, choice.params)


def check_meaning(
    config: LearnerConfig, spec: RobotSpec, history: Sequence[History]
) -> list[Reason]:
    """Compare what all stores mean with the robot; the live one is told what its rows mean.

    Returns:
        What a person should know.

    Raises:
        SchemaMismatch: One means other things, which are not accepted.
    """
    accepted, found, collected = config.data.accept_differences, list[Reason](), False
    for number, store in enumerate([config.store, *(Path(older.path) for older in history)]):
        with closing(StoreReader(store, with_extents=False)) as reader:
            schema, rows = reader.schema, int(reader.tables.segments[:, 2].sum())
        if (
            number and not collected
        ):  # else stores are compared with each other, where batches are drawn
            require_data_of(store, spec, "older store", accepted)
        collected = collected or bool(not number and rows)
        meaning, differences = require_meaning(
            store, schema, spec, accepted, "data.accept_differences: "
        )
        found += [
            Reason(MEANING_ACCEPTED, f"{store}: {d.key} {d.got}, not {d.expected}, is accepted")
            for d in differences
        ]
        if number == 0 and meaning.known_from != "the store" and (meaning.spec or not rows):
            with suppress(OSError):  # a disk that is full, or only read: said elsewhere
                write_meaning(store, meaning.spec or spec)
        elif meaning.spec is None and rows:
            found.append(Reason(MEANING_UNKNOWN, f"{store}: meaning {meaning.known_from}"))
    return found


def _build(choice: PluginChoice, spec: RobotSpec) -> Policy:
    policy: Policy = choice.build("policies", spec, path="policy")
    return policy


def require_data(
    config: LearnerConfig,
    spec: RobotSpec,
    make: Callable[[PluginChoice, RobotSpec], Policy] = _build,
) -> None:
    """Whether the data that a run begins with are what this robot shows and does: demonstrations, older stores, the
    store of a run that is continued, and what ``start_from`` has learned. It reads the heads of stores and writes nothing.
    The store of this run may have a damaged index: it is rebuilt when it is opened to write. ``make`` makes the policy
    that takes over weights; who has one already gives that.

    Raises:
        StoreError: A store is not there, or is none.
        SchemaMismatch: One has other arrays, or means other things.
        ConfigError, PolicyError: ``start_from`` is none, or one of another robot, policy or algorithm.
    """
    stores = list[tuple[str, Path]]()
    with suppress(StoreCorrupt):
        stores += [("store of this run", config.store)] if not is_new(config.store) else []
    stores += [("older store", Path(older.path).expanduser()) for older in config.history]
    if config.demonstrations:
        stores.append(("demonstrations", Path(config.demonstrations).expanduser()))
    for what, store in stores:
        require_data_of(store, spec, what, config.data.accept_differences)
    if config.start_from and is_untrained(config.directory):
        policy = make(config.policy, spec)
        take_policy(
            config.start_from, policy, config_hash_of(config, spec), _identity(config, spec)
        )


def require_resumable(config: LearnerConfig, spec: RobotSpec) -> None:
    """Whether the run is a new one, or was trained with this algorithm and policy. It reads the
    checkpoints; what the robot shows is compared when they are loaded.

    Raises:
        ConfigError: It was trained with other ones, and nobody said ``start_over``.
    """
    folder = config.directory / CHECKPOINTS
    if folder.is_dir() and not config.start_over:
        parts = ("algorithm", "algorithm_config", "policy", "policy_config")
        CheckpointStore(folder, _identity(config, spec)).require_usable(parts)


def _sinks(config: LearnerConfig) -> dict[str, PluginChoice]:
    own = {"tensorboard": PluginChoice(plugin="tensorboard")} if config.tensorboard else {}
    return {**own, **config.sinks}


def _name_of_run(config: LearnerConfig) -> str:
    """The folder of a run holds that of its learner."""
    folder = config.directory.absolute()
    return folder.parent.name if folder.name == "learner" else folder.name


def _identity(config: LearnerConfig, spec: RobotSpec) -> dict[str, Any]:
    return identity_of(
        config.algorithm.plugin,
        _typed("algorithms", config.algorithm),
        config.policy.plugin,
        _typed("policies", config.policy),
        spec,
    )


def _share(minibatches: int) -> Share:
    """The part of each batch that this process gets."""
    group = process_group()
    return Share() if group is None else Share(group.rank(), group.world(), minibatches)


def _started(directory: Path) -> Started | None:
    """What the run began with, in all processes."""

    def look() -> dict[str, Any] | None:
        found = started_from(directory)
        return None if found is None else asdict(found)

    said = _of_first(look)
    return None if said is None else Started(**said)


def _of_first(look: Callable[[], T]) -> T:
    """What the first process finds in its folder, plain values; those of the others are empty."""
    group = process_group()
    if group is None:
        return look()
    found: T = group.broadcast(None if group.rank() else look())
    return found


def _feeds(stores: Sequence[Path]) -> Feeds | None:
    """Ways to processes that do not have the stores; None where this one is alone."""
    if _share(1).of == 1:
        return None
    from user_learner.training.remote_batches import Feeds

    return Feeds(stores)


def _pace(config: LearnerConfig, algorithm: Any, stack: ExitStack) -> Callable[[], object]:
    """What leaves the GPU to inference, where that is asked for: before each update, and within it."""
    if not config.training.gives_way:
        return lambda: None
    from user_learner.training.gpu_pace import GpuPace

    pace = GpuPace.on(getattr(algorithm, "device", "cpu"))
    if pace is None:
        return lambda: None
    stack.callback(pace.close)
    pace.give_way(algorithm)
    return pace.begin


def _guard(
    config: LearnerConfig, sink: PolicySink, publish_now: Callable[[], object]
) -> GuardedSink | None:
    """What watches new versions, where that is asked for; one of several processes does it."""
    if not config.training.guard.episodes or _share(1).rank:
        return None
    return GuardedSink(config.training.guard, sink, config.directory, publish_now)


def _begun_algorithm(
    config: LearnerConfig, spec: RobotSpec, policy: Policy, config_hash: str
) -> Algorithm:
    """The algorithm; in a run that has learned nothing yet, with what ``start_from`` has learned.

    A policy is taken over before the algorithm is built on it; a checkpoint is laid into the run's
    folder, where the loop finds it.
    """
    begun_with, is_first = None, not _share(1).rank
    begins = bool(config.start_from) and _of_first(lambda: is_untrained(config.directory))
    if begins and (is_first or Path(config.start_from).expanduser().exists()):
        # On hosts that do not have it, weights are those of the first.
        identity = _identity(config, spec)
        begun_with = take_policy(config.start_from, policy, config_hash, identity)
    algorithm: Algorithm = config.algorithm.build("algorithms", spec, policy, path="algorithm")
    if begun_with is not None and is_first:
        identity, kept = _identity(config, spec), policy.kept_from_actors
        take_checkpoint(config.start_from, config.directory, identity, begun_with, kept)
    return algorithm


def _with_demonstrations(config: LearnerConfig) -> list[History]:
    """The older stores, that of demonstrations behind them."""
    history = list(config.history)
    if config.demonstrations:
        history.append(History(path=config.demonstrations, source=EpisodeSource.DEMONSTRATION))
    return history


def _sampler_for(algorithm: Algorithm, sampler: SamplerConfig) -> SamplerConfig:
    """How batches are drawn: their memory is kept for as long as a GPU may still fetch from it."""
    if sampler.output == "numpy" and str(getattr(algorithm, "device", "")).startswith("cuda"):
        # A GPU fetches such memory by itself, perhaps while the next batch is drawn already.
        sampler = sampler.replace(output="pinned", keep=max(2, sampler.keep))
    if getattr(algorithm, "shards", dict)():
        # The next two are drawn before metrics of an update are read; until then it may still fetch its batch.
        sampler = sampler.replace(keep=max(3, sampler.keep))
    return sampler


def _kept_features(policy: Policy, algorithm: Algorithm) -> KeptFeatures | None:
    """Features of images that are kept beside the images; None for a policy that sees pixels."""
    makers = policy.image_features()
    device = str(getattr(getattr(algorithm, "config", None), "device", "cpu"))
    if device.startswith("cuda"):
        from user_learner.algorithms.common.torch_tools import use_tensor_cores

        use_tensor_cores(device)
    return KeptFeatures(makers, device) if makers else None


def _to_all(
    config: LearnerConfig, on_progress: Callable[[Progress], None], stack: ExitStack
) -> Callable[[Progress], None]:
    """Tells the progress of the training to ``on_progress`` and to all metrics sinks."""
    listeners = [on_progress]
    for name, choice in _sinks(config).items():
        make = partial(choice.build, "metrics_sinks", path=f"sinks.{name}")
        writer = SinkWriter(name, make, config.directory / name, _name_of_run(config))
        stack.callback(writer.close)
        listeners.append(writer)

    def tell(progress: Progress) -> None:
        for listener in listeners:
            listener(progress)

    return tell


def _set_aside(
    config: LearnerConfig, policy_file: PolicyFile, updates: int, loop: TrainingLoop,
    guard: GuardedSink | None,
) -> None:  # fmt: skip
    """Set the policy that robots have had so far aside; raises ConfigError unless ``start_over`` was said."""
    if not config.start_over:
        raise ConfigError(
            f"policy in {policy_file.path}",
            got=f"one of {updates} updates, of another policy or robot",
            expected="one of this configuration",
            hint="Configure it as it was, take another run, or say start_over: true",
        )
    policy_file.set_aside()
    loop.forget_published()
    if guard is not None:
        guard.forget()
        loop.checkpoints.forget_good()


@contextmanager
def open_learner(
    config: LearnerConfig,
    spec: RobotSpec,
    sink: PolicySink,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    snapshots: Snapshots | None = None,
) -> Iterator[TrainingLoop]:
    """A training loop that has taken up where the run was left, ready for ``run()``.

    Inside :class:`user_learner.ranks.Ranks` it is that of one of several processes.

    Args:
        config: What to learn.
        spec: The robot that it is for.
        sink: Where policy versions go.
        on_progress: Called in the training thread once a ``metrics_period_s``.
        snapshots: What copies weights within a GPU, for who takes them on this host.

    Raises:
        StoreError: The store is not there.
        SchemaMismatch: A store means other things than the robot's spec.
        ConfigError, PluginError: The configuration is wrong, or the run was trained with
            another one, and ``start_over`` was not said.
    """
    with ExitStack() as stack:
        check_hindsight(config.sampler.hindsight, spec.observation)
        policy = config.policy.build("policies", spec, path="policy")
        config_hash = config_hash_of(config, spec)
        algorithm = _begun_algorithm(config, spec, policy, config_hash)
        training = without_debt(config.training, _started(config.directory))
        history = _with_demonstrations(config)
        feeds = _feeds([config.store, *(Path(older.path) for older in history)])
        lacks = feeds is not None and feeds.lacks
        meaning_warnings = [] if lacks else check_meaning(config, spec, history)
        share = _share(algorithm.updates_per_call)
        rows = config.training.batch_size * algorithm.updates_per_call
        share.rows(rows)  # refused where the processes cannot share them evenly
        sampler = _sampler_for(algorithm, config.sampler)
        kept = _kept_features(policy, algorithm)

        def open_source(part: Share) -> ReplaySource:
            return ReplaySource(config.store, sampler, history, part, kept, policy.tasks)

        own = feeds.source() if feeds is not None and lacks else open_source(share)
        source: Any = stack.enter_context(own)
        feeder = None if feeds is None else feeds.feeder(open_source, share, rows)
        if feeder is not None:
            stack.enter_context(feeder)
        tell = _to_all(config, on_progress, stack)
        policy_file = PolicyFile(config.directory, sink)
        published = policy_file.kept()
        is_foreign = published is not None and published.config_hash != config_hash
        guard = _guard(config, policy_file, lambda: loop.keep_now())
        if guard is not None:
            stack.enter_context(guard)
        loop = TrainingLoop(
            # The replay source prepares batches ahead by itself, in memory that it uses again:
            # to hold a batch back while the next is drawn would spoil it.
            training.replace(prefetch=0),
            algorithm,
            source,
            guard or policy_file,
            environment_steps=lambda: source.collected(EpisodeSource.ONLINE),
            directory=config.directory,
            identity=_identity(config, spec),
            config_hash=config_hash,
            on_metrics=tell,
            published=None if is_foreign else published,
            start_over=config.start_over,
            warnings=meaning_warnings,
            before_update=_pace(config, algorithm, stack),
            snapshots=snapshots,
        )
        try:
            resumed = loop.restore()
            begins_anew = resumed is None and (is_foreign or bool(loop.checkpoints.refused))
            if begins_anew and published is not None and published.update:
                _set_aside(config, policy_file, published.update, loop, guard)
            if guard is not None:
                if config.training.guard.restores_training:
                    guard.takes_back(loop)
                guard.watch(config.store)
            if feeder is not None:
                feeder.begin(source.state())
        except BaseException:
            loop.abandon()
            raise
        yield loop
