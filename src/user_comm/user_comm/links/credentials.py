"""What an end of an encrypted link shows, and whom it believes: three files in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from user_core.errors import ConfigError

AUTHORITY = "ca.pem"
CERTIFICATE = "certificate.pem"
KEY = "key.pem"


@dataclass(frozen=True)
class Credentials:
    """The files that ``user net`` makes for one robot, learner or router.

    Attributes:
        folder: Where they are.
    """

    folder: Path

    @property
    def authority(self) -> Path:
        """Certificate of the authority that signs everybody's."""
        return self.folder / AUTHORITY

    @property
    def certificate(self) -> Path:
        """Own certificate."""
        return self.folder / CERTIFICATE

    @property
    def key(self) -> Path:
        """Own private key."""
        return self.folder / KEY

    def check(self) -> Credentials:
        """Itself, if its files are there. Raises ConfigError."""
        missing = [f.name for f in (self.authority, self.certificate, self.key) if not f.is_file()]
        if missing:
            raise ConfigError(
                f"credentials in {str(self.folder)!r}",
                got=f"no {', '.join(missing)}",
                expected=f"{AUTHORITY}, {CERTIFICATE} and {KEY}",
                hint="Make them with `user net add-robot` (or add-learner) and copy the folder here",
            )
        return self

    def to_zenoh(self) -> dict[str, object]:
        """As Zenoh's ``transport/link/tls``: both ends show a certificate and check the other's."""
        return {
            "root_ca_certificate": str(self.authority),
            "listen_private_key": str(self.key),
            "listen_certificate": str(self.certificate),
            "connect_private_key": str(self.key),
            "connect_certificate": str(self.certificate),
            "enable_mtls": True,
            "verify_name_on_connect": True,
            "close_link_on_expiration": True,
        }
