"""Groups: union of what shows the same lesion with what the cohort already groups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class Union:
    """Disjoint sets over 0..n-1; a set's representative is its smallest member, so results do not depend on order."""

    def __init__(self, count: int):
        self._parent = list(range(count))

    def find(self, item: int) -> int:
        """Smallest member of the item's set."""
        root = item
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[item] != root:
            self._parent[item], item = root, self._parent[item]
        return root

    def join(self, first: int, second: int) -> None:
        """Make the two items' sets one."""
        low, high = sorted((self.find(first), self.find(second)))
        self._parent[high] = low

    def sets(self) -> list[list[int]]:
        """Members of every set, each ascending, ordered by their smallest."""
        members: dict[int, list[int]] = {}
        for item in range(len(self._parent)):
            members.setdefault(self.find(item), []).append(item)
        return list(members.values())


def components(count: int, links: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Connected components of 0..count-1 under `links`."""
    union = Union(count)
    for first, second in links:
        union.join(first, second)
    return union.sets()


def merged_groups(groups: Sequence[str], links: Iterable[tuple[int, int]]) -> list[str]:
    """Group name per sample: existing groups are kept whole and merged where a link joins them.

    A merged group has the name of its first member's old group.
    """
    union = Union(len(groups))
    first_of: dict[str, int] = {}
    for position, name in enumerate(groups):
        union.join(first_of.setdefault(name, position), position)
    for first, second in links:
        union.join(first, second)
    return [groups[union.find(position)] for position in range(len(groups))]
