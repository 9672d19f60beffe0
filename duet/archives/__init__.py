"""Published data sets as their authors distribute them: archives in, checked VOC folders out.

Nothing here downloads: the licences of these images allow research, not redistribution.
"""

from duet.archives.choices import Choices
from duet.archives.prepare import prepare
from duet.archives.report import Prepared
from duet.archives.sets import PASCAL, WEATHER, Group

__all__ = ["PASCAL", "WEATHER", "Choices", "Group", "Prepared", "prepare"]
