"""Parameters of the console."""

from __future__ import annotations

from pathlib import Path

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.runtime.files import state_home
from user_hal.teleops.browser import BrowserConfig

_HERE = ("127.0.0.1", "::1", "localhost")


class TlsConfig(Config):
    """The certificate that the console shows to browsers."""

    certificate: str = setting("", doc="File with the certificate, PEM; empty: no TLS.")
    key: str = setting("", doc="File with its private key, PEM.")

    def validate(self) -> None:
        if bool(self.certificate) != bool(self.key):
            raise ConfigError("certificate and key", got="one of them", expected="both, or none")
        for file in filter(None, (self.certificate, self.key)):
            if not Path(file).is_file():
                raise ConfigError("tls", got=file, expected="a file that exists")


class ConsoleConfig(Config):
    """Parameters of console_node."""

    host: str = setting(
        "127.0.0.1",
        doc="Address to listen at: this machine alone; 0.0.0.0: the whole network, which takes TLS and tokens.",
        min_length=1,
    )
    port: int = setting(7460, doc="Port of the page; 0: any that is free.", ge=0, le=65535)
    names: tuple[str, ...] = setting(
        (),
        doc="Further names by which browsers may call this machine, while only it is listened to.",
    )
    tls: TlsConfig = setting(TlsConfig(), doc="Certificate of the console.")
    plain: bool = setting(
        False,
        doc="Listen to the network without TLS, behind something that has it; tokens can be read on the way.",
    )
    tokens_file: str = setting(
        "", doc="Who may do what (`user console --add-token`); empty: the user's folder of states."
    )
    run_dir: str = setting("", doc="Folder of the run, for its curves and acts; empty: none.")
    store: str = setting("", doc="Folder of the replay store, for its episodes; empty: none.")
    fleet: str = setting(
        "", doc="File of the scheduler, for the page of the fleet; empty: that of this user."
    )
    domains: tuple[int, ...] = setting(
        (), doc="ROS domains to listen in; empty: that of the environment.", ge=0
    )
    camera_rate_hz: float = setting(
        10.0,
        doc="Images of each camera that a browser gets a second, at most; four of ten on a full machine, while nobody drives.",
        unit="Hz",
        gt=0,
        le=60,
    )
    jpeg_quality: int = setting(80, doc="Quality of images on the way to a browser.", ge=10, le=100)
    stop_on_blur: bool = setting(
        False, doc="Emergency stop, too, when the page of whoever drives loses the focus."
    )
    drive: BrowserConfig = setting(factory=BrowserConfig, doc="How a page drives a robot.")

    def validate(self) -> None:
        if self.host not in _HERE and not self.tls.certificate and not self.plain:
            raise ConfigError(
                "host", got=f"{self.host} without TLS", expected="a certificate and its key in `tls`",
                hint="`user net add-console --host NAME` makes one; plain: true, where a proxy in front has TLS",
            )  # fmt: skip

    @property
    def tokens(self) -> Path:
        """The file of tokens."""
        return Path(self.tokens_file) if self.tokens_file else default_tokens()


def default_tokens() -> Path:
    """Where tokens are, unless it is said."""
    return state_home() / "console_tokens.json"
