"""How images travel: as the backlog asks, within what the configuration allows."""

import numpy as np
import pytest

from user_actor.outbox import Outbox, OutboxConfig
from user_actor.outbox.delivery import CodingChooser
from user_core.errors import ConfigError
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import EpisodeSource, Step
from user_testing.waiting import wait_until
from user_testing.worlds.outbox import MemoryStore, config_for

IMAGES = {
    "o.rgb": np.zeros((2, 40, 40, 3), np.uint8),
    "o.many": np.zeros((2, 40, 40, 7), np.uint8),
    "o.state": np.zeros((2, 5), np.float32),
}


def chooser(**config):
    return CodingChooser(OutboxConfig(coding_after_s=5.0, **config))


def test_it_steps_up_while_the_backlog_is_old_and_down_when_it_is_gone():
    choose = chooser(lossy_coding="jpeg80")
    seen = []
    for second in range(300):
        choose.update(0.1 if second < 20 or second > 60 else 20.0, float(second))
        if not seen or seen[-1] != choose.coding:
            seen.append(choose.coding)
    assert seen == ["", "zstd", "jpeg80", "zstd", ""]
    assert choose.changes == 4


def test_without_a_lossy_coding_nothing_is_ever_lost():
    choose = chooser()
    for second in range(1000):
        choose.update(1e6, float(second))
    assert choose.coding == "zstd"


def test_a_choice_of_a_person_stays():
    for wish, coding in (("none", ""), ("lossless", "zstd"), ("lossy", "webp70")):
        choose = chooser(image_coding=wish, lossy_coding="webp70")
        for second in range(100):
            choose.update(1e6 * (second % 2), float(second))
        assert choose.coding == coding


def test_only_images_are_coded():
    choose = chooser(image_coding="lossy", lossy_coding="jpeg80")
    assert choose.codings(IMAGES) == {"o.rgb": "jpeg80", "o.many": "zstd"}
    assert chooser(image_coding="none").codings(IMAGES) == {}


@pytest.mark.parametrize(
    "config", [{"lossy_coding": "gif"}, {"lossy_coding": "zstd"}, {"image_coding": "lossy"}]
)
def test_what_cannot_be_is_refused(config):
    with pytest.raises(ConfigError):
        OutboxConfig(**config)


def test_chunks_go_out_with_their_coding_and_stay_plain_on_the_disk(tmp_path):
    rgb = ArraySpec((40, 40, 3), "uint8")
    spec = RobotSpec("eye", {"rgb": rgb}, ArraySpec((1,)), period_s=0.1)
    store = MemoryStore()
    config = config_for(tmp_path, image_coding="lossless")
    with_image = {"rgb": np.full((40, 40, 3), 7, np.uint8)}
    outbox = Outbox(config, "actor", spec)
    try:
        outbox.begin_episode(EpisodeSource.ONLINE)
        for number in range(3):
            outbox.append(
                Step(with_image, np.zeros(1, np.float32), np.zeros(1, np.float32), 0.0, False,
                     False, stamp_ns=number)
            )  # fmt: skip
        outbox.deliver_to(store.serve(outbox))
        wait_until(lambda: store.chunks, "a chunk")
        chunk = next(iter(store.chunks.values()))
        assert chunk.codings == {"observation.rgb": "zstd"}
        assert (chunk.columns["observation.rgb"] == 7).all()
        assert outbox.status().coding == "zstd"
    finally:
        outbox.close()
