"""Files that want more than to be read: each must be refused in one line, with nothing run."""

from __future__ import annotations

import io
import random
import struct
import tarfile
import zipfile
from collections.abc import Iterator

from factories_pickles import (
    FOUR,
    GOOD,
    archive,
    call,
    glob,
    group,
    legacy,
    module,
    new,
    number,
    pickled,
    row,
    stack_glob,
    storage,
    table,
    tensor,
    text,
)

TOUCH = "touch stranger-was-here"
PYTHON = "open('stranger-was-here', 'w').close()"
HOST = "127.0.0.1:9"

FUNCTIONS = {
    "os.system": [text(TOUCH)], "posix.system": [text(TOUCH)], "nt.system": [text(TOUCH)],
    "builtins.eval": [text(PYTHON)], "builtins.exec": [text(PYTHON)],
    "__builtin__.eval": [text(PYTHON)], "builtins.__import__": [text("stranger")],
    "builtins.open": [text("stranger-was-here"), text("w")],
    "builtins.print": [text("stranger")], "builtins.map": [glob("builtins.eval"), row()],
    "builtins.compile": [text(PYTHON), text("x"), text("exec")], "builtins.input": [],
    "subprocess.Popen": [row(text("touch"), text("stranger-was-here"))],
    "socket.create_connection": [group(text("127.0.0.1"), number(9))],
    "urllib.request.urlopen": [text(f"http://{HOST}/x")],
    "webbrowser.open": [text(f"http://{HOST}/x")], "shutil.rmtree": [text("kept")],
    "os.remove": [text("kept/kept.txt")], "importlib.import_module": [text("stranger")],
    "runpy.run_path": [text("stranger.py")], "ctypes.CDLL": [text("./stranger.so")],
    "pickle.loads": [b"U\x01x"], "operator.methodcaller": [text("system"), text(TOUCH)],
    "functools.partial": [glob("builtins.eval"), text(PYTHON)], "types.CodeType": [],
    "timeit.timeit": [text(PYTHON)], "code.interact": [], "torch.load": [text("stage2.pt")],
    "torch.jit.load": [text("stage2.pt")], "torch.hub.load": [text("stranger/repo"), text("x")],
    "torch.utils.cpp_extension.load": [text("x"), text("x.cpp")],
    "torch.storage._load_from_bytes": [b"U\x01x"], "numpy.load": [text("stage2.npy")],
    "numpy.fromfile": [text("kept/kept.txt")], "pathlib.Path.unlink": [text("kept/kept.txt")],
    "copyreg._reconstructor": [glob("os._wrap_close"), glob("builtins.object"), b"N"],
    "ultralytics.YOLO": [text("stage2.pt")], "ultralytics.models.yolo.model.YOLO": [text("x.pt")],
    "ultralytics.utils.downloads.safe_download": [text(f"http://{HOST}/x")],
    "ultralytics.utils.checks.check_requirements": [text("stranger")],
    "ultralytics.nn.autobackend.AutoBackend": [text("stage2.pt")],
    "ultralytics.nn.tasks.load_checkpoint": [text("stage2.pt")],
    "ultralytics.nn.tasks.parse_model": [b"}", number(3)],
    "duet.increments.guard.load_pt": [text("stage2.pt")],
    "torch._tensor._rebuild_from_type_v2": [
        glob("builtins.eval"), glob("torch.Tensor"), b")", b"}",
    ],
    "torch._utils._rebuild_qtensor": [], "torch._utils._rebuild_sparse_tensor": [],
    "torch._utils._rebuild_meta_tensor_no_storage": [],
    "torch._utils._rebuild_wrapper_subclass": [],
}  # fmt: skip

URLS = [f"http://{HOST}/stage2.pt", f"http:/{HOST}/yolo11n.pt", "gs://stranger/x.pt", "stage2.pt"]
SEQUENTIAL = "torch.nn.modules.container.Sequential"


