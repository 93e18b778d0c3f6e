"""A policy of LeRobot with its processors, new or from a checkpoint; every way in which that fails, said. Imports
torch."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from user_core.errors import ConfigError, PluginError, PolicyError, SuiteError
from user_core.policies.lerobot.adapters import adapt, begins
from user_core.policies.lerobot.config import FROM_DATA, LeRobotConfig
from user_core.policies.lerobot.inputs import (
    ACTION,
    VISUAL,
    Feature,
    InputMap,
    features_of,
    size_of_actions,
)
from user_core.policies.lerobot.statistics import (
    Statistics,
    from_bounds,
    least_widths,
    read_statistics,
    require_statistics,
)
from user_core.policies.lerobot.weights import FileHash, common_of, read
from user_core.runtime.lerobot import INSTALL, lerobot, register_others
from user_core.specs import RobotSpec

_WEIGHTS, _TOKENIZER = "model.safetensors", "tokenizer_processor"
#: Settings by which policies say that they bring images to a size of their own.
_RESIZING = (
    "resize_imgs_with_padding",
    "image_resolution",
    "resize_shape",
    "image_size",
    "n_obs_image_size",
)
_MOST_NAMED = 4
#: Why some of LeRobot's policies cannot act here.
_NOT_HERE = {
    "gaussian_actor": "the actor of LeRobot's SAC, which has no chunks and no loss of its own",
    "lingbot_va": "a policy that keeps what it saw and did in an episode, of one robot",
    "tdmpc": "a policy that plans with a model of the world, from its plan of before",
}
_READ_BY_THEMSELVES = ("fastwam", "vla_jepa", "wall_x")


@dataclass
class Opened:
    """A policy of LeRobot, and what it takes to use it.

    Attributes:
        policy: Its torch module.
        before: Its preprocessor.
        after: Its postprocessor.
        inputs: What its inputs are at our robot.
        statistics: What the processors normalise with.
        base_hash: SHA-256 of the weights that it began with; empty for a new one.
        reads: Whether it wants an instruction.
    """

    policy: Any
    before: Any
    after: Any
    inputs: InputMap
    statistics: Statistics
    base_hash: str
    reads: bool


def open_policy(config: LeRobotConfig, spec: RobotSpec) -> Opened:
    """Make a policy as configured.

    Raises:
        PluginError: LeRobot is not installed, or does not have this policy.
        ConfigError: A setting that LeRobot's configuration does not have, or refuses.
        PolicyError: The checkpoint is not there, is of another architecture, or lacks statistics.
        SpecError: The robot lacks what the policy wants to see, or takes other actions.
    """
    purpose = f"policy {config.type or config.checkpoint}"
    factory = lerobot("policies.factory", purpose)
    theirs = their_config(config, spec)
    features = [
        Feature(name, one.type.name == VISUAL, tuple(one.shape))
        for name, one in (theirs.input_features or {}).items()
        if one.type.name != "LANGUAGE"
    ]
    action = theirs.action_feature
    if action is None:
        raise PolicyError(
            purpose, got="a configuration without actions", expected="output_features: action"
        )
    resizes = any(getattr(theirs, name, None) for name in _RESIZING)
    inputs = InputMap(features, int(action.shape[0]), spec, config, resizes)
    if theirs.type in _NOT_HERE:
        raise PolicyError(
            purpose, got=_NOT_HERE[theirs.type], expected="a policy that makes chunks from what is seen, as act does",
            hint="Train and run it with LeRobot; sac and rlpd learn from rewards here",
        )  # fmt: skip
    hashed = _hash_of(config) if config.checkpoint else None  # goes on while weights are read
    policy, base_hash = _weights(config, theirs, factory, purpose, hashed)
    if config.adapter.rank:
        adapt(policy, config.adapter, base_hash, config.seed)
    given, before, after = _processors(config, theirs, factory, inputs, purpose)
    settling = least_widths(inputs) if config.statistics == FROM_DATA or not given else {}
    steps = normalising(before, after)
    values = given or from_bounds(inputs)
    if settling and getattr(theirs, "use_relative_actions", False):
        raise PolicyError(
            f"statistics of {purpose}", got="to settle from data, and actions relative to the state",
            expected="statistics of these relative actions",
            hint="Let LeRobot compute them (lerobot-edit-dataset), and name that data set: statistics: FOLDER",
        )  # fmt: skip
    require_statistics(steps, values, purpose)
    if not steps and settling:
        raise PolicyError(
            f"statistics of {purpose}", got="to settle from data",
            expected="a data set or its stats.json, as its processors normalise in their own way",
        )  # fmt: skip
    statistics = Statistics(values, settling, config.statistics_calls)
    kinds = [type(step).__name__ for step in before.steps]
    reads = "TokenizerProcessorStep" in kinds or any(
        word in kind.lower() for kind in kinds for word in ("task", "language", "conversation")
    )
    # EVO1's network makes tokens by itself, and so do those of others
    reads = reads or hasattr(theirs, "task_field") or theirs.type in _READ_BY_THEMSELVES
    return Opened(policy, before, after, inputs, statistics, base_hash, reads)


def normalising(*pipelines: Any) -> list[Any]:
    """The steps of pipelines that normalise, or undo it."""
    module = lerobot("processor.normalize_processor")
    kinds = (module.NormalizerProcessorStep, module.UnnormalizerProcessorStep)
    return [step for pipeline in pipelines for step in pipeline.steps if isinstance(step, kinds)]


def their_config(config: LeRobotConfig, spec: RobotSpec) -> Any:
    """LeRobot's own configuration of a policy, without making it; raises what :func:`open_policy` raises."""
    purpose = f"policy {config.type or config.checkpoint}"
    lerobot("policies.factory", purpose)  # registers its own configurations
    configs = lerobot("configs.policies", purpose)
    register_others(config.modules)
    return _their_config(config, spec, configs.PreTrainedConfig)


