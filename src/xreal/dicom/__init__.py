"""DICOM in and out: read chest X-rays, write synthetic and edited ones, and their masks as a segmentation.

Needs the extra ``dicom`` (pydicom, highdicom and the decoders of compressed pixels); without it every function says so.
Both libraries are imported when a function first needs them, so that importing this package costs nothing.
"""

from xreal.dicom.dataset import is_dicom, require_dicom
from xreal.dicom.read import read_dicom
from xreal.dicom.segmentation import is_segmentation, read_organ_segmentation, write_segmentation
from xreal.dicom.write import write_dicom

__all__ = [
    "is_dicom",
    "is_segmentation",
    "read_dicom",
    "read_organ_segmentation",
    "require_dicom",
    "write_dicom",
    "write_segmentation",
]