def constructors() -> Iterator[tuple[str, bytes]]:
    """Yield calls of classes, whose constructors open connections, files and memory."""
    for index, url in enumerate(URLS):
        arguments = text(url), module(SEQUENTIAL)
        yield (
            f"distillation {index}",
            call("ultralytics.nn.distill_model.DistillationModel", *arguments),
        )
    yield "TorchVision", call("ultralytics.nn.modules.block.TorchVision", text("resnet18"))
    yield "4 GB", call("torch.nn.modules.linear.Linear", number(30_000), number(33_000))
    yield "Sequential", call(SEQUENTIAL)
    yield "Conv", call("ultralytics.nn.modules.conv.Conv", number(3), number(8))
    yield "model", call("ultralytics.nn.tasks.DetectionModel", text("x.yaml"))
    yield "arguments", new(SEQUENTIAL, arguments=group(text("x")))
    yield "namespace", call("types.SimpleNamespace", text("x"))
    yield "keywords", glob(SEQUENTIAL) + b")}\x92"  # NEWOBJ_EX
    yield "method", call("builtins.getattr", glob(SEQUENTIAL), text("__init__")) + b")R"
    yield "method of an object", call("builtins.getattr", module(SEQUENTIAL), text("cuda")) + b")R"
    yield "attribute of a number", call("builtins.getattr", number(1), text("real"))
    yield (
        "class changed",
        glob("ultralytics.nn.modules.conv.Conv") + table({"default_act": b"N"}) + b"b",
    )
    yield "function changed", glob("torch._utils._rebuild_tensor_v2") + b"}b"
    yield "item of a class", glob(SEQUENTIAL) + text("x") + b"Ns"
    yield "tensor changed", GOOD + table({"shape": b"N"}) + b"b"


def instructions() -> Iterator[tuple[str, bytes]]:
    """Yield instructions that weights do not need, and those that find nothing to work on."""
    shell = text(TOUCH)
    yield "INST", b"(" + shell + b"ios\nsystem\n"
    yield "OBJ", b"(" + glob("os.system") + shell + b"o"
    yield "STACK_GLOBAL", stack_glob("os.system") + group(shell) + b"R"
    yield "dotted name", text("builtins") + text("eval.__call__") + b"\x93"
    yield "name with a line end", text("os\nx") + text("system") + b"\x93"
    yield "names are numbers", number(1) + number(2) + b"\x93"
    yield "EXT1", b"\x82\x01"
    yield "EXT4", b"\x84\x01\x00\x00\x00"
    yield "PERSID", b"Pos.system\n"
    yield "NEXT_BUFFER", b"\x97"
    yield "BYTEARRAY8", b"\x96" + struct.pack("<Q", 2) + b"ab"
    yield "call of a text", shell + b")R"
    yield "call with a list", glob("collections.OrderedDict") + b"]R"
    yield "object of a text", shell + b")\x81"
    for name, code in (("reduce", b"R"), ("build", b"b"), ("append", b"a"), ("item", b"s"),
                       ("items", b"u"), ("tuple", b"t"), ("pop", b"0"), ("dup", b"2"),
                       ("persistent", b"Q"), ("pop mark", b"1"), ("put", b"q\x00")):  # fmt: skip
        yield f"{name} of nothing", code
    yield "memo of nothing", b"h\x07"
    yield "end of nothing", b""
    yield "unknown instruction", b"\xff"
    yield "no end", b"N" + b"\x80"
    yield "append to a tuple", b")Na"
    yield "items of a list", b"](NNu"
    yield "odd items", b"}(Nu"
    yield "members of a list", b"](N\x90"
    yield "text that is not UTF-8", b"X\x02\x00\x00\x00\xff\xfe"
    yield "half a character", text("\ud800")
    yield "text longer than the file", b"X\xff\xff\xff\x7fabc"
    yield "bytes longer than memory", b"\x8e" + b"\xff" * 8
    yield "negative length", b"\x8b\xff\xff\xff\xff"