def lags_of(theirs: Any) -> list[int]:
    """How many steps before now each observation was taken that a policy of this configuration sees; the last is
    now."""
    return [-int(i) for i in theirs.observation_delta_indices or [0] if i <= 0] or [0]


def noise_state(device: torch.device) -> torch.Tensor:
    """State of torch's global generator of a device."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


#: One at a time draws from the global generator, or each would have some of the other's noise.
_DRAWING = threading.RLock()


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """LeRobot draws from torch's global generator: within this its noise is that of a seed, and outside nothing
    of it is seen. Other threads wait: one may try a version out while another acts."""
    devices = [device.index or 0] if device.type == "cuda" else []
    with _DRAWING, torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


# --------------------------------------------------------------------------------------------------
# Its configuration
# --------------------------------------------------------------------------------------------------


def _their_config(config: LeRobotConfig, spec: RobotSpec, base: Any) -> Any:
    import draccus  # type: ignore[import-not-found,unused-ignore]

    if config.checkpoint:
        found = _of_checkpoint(config, base)
        if config.type and found.type != config.type:
            raise PolicyError(
                f"checkpoint {config.checkpoint}", got=f"a policy of type {found.type}",
                expected=f"type {config.type}", hint="Another checkpoint, or another type",
            )  # fmt: skip
        cls, kind, kept = type(found), found.type, draccus.encode(found)
    else:
        try:
            cls = base.get_choice_class(config.type)
        except Exception as error:
            choices = sorted(base.get_known_choices())
            raise PluginError(
                f"policy {config.type!r} of LeRobot", got="no such policy", expected=f"one of {choices}",
                hint="Install the package that has it (lerobot_policy_...), or name its module: modules: [...]",
            ) from error  # fmt: skip
        kind, kept = (
            config.type,
            {},
        )  # its defaults are not made: of some they are fetched from the hub
    known = {field.name for field in fields(cls)}
    for name in config.config:
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise ConfigError(
                f"config of policy {kind}", got=name, expected=f"a setting of {cls.__name__}",
                hint=f"Perhaps {near[0]}" if near else f"It has {sorted(known)}",
            )  # fmt: skip
    try:
        with _quiet():
            plain = {
                **kept,
                "device": config.device,
                "push_to_hub": False,
                **config.config,
            }
            made = draccus.decode(cls, plain)
            if not config.checkpoint and not config.config.get("input_features"):
                types = lerobot("configs.types")
                made.input_features = {
                    one.name: types.PolicyFeature(_type_of(one, types), one.shape)
                    for one in features_of(spec, config.mapping)
                }
                made.output_features = {
                    ACTION: types.PolicyFeature(
                        types.FeatureType.ACTION, (size_of_actions(spec.action),)
                    )
                }
            made.validate_features()
    except SuiteError:
        raise
    except Exception as error:
        raise ConfigError(
            f"config of policy {kind}", got=_short(error),
            expected=f"settings that {cls.__name__} accepts, for what the robot shows",
            hint="Which observations it sees, and under which of its names, is said by mapping",
        ) from error  # fmt: skip
    return made


def _type_of(feature: Feature, types: Any) -> Any:
    kind = types.FeatureType
    if feature.image:
        return kind.VISUAL
    return kind.ENV if feature.name == "observation.environment_state" else kind.STATE


def _of_checkpoint(config: LeRobotConfig, base: Any) -> Any:
    path = Path(config.checkpoint).expanduser()
    if not path.is_dir() and (path.is_absolute() or config.checkpoint.count("/") != 1):
        raise PolicyError(
            f"checkpoint {config.checkpoint}", got="no such folder",
            expected="a folder with LeRobot's config.json, or a name on the hub (owner/name)",
            hint="lerobot-train keeps them in OUTPUT/checkpoints/last/pretrained_model",
        )  # fmt: skip
    try:
        with _quiet():
            return base.from_pretrained(_place(config), revision=config.revision or None)
    except Exception as error:
        raise PolicyError(
            f"checkpoint {config.checkpoint}", got=_short(error),
            expected="a checkpoint of LeRobot" + ("" if path.is_dir() else ", on a hub that can be reached"),
            hint=f"config.json names its type; packages that are not installed do not know theirs ({INSTALL})",
        ) from error  # fmt: skip


def _place(config: LeRobotConfig) -> str:
    path = Path(config.checkpoint).expanduser()
    return str(path) if path.is_dir() else config.checkpoint


# --------------------------------------------------------------------------------------------------
# Its weights
# --------------------------------------------------------------------------------------------------


def _weights(
    config: LeRobotConfig, theirs: Any, factory: Any, purpose: str, hashed: FileHash | None
) -> tuple[Any, str]:
    try:
        cls = factory.get_policy_class(theirs.type)
    except (ImportError, ValueError) as error:
        raise PluginError(
            purpose, got=_short(error), expected=f"all that LeRobot's {theirs.type} needs",
            hint=f"In the environment with LeRobot: pip install 'lerobot[{theirs.type}]' ({INSTALL})",
        ) from error  # fmt: skip
    with _quiet(), seeded(config.seed, torch.device("cpu")):
        if hashed is None:
            try:
                return cls(theirs).to(config.device), ""
            except Exception as error:
                raise PolicyError(
                    purpose, got=_short(error), expected="a network that LeRobot can make of this configuration",
                    hint="Networks that were trained before, and tokenizers, come from the hub unless config names "
                    "folders of this machine",
                ) from error  # fmt: skip
        adapter = config.adapter
        common = common_of(hashed.known, config.device, lambda name: begins(name, adapter.whole))
        try:
            keywords = {"revision": config.revision} if config.revision else {}
            policy = read(
                cls, _place(config), theirs, config.device, strict=config.strict, common=common,
                freezes=bool(adapter.rank), **keywords,
            )  # fmt: skip
        except Exception as error:
            raise PolicyError(
                f"checkpoint {config.checkpoint}", got=_short(error),
                expected=f"the weights of {cls.__name__} with this configuration",
                hint="It is of another architecture, or config changes the sizes of its layers; strict: false takes "
                "over what fits by name",
            ) from error  # fmt: skip
    try:
        base_hash = hashed.result()
    except OSError as error:
        raise PolicyError(
            f"checkpoint {config.checkpoint}", got=error.strerror or str(error),
            expected=f"a {_WEIGHTS} that can be read, and stays as it is meanwhile",
            hint="Begin again when nobody writes to it",
        ) from error  # fmt: skip
    if config.checkpoint_hash and base_hash != config.checkpoint_hash:
        raise PolicyError(
            f"checkpoint {config.checkpoint}", got=f"SHA-256 {base_hash}", expected=config.checkpoint_hash,
            hint="It is another file, or another version of it",
        )  # fmt: skip
    return policy, base_hash


def _hash_of(config: LeRobotConfig) -> FileHash:
    """The hash of a checkpoint's weights, begun."""
    file = Path(config.checkpoint).expanduser() / _WEIGHTS
    if not file.parent.is_dir():
        hub: Any = __import__("huggingface_hub")
        try:
            file = Path(
                hub.hf_hub_download(config.checkpoint, _WEIGHTS, revision=config.revision or None)
            )
        except Exception as error:
            raise PolicyError(
                f"checkpoint {config.checkpoint}", got=_short(error), expected=f"its {_WEIGHTS}"
            ) from error
    try:
        begun = FileHash(file)
    except OSError as error:
        raise _unreadable(config, error) from error
    try:
        with safe_open(
            file, framework="pt"
        ):  # some of LeRobot's classes only print that it is broken
            return begun
    except Exception as error:
        raise PolicyError(
            f"checkpoint {config.checkpoint}", got=_short(error), expected=f"a whole {_WEIGHTS}",
            hint="Copy it anew; what was cut off while it was written cannot be used",
        ) from error  # fmt: skip


