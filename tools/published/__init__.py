"""Published data sets as their authors distribute them: archives in, checked VOC folders out.

Nothing here downloads: the licences of these images allow research, not redistribution.
"""

from published.choices import Choices
from published.prepare import prepare
from published.report import Prepared
from published.sets import PASCAL, PHOTOS, WEATHER, Group

__all__ = ["PASCAL", "PHOTOS", "WEATHER", "Choices", "Group", "Prepared", "prepare"]