def bombs() -> Iterator[tuple[str, bytes]]:
    """Yield short texts for much memory or much time."""
    yield "dicts", b"}" * 500_000
    yield "sets", b"\x8f" * 400_000
    yield "repeats", b"N" + b"2" * 1_600_000
    yield "marks", b"(" * 1_000_000
    yield "marks and pops", b"(0" * 1_000_000
    yield "memo", b"N" + b"\x94" * 600_000
    yield "far memo", b"N" + b"r\xff\xff\xff\xff" * 300_000
    yield "number of a million digits", number(1 << 4_000_000)
    yield "digits", b"I" + b"9" * 5000 + b"\n"
    yield "long digits", b"L" + b"9" * 5000 + b"L\n"
    yield (
        "sets of one list",
        b"](" + b"K\x01" * 50_000 + b"eq\x00" + b"0c__builtin__\nset\n(h\0tR" * 5_000,
    )
    yield (
        "dicts of one list",
        (
            b"]("
            + b"K\x01K\x02\x86" * 50_000
            + b"eq\x000"
            + b"ccollections\nOrderedDict\nh\0\x85R0" * 5000
        ),
    )
    yield "deep tuple as a key", b"}N" + b"\x85" * 200_000 + b"Ns"
    yield "deep tuple as a member", b"\x8f(N" + b"\x85" * 200_000 + b"\x90"
    yield "deep tuple in a call", glob("torch.Size") + b"N" + b"\x85" * 200_000 + b"R"
    yield "deep list as a path", glob("pathlib.PosixPath") + b"](" + b"]" * 300_000 + b"e\x85R"
    yield (
        "equal hashes",
        b"}("
        + b"".join(number(index * ((1 << 61) - 1)) + b"N" for index in range(1, 30_000))
        + b"u",
    )
    yield "floats as keys", b"}G" + struct.pack(">d", 1e300) + b"Ns"
    yield "object as a key", b"}" + module(SEQUENTIAL) + b"Ns"
    yield "wide text", text("\U0001f600" + "a" * 400_000) * 60
    # Two texts that differ nowhere, but are two: each meeting compares them to the end.
    long = text("a" * 999_996 + "\U0001f600")
    members = b"](h\x00" + b"h\x01" * 20_000 + b"e"
    twice = long + b"q\x000" + long + b"q\x010" + members + b"q\x020"
    yield "equal long members", twice + (glob("builtins.set") + b"h\x02\x85R0") * 26 + GOOD
    yield "equal long keys", twice + b"}" + b"h\x00Nsh\x01Ns" * 20_000


