"""What the published data sets hold: folders, lists, counts, classes. Data only.

Counts: DuET's supplement, tables S5 and S6; the parts of VOC are those of its development kits
(5 011 + 11 540 = 16 551); those of the photographs were counted. Class orders here are those of
the data sets, not those of a series.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

VOC_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
SIX_NAMES = ("bicycle", "bird", "car", "cat", "dog", "person")
WEATHER_NAMES = ("bike", "bus", "car", "motor", "person", "rider", "truck")
CARD_NAMES = ("ace", "jack", "king", "nine", "queen", "ten")

ALL = "all"
"""The list of a data set whose authors give none."""


@dataclass(frozen=True)
class Part:
    """One list of one VOC folder.

    Attributes:
        folder: Name of the prepared folder.
        split: Name of the list in ``ImageSets/Main``, without ``.txt``.
        images: Published number of images; None where none is published.
        archive: How the archive is called by its authors.
    """

    folder: str
    split: str
    images: int | None
    archive: str


@dataclass(frozen=True)
class DataSet:
    """One domain.

    Attributes:
        name: Name of its descriptor file.
        domain: Its name in the series.
        names: Classes in the order of the data set.
        train: Parts to train on.
        val: Parts to evaluate on; empty where the authors give none.
        test: Parts to evaluate on where `val` is for choosing; empty where the authors give none.
        alike: Images that show one scene and stay in one split, where a split is made here.
    """

    name: str
    domain: str
    names: tuple[str, ...]
    train: tuple[Part, ...]
    val: tuple[Part, ...]
    test: tuple[Part, ...] = ()
    alike: tuple[tuple[str, ...], ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts."""
        return self.train + self.val + self.test


@dataclass(frozen=True)
class Layout:
    """Where a data set that is not packed in VOC's folders has its images and label files.

    Attributes:
        folder: Name of the prepared folder.
        file: What such a file's path ends in. ``id`` names the image, ``split`` the list that it
            belongs to; without one the list is called `ALL`.
    """

    folder: str
    file: re.Pattern[str]


@dataclass(frozen=True)
class Group:
    """Data sets that share series.

    Attributes:
        name: Prefix of the series' names.
        sets: The data sets.
        known_as: Prepared folder -> what the folder or archive may be called elsewhere; compared
            without case and punctuation.
        source: Where the archives come from, for people.
        layouts: Of data sets that are not packed in VOC's folders.
        folded: Whether splits that the authors do not give are cut into folds.
        run: Options of `duet run` to go on with.
    """

    name: str
    sets: tuple[DataSet, ...]
    known_as: dict[str, tuple[str, ...]]
    source: str
    layouts: tuple[Layout, ...] = ()
    folded: bool = False
    run: tuple[str, ...] = ("--weights", "yolo11n", "--strategy", "duet")


def _layout(folder: str, path: str) -> Layout:
    return Layout(folder, re.compile(rf"(^|/){path}\.(jpe?g|png|xml)$", re.IGNORECASE))


def _art(name: str, names: tuple[str, ...], images: int) -> DataSet:
    archive = f"{name.lower()}.zip"
    train, test = (Part(name.lower(), split, images, archive) for split in ("train", "test"))
    return DataSet(name.lower(), name, names, (train,), (test,))


def _weather(
    name: str, domain: str, train: int | None, test: int | None, *, listed: bool = True
) -> DataSet:
    parts = tuple(
        Part(name, split, count, f"the archive or folder of {name}")
        for split, count in (("train", train), ("test", test))
    )
    return DataSet(name, domain, WEATHER_NAMES, parts[:1], parts[1:] if listed else ())


_VOC = DataSet(
    "voc", "VOC", VOC_NAMES,
    (
        Part("VOC2007", "trainval", 5011, "VOCtrainval_06-Nov-2007.tar"),
        Part("VOC2012", "trainval", 11540, "VOCtrainval_11-May-2012.tar"),
    ),
    (Part("VOC2007", "test", 4952, "VOCtest_06-Nov-2007.tar"),),
)  # fmt: skip