def _unreadable(config: LeRobotConfig, error: OSError) -> PolicyError:
    return PolicyError(
        f"checkpoint {config.checkpoint}", got=error.strerror or str(error), expected=f"its {_WEIGHTS}",
        hint="What peft has trained is an adapter: merge it into its base first",
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------
# Its processors
# --------------------------------------------------------------------------------------------------


def _processors(
    config: LeRobotConfig, theirs: Any, factory: Any, inputs: InputMap, purpose: str
) -> tuple[dict[str, Any], Any, Any]:
    """Statistics that are given (none: they settle from data), preprocessor and postprocessor."""
    given = read_statistics(config.statistics) if config.statistics not in ("", FROM_DATA) else {}
    place = Path(config.checkpoint).expanduser()
    saved = bool(config.checkpoint) and (
        not place.is_dir() or (place / "policy_preprocessor.json").exists()
    )
    if config.checkpoint and not saved and not config.statistics:
        raise PolicyError(
            f"normalisation of {config.checkpoint}", got="no policy_preprocessor.json",
            expected="the processors of the checkpoint, which hold the statistics that it normalises with",
            hint="Name the data set that it was trained on: statistics: FOLDER; or bring an old checkpoint to the "
            "newer form with LeRobot's migrate_policy_normalization",
        )  # fmt: skip
    unreachable = [] if saved else sorted(set(config.processors) - {_TOKENIZER})
    if unreachable:
        raise ConfigError(
            f"processors of {purpose}", got=unreachable,
            expected=f"{_TOKENIZER}, or a checkpoint that has processors",
            hint="LeRobot makes the other steps of new processors from its configuration and the statistics",
        )  # fmt: skip
    try:
        with _quiet(), _tokenizers({} if saved else config.processors):
            if saved:
                overrides = {
                    "device_processor": {"device": config.device},
                    **_not_saved(theirs),
                    **config.processors,
                }
                before, after = factory.make_pre_post_processors(
                    theirs, pretrained_path=_place(config), preprocessor_overrides=overrides,
                    pretrained_revision=config.revision or None,
                )  # fmt: skip
            else:
                first = given or from_bounds(inputs)
                before, after = factory.make_pre_post_processors(theirs, dataset_stats=first)
    except Exception as error:
        raise PolicyError(
            f"processors of {purpose}", got=_short(error), expected="what LeRobot makes of the checkpoint",
            hint="A tokenizer that cannot be fetched may be a folder here: processors: {tokenizer_processor: "
            "{tokenizer_name: FOLDER}}",
        ) from error  # fmt: skip
    if saved and not config.statistics:
        for step in normalising(before, after):
            for feature, of in step._tensor_stats.items():
                mine = given.setdefault(feature, {})
                for stat, tensor in of.items():
                    mine.setdefault(stat, tensor.detach().float().cpu().numpy())
        if not given:
            require_statistics(normalising(before, after), {}, config.checkpoint)
    return given, before, after


def _not_saved(theirs: Any) -> dict[str, Any]:
    """Settings of steps that LeRobot does not write with its processors, and fetches from the hub instead."""
    if theirs.type != "pi0_fast":
        return {}
    words = {
        "paligemma_tokenizer_name": theirs.text_tokenizer_name,
        "fast_skip_tokens": theirs.fast_skip_tokens,
    }
    return {"action_tokenizer_processor": words}


#: One thread at a time changes what belongs to all of them.
_OPENING = threading.RLock()


@contextlib.contextmanager
def _tokenizers(processors: Mapping[str, Any]) -> Iterator[None]:
    """Settings of the tokenizer of processors that LeRobot makes anew: it has a way to give them for a checkpoint's
    only, so the class of that step gets them while this thread makes them."""
    given: Mapping[str, Any] = processors.get(_TOKENIZER, {})
    if not given:
        yield
        return
    cls = lerobot("processor.tokenizer_processor").TokenizerProcessorStep
    maker = threading.get_ident()
    with _OPENING:
        usual = cls.__init__

        def made(self: Any, *args: Any, **keywords: Any) -> None:
            mine = given if threading.get_ident() == maker else {}
            usual(self, *args, **{**keywords, **mine})

        cls.__init__ = made
        try:
            yield
        finally:
            cls.__init__ = usual


class _SilentThread(io.TextIOBase):
    """A stream that leaves out what one thread writes."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        if threading.get_ident() != self._thread:
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        found: int = self._stream.fileno()
        return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """LeRobot prints what it does; our standard output belongs to commands, and other threads write on."""
    with _OPENING, contextlib.redirect_stdout(_SilentThread(sys.stdout)):
        yield


def _short(error: BaseException) -> str:
    """The first lines of an error: lists of hundreds of weights help nobody."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = "; ".join(lines[:_MOST_NAMED]) + (" ..." if len(lines) > _MOST_NAMED else "")
    return f"{type(error).__name__}: {text[:600]}"
