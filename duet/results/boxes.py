"""The images of a gallery: what is labelled in them, and what models found there."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from duet.config import Config
from duet.fields import AnyNames, Fraction, InnerPath, Pixels


class NamedBox(Config):
    """A box in a gallery image."""

    name: str
    xyxy: Pixels


class TruthBox(NamedBox):
    """One labelled object of a gallery image."""

    ignored: bool = False
    """Whether it counts neither way, found or not."""


class FoundBox(NamedBox):
    """One detection in a gallery image; same fields as `Detections.as_records`."""

    score: Fraction


class GallerySide(Config):
    """What one model found in a gallery image."""

    title: str
    """The model in words, e.g. "after stage 1"."""
    detections: tuple[FoundBox, ...]
    classes: AnyNames = ()
    """Those that the model knows; empty in files of older versions, which stands for all."""


class GalleryImage(Config):
    """One image before and after; drawn by `duet.report.gallery`."""

    file: InnerPath
    domain: str
    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    truths: tuple[TruthBox, ...]
    labelled: AnyNames = ()
    """Classes whose objects are labelled in it: of others nobody knows what is wrong. Empty in
    files of older versions."""
    before: GallerySide
    beside: GallerySide | None = None
    """Plain fine-tuning at the end, if it was run beside the main strategy."""
    after: GallerySide
