"""The memories that Vela counts, by the names that its tables give them."""

from typing import NamedTuple


class Memory(NamedTuple):
    """Names of a memory: ours, and those of Vela's debug database and of its summary."""

    name: str
    database: str
    summary: str


# Not the accelerator's own (SHRAM, LUT RAM), whose use Vela counts for look-up tables alone.
MEMORIES = (
    Memory("SRAM", "Sram", "sram"),
    Memory("DRAM", "Dram", "dram"),
    Memory("on-chip flash", "OnChipFlash", "on_chip_flash"),
    Memory("off-chip flash", "OffChipFlash", "off_chip_flash"),
)
