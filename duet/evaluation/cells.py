"""What an evaluation of one detector found, increment by increment and domain by domain."""

from __future__ import annotations

from pydantic import Field

from duet.config import Config
from duet.evaluation.deployment import Deployment
from duet.fields import Count, Fraction


class Cell(Config):
    """The classes of one increment in one domain; what is None has no labelled object.

    Attributes:
        domain: The domain.
        increment: Whose classes.
        taught: Whether the increment taught them in this domain; else they were never labelled
            here while the detector learned.
        split: Of the images.
        images: Their number.
        map50: Mean AP50 of the classes, a fraction.
        map: Mean AP50-95, a fraction.
        ap50: Class name -> AP50; of the classes that the detector knows.
        ap: Class name -> AP50-95; empty in files of older versions.
        deployed: What its users are shown of these classes; double boxes are of all its classes.
    """

    domain: str
    increment: str
    taught: bool
    split: str
    images: Count
    map50: Fraction | None
    map: Fraction | None
    ap50: dict[str, Fraction | None]
    ap: dict[str, Fraction | None] = Field(default_factory=dict)
    deployed: Deployment

    @property
    def absent(self) -> str:
        """Say which of the classes no image shows; empty where each is shown."""
        names = ", ".join(name for name, value in self.ap50.items() if value is None)
        place = f"the {self.split} split of {self.domain}"
        return f"{self.increment}: no labelled object of {names} in {place}" if names else ""
