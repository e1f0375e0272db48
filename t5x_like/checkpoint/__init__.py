"""Checkpoints: save, verify, restore, initialise from another run.

    store      what a training run holds: saves in the background, keeps what the policy says
    reading    a commit back into arrays, on any mesh, verified
    frozen     leaves that nothing moves, stored once for all commits of a run
    mapping    first values of a run from a source: which variable becomes which, as a plan that can be shown
    sources    where such values come from: another run's checkpoint
    reshaping  a table in another shape: cut, padded, stretched
    layout     directories of commits, and the marker that makes one a commit
    manifest   the JSON of a commit: its leaves, and the digests that prove them
    digest     fingerprints of arrays that do not depend on how they are sharded
    damage     files that cannot be read, told by leaf
    leaves     a tree of arrays as {dotted path: array}, and whether two of them fit
    retention  which commits stay
    arrays     writing and reading with Orbax
    orbax_logging  filters of Orbax's logs
    remote     object stores that Orbax cannot reach
    workdir    the files beside the checkpoints

Importing this package imports none of them: listing commits and reading a manifest need neither JAX nor Orbax.
"""