def tensors() -> Iterator[tuple[str, bytes]]:
    """Yield tensors that are not what their storages hold."""
    one, four = number(1), number(4)
    yield "larger than its storage", tensor(group(number(5)), group(one))
    yield "offset", tensor(group(four), group(one), offset=1)
    yield "negative offset", tensor(group(one), group(one), offset=-1)
    yield "negative stride", tensor(group(four), group(number(-1)))
    yield "stride beyond the end", tensor(group(number(2)), group(number(1 << 40)))
    yield "stride 0", tensor(group(number(1 << 40)), group(number(0)))
    yield (
        "stride 0 in many dimensions",
        tensor(group(*[number(1 << 20)] * 3), group(*[number(0)] * 3)),
    )
    yield "negative size", tensor(group(number(-4)), group(one))
    yield "endless size", tensor(group(number(1 << 62)), group(one))
    yield "empty and endless", tensor(group(number(0), number(1 << 50)), group(one, one))
    yield "size is true", tensor(group(b"\x88"), group(one))
    yield "size is text", tensor(text("4"), group(one))
    yield "99 dimensions", tensor(group(*[one] * 99), group(*[one] * 99))
    yield "sizes without strides", tensor(group(four), b")")
    yield "storage says more", tensor(group(four), group(one), count=1 << 40)
    yield "storage says less", tensor(group(four), group(one), count=3)
    yield "storage says a text", group(text("storage"), glob("torch.FloatStorage"), text("0"),
                                       text("cpu"), text("4")) + b"Q"  # fmt: skip
    yield "storage is missing", tensor(group(four), group(one), key="1")
    yield "storage outside", tensor(group(four), group(one), key="../../data.pkl")
    yield "two types", row(GOOD, tensor(group(one), group(one), count=2, kind="torch.LongStorage"))
    yield "no whole number", tensor(group(one), group(one), count=1, key="odd")
    yield (
        "neither true nor false",
        tensor(group(four), group(one), count=16, kind="torch.BoolStorage"),
    )
    yield "quantised", tensor(group(four), group(one), count=16, kind="torch.QUInt8Storage")
    yield "no storage type", tensor(group(four), group(one), kind="torch.strided")
    yield (
        "hooks",
        tensor(group(four), group(one), hooks=table({"0": glob("torch.Tensor")})),
    )
    yield "without a storage", call("torch._utils._rebuild_tensor", number(1), one, b")", b")")
    yield "too few arguments", call("torch._utils._rebuild_tensor_v2", storage("0", 4))
    yield "too many arguments", call("torch._utils._rebuild_tensor_v2", *[number(1)] * 12)
    yield "parameter of a text", call("torch._utils._rebuild_parameter", text("x"), b"\x89", b"}")
    yield "not a storage", group(text("file"), text("/etc/passwd")) + b"Q"
    yield "persistent text", text("storage") + b"Q"
    # Ten thousand views of one storage would be that many copies as soon as one computes.
    yield (
        "many views",
        b"](" + tensor(group(number(250_000)), group(one), count=250_000, key="big") * 2_000 + b"e",
    )
    yield (
        "number of numpy",
        call("numpy.core.multiarray.scalar", call("numpy.dtype", text("f8")), b"U\x01x"),
    )
    yield "object of numpy", call("numpy.dtype", text("O"))
    yield "encoding", call("_codecs.encode", text("x"), text("zlib"))