PASCAL = Group(
    "pascal",
    (
        _VOC,
        _art("Clipart", VOC_NAMES, 500),
        _art("Watercolor", SIX_NAMES, 1000),
        _art("Comic", SIX_NAMES, 1000),
    ),
    {
        "VOC2007": ("VOC2007",),
        "VOC2012": ("VOC2012",),
        "clipart": ("clipart", "clipart1k"),
        "watercolor": ("watercolor", "watercolor2k", "watercolour"),
        "comic": ("comic", "comic2k"),
    },
    "PASCAL VOC from its challenge pages (host.robots.ox.ac.uk/pascal/VOC), the other three from "
    "github.com/naoto0804/cross-domain-detection",
)

WEATHER = Group(
    "weather",
    (
        _weather("day-sunny", "DaySunny", 19317, 8289),
        _weather("night-sunny", "NightSunny", 25868, 7756),
        _weather("day-foggy", "DayFoggy", 1829, 688),
        # Published without a test list: the authors evaluate on the images of `train`.
        _weather("dusk-rainy", "DuskRainy", 3501, None, listed=False),
        _weather("night-rainy", "NightRainy", 2494, None, listed=False),
    ),
    {
        "day-sunny": ("daysunny", "daytimesunny", "dayclear", "daytimeclear"),
        "night-sunny": ("nightsunny", "nighttimesunny", "nightclear", "nighttimeclear"),
        "day-foggy": ("dayfoggy", "daytimefoggy", "foggy"),
        "dusk-rainy": ("duskrainy",),
        "night-rainy": ("nightrainy", "nighttimerainy"),
    },
    "github.com/AmingWu/Single-DGOD",
)

_CARDS = "the folder 'images' of the cards"
_BCCD = "the folder 'BCCD'"

PHOTOS = Group(
    "photos",
    (
        DataSet(
            "phone", "phone", CARD_NAMES,
            (Part("phone", "train", 251, _CARDS),), (), (Part("phone", "test", 60, _CARDS),),
            (
                ("IMG_2464", "IMG_2465"), ("IMG_2466", "IMG_2467"), ("IMG_2468", "IMG_2469"),
                ("IMG_2471", "IMG_2472"), ("IMG_2473", "IMG_2474"),
            ),
        ),
        # The authors' 45 + 7 images are one list: seven are too few to measure on.
        DataSet(
            "webcam", "webcam", CARD_NAMES, (Part("webcam", ALL, 52, _CARDS),), (),
            alike=(("cam_image1", "cam_image54"),),
        ),
        DataSet(
            "blood", "blood", ("Platelets", "RBC", "WBC"), (Part("blood", "train", 205, _BCCD),),
            (Part("blood", "val", 87, _BCCD),), (Part("blood", "test", 72, _BCCD),),
        ),
        DataSet(
            "raccoon", "raccoon", ("raccoon",),
            (Part("raccoon", ALL, 200, "the folders 'images' and 'annotations' of the raccoons"),),
            (),
            alike=(
                ("raccoon-11", "raccoon-116"), ("raccoon-21", "raccoon-45"),
                ("raccoon-50", "raccoon-52", "raccoon-74"), ("raccoon-51", "raccoon-85"),
                ("raccoon-65", "raccoon-98"), ("raccoon-83", "raccoon-120"),
            ),
        ),
    ),
    {"phone": (), "webcam": (), "blood": ("BCCD",), "raccoon": ()},
    "github.com/EdjeElectronics/TensorFlow-Object-Detection-API-Tutorial-Train-Multiple-Objects-"
    "Windows-10 (cards), github.com/Shenggan/BCCD_Dataset, github.com/datitran/raccoon_dataset",
    layouts=(
        _layout("phone", r"(?P<split>train|test)/(?P<id>IMG_\d+)"),
        _layout("webcam", r"(train|test)/(?P<id>cam_image\d+)"),
        _layout("raccoon", r"(images|annotations)/(?P<id>raccoon-\d+)"),
    ),
    folded=True,
    run=("--strategies", "duet-plus,seq-ft"),
)  # fmt: skip
