"""The fourteen columns of the CheXpert labeler: 1 affirmed, 0 denied, −1 uncertain, empty not mentioned."""

from __future__ import annotations

from collections.abc import Mapping

from xreal.vocabulary import Finding

__all__ = ["COLUMNS", "affirmed_and_uncertain"]

COLUMNS = tuple(
    finding.value
    for finding in (
        Finding.NO_FINDING,
        Finding.ENLARGED_CARDIOMEDIASTINUM,
        Finding.CARDIOMEGALY,
        Finding.LUNG_OPACITY,
        Finding.LUNG_LESION,
        Finding.EDEMA,
        Finding.CONSOLIDATION,
        Finding.PNEUMONIA,
        Finding.ATELECTASIS,
        Finding.PNEUMOTHORAX,
        Finding.PLEURAL_EFFUSION,
        Finding.PLEURAL_OTHER,
        Finding.FRACTURE,
        Finding.SUPPORT_DEVICES,
    )
)
"""Names of the columns, in CheXpert's order."""


def affirmed_and_uncertain(row: Mapping[str, str]) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Read one row: what is there and what may be there.

    "No Finding" stands beside Support Devices, as the labeler means it, and yields to every other finding. A report
    that affirms nothing, not even "No Finding", gives no finding at all.
    """
    values = {Finding(name): float(row[name] or 0) for name in COLUMNS}
    affirmed = [finding for finding, value in values.items() if value > 0]
    if set(affirmed) - {Finding.NO_FINDING, Finding.SUPPORT_DEVICES}:
        affirmed = [finding for finding in affirmed if finding is not Finding.NO_FINDING]
    uncertain = tuple(f for f, value in values.items() if value < 0 and f is not Finding.NO_FINDING)
    return tuple(affirmed), uncertain
