"""The eight symmetries of a square."""

DIHEDRAL = tuple((turns, flip) for flip in (False, True) for turns in range(4))
"""Quarter turns, then a flip of the columns."""