def networks() -> Iterator[tuple[str, bytes]]:
    """Yield networks that never end, or bring functions of their own."""
    inner = b"q\x01"
    yield (
        "holds itself",
        glob(SEQUENTIAL)
        + b")\x81"
        + inner
        + table({"_parameters": b"}", "_buffers": b"}", "_modules": table({"0": b"h\x01"})})
        + b"b",
    )
    chain = module(SEQUENTIAL) + b"q\x01"
    for _ in range(40):
        both = table({"0": b"h\x01", "1": b"h\x01"})
        chain += b"0" + module(SEQUENTIAL, _modules=both) + b"q\x01"
    yield "doubles forty times", chain
    deep = module(SEQUENTIAL) + b"q\x01"
    for _ in range(2_000):
        deep += b"0" + module(SEQUENTIAL, _modules=table({"0": b"h\x01"})) + b"q\x01"
    yield "2000 levels", deep
    for name in (
        "_forward_pre_hooks",
        "_forward_hooks",
        "_state_dict_pre_hooks",
        "_state_dict_hooks",
    ):
        hook = call("builtins.getattr", glob(SEQUENTIAL), text("cuda"))
        yield name, module(SEQUENTIAL, **{name: table({"0": hook})})
    yield "layer is a text", module(SEQUENTIAL, _modules=table({"0": text("x")}))
    yield "layer's name has a dot", module(SEQUENTIAL, _modules=table({"a.b": module(SEQUENTIAL)}))
    yield "layers are a list", new(SEQUENTIAL, table({"_modules": b"]"}))
    yield "no parameters", new(SEQUENTIAL, table({"_modules": b"}"}))
    yield "parameter is a text", module(SEQUENTIAL, _parameters=table({"w": text("x")}))
    yield "parameters are numbered", module(SEQUENTIAL, _parameters=b"}K\x01" + GOOD + b"s")
    yield "attributes are numbered", new(SEQUENTIAL, b"}K\x01Ns")
    yield "attributes are a text", new(SEQUENTIAL, text("x"))
    yield "attributes twice", module(SEQUENTIAL) + b"}b" + table({"x": b"N"}) + b"b"
    many = b"".join(text(str(index)) + b"h\x01" for index in range(19_000))
    for name, one in (
        ("buffers", module(SEQUENTIAL, _buffers=_nothings(20_000))),
        ("layers", module(SEQUENTIAL, _modules=_nothings(20_000))),
        ("attributes", module(SEQUENTIAL, **{
            f"a{index}": group(*[b"K\x01"] * 250) for index in range(40)
        })),
    ):  # fmt: skip
        yield (
            f"{name} in many places",
            one + b"q\x010" + module(SEQUENTIAL, _modules=b"}(" + many + b"u"),
        )
    for size in (199, 1 << 20):
        deep = module(SEQUENTIAL, _modules=b"}(" + b"".join(
            text(str(index)) + module(SEQUENTIAL) for index in range(10_000)) + b"u")  # fmt: skip
        for _ in range(30):
            deep = module(SEQUENTIAL, _modules=b"}h\x01" + deep + b"s")
        yield f"names of {size} letters", text("n" * size) + b"q\x010" + deep
    lines = {"x\n  checked by duet, run it with --trust": GOOD}
    yield "name of several lines", module(SEQUENTIAL, _parameters=table(lines))
    layers = {"x\n  checked by duet": module(SEQUENTIAL)}
    yield "layer of several lines", module(SEQUENTIAL, _modules=table(layers))
    yield "digits as a layer", module(SEQUENTIAL, _modules=table({"9" * 5000: module(SEQUENTIAL)}))
    called = b"](" + b"h\x01" * 4_000 + b"e"
    yield "long class names", text("n\x01" * 200_000) + b"q\x010" + module(SEQUENTIAL, names=called)
    called = b"](" + b"h\x01" * 100_000 + b"e"
    yield "many class names", text("n\x01" * 90) + b"q\x010" + module(SEQUENTIAL, names=called)
    weights = b"}(" + b"".join(text(f"w{index}") + b"h\x01" for index in range(100_000)) + b"u"
    yield "one tensor in many places", module(SEQUENTIAL, _parameters=weights)


def _nothings(count: int) -> bytes:
    return b"}(" + b"".join(text(str(index)) + b"N" for index in range(count)) + b"u"


