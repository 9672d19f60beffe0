"""Which head parts of several models become one: those that share a class, told by its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from duet.errors import ModelError, together
from duet.recipes.recipe import Geometry
from duet.recipes.sources import Source
from duet.text import shell_line, short_list


@dataclass(frozen=True)
class Head:
    """A head part of the result.

    Attributes:
        members: The parts it is made of, as (position of the source, position of its part).
        classes: Class names, each once: those of the first part, then what others add.
    """

    members: tuple[tuple[int, int], ...]
    classes: tuple[str, ...]

    @property
    def joined(self) -> bool:
        """Whether several parts become this one."""
        return len(self.members) > 1

    @property
    def owners(self) -> tuple[int, ...]:
        """Positions of the sources."""
        return tuple(dict.fromkeys(number for number, _ in self.members))

    def remarks(self, sources: Sequence[Source]) -> Iterator[str]:
        """Yield what a user should know about parts that become one."""
        if not self.joined:
            return
        owners = [sources[number] for number in self.owners]
        shared = [name for name in self.classes if sum(name in s.classes for s in owners) > 1]
        names = " and ".join(f"'{source.name}'" for source in owners)
        yield f"{names} share {short_list(shared)}: one head part, rows paired by class name"
        lone = [name for name in self.classes if name not in shared]
        if lone and owners[0].head != "rows":
            what = "class towers" if owners[0].head == "towers" else "heads"
            yield (
                f"{short_list(lone)} will read {what} merged from {names}; with "
                "--keep-apart each keeps its own"
            )


def kept_apart(sources: Sequence[Source]) -> tuple[tuple[Source, ...], tuple[str, ...]]:
    """Return the sources with a name of its own for each class that several have, and remarks.

    `cat` becomes `cat@NAME` in every model that has it, the first included: the order of models
    decides nothing. The new names are aliases of the entries, so that they stay when one goes.
    """
    owners = Counter(name for source in sources for name in set(source.classes))
    found, told = [], dict[str, list[str]]()
    for source in sources:
        entry, alias = source.entry, dict(source.entry.alias)
        original = {new: old for old, new in alias.items()}
        named = {name: f"{name}@{source.name}" for name in source.classes if owners[name] > 1}
        for name, own in named.items():
            alias[original.get(name, name)] = own
            told.setdefault(name, []).append(own)
        parts = tuple(tuple(named.get(name, name) for name in part) for part in source.parts)
        entry = entry.model_copy(update={"alias": alias})
        found.append(replace(source, entry=entry, parts=parts))
    remarks = (f"'{name}' is kept apart as {', '.join(own)}" for name, own in told.items())
    return tuple(found), tuple(remarks)


def pair(sources: Sequence[Source], geometry: Geometry, ancestor: int | None) -> tuple[Head, ...]:
    """Group the head parts of all sources by the classes that they share.

    Parts that share no class stay apart. A part that shares classes with two others joins both.

    Args:
        sources: What is merged.
        geometry: Of the merge.
        ancestor: Position of the base in the place of θ_0, if there is one.

    Returns:
        The head parts of the result, in the order of their first members.

    Raises:
        ModelError: A class is twice in one source, or parts cannot become one: in a chain, with
            the base that others were trained from, or of one source with several towers.
    """
    heads = group([source.parts for source in sources])
    _require_one_owner(sources, heads, geometry, ancestor)
    return heads


def group(sources: Sequence[Sequence[tuple[str, ...]]]) -> tuple[Head, ...]:
    """Group head parts by the classes that they share, whether or not they can become one.

    Args:
        sources: Classes of each part of each source.
    """
    heads: list[Head] = []
    for number, parts in enumerate(sources):
        for place, classes in enumerate(parts):
            met = [head for head in heads if set(head.classes) & set(classes)]
            heads = [head for head in heads if head not in met]
            members = sorted([*(m for head in met for m in head.members), (number, place)])
            names = (name for k, j in members for name in sources[k][j])
            heads.append(Head(tuple(members), tuple(dict.fromkeys(names))))
    return tuple(sorted(heads, key=lambda head: head.members[0]))


def _require_one_owner(
    sources: Sequence[Source], heads: Sequence[Head], geometry: Geometry, ancestor: int | None
) -> None:
    """Refuse classes with several owners where these cannot become one."""
    problems: list[str] = []
    owner, name = "", ""
    for source in sources:
        double = [one for one in source.classes if source.classes.count(one) > 1]
        problems += [f"'{one}' is twice in {source.name}" for one in dict.fromkeys(double)]
        if double:
            owner, name = source.name, double[0]
    for head in heads:
        why = _obstacle(sources, head, geometry, ancestor)
        for one in head.classes if why else ():
            of = [sources[k].name for k in head.owners if one in sources[k].classes]
            if len(of) > 1:
                problems.append(f"'{one}' is in {' and '.join(of)}: {why}")
                owner, name = of[1], one
    if problems:
        raise ModelError(
            together(problems, summary="class names clash"),
            remedy="give these classes one owner: rename them in one model "
            f"({shell_line('--alias', f'{owner}:{name}={name} 2')}), leave them out there "
            f"({shell_line('--drop', f'{owner}:{name}')}), or keep each model's (--keep-apart)",
        )


def _obstacle(
    sources: Sequence[Source], head: Head, geometry: Geometry, ancestor: int | None
) -> str | None:
    """Return why the members of a head cannot become one part; None if they can."""
    if len(head.owners) < 2:
        return None
    if geometry == "sequential":
        return "each increment of a chain brings classes of its own"
    if ancestor in head.owners:
        return f"the others were trained from {sources[ancestor or 0].name}"
    if len(head.owners) < len(head.members) and sources[0].head != "rows":
        split = next(
            sources[k].name for k in head.owners if sum(n == k for n, _ in head.members) > 1
        )
        return f"{split} has them in several head parts, which the others would join"
    return None
