"""Plaud's regions: credentials and data belong to one."""

from __future__ import annotations

from enum import StrEnum

from plaud_provider.exceptions import PlaudConfigurationError


class Region(StrEnum):
    """A Plaud region."""

    US = "us"
    EU = "eu"
    JP = "jp"

    @classmethod
    def parse(cls, value: str) -> Region:
        """
        Return the region named ``us``, ``eu`` or ``jp``.

        :raises PlaudConfigurationError: for any other name.
        """
        try:
            return cls(value.strip().lower())
        except (ValueError, AttributeError):
            names = ", ".join(region.value for region in cls)
            raise PlaudConfigurationError(
                f"region: {value!r} is not a Plaud region; use one of {names}. Nothing was sent."
            ) from None


def refuse_other_region(connected: Region, asserted: str | None, conn_id: str) -> None:
    """
    Check what a caller takes a connection's region to be.

    :param connected: The connection's region.
    :param asserted: What the caller takes it to be; ``None`` asserts nothing.
    :param conn_id: The connection, for the message.
    :raises PlaudConfigurationError: if it is another one; nothing was sent.
    """
    if asserted is not None and Region.parse(asserted) is not connected:
        raise PlaudConfigurationError(
            f"region: {asserted!r} was asked for, but connection {conn_id!r} belongs to region "
            f"'{connected.value}'. Credentials belong to one region: use a connection of the region you "
            "mean. Nothing was sent."
        )