def containers() -> Iterator[tuple[str, bytes]]:
    """Yield whole files whose outside is the trick."""
    good = archive(GOOD)
    yield "empty", b""
    yield "one byte", b"\x80"
    yield "text", b"import os\n" * 9
    yield "picture", b"\x89PNG\r\n\x1a\n" * 9
    yield "bare pickle", pickled(GOOD)
    yield "bare program", pickled(call("os.system", text(TOUCH)))
    yield "protocol 0", b"cos\nsystem\n(S'" + TOUCH.encode() + b"'\ntR."
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        yield f"cut at {share}", good[: int(len(good) * share)]
    yield "compressed", archive(GOOD, compress=True)
    yield "compressed zeros", archive(
        tensor(group(number(1)), group(number(1)), count=50_000_000),
        {"0": bytes(200_000_000)}, compress=True,
    )  # fmt: skip
    yield "two pickles", archive(GOOD, extra={"b/data.pkl": pickled(GOOD)})
    yield "other names", _zipped({"hello.txt": b"hello"})
    yield "pickle at the top", _zipped({"data.pkl": pickled(GOOD)})
    yield "no records", archive(GOOD, {})
    yield "big-endian", archive(GOOD, extra={"a/byteorder": b"big"})
    yield "TorchScript", archive(GOOD, extra={"a/constants.pkl": b"", "a/code/x.py": b""})
    yield "damaged numbers", good.replace(FOUR, FOUR[::-1])
    yield (
        "encrypted",
        good.replace(b"PK\x01\x02\x14\x03\x14\0\0", b"PK\x01\x02\x14\x03\x14\0\1"),
    )
    yield "many entries", archive(GOOD, extra={f"a/{index}": b"" for index in range(90_000)})
    yield "nested", _zipped({"a/data.pkl": good})
    yield "overlap", _overlapping(500, 100_000)
    yield "directory lies", good[:-6] + b"\xff\xff\xff\xff" + good[-2:]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as written:
        written.addfile(tarfile.TarInfo("pickle"))
    yield "tar", stream.getvalue()
    yield "legacy program", legacy(call("os.system", text(TOUCH)))
    yield "legacy, other magic", legacy(GOOD, magic=7)
    yield "legacy, program as magic", pickled(call("os.system", text(TOUCH)))
    numbers = struct.pack("<Q", 4) + FOUR
    yield "legacy, cut", legacy(GOOD, keys=row(text("0")), after=numbers[:-1])
    yield "legacy, no numbers", legacy(GOOD, keys=row(text("0")))
    yield "legacy, other keys", legacy(GOOD, keys=row(text("1")), after=numbers)
    yield (
        "legacy, other length",
        legacy(GOOD, keys=row(text("0")), after=struct.pack("<Q", 3) + FOUR),
    )
    huge = tensor(group(number(4)), group(number(1)), count=1 << 40)
    truths = tensor(group(number(4)), group(number(1)), kind="torch.BoolStorage")
    yield (
        "legacy, neither true nor false",
        legacy(truths, keys=row(text("0")), after=struct.pack("<Q", 4) + b"\0\2\7\xff"),
    )
    yield "legacy, endless storage", legacy(huge, keys=row(text("0")), after=numbers)
    yield "legacy, view", legacy(
        group(text("storage"), glob("torch.FloatStorage"), text("0"), text("cpu"), number(4),
              group(text("1"), number(0), number(4))) + b"Q"
    )  # fmt: skip
    random.seed(0)
    yield "noise", bytes(random.choices(range(256), k=5000))
    yield "noise in a pickle", b"\x80\x02" + bytes(random.choices(range(256), k=5000))


def _zipped(entries: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as written:
        for name, content in entries.items():
            written.writestr(name, content)
    return stream.getvalue()


def _overlapping(count: int, size: int) -> bytes:
    """Return an archive whose table names one record many times."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as written:
        written.writestr("a/data.pkl", pickled(b"](" + b"".join(
            tensor(group(number(size // 4)), group(number(1)), count=size // 4, key=str(index))
            for index in range(count)) + b"e"))  # fmt: skip
        written.writestr("a/data/0", bytes(size))
        first = written.infolist()[-1]
        for index in range(1, count):
            other = zipfile.ZipInfo(f"a/data/{index}")
            other.header_offset, other.CRC = first.header_offset, first.CRC
            other.file_size = other.compress_size = size
            written.filelist.append(other)
    return stream.getvalue()


def hostile() -> dict[str, bytes]:
    """Return each file by a name that is good for a file."""
    found: dict[str, bytes] = {}
    for path, arguments in FUNCTIONS.items():
        found[f"call {path}"] = archive(call(path, *arguments))
    for label, rows in (("class", constructors()), ("step", instructions()), ("bomb", bombs())):
        found |= {f"{label} {name}": archive(value) for name, value in rows}
    numbers = {"0": FOUR, "odd": b"abc", "big": bytes(1_000_000)}
    found |= {f"tensor {name}": archive(value, numbers) for name, value in tensors()}
    for name, value in networks():
        before = GOOD + b"q\x010" if name == "one tensor in many places" else b""
        found[f"network {name}"] = archive(before + b"}" + text("model") + value + b"s")
    found |= {f"file {name}": content for name, content in containers()}
    return found
